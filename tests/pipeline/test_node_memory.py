"""Memory of this process and of what it starts."""

import subprocess
import sys
import time

import numpy as np

from tfx_pipeline.node_memory import NodeMemory

MEGABYTES = 2**20


def test_the_most_counts_and_each_node_begins_anew():
    memory = NodeMemory()
    memory.begin()
    before = memory.peak()
    block = np.ones(200 * MEGABYTES, np.uint8)
    memory.sample()
    del block
    most = memory.peak()
    assert most >= before + 190 * MEGABYTES
    memory.begin()
    assert memory.peak() < most - 100 * MEGABYTES


def test_processes_that_were_started_count_and_the_thread_sees_them():
    with NodeMemory().sampled() as memory:
        memory.begin()
        before = memory.peak()
        child = subprocess.Popen([sys.executable, "-c", "import time; block = bytearray(b'x' * 200 * 2**20); time.sleep(60)"])
        try:
            deadline = time.monotonic() + 30
            # Nobody samples here but the thread.
            while memory._peak < before + 150 * MEGABYTES and time.monotonic() < deadline:
                time.sleep(0.1)
            assert memory._peak >= before + 150 * MEGABYTES
        finally:
            child.kill()
            child.wait()

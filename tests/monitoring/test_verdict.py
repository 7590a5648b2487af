"""What holds training up is named, with its figure and a setting: a starved input, an oversized batch, a slow host, a busy device."""

import time

import pytest

from gemma_tf_distill.monitoring.devices import DeviceReading
from gemma_tf_distill.monitoring.host import HostReading
from gemma_tf_distill.monitoring.input_wait import InputWait
from gemma_tf_distill.monitoring.verdict import judge

GIB = 2**30
CALM = HostReading(
    cpu=0.9,
    own_cpu=0.88,
    memory=0.4,
    process_bytes=3 * GIB,
    swapped_in=0.0,
    disk_read=None,
    disk_written=None,
    network_received=0.0,
    network_sent=0.0,
)


def gpu(peak=8.0, limit=16, busy=0.97):
    return DeviceReading("GPU:0", int(peak * GIB), limit * GIB, busy)


def test_a_starved_input():
    def slow():
        for number in range(6):
            time.sleep(0.03)
            yield number

    waiting = InputWait(slow())
    for _ in waiting:
        time.sleep(0.01)
    found = judge(waiting.fraction, CALM, [], 0.1)
    assert found.kind == "input-bound" and "training waits 7" in found.figure and "distillation.top_k" in found.advice


@pytest.mark.parametrize(
    ("host", "devices", "figure"),
    [
        (CALM, [gpu(peak=15.5)], "97% of the 16.0 GiB of GPU:0 were taken"),
        (CALM._replace(swapped_in=30.0 * 2**20), [], "30 MiB a second come back from swap"),
        (CALM._replace(memory=0.97), [], "97% of the host's memory are taken, 3.0 GiB of it by this process"),
    ],
)
def test_an_oversized_batch(host, devices, figure):
    # Whatever waits, too: a machine that swaps is slow in all it does.
    found = judge(0.4, host, devices, 0.1)
    assert found.kind == "memory-bound" and found.figure == figure and "training.batch_size" in found.advice


def test_a_host_that_is_too_slow_for_its_device_or_has_other_work():
    found = judge(0.01, CALM, [gpu(busy=0.31)], 0.1)
    assert (found.kind, found.advice) == ("host-bound", "raise strategy.steps_per_execution") and "GPU:0 is busy 31%" in found.figure
    assert judge(None, CALM, [gpu(busy=0.31)], 0.1, several_steps=True).advice == "give the process more cores"
    found = judge(0.01, CALM._replace(own_cpu=0.3), [], 0.1)
    assert found.kind == "host-bound" and found.figure == "other processes take 60% of all cores' time, training 30%"


def test_computation_is_what_is_left():
    found = judge(0.012, CALM, [], 0.63)
    figures = (
        "training takes 88% of all cores' time",
        "63% of the peak are the model's own operations",
        "it waits 1.2% of its time for data",
    )
    assert str(found).startswith(f"compute-bound: {', '.join(figures)}; train on an accelerator")
    assert "mixed_bfloat16" in judge(0.01, CALM, [gpu()], None).advice
    assert judge(None, None, [DeviceReading("TPU:0", GIB)], None).figure == "nothing that was measured holds it up"

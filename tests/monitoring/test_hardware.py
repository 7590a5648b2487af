"""Readings of this machine, of counters that a test moves, and of a GPU and TPUs that only NVML's and libtpu's modules say there are."""

import sys
import types

import psutil
import pytest
import tensorflow as tf

from gemma_tf_distill.monitoring import tpu_counters
from gemma_tf_distill.monitoring.devices import Devices
from gemma_tf_distill.monitoring.hardware import HardwareMonitor
from gemma_tf_distill.monitoring.host import Host


def test_this_machine():
    monitor = HardwareMonitor()
    sum(range(3_000_000))
    found = monitor.monitor_step(wait=0.9)
    scalars = found.scalars
    for share in ("cpu", "own_cpu", "memory"):
        assert 0 <= scalars[f"hardware/host/{share}"] <= 1.05
    assert 50 * 2**20 < scalars["hardware/host/process_bytes"] < psutil.virtual_memory().total
    assert scalars["hardware/host/network_received"] >= 0
    assert found.verdict.kind in ("input-bound", "memory-bound")
    if not tf.config.list_logical_devices("GPU"):
        assert monitor.absent == ["there is no accelerator: memory is the host's"]


class Counters:
    """psutil's part that a host reads."""

    def __init__(self):
        self.bytes, self.disk = 0, True

    def Process(self):
        return types.SimpleNamespace(cpu_percent=lambda: 150.0, memory_info=lambda: types.SimpleNamespace(rss=5))

    def cpu_percent(self):
        return 80.0

    def cpu_count(self):
        return 2

    def virtual_memory(self):
        return types.SimpleNamespace(available=30, total=120)

    def swap_memory(self):
        return types.SimpleNamespace(sin=3 * self.bytes)

    def net_io_counters(self):
        return types.SimpleNamespace(bytes_recv=self.bytes, bytes_sent=2 * self.bytes)

    def disk_io_counters(self):
        return types.SimpleNamespace(read_bytes=4 * self.bytes, write_bytes=0) if self.disk else None


def test_rates_are_those_since_the_reading_before():
    counters, seconds = Counters(), iter([10.0, 14.0, 15.0])
    host = Host(counters, clock=lambda: next(seconds))
    counters.bytes = 400
    found = host.read()
    assert (found.cpu, found.own_cpu, found.memory) == (0.8, 0.75, 0.75)
    assert (found.network_received, found.network_sent, found.swapped_in, found.disk_read) == (100.0, 200.0, 300.0, 400.0)
    counters.bytes, counters.disk = 450, False
    found = host.read()
    assert found.network_received == 50.0 and found.disk_read is None and found.disk_written is None


def test_without_psutil_the_rest_is_measured_and_a_sentence_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    monitor = HardwareMonitor()
    found = monitor.monitor_step(wait=0.5)
    assert not [name for name in found.scalars if name.startswith("hardware/host/")] and found.verdict.kind == "input-bound"
    assert monitor.absent[-1].endswith("psutil is not installed (pip install psutil)")


class NVMLError(Exception):
    """As pynvml has one."""


@pytest.fixture
def one_gpu(monkeypatch):
    """TensorFlow believes in one GPU with a peak of 15 GiB."""
    listed = tf.config.list_logical_devices
    gpu = [types.SimpleNamespace(name="/device:GPU:0")]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: gpu if kind == "GPU" else listed(kind))
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda name: {"current": 2**30, "peak": 15 * 2**30})


def nvml(**changes):
    module = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetMemoryInfo": lambda handle: types.SimpleNamespace(total=16 * 2**30),
        "nvmlDeviceGetUtilizationRates": lambda handle: types.SimpleNamespace(gpu=40 if handle == 3 else 90),
    }
    return types.SimpleNamespace(**{**module, **changes})


def test_nvml_is_asked_for_the_gpu_that_the_process_sees(one_gpu, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    monitor = HardwareMonitor()
    found = monitor.monitor_step()
    assert found.scalars["hardware/GPU_0/busy"] == 0.4 and found.scalars["hardware/GPU_0/limit_bytes"] == 16 * 2**30
    assert found.verdict.kind == "memory-bound" and monitor.absent == []


def test_a_gpu_without_nvml_is_measured_by_tensorflow_alone(one_gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (said,) = Devices().absent
    assert said.endswith("(pip install nvidia-ml-py)")

    def refuse():
        raise NVMLError("Driver Not Loaded")

    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlInit=refuse))
    devices = Devices(limit_bytes=20 * 2**30)
    assert devices.absent == ["utilisation of GPUs is not measured: NVML says Driver Not Loaded"]
    (reading,) = devices.read()
    assert (reading.peak_bytes, reading.limit_bytes, reading.busy) == (15 * 2**30, 20 * 2**30, None)


@pytest.fixture
def four_cores(monkeypatch):
    """TensorFlow believes in four TPU devices of this machine, each with a peak of 3 GiB."""
    listed = tf.config.list_logical_devices
    cores = [types.SimpleNamespace(name=f"/device:TPU:{index}") for index in range(4)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: cores if kind == "TPU" else listed(kind))
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda name: {"current": 2**30, "peak": 3 * 2**30})
    monkeypatch.setattr(tpu_counters, "attached_chips", lambda: ["/dev/accel0"])


def libtpu(monkeypatch, metrics):
    """What libtpu tells of its chips, as lists of texts; what it does not know is empty."""

    def get_metric(name):
        values = metrics.get(name, [])
        if values is None:
            raise RuntimeError(f"Failed to get metric values for {name}")
        return types.SimpleNamespace(data=lambda: values)

    monkeypatch.setitem(sys.modules, "libtpu.sdk", types.SimpleNamespace(tpumonitoring=types.SimpleNamespace(get_metric=get_metric)))


def test_libtpu_is_asked_for_the_chips(four_cores, monkeypatch):
    gib = str(16 * 2**30)
    metrics = {
        "duty_cycle_pct": ["95.50", "20.00", "0.00", "100.00"],
        "hbm_capacity_usage": ["1073741824", "0", "0", "5"],
        "hbm_capacity_total": [gib, gib, gib, gib],
    }
    libtpu(monkeypatch, metrics)
    monitor = HardwareMonitor()
    assert monitor.absent == []
    found = monitor.monitor_step()
    assert found.scalars["hardware/TPU_0/busy"] == pytest.approx(0.955) and found.scalars["hardware/TPU_2/busy"] == 0
    assert found.scalars["hardware/TPU_0/used_bytes"] == 2**30 and found.scalars["hardware/TPU_3/limit_bytes"] == 16 * 2**30
    assert found.scalars["hardware/TPU_1/peak_bytes"] == 3 * 2**30
    assert found.verdict.kind == "host-bound" and found.verdict.figure.startswith("TPU:1 is busy 20% of its time")
    # Two cores of a chip are two devices, of what can't be told apart nothing is said, and no failure ends a training.
    metrics |= {"duty_cycle_pct": ["80.00", "90.00"], "hbm_capacity_usage": ["1", "2", "3"], "hbm_capacity_total": None}
    readings = Devices(limit_bytes=7).read()
    assert [reading.busy for reading in readings] == [0.8, 0.8, 0.9, 0.9]
    assert {(reading.used_bytes, reading.limit_bytes) for reading in readings} == {(None, 7)}


def test_what_libtpu_does_not_tell_is_said(four_cores, monkeypatch):
    libtpu(monkeypatch, {"duty_cycle_pct": None})
    devices = Devices()
    assert devices.absent[0].startswith("utilisation of TPUs is not measured: libtpu counts nothing yet")
    assert [reading.busy for reading in devices.read()] == [None] * 4
    for module in (types.SimpleNamespace(), None):
        monkeypatch.setitem(sys.modules, "libtpu.sdk", module)
        assert "pip install -U libtpu" in Devices().absent[0]
    monkeypatch.setattr(tpu_counters, "attached_chips", lambda: [])
    devices = Devices(limit_bytes=7)
    assert "this machine has none of its own" in devices.absent[0] and "training.profile_steps" in devices.absent[0]
    assert devices.read()[3] == ("TPU:3", 3 * 2**30, 7, None, None)

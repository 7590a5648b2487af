"""What the accelerators do: memory as TensorFlow's allocator counts it, utilisation as NVML or libtpu measure it."""

import importlib
import os
from typing import Any, NamedTuple

import tensorflow as tf

from gemma_tf_distill.monitoring.tpu_counters import TpuCounters


class DeviceReading(NamedTuple):
    """One accelerator.

    Attributes:
      name: such as `GPU:0`.
      peak_bytes: most memory that TensorFlow held on it.
      limit_bytes: of its memory; none where nobody says.
      busy: share of the last moments in which it computed, 0 to 1; none where nobody measures it.
      used_bytes: of its memory, by all that use it, now; none where nobody says.
    """

    name: str
    peak_bytes: int
    limit_bytes: int | None = None
    busy: float | None = None
    used_bytes: int | None = None


class Devices:
    """Reads this process's accelerators; there may be none.

    Attributes:
      absent: sentences about what nobody measures here, and what would.
    """

    def __init__(self, limit_bytes: int | None = None):
        """Args:
        limit_bytes: memory of an accelerator of which neither NVML nor libtpu knows it.
        """
        self._names = [device.name.removeprefix("/device:") for kind in ("GPU", "TPU") for device in tf.config.list_logical_devices(kind)]
        self._limit = limit_bytes
        self._nvml: Any = None
        self._handles: dict[str, Any] = {}
        self.absent: list[str] = []
        gpus = [name for name in self._names if name.startswith("GPU")]
        if not self._names:
            self.absent.append("there is no accelerator: memory is the host's")
        if gpus:
            self._find_nvml(gpus)
        self._tpus = [name for name in self._names if name.startswith("TPU")]
        if self._tpus:
            self._tpu_counters = TpuCounters()
            self.absent += [self._tpu_counters.absent] if self._tpu_counters.absent else []

    def _find_nvml(self, gpus: list[str]) -> None:
        try:
            nvml = importlib.import_module("pynvml")
        except ModuleNotFoundError:
            self.absent.append("utilisation of GPUs is not measured: NVML's package is not installed (pip install nvidia-ml-py)")
            return
        try:
            nvml.nvmlInit()
            self._handles = {name: _handle(nvml, index) for index, name in enumerate(gpus)}
        except nvml.NVMLError as error:
            self.absent.append(f"utilisation of GPUs is not measured: NVML says {error}")
            return
        self._nvml = nvml

    def read(self) -> list[DeviceReading]:
        """All accelerators as they are now."""
        readings = []
        chips = dict(zip(self._tpus, self._tpu_counters.read(len(self._tpus)), strict=True)) if self._tpus else {}
        for name in self._names:
            peak, limit, busy, used = tf.config.experimental.get_memory_info(name)["peak"], self._limit, None, None
            if name in self._handles:
                limit = self._nvml.nvmlDeviceGetMemoryInfo(self._handles[name]).total
                busy = self._nvml.nvmlDeviceGetUtilizationRates(self._handles[name]).gpu / 100
            if name in chips:
                busy, used = chips[name].busy, chips[name].used_bytes
                limit = chips[name].limit_bytes or limit
            readings.append(DeviceReading(name, peak, limit, busy, used))
        return readings


def _handle(nvml: Any, index: int) -> Any:
    """NVML counts all GPUs of a machine, TensorFlow those that CUDA_VISIBLE_DEVICES names, by number or UUID."""
    visible = [text.strip() for text in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if text.strip()]
    if not visible:
        return nvml.nvmlDeviceGetHandleByIndex(index)
    name = visible[index]
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)

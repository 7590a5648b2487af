"""Where time and memory of a training run go, as far as this machine tells."""

from typing import NamedTuple

from gemma_tf_distill.monitoring.devices import Devices
from gemma_tf_distill.monitoring.host import Host
from gemma_tf_distill.monitoring.verdict import Verdict, judge


class HardwareReading(NamedTuple):
    """What was seen since the look before.

    Attributes:
      scalars: by their names on TensorBoard, `hardware/…`: shares from 0 to 1, bytes, bytes a second. What is not measured is left out.
      verdict: what holds training up.
    """

    scalars: dict[str, float]
    verdict: Verdict


class HardwareMonitor:
    """Reads host and accelerators when it is asked, some milliseconds each time; nothing runs in between.

    Attributes:
      absent: sentences about what is not measured here, and what would be needed.
    """

    def __init__(self, host: Host | None = None, devices: Devices | None = None, *, several_steps: bool = False):
        """Args:
        host: none: this machine, where psutil is installed.
        devices: none: those of this process.
        several_steps: whether one call takes several steps.
        """
        self._host = Host.find() if host is None else host
        self._devices = Devices() if devices is None else devices
        self._several_steps = several_steps
        self.absent = list(self._devices.absent)
        if self._host is None:
            self.absent.append("cores, memory, disk and network of the host are not measured: psutil is not installed (pip install psutil)")

    def monitor_step(self, wait: float | None = None, mfu: float | None = None) -> HardwareReading:
        """Looks at the hardware.

        Args:
          wait: share of its time that the loop waits for batches (`InputWait.fraction`); none where it is not measured.
          mfu: model FLOPs utilisation; none where it is not measured.
        """
        host = None if self._host is None else self._host.read()
        devices = self._devices.read()
        scalars: dict[str, float] = {}
        if host is not None:
            scalars |= {f"hardware/host/{name}": value for name, value in host._asdict().items() if value is not None}
        for device in devices:
            told = {name: value for name, value in device._asdict().items() if name != "name" and value is not None}
            scalars |= {f"hardware/{device.name.replace(':', '_')}/{name}": value for name, value in told.items()}
        return HardwareReading(scalars, judge(wait, host, devices, mfu, several_steps=self._several_steps))

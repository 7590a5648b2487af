"""What holds training up, in words, with the figure behind it and the setting to try."""

from collections.abc import Sequence
from typing import NamedTuple

from gemma_tf_distill.monitoring.devices import DeviceReading
from gemma_tf_distill.monitoring.host import HostReading
from gemma_tf_distill.monitoring.input_wait import MUCH_WAITING

# Of a device's memory: beyond it fragments decide whether the next allocation succeeds.
_FULL_DEVICE = 0.92
_FULL_HOST = 0.95
# Bytes a second that come back from swap while a step waits for them.
_SWAPPING = 1 << 20
# An accelerator that is busy for less of its time, while batches are there, waits for Python.
_IDLE = 0.7
# Of all cores, taken by other processes.
_OTHERS = 0.25


class Verdict(NamedTuple):
    """What holds training up.

    Attributes:
      kind: `memory-bound`, `input-bound`, `host-bound` or `compute-bound`.
      figure: what was measured.
      advice: the setting to try.
    """

    kind: str
    figure: str
    advice: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.figure}; {self.advice}"


_MEMORY_ADVICE = (
    "lower training.batch_size or raise training.accumulation_steps, set training.gradient_checkpointing=blocks or "
    "training.optimizer_dtype=bfloat16"
)


def judge(
    wait: float | None, host: HostReading | None, devices: Sequence[DeviceReading], mfu: float | None, *, several_steps: bool = False
) -> Verdict:
    """The first of memory, input and host that holds training up, else the computation itself.

    Args:
      wait: share of its time that the loop waits for batches; none where it is not measured.
      host: its reading, or none.
      devices: accelerators that train; none: the host's cores do.
      mfu: model FLOPs utilisation, or none.
      several_steps: whether one call takes several steps.
    """
    held_up = _memory(host, devices) or _input(wait) or _host(host, devices, several_steps)
    return held_up or Verdict("compute-bound", _busy(wait, host, devices, mfu), _compute_advice(devices))


def _memory(host: HostReading | None, devices: Sequence[DeviceReading]) -> Verdict | None:
    for device in devices:
        if device.limit_bytes and device.peak_bytes > _FULL_DEVICE * device.limit_bytes:
            share = device.peak_bytes / device.limit_bytes
            figure = f"{share:.0%} of the {device.limit_bytes / 2**30:.1f} GiB of {device.name} were taken"
            return Verdict("memory-bound", figure, _MEMORY_ADVICE)
    if host is None:
        return None
    if host.swapped_in > _SWAPPING:
        return Verdict("memory-bound", f"{host.swapped_in / 2**20:.0f} MiB a second come back from swap", _MEMORY_ADVICE)
    if host.memory > _FULL_HOST:
        figure = f"{host.memory:.0%} of the host's memory are taken, {host.process_bytes / 2**30:.1f} GiB of it by this process"
        return Verdict("memory-bound", figure, _MEMORY_ADVICE)
    return None


def _input(wait: float | None) -> Verdict | None:
    if wait is None or wait <= MUCH_WAITING:
        return None
    advice = (
        "keep the scored windows on a local disk, give the machine more cores, or store fewer of the teacher's words "
        "(distillation.top_k, distillation.draws)"
    )
    return Verdict("input-bound", f"training waits {wait:.0%} of its time for data", advice)


def _host(host: HostReading | None, devices: Sequence[DeviceReading], several_steps: bool) -> Verdict | None:
    idle = [device for device in devices if device.busy is not None and device.busy < _IDLE]
    if idle:
        advice = "give the process more cores" if several_steps else "raise strategy.steps_per_execution"
        return Verdict("host-bound", f"{idle[0].name} is busy {idle[0].busy:.0%} of its time and batches are there", advice)
    if devices or host is None or host.cpu - host.own_cpu <= _OTHERS:
        return None
    figure = f"other processes take {host.cpu - host.own_cpu:.0%} of all cores' time, training {host.own_cpu:.0%}"
    return Verdict("host-bound", figure, "end them, or train on another machine")


def _busy(wait: float | None, host: HostReading | None, devices: Sequence[DeviceReading], mfu: float | None) -> str:
    figures = [f"{device.name} busy {device.busy:.0%}" for device in devices if device.busy is not None]
    if host is not None and not devices:
        figures.append(f"training takes {host.own_cpu:.0%} of all cores' time")
    if mfu is not None:
        figures.append(f"{mfu:.0%} of the peak are the model's own operations")
    if wait is not None:
        figures.append(f"it waits {wait:.1%} of its time for data")
    return ", ".join(figures) or "nothing that was measured holds it up"


def _compute_advice(devices: Sequence[DeviceReading]) -> str:
    if devices:
        return "try training.precision=mixed_bfloat16, more devices (strategy), or a smaller student"
    return "train on an accelerator (strategy), or a smaller student, or fewer tokens (training.epochs)"

"""Python, C library, processor, memory, devices and folders."""

import functools
import importlib.util
import json
import os
import pathlib
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator

import psutil

from gemma_tf_distill.doctor.finding import NOTE, OK, PROBLEM, Finding
from gemma_tf_distill.doctor.probe import Outcome, run
from gemma_tf_distill.doctor.weights import kaggle_cache

_GLIBC = (2, 39)
_GIB = 2**30
_MEMORY_WANTED = 11 * _GIB
_CPU_FEATURES = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "asimddp", "bf16", "i8mm")


def machine() -> Iterator[Finding]:
    """Python, C library, processor and memory."""
    row = functools.partial(Finding, section="machine")
    fits = sys.version_info[:2] == (3, 11)
    yield row(
        name="Python",
        state=OK if fits else PROBLEM,
        found=platform.python_version(),
        wanted="" if fits else "3.11",
        advice="" if fits else "make setup builds .venv with it",
    )
    library, version = platform.libc_ver()
    fits = library == "glibc" and tuple(int(part) for part in version.split(".")[:2]) >= _GLIBC
    yield row(
        name="C library",
        state=OK if fits else PROBLEM,
        found=f"{library} {version}".strip() or "not glibc",
        wanted="" if fits else "glibc {}.{} or newer, for TFX".format(*_GLIBC),
        advice="" if fits else "make setup (Debian 12, as root), Debian 13, Ubuntu 24.04, or the container (make docker)",
    )
    # A container's or a job scheduler's share, where the system can tell.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield row(name="CPU", state=OK, found=f"{cores} cores, {platform.machine()}: {' '.join(_cpu_features())}")
    total, available = _memory()
    enough = available >= _MEMORY_WANTED
    yield row(
        name="memory",
        state=OK if enough else NOTE,
        found=f"{available / _GIB:.1f} of {total / _GIB:.1f} GiB available",
        advice="" if enough else f"the demo may need up to {_MEMORY_WANTED // _GIB} GiB",
    )


def _cpu_features(cpuinfo: str = "/proc/cpuinfo") -> list[str]:
    try:
        text = pathlib.Path(cpuinfo).read_text()
    except OSError:
        return []
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return [feature for feature in _CPU_FEATURES if flags and feature in flags[1].split()]


def _memory(cgroup: str = "/sys/fs/cgroup") -> tuple[int, int]:
    """Bytes in all and bytes available, of the machine or of the container, whichever has less."""
    memory = psutil.virtual_memory()
    try:
        limit = int(pathlib.Path(cgroup, "memory.max").read_text())
        used = int(pathlib.Path(cgroup, "memory.current").read_text())
    except (OSError, ValueError):
        return memory.total, memory.available
    return min(memory.total, limit), min(memory.available, max(limit - used, 0))


def compiled_parts() -> Iterator[Finding]:
    """Whether the compiled packages that ask most of a machine's C library load; a missing one has its row among the packages."""
    for package, module in (("ml-metadata", "ml_metadata"), ("ai-edge-litert", "ai_edge_litert.interpreter")):
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            continue
        outcome = run(f"import {module}")
        yield Finding(
            section="compiled parts",
            name=package,
            state=PROBLEM if outcome.error else OK,
            found=outcome.error or "loads",
            advice="make setup (an older C library, or a package built for another machine)" if outcome.error else "",
        )


def devices(seen: Outcome) -> Iterator[Finding]:
    """The devices that TensorFlow sees, from `probe.tensorflow_view`."""
    yield Finding(
        section="devices",
        name="TensorFlow",
        state=PROBLEM if seen.error else OK,
        found=seen.error or ", ".join(json.loads(seen.output)["devices"]),
        advice="make setup; TensorFlow's wheels need AVX on x86-64" if seen.error else "",
    )


def folders(seen: Outcome) -> Iterator[Finding]:
    """Whether the folders that a run writes into can be written, and how much room they have."""
    yield _folder("output", pathlib.Path.cwd() / "outputs", bad=PROBLEM, room=3 * _GIB)
    yield _folder("temporary", pathlib.Path(tempfile.gettempdir()), bad=PROBLEM, room=_GIB)
    view = {} if seen.error else json.loads(seen.output)
    if "weights_cache" in view:
        yield _folder("weights cache", pathlib.Path(view["weights_cache"]), bad=PROBLEM, room=_GIB // 2)
    elif view:
        advice = "set GEMMA_DISTILL_CACHE to a folder of your own"
        yield Finding(section="folders", name="weights cache", state=PROBLEM, found=view["weights_cache_error"], advice=advice)
    yield _folder("Kaggle cache", kaggle_cache(), bad=NOTE, room=_GIB)
    yield _folder("Keras home", pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras"), bad=NOTE, room=0)


def _folder(name: str, folder: pathlib.Path, *, bad: str, room: int) -> Finding:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    free = shutil.disk_usage(existing).free
    fits = writable and free >= room
    return Finding(
        section="folders",
        name=name,
        state=OK if fits else bad,
        found=f"{folder}: {'' if writable else 'not writable, '}{free / _GIB:.1f} GiB free",
        wanted="" if fits else f"writable, with {room / _GIB:.1f} GiB free",
        advice="" if fits else "make room, or give it a folder of your own",
    )

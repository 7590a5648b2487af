"""Docstrings of installed packages as a corpus: real English technical text that every Python environment holds."""

import contextlib
import difflib
import importlib.metadata
import importlib.util
import os
import pickle
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from gemma_tf_distill.data import docstring_worker
from gemma_tf_distill.errors import CorpusError

_MAX_PROCESSES = 8


def site_packages() -> list[str]:
    """The folders that installed packages live in, one or two."""
    return sorted({os.path.realpath(sysconfig.get_path(name)) for name in ("purelib", "platlib")})


def installed_packages() -> dict[str, str]:
    """Top-level packages and modules of site-packages: name to folder or file, sorted by name."""
    packages = {}
    for folder in site_packages():
        for entry in os.scandir(folder):
            name = entry.name if entry.is_dir() else entry.name.removesuffix(".py") if entry.name.endswith(".py") else ""
            # Installers leave modules named __editable__… that are machinery, and __pycache__.
            if name.isidentifier() and not name.startswith("__"):
                packages[name] = entry.path
    return dict(sorted(packages.items()))


def find_packages(names: Sequence[str]) -> dict[str, str]:
    """Folder or file of each named package, without importing it.

    Packages outside site-packages are found too: those of the standard library, and those installed as editable.

    Raises:
      CorpusError: if one is not installed; a near name is suggested.
    """
    installed = installed_packages()
    return {name: installed.get(name) or _elsewhere(name) or _missing(name, installed) for name in names}


def _elsewhere(name: str) -> str | None:
    # A dotted name would make find_spec import the parent.
    spec = importlib.util.find_spec(name) if name.isidentifier() and name not in sys.builtin_module_names else None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return next(iter(spec.submodule_search_locations))
    return spec.origin if spec.origin and spec.origin.endswith(".py") else None


def _missing(name: str, installed: Iterable[str]) -> str:
    by_distribution: dict[str, str] = {}
    for package, distributions in importlib.metadata.packages_distributions().items():
        for distribution in distributions:
            if package in installed and not package.startswith("_"):
                by_distribution.setdefault(_normalized(distribution), package)
    near = by_distribution.get(_normalized(name)) or next(iter(difflib.get_close_matches(name, installed, n=1)), None)
    if "." in name and name.split(".")[0] in installed:
        near = name.split(".")[0]
    hint = f"did you mean docstrings:{near}?" if near else "give names that can be imported, or docstrings: for all that is installed"
    raise CorpusError(f"corpus.source docstrings:{name}: no package {name!r} is installed; {hint}")


def _normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def module_files(root: str) -> list[str]:
    """The Python files of a package's folder, or the one file of a module, sorted."""
    if not os.path.isdir(root):
        return [root]
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names if name.endswith(".py"))


def read_docstrings(paths: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Docstrings of Python files, parsed on all cores.

    Args:
      paths: Python files; one that cannot be read or parsed has no docstrings.

    Yields:
      Each path, in the order given, with its docstrings in the order of the file.

    Raises:
      CorpusError: if a process that parses dies, for want of memory say.
    """
    count = max(1, min(os.cpu_count() or 1, _MAX_PROCESSES, len(paths)))
    with contextlib.ExitStack() as stack:
        workers = [_start(paths[first::count], stack) for first in range(count)]
        for number, path in enumerate(paths):
            try:
                docstrings = pickle.load(workers[number % count])
            except (EOFError, pickle.UnpicklingError) as error:
                raise CorpusError(f"the process that parses {path} died: is there memory left?") from error
            yield path, docstrings


def _start(paths: Sequence[str], stack: contextlib.ExitStack) -> IO[bytes]:
    """Starts a worker on `paths`; the stack ends it. Returns what it writes."""
    worker = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-I", "-S", docstring_worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # How far a worker may be ahead of the others.
            pipesize=1 << 20,
        )
    )
    stack.callback(worker.kill)
    assert worker.stdin is not None
    assert worker.stdout is not None
    # A worker that died at once is noticed where its answers are missing.
    with contextlib.suppress(BrokenPipeError), worker.stdin as stdin:
        pickle.dump(list(paths), stdin)
    return worker.stdout

"""The folder that a run works in: who may use it, and that nothing is left of a run that could never have worked.

```
config.json      the config of the latest run (it says whose folder this is)
report.json      what the latest run that finished came to
report.html      the same, and where it comes from, as a page for people
progress.jsonl   events of the latest run
logs/            what TFX and TensorFlow say, one file a run
pipeline/        artifacts and checkpoints
metadata.sqlite  ML Metadata
pushed/          versions that were blessed
```
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from gemma_tf_distill.config import Config, CorpusConfig
from gemma_tf_distill.errors import ConfigError

# What must stay the same in a folder: it decides which held-out tokens there are, over which words, and what is stored about them,
# and so whether a new model can be compared with the blessed one.
IDENTITY = ("name", "teacher.source", "corpus", "student.vocabulary", "distillation.top_k")

_LOCK_SECONDS = 15.0
_BEFORE_CONFIG = {"logs", "progress.jsonl", ".lock"}


class OutputFolder:
    """Paths inside an output folder, and the rules for using it."""

    def __init__(self, path: pathlib.Path):
        self.path = path.absolute()
        self.config = self.path / "config.json"
        self.report = self.path / "report.json"
        self.page = self.path / "report.html"
        self.progress = self.path / "progress.jsonl"
        self.logs = self.path / "logs"
        self.pipeline_root = self.path / "pipeline"
        self.metadata = self.path / "metadata.sqlite"
        self.pushed = self.path / "pushed"

    def check(self, config: Config) -> None:
        """Whether `config` may run here; nothing is created.

        Raises:
          ConfigError: if the folder can't be written to, holds something else, or belongs to another config.
        """
        there = self.path
        while not there.exists() and not there.is_symlink():
            there = there.parent
        if not there.is_dir():
            raise ConfigError(f"the output folder {self.path} can't be used: {there} is a file, choose another --output")
        check_writable(there, self.path)
        if there != self.path:
            return
        if self.config.is_file():
            self._check_same(config)
        elif foreign := sorted({entry.name for entry in self.path.iterdir()} - (_BEFORE_CONFIG if self._logs_are_ours() else set())):
            raise ConfigError(
                f"the output folder {self.path} holds files that are not of a run ({', '.join(foreign[:3])}): choose another --output"
            )

    def _logs_are_ours(self) -> bool:
        """Whether there is no `logs`, or a folder of nothing but logs of runs."""
        if not self.logs.exists():
            return True
        return self.logs.is_dir() and all(entry.name.startswith("run-") for entry in self.logs.iterdir())

    def _check_same(self, config: Config) -> None:
        try:
            former = json.loads(self.config.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{self.config} is damaged: choose another --output") from error
        if (
            not isinstance(former, dict)
            or not {"name", "teacher", "corpus", "gates"} <= former.keys()
            or not isinstance(former["corpus"], dict)
        ):
            raise ConfigError(f"the output folder {self.path} holds a config.json that is not of a run: choose another --output")
        now = config.to_dict()
        # What an earlier version did not know of was as it is by default.
        former["corpus"] = {**json.loads(json.dumps(dataclasses.asdict(CorpusConfig()))), **former["corpus"]}
        different = [name for key in IDENTITY for name in _differences(key, _value(former, key), _value(now, key))]
        if different:
            raise ConfigError(
                f"the output folder {self.path} belongs to another config: {', '.join(different)}. A model can only be compared with "
                "the blessed one on the same tokens: choose another --output"
            )

    def write_config(self, config: Config) -> None:
        """Makes `config` the folder's."""
        write_whole(self.config, json.dumps(config.to_dict(), indent=2) + "\n")

    def new_log(self) -> pathlib.Path:
        """A new file in `logs/`, named by the time."""
        path = self.logs / f"run-{time.strftime('%Y%m%d-%H%M%S')}.log"
        path.touch()
        return path

    @contextlib.contextmanager
    def claim(self) -> Iterator["Claim"]:
        """Creates the folder, for one run at a time, with an empty `progress.jsonl`.

        Raises:
          ConfigError: if another run is using the folder.
        """
        created = tuple(folder for folder in (self.path, *self.path.parents) if not folder.exists())
        empty = bool(created) or not any(self.path.iterdir())
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
        except OSError:
            for folder in created:
                if folder.is_dir():
                    folder.rmdir()
            raise
        lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock(lock):
                raise ConfigError(f"another run is using {self.path}: wait for it, or choose another --output")
            self.progress.write_text("")
            yield Claim(self.path, lock, empty, created)
        finally:
            os.close(lock)


def _lock(descriptor: int) -> bool:
    """Locks a file, or gives up after a while: what is left of a run that was just killed needs a moment to end."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        else:
            return True


@dataclasses.dataclass(frozen=True)
class Claim:
    """A folder that belongs to one run for a while.

    Attributes:
      path: the folder.
      lock: descriptor of its lock; a process that inherits it keeps the folder claimed.
      empty: whether there was nothing in it, or no such folder, before.
      created: the folders that were created for it, the innermost first.
    """

    path: pathlib.Path
    lock: int
    empty: bool
    created: tuple[pathlib.Path, ...]

    def take_back(self) -> None:
        """Leaves things as they were before, if there was nothing in the folder."""
        if not self.empty:
            return
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        for folder in self.created:
            folder.rmdir()


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def check_writable(there: pathlib.Path, output: pathlib.Path) -> None:
    """Raises ConfigError where no file can be created in the folder `there`, which `output` is or would lie in."""
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ConfigError(f"the output {output} can't be written to: {error.strerror} ({there}), choose another --output") from error


def _value(config: dict[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _differences(key: str, former: Any, now: Any) -> list[str]:
    if isinstance(former, dict) and isinstance(now, dict):
        return [line for name in sorted({*former, *now}) for line in _differences(f"{key}.{name}", former.get(name), now.get(name))]
    return [] if former == now else [f"{key} was {json.dumps(former)} and is {json.dumps(now)} now"]

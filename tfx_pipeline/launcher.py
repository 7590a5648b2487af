"""Runs the pipeline in a process of its own, and shows what it is doing.

TFX's hundreds of lines go to a log file, and stopping the run stops everything that it started. Nothing heavy is imported here.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from gemma_tf_distill.config import Config
from gemma_tf_distill.errors import UserError
from gemma_tf_distill.monitoring.console import Display
from gemma_tf_distill.monitoring.progress import ENVIRONMENT_VARIABLE
from tfx_pipeline.exit_codes import EXIT_NOT_BLESSED, EXIT_OK, EXIT_USER_ERROR
from tfx_pipeline.output_folder import OutputFolder

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0
# glibc gives large blocks back to the system when they are freed. A compiled step takes and frees the same gigabytes each time, and
# getting them anew, page by page, was 15 % of a step's time.
_KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


class RunFailedError(Exception):
    """A run ended with an error that is not of the user's making; the message ends with the log's path."""


def launch(config: Config, output: pathlib.Path, runner: str, display: Display, until: str | None = None) -> dict[str, Any]:
    """Runs the pipeline of a config in `output` and waits for its end.

    Args:
      config: the experiment.
      output: the folder of the run.
      runner: `local` or `beam`.
      display: is shown every event but the error that ends the run.
      until: the component to stop after; none: the run goes to its end.

    Returns:
      The `outcome` event: `report`, `failures` and `samples` (see `tfx_pipeline.report.Outcome`); or with `until` the `stopped` event
      (`tfx_pipeline.report.Stopped`).

    Raises:
      UserError: what the run ended with, if it was that. A folder that the run created is removed again, unless the run got as far
        as a trained student.
      RunFailedError: if the run ended with another error, or was killed.
      KeyboardInterrupt: after the run was stopped. The next run in the folder goes on from what is there.
    """
    folder = OutputFolder(output)
    folder.check(config)
    with folder.claim() as claim:
        log = folder.new_log()
        error = outcome = None
        trained = False
        with contextlib.closing(display), _child(config, folder, runner, until, log, claim.lock) as process:
            for event in _events(folder.progress, process.poll, display.tick):
                if event["event"] == "error":
                    error = event
                    continue
                if event["event"] in ("outcome", "stopped"):
                    outcome = event
                trained = trained or (event["event"], event.get("node"), event.get("state")) == ("node", "Distiller", "complete")
                display.show(event)
        if process.returncode == EXIT_USER_ERROR and error:
            if not trained:
                claim.take_back()
            raise UserError(error["message"])
        if process.returncode not in (EXIT_OK, EXIT_NOT_BLESSED) or outcome is None:
            raise RunFailedError(f"{_reason(process.returncode, error)} (the whole story is in {log})")
        return outcome


def _reason(code: int, error: dict[str, Any] | None) -> str:
    if error:
        return error["message"]
    if code < 0:
        hint = ": was there enough memory?" if -code == signal.SIGKILL else ""
        return f"the run was ended by {signal.Signals(-code).name}{hint}"
    return f"the run ended with exit code {code}"


@contextlib.contextmanager
def _child(
    config: Config, folder: OutputFolder, runner: str, until: str | None, log: pathlib.Path, lock: int
) -> Iterator[subprocess.Popen]:
    """The process that runs the pipeline; when the block ends, so has it."""
    compiler = config.xla.environment(os.environ)
    environment = {
        **_KEEP_FREED_MEMORY,
        **os.environ,
        **compiler,
        ENVIRONMENT_VARIABLE: str(folder.progress),
        "KERAS_BACKEND": "tensorflow",
    }
    with log.open("wb") as output:
        # In a session of its own, so that Ctrl-C reaches this process only, and the whole group can be ended. Its standard input
        # is never written to: it is closed when this process ends, in whatever way.
        process = subprocess.Popen(
            [*_command(config, folder, runner), *(["--until", until] if until else [])],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[lock],
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _command(config: Config, folder: OutputFolder, runner: str) -> list[str]:
    # -P: what lies in the current folder must not hide our packages.
    command = [sys.executable, "-P", "-m", "tfx_pipeline.local_runner", "--config-json", config.to_json()]
    return [*command, "--output", str(folder.path), "--runner", runner, "--exit-with-parent"]


def _end(process: subprocess.Popen) -> None:
    """Ends a process and all that it started, kindly first."""
    for kind, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
    if process.stdin:
        process.stdin.close()


def _events(path: pathlib.Path, poll: Callable[[], int | None], tick: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Events as they are added to a file, until the process that `poll` asks for has ended and all are read."""
    with path.open(encoding="utf-8") as file:
        line = ""
        ended = False
        while True:
            line += file.readline()
            if line.endswith("\n"):
                yield json.loads(line)
                line = ""
            elif ended:
                return
            else:
                # Asked before the last reading: what was written before the end is read after it.
                ended = poll() is not None
                tick()
                if not ended:
                    time.sleep(_POLL_SECONDS)

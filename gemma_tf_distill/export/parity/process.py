"""An exported file in a process of its own: its memory is its own, and a runtime that crashes ends nothing else."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from gemma_tf_distill.export.parity.messages import Request
from gemma_tf_distill.export.parity.report import ParityError

# Loading a large model, or reading a window with it, takes no longer on any machine that is fit for it.
_PATIENCE_SECONDS = 1_800


class RuntimeProcess:
    """A worker and what it has yet to say; see `worker`."""

    def __init__(self, path: str, connection: Connection, process: subprocess.Popen, log: Any):
        self._path, self._connection, self._process, self._log = path, connection, process, log

    def receive(self) -> Any:
        """The worker's next message.

        Raises:
          ParityError: if the file can't be run, with what its runtime said.
        """
        try:
            if not self._connection.poll(_PATIENCE_SECONDS):
                raise ParityError(f"{self._path} can't be run: its runtime said nothing for {_PATIENCE_SECONDS} seconds")
            message = self._connection.recv()
        # The second where it ends within a message.
        except (EOFError, OSError):
            code = self._process.wait()
            self._log.seek(0)
            said = " ".join(self._log.read().decode(errors="replace").split()[-40:])
            raise ParityError(f"{self._path} can't be run: its runtime ended with exit code {code} ({said or 'it said nothing'})") from None
        if isinstance(message, str):
            raise ParityError(f"{self._path} can't be run: {message}")
        return message


@contextmanager
def runtime_process(request: Request) -> Iterator[RuntimeProcess]:
    """Starts a worker for one file, and ends it with the block."""
    receiving, sending = os.pipe()
    with tempfile.TemporaryFile() as log, Connection(receiving, writable=False) as connection:
        command = [sys.executable, "-P", "-m", "gemma_tf_distill.export.parity.worker", str(sending)]
        # Found in this process's own path and not in the folder that the command was called in.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=(sending,), env=environment) as process:
            os.close(sending)
            try:
                assert process.stdin
                # A worker that ended at once is told of by `receive`.
                try:
                    process.stdin.write(json.dumps(request._asdict()).encode())
                    process.stdin.close()
                except BrokenPipeError:
                    process.stdin = None
                yield RuntimeProcess(request.path, connection, process, log)
            finally:
                process.kill()

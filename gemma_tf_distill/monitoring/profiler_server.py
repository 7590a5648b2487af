"""The port at which TensorBoard's capture button finds a process that trains."""

import os
import socket

from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.monitoring.progress import note

# Of this process: a server ends with it.
_started: set[int] = set()


def check_profiler_port(port: int | None) -> None:
    """Raises ConfigError if nothing can listen at a port, since something else does or may not be."""
    if port is None or port in _started:
        return
    dual = socket.has_dualstack_ipv6()
    try:
        socket.create_server(("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual).close()
    except OSError as error:
        # Python's own text repeats the address.
        said = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"training.profiler_port is {port}, where nothing can listen ({said}): choose another one") from error


def start_profiler_server(port: int | None) -> None:
    """Starts TensorFlow's profiler server, once a process.

    Args:
      port: to listen at; none: nothing is started.

    Raises:
      ConfigError: if the port can't be used.
    """
    check_profiler_port(port)
    if port is None or port in _started:
        return
    # Only here: the port alone is checked long before anything is computed.
    import tensorflow as tf

    tf.profiler.experimental.server.start(port)
    _started.add(port)
    note(f"profiles can be captured at {socket.gethostname()}:{port}: press Capture Profile on TensorBoard")

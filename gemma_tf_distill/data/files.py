"""Opening what `corpus.source` names, local or remote, as a stream of bytes, with errors that a person can act on."""

import contextlib
import glob
import gzip
import os
import zlib
from collections.abc import Iterator

from gemma_tf_distill.errors import CorpusError

_CHUNK = 1 << 20


def is_remote(path: str) -> bool:
    """Whether a path is an address such as `gs://bucket/file`, which only `tf.io.gfile` opens.

    Local files are opened by Python itself, since importing TensorFlow takes ten seconds.
    """
    return "://" in path


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Turns what reading a file may fail with into one line.

    Raises:
      CorpusError: in place of an error of the operating system, of TensorFlow's file systems, or of decompression.
    """
    failures: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
    if is_remote(path):
        import tensorflow as tf

        failures += (tf.errors.OpError,)
    try:
        yield
    except failures as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CorpusError(f"{path} cannot be read: {' '.join(reason.split())}") from error


def expand_pattern(pattern: str) -> list[str]:
    """The files that a path or glob pattern names, sorted; `**` crosses folders in local patterns.

    Raises:
      CorpusError: if it matches nothing, or only folders.
    """
    if is_remote(pattern):
        import tensorflow as tf

        with readable(pattern):
            matches = tf.io.gfile.glob(pattern)
            files = [path for path in matches if not tf.io.gfile.isdir(path)]
    else:
        local = os.path.expanduser(pattern)
        # A file may have brackets in its name.
        matches = [local] if os.path.exists(local) else glob.glob(local, recursive=True)
        files = [path for path in matches if not os.path.isdir(path)]
    if not matches:
        raise CorpusError(f"corpus.source {pattern!r} matches no file: give the path of a file, or a pattern such as data/*.txt")
    if not files:
        raise CorpusError(f"corpus.source {pattern!r} is a folder: name the files in it, as in {pattern.rstrip('/')}/*")
    return sorted(files)


def stat(path: str) -> tuple[int, int]:
    """A file's size in bytes and the time of its last change in nanoseconds.

    Raises:
      CorpusError: if there is no such file.
    """
    with readable(path):
        if is_remote(path):
            import tensorflow as tf

            remote = tf.io.gfile.stat(path)
            return remote.length, remote.mtime_nsec
        local = os.stat(path)
        return local.st_size, local.st_mtime_ns


def read_chunks(path: str) -> Iterator[bytes]:
    """The bytes of a file, about a megabyte at a time; a name that ends in `.gz` is decompressed.

    Raises:
      CorpusError: if it cannot be read or decompressed.
    """
    with readable(path), contextlib.ExitStack() as stack:
        if is_remote(path):
            import tensorflow as tf

            file = stack.enter_context(tf.io.gfile.GFile(path, "rb"))
        else:
            file = stack.enter_context(open(path, "rb"))
        if path.endswith(".gz"):
            file = stack.enter_context(gzip.open(file))
        while chunk := file.read(_CHUNK):
            yield chunk

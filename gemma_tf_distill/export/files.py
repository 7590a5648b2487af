"""Files that are whole or absent, and what identifies them. Paths may be local or anything that `tf.io.gfile` opens."""

import contextlib
import dataclasses
import hashlib
import os
import uuid
from collections.abc import Iterator

import tensorflow as tf

from gemma_tf_distill.monitoring.progress import progress

_BLOCK = 2**20


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """What identifies a file.

    Attributes:
      path: relative to the folder that was listed, with `/`.
      bytes: its size.
      sha256: in hexadecimal.
    """

    path: str
    bytes: int
    sha256: str


def file_record(path: str, root: str) -> FileRecord:
    """Size and sha256 of a file below `root`."""
    digest, size = hashlib.sha256(), 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return FileRecord(os.path.relpath(path, root).replace(os.sep, "/"), size, digest.hexdigest())


def file_records(folder: str) -> list[FileRecord]:
    """Size and sha256 of every file below a folder, by path."""
    return [file_record(path, folder) for path in sorted(_files(folder))]


def total_bytes(path: str) -> int:
    """The size of a file, or of all files below a folder."""
    paths = _files(path) if tf.io.gfile.isdir(path) else [path]
    return sum(tf.io.gfile.stat(each).length for each in paths)


def copy_tree(source: str, target: str) -> None:
    """Copies every file below `source` to the same place below `target`, and tells how far it is."""
    paths = list(_files(source))
    sizes = [tf.io.gfile.stat(path).length for path in paths]
    done, total = 0, sum(sizes)
    for path, size in zip(paths, sizes, strict=True):
        progress(f"copying to {target}", _megabytes(done), _megabytes(total), unit="MB")
        there = os.path.join(target, os.path.relpath(path, source))
        tf.io.gfile.makedirs(os.path.dirname(there))
        tf.io.gfile.copy(path, there, overwrite=True)
        done += size


def write_bytes(path: str, content: bytes) -> None:
    """Writes a file whole or not at all, with its folders."""
    if "://" in path:
        # An object appears when it is complete, and renaming one is copying it.
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(content)
        return
    with published(path) as beside, tf.io.gfile.GFile(beside, "wb") as file:
        file.write(content)


@contextlib.contextmanager
def published(path: str) -> Iterator[str]:
    """Gives a path beside `path` to write a file or a folder at; it gets its name when the block ends without an error.

    What was at `path` before is replaced. After an error nothing of the new one remains.
    """
    path = path.rstrip("/")
    tf.io.gfile.makedirs(os.path.dirname(path) or ".")
    beside = f"{path}.{uuid.uuid4().hex}.part"
    try:
        yield beside
        if tf.io.gfile.exists(path) and tf.io.gfile.isdir(path):
            former = f"{path}.{uuid.uuid4().hex}.former"
            tf.io.gfile.rename(path, former)
            tf.io.gfile.rename(beside, path)
            tf.io.gfile.rmtree(former)
        else:
            tf.io.gfile.rename(beside, path, overwrite=True)
    finally:
        if tf.io.gfile.exists(beside):
            (tf.io.gfile.rmtree if tf.io.gfile.isdir(beside) else tf.io.gfile.remove)(beside)


def _megabytes(size: int) -> int:
    return -(-size // 1_000_000)


def _files(folder: str) -> Iterator[str]:
    for parent, _, names in tf.io.gfile.walk(folder):
        yield from (os.path.join(parent, name) for name in names)

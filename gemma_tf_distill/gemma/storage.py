"""Folders that are published whole or not at all, local or remote, and checked when they are read."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator

import tensorflow as tf

from gemma_tf_distill.errors import WeightsError

CHECKSUMS = "checksums.json"


def is_remote(path: str) -> bool:
    """Whether a path is an address such as `gs://bucket/file`, which only `tf.io.gfile` opens."""
    return "://" in path


def file_sha256(path: str | os.PathLike) -> str:
    """sha256 of a local file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def one_line(error: BaseException, limit: int = 160) -> str:
    """The first words of a foreign error's message, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of a file, local or remote.

    Raises:
      WeightsError: if it is missing or cannot be read.
    """
    try:
        with tf.io.gfile.GFile(os.fspath(path), "rb") as file:
            return file.read()
    except tf.errors.NotFoundError as error:
        raise WeightsError(f"{path} is missing") from error
    except tf.errors.OpError as error:
        raise WeightsError(f"{path} cannot be read: {one_line(error)}") from error


@contextlib.contextmanager
def publish_folder(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A local folder to write into, which takes its place at `folder` when the block ends without an error.

    A former folder is replaced. `checksums.json` is added, with the sha256 of every file. A remote folder, which cannot be renamed at
    once, gets its files one by one and `checksums.json` last.
    """
    folder = os.fspath(folder).rstrip("/")
    beside = pathlib.Path(tempfile.mkdtemp() if is_remote(folder) else f"{folder}.{uuid.uuid4().hex}")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        yield beside
        files = {path.relative_to(beside).as_posix(): file_sha256(path) for path in sorted(beside.rglob("*")) if path.is_file()}
        (beside / CHECKSUMS).write_text(json.dumps(files, indent=2, sort_keys=True) + "\n")
        if is_remote(folder):
            if tf.io.gfile.isdir(folder):
                tf.io.gfile.rmtree(folder)
            for file in [*files, CHECKSUMS]:
                _copy(str(beside / file), f"{folder}/{file}")
        else:
            _rename(beside, pathlib.Path(folder))
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def local_folder(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
    """`folder`, or a local copy of it that lives as long as the block, checked against its `checksums.json` if it has one.

    Raises:
      WeightsError: if there is no such folder, or a file is missing or has another sha256.
    """
    folder = os.fspath(folder).rstrip("/")
    with contextlib.ExitStack() as stack:
        local = folder
        if is_remote(folder):
            local = stack.enter_context(tempfile.TemporaryDirectory())
            try:
                for parent, _, files in tf.io.gfile.walk(folder):
                    for file in files:
                        _copy(f"{parent.rstrip('/')}/{file}", os.path.join(local, os.path.relpath(parent, folder), file))
            except tf.errors.OpError as error:
                raise WeightsError(f"{folder} cannot be read: {one_line(error)}") from error
        if not os.path.isdir(local):
            raise WeightsError(f"there is no folder {folder}")
        _verify(pathlib.Path(local), folder)
        yield pathlib.Path(local)


@contextlib.contextmanager
def local_file(path: str) -> Iterator[str]:
    """`path`, or a local copy of it that lives as long as the block."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = os.path.join(scratch, path.rpartition("/")[2])
        try:
            tf.io.gfile.copy(path, copy)
        except tf.errors.OpError as error:
            raise WeightsError(f"{path} cannot be read: {one_line(error)}") from error
        yield copy


def _verify(local: pathlib.Path, name: str) -> None:
    if not (local / CHECKSUMS).is_file():
        return
    try:
        expected = dict(json.loads((local / CHECKSUMS).read_text()))
    except ValueError as error:
        raise WeightsError(f"{name}/{CHECKSUMS} is damaged: write the folder again") from error
    for file, sha256 in expected.items():
        if not (local / file).is_file():
            raise WeightsError(f"{name} is incomplete: {file} is missing, write the folder again")
        if file_sha256(local / file) != sha256:
            raise WeightsError(f"{name}/{file} is damaged: its sha256 is not the one in {CHECKSUMS}, write the folder again")


def _copy(source: str, target: str) -> None:
    tf.io.gfile.makedirs(target.rpartition("/")[0])
    tf.io.gfile.copy(source, target)


def _rename(beside: pathlib.Path, folder: pathlib.Path) -> None:
    if not folder.exists():
        beside.rename(folder)
        return
    former = beside.with_name(f"{beside.name}.former")
    folder.rename(former)
    beside.rename(folder)
    shutil.rmtree(former)

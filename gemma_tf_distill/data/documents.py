"""Documents out of `corpus.source`: docstrings of packages, text files, JSON lines and TFRecords, in shards that workers share."""

import dataclasses
import difflib
import os
import re
from collections.abc import Generator, Iterable, Iterator

from gemma_tf_distill.config import CorpusConfig
from gemma_tf_distill.data import docstrings, files, formats
from gemma_tf_distill.errors import CorpusError

KINDS = ("docstrings", "text", "jsonl", "tfrecord")

# Packages are put together until their code has this many bytes: half a minute of parsing on one core.
_DOCSTRING_SHARD_BYTES = 64 << 20
# The end of a name, the shard number that Beam and TFX write (data_tfrecord-00000-of-00001.gz) left aside.
_ENDING = re.compile(r"(?:^|[._])([a-z]+?)s?(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE)
_KIND_OF_ENDING = {"jsonl": "jsonl", "ndjson": "jsonl", "tfrecord": "tfrecord"}


@dataclasses.dataclass(frozen=True)
class Document:
    """A text and where it comes from.

    Attributes:
      text: what the model learns on; the document's identity is its hash.
      source: a package's name, a file's name, or what `corpus.source_field` holds; metrics are sliced by it.
      features: the values of `corpus.features`, in their order; metrics can be sliced by them. `formats.MISSING` where there is none.
    """

    text: str
    source: str
    features: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Shard:
    """A part of the corpus that one worker reads: a file, or a group of packages.

    Attributes:
      kind: `docstrings`, `text`, `jsonl` or `tfrecord`.
      paths: the file; for docstrings the folders (or single files) of packages.
      field: see `CorpusConfig.field`.
      source_field: see `CorpusConfig.source_field`.
      document_separator: see `CorpusConfig.document_separator`.
      features: see `CorpusConfig.features`.
    """

    kind: str
    paths: tuple[str, ...]
    field: str
    source_field: str | None
    document_separator: str | None
    features: tuple[str, ...] = ()


def expand_sources(config: CorpusConfig) -> list[Shard]:
    """The shards of a corpus, in the order of its sources and then of their names.

    Raises:
      CorpusError: if a pattern matches no file, or a package is not installed.
      ConfigError: if `corpus.features` are asked of files that have no metadata.
    """
    shards = [
        Shard(kind, paths, config.field, config.source_field, config.document_separator, config.features)
        for source in config.sources
        for kind, paths in _expand(source.strip())
    ]
    config.check_metadata(any(shard.kind in ("jsonl", "tfrecord") for shard in shards))
    return shards


def _expand(source: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    kind, colon, pattern = source.partition(":")
    if not colon or kind not in KINDS:
        for path in _expand_bare(source):
            yield _kind_of(path), (path,)
    elif kind == "docstrings":
        names = [name.strip() for name in pattern.split(",")] if pattern.strip() else None
        packages = docstrings.installed_packages() if names is None else docstrings.find_packages(names)
        for group in _grouped(packages.values()):
            yield kind, group
    else:
        for path in files.expand_pattern(pattern.strip()):
            yield kind, (path,)


def _expand_bare(source: str) -> list[str]:
    try:
        return files.expand_pattern(source)
    except CorpusError as error:
        near = difflib.get_close_matches(source.partition(":")[0], KINDS, n=1)
        if not near:
            raise
        raise CorpusError(f"{error}; or did you mean {near[0]}:?") from error


def _kind_of(path: str) -> str:
    name = os.path.basename(path)
    match = _ENDING.search(name)
    ending = match[1].lower() if match else ""
    if ending == "json":
        raise CorpusError(f"corpus.source {path!r}: write jsonl:{path} for one object a line, or text:{path} for plain text")
    return _KIND_OF_ENDING.get(ending, "text")


def _grouped(roots: Iterable[str]) -> Iterator[tuple[str, ...]]:
    group: list[str] = []
    size = 0
    for root in roots:
        group.append(root)
        size += sum(os.path.getsize(path) for path in docstrings.module_files(root))
        if size >= _DOCSTRING_SHARD_BYTES:
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)


def read_shard(shard: Shard) -> Generator[Document, None, None]:
    """The documents of a shard as a stream, in the order of its files.

    Raises:
      CorpusError: if a file cannot be read, is not text, lacks the field that the config names, or has a feature that is no single value.
    """
    missing = (formats.MISSING,) * len(shard.features)
    if shard.kind == "docstrings":
        package_of = {path: os.path.basename(root).removesuffix(".py") for root in shard.paths for path in docstrings.module_files(root)}
        for path, texts in docstrings.read_docstrings(list(package_of)):
            for text in texts:
                yield Document(text, package_of[path], missing)
        return
    (path,) = shard.paths
    name = _written_in_utf8(os.path.basename(path))
    if shard.kind == "text":
        for text in formats.read_text(path, shard.document_separator):
            yield Document(text, name, missing)
        return
    read = formats.read_jsonl if shard.kind == "jsonl" else formats.read_tfrecord
    for text, source, features in read(path, shard.field, shard.source_field, shard.features):
        yield Document(text, name if source is None else _written_in_utf8(source), tuple(map(_written_in_utf8, features)))


def _written_in_utf8(name: str) -> str:
    """A name as it is, but for what is no text: file names may hold any bytes, and JSON may escape half a surrogate pair."""
    return name.encode(errors="replace").decode()


def read_documents(config: CorpusConfig) -> Iterator[Document]:
    """All documents of a corpus, unfiltered, one shard after the other; raises as `expand_sources` and `read_shard`."""
    for shard in expand_sources(config):
        yield from read_shard(shard)

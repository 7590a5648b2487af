"""The numbers that an exported file holds, beside the student's own."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from gemma_tf_distill.config import QuantizationConfig
from gemma_tf_distill.errors import MissingExtraError, UserError, WeightsError
from gemma_tf_distill.export.litert_lm_runtime import tflite_section
from gemma_tf_distill.export.litert_quantization import StoredWeight, stored_weights
from gemma_tf_distill.export.litert_runtime import check_whole
from gemma_tf_distill.gemma.functional import weights_of
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.quantization.apply import quantized_weights
from gemma_tf_distill.quantization.layout import matmul_shapes

_NO_SCALES = np.zeros((0, 0), np.float32)

# As transformers calls them: those of the model and those of a layer. Norms are stored as their factor less 1.
_HUGGING_FACE_NAMES = {
    "model.embed_tokens.weight": "embedding",
    "model.norm.weight": "final_norm",
}
_HUGGING_FACE_LAYER = {
    "input_layernorm": "pre_attention_norm",
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.q_norm": "query_norm",
    "self_attn.k_norm": "key_norm",
    "self_attn.o_proj": "attention_output",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "pre_ffw_norm",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
    "post_feedforward_layernorm": "post_ffw_norm",
}


class Difference(NamedTuple):
    """What of a file is the student's.

    Attributes:
      equal_fraction: share of its codes and scales.
      first: the first weight that differs and in what, as the rest of a sentence; empty: none does.
    """

    equal_fraction: float
    first: str


class StudentNumbers:
    """The numbers of a student as every format should hold them."""

    def __init__(self, student: Gemma, quantization: QuantizationConfig | None):
        """Measures them once.

        Args:
          student: its weights lie on their lattices where there are some.
          quantization: with a scheme; none: all is float32.

        Raises:
          ConfigError: as of `quantized_weights`.
          WeightsError: likewise.
        """
        self._float = {name: StoredWeight(value, _NO_SCALES) for name, value in weights_of(student).items()}
        codes = {} if quantization is None else quantized_weights(student, quantization)
        self._integers = {name: StoredWeight(weight.codes, weight.scales) for name, weight in codes.items()}
        self._matrices = set(matmul_shapes(student.config))

    def difference(self, format: str, path: str) -> Difference:
        """Compares all weights of a file; in `.tflite` and `.litertlm`, which fold norms into constants of the graph, all matrices.

        Raises:
          WeightsError: if the file is damaged.
          MissingExtraError: if the package that reads it is not installed.
        """
        reader = {"saved_model": _saved_model, "tflite": _tflite, "litertlm": _litertlm, "hugging_face": _hugging_face}[format]
        try:
            return self._difference(format, reader(path))
        except UserError:
            raise
        except ImportError as error:
            extra = "transformers" if format == "hugging_face" else "litert"
            raise MissingExtraError(error.name or str(error), extra, f"reading {path}") from error
        # What a damaged file makes flatbuffers, TensorFlow and safetensors raise has no class in common.
        except Exception as error:
            raise WeightsError(f"{path} is damaged ({' '.join(str(error).split())[:200]}): copy or export it again") from error

    def _difference(self, format: str, stored: Iterator[tuple[str, StoredWeight]]) -> Difference:
        expected: Mapping[str, StoredWeight] = self._float if format == "hugging_face" else {**self._float, **self._integers}
        names = self._matrices if format in ("tflite", "litertlm") else set(expected)
        equal, total, wrong, missing = 0, 0, dict[str, str](), set(names)
        for name, found in stored:
            missing.discard(name)
            numbers = found.codes.size + found.scales.size
            total += numbers
            if name not in names:
                wrong.setdefault(name, "which the student does not have")
                continue
            same, difference = _compare(found, expected[name])
            equal += same
            if difference:
                wrong.setdefault(name, difference)
        for name in sorted(missing):
            total += expected[name].codes.size + expected[name].scales.size
            wrong.setdefault(name, "which is not in the file")
        first = ""
        if wrong:
            name, difference = next(iter(wrong.items()))
            first = f"{len(wrong)} of {len(names)} weights differ, first {name}, {difference}"
        return Difference(equal / total if total else 0.0, first)


def _compare(found: StoredWeight, expected: StoredWeight) -> tuple[int, str]:
    """How many numbers are equal, and in what the weights differ, as the end of a sentence; empty: in nothing."""
    for field, value, wanted in zip(StoredWeight._fields, found, expected, strict=True):
        if (value.dtype, value.shape) != (wanted.dtype, wanted.shape):
            return 0, f"whose {field} are {value.dtype} {list(value.shape)} and not {wanted.dtype} {list(wanted.shape)}"
    equal = [int(np.count_nonzero(value == wanted)) for value, wanted in zip(found, expected, strict=True)]
    codes, scales = found.codes.size - equal[0], found.scales.size - equal[1]
    different = f"in {codes} of {found.codes.size} codes and {scales} of {found.scales.size} scales" if codes or scales else ""
    return sum(equal), different


def _tflite(path: str) -> Iterator[tuple[str, StoredWeight]]:
    check_whole(path)
    with open(path, "rb") as file:
        content = file.read()
    yield from stored_weights(content)


def _litertlm(path: str) -> Iterator[tuple[str, StoredWeight]]:
    yield from stored_weights(tflite_section(path))


def _saved_model(path: str) -> Iterator[tuple[str, StoredWeight]]:
    reader = tf.train.load_checkpoint(f"{path}/variables/variables")
    keys = sorted(reader.get_variable_to_shape_map())
    for key in keys:
        store, _, name = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").removeprefix("_weights/").partition("/")
        # A dot is the checkpoint's escape, and so written twice.
        name = name.replace("..", ".")
        if store == "_others":
            yield name, StoredWeight(reader.get_tensor(key), _NO_SCALES)
        elif store == "_codes":
            scales = reader.get_tensor(key.replace("_weights/_codes/", "_weights/_scales/", 1))
            yield name, StoredWeight(reader.get_tensor(key), scales)


def _hugging_face(path: str) -> Iterator[tuple[str, StoredWeight]]:
    from safetensors import safe_open

    with safe_open(f"{path}/model.safetensors", framework="numpy") as file:
        for key in file.keys():  # noqa: SIM118  it is no mapping
            name = _HUGGING_FACE_NAMES.get(key)
            if name is None:
                layer, _, rest = key.removeprefix("model.layers.").partition(".")
                name = f"layers.{layer}.{_HUGGING_FACE_LAYER.get(rest.removesuffix('.weight'), rest)}"
            value = file.get_tensor(key)
            yield name, StoredWeight(1 + value if name.endswith("norm") else value, _NO_SCALES)

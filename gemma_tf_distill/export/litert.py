"""The student as a LiteRT `.tflite`, with the signatures and the cache layout that LiteRT-LM reads."""

import gc
import tempfile
from collections.abc import Sequence

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from gemma_tf_distill.config import QuantizationConfig
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.export.files import write_bytes
from gemma_tf_distill.export.litert_quantization import check_schemes, quantized_litert, read_weight
from gemma_tf_distill.export.names import DECODE, cache_names, prefill_name
from gemma_tf_distill.export.native_output import native_output_to_log
from gemma_tf_distill.gemma.functional import GemmaShape, Operations, hidden_states, logits, shape_of, weights_of
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.quantization.layout import weight_schemes

# A flatbuffer addresses its content with signed 32-bit offsets.
FLATBUFFER_LIMIT = 2**31 - 1
# The graph beside the weights: some hundred operations a layer in every signature.
_GRAPH_BYTES = 16 * 2**20


# The converter makes one EMBEDDING_LOOKUP of it, which can be quantised; a plain GATHER cannot.
@tf.function(experimental_implements="embedding_matmul")
def _embedding_lookup(table: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    return tf.gather(table, ids)


def _write(cache: tf.Tensor, values: tf.Tensor, slots: tf.Tensor) -> tf.Tensor:
    # Becomes DYNAMIC_UPDATE_SLICE, which LiteRT does in place.
    return gen_xla_ops.xla_dynamic_update_slice(cache, values, tf.stack([0, 0, slots[0], 0]))


# LiteRT-LM wants all caches of one length.
_OPERATIONS = Operations(_embedding_lookup, _write, rings=False)


def _signature(
    shape: GemmaShape, weights: dict[str, tf.Variable], length: int, context_length: int, with_logits: bool
) -> tf.types.experimental.ConcreteFunction:
    cache_spec = [1, shape.num_key_value_heads, context_length, shape.head_dim]
    names = [cache_names(layer) for layer in range(shape.num_layers)]

    def run(tokens: tf.Tensor, input_pos: tf.Tensor, **caches: tf.Tensor) -> dict[str, tf.Tensor]:
        cache = tuple((caches[keys], caches[values]) for keys, values in names)
        named = {name: read_weight(name, variable) for name, variable in weights.items()}
        hidden, cache = hidden_states(shape, named, tokens, cache, slots=input_pos, operations=_OPERATIONS)
        outputs = {name: value for pair, layer in zip(names, cache, strict=True) for name, value in zip(pair, layer, strict=True)}
        if with_logits:
            scores = logits(shape, named, tf.reshape(hidden, [length, shape.hidden_dim]))
            outputs["logits"] = tf.reshape(scores, [1, length, shape.vocabulary_size])
        return outputs

    return tf.function(run, autograph=False).get_concrete_function(
        tokens=tf.TensorSpec([1, length], tf.int32, name="tokens"),
        input_pos=tf.TensorSpec([length], tf.int32, name="input_pos"),
        **{name: tf.TensorSpec(cache_spec, tf.float32, name=name) for pair in names for name in pair},
    )


def export_litert(
    gemma: Gemma, path: str, *, context_length: int, prefill_lengths: Sequence[int], quantization: QuantizationConfig | None = None
) -> None:
    """Writes a model as a `.tflite` of builtin operations only, whole or not at all; the tied embedding is in it once.

    Signatures: `prefill_N` for every length and `decode` (N = 1). Inputs: `tokens` int32 [1, N]; `input_pos` int32 [N], their
    positions in the context, consecutive; `kv_cache_k_I` and `kv_cache_v_I` float32 [1, kv_heads, context_length, head_dim] for
    every layer. Outputs: the caches with the tokens in them, and from `decode` `logits` float32 [1, 1, V]. Tokens that only fill a
    `prefill_N` up do no harm while they come last and fit in the context: their slots are written again before they are seen.

    Args:
      gemma: the model; to be quantised it lies on its lattices already.
      path: the file.
      context_length: tokens that the caches hold.
      prefill_lengths: N of each `prefill_N`.
      quantization: with a scheme: the file holds integers by it; none: all is float32.

    Raises:
      ConfigError: before converting, if the file would be over the 2 GB that a flatbuffer can hold while it is float32, if a scheme is
        none that LiteRT has, and as of `weight_schemes`.
      MissingExtraError: if ai-edge-quantizer is needed and not installed.
    """
    schemes = {} if quantization is None else weight_schemes(quantization, gemma.config)
    check_schemes(schemes, gemma.config)
    check_size(4 * gemma.parameters)
    with tempfile.TemporaryDirectory() as folder, native_output_to_log("LiteRT converter"):
        names = _save_signatures(gemma, folder, context_length, prefill_lengths)
        # The converter takes four times the weights' size; what was saved need not be there as well.
        gc.collect()
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=names)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        content = converter.convert()
    if schemes:
        content = quantized_litert(content, schemes)
    write_bytes(path, content)


def _save_signatures(gemma: Gemma, folder: str, context_length: int, prefill_lengths: Sequence[int]) -> list[str]:
    """Writes what is to be converted as a SavedModel; returns the names of its signatures."""
    shape, module = shape_of(gemma), tf.Module()
    module.weights = {name: tf.Variable(value, trainable=False) for name, value in weights_of(gemma).items()}
    signatures = {prefill_name(length): _signature(shape, module.weights, length, context_length, False) for length in prefill_lengths}
    signatures[DECODE] = _signature(shape, module.weights, 1, context_length, True)
    tf.saved_model.save(module, folder, signatures=signatures)
    return list(signatures)


def check_size(weight_bytes: int) -> None:
    """Raises ConfigError where weights of so many bytes do not fit in one flatbuffer."""
    if weight_bytes + _GRAPH_BYTES > FLATBUFFER_LIMIT:
        raise ConfigError(
            f"the student's weights take {weight_bytes / 1e9:.1f} GB in float32, and a .tflite holds 2.1 GB at the most: keep fewer words "
            "(student.vocabulary) or layers (student.layers), or leave tflite out of export.formats"
        )

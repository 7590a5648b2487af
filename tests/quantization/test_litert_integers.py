"""The runtime's own quantizer and kernels, on one product: they find training's integers and compute what training simulated."""

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.quantization.activations import per_token_int8, per_token_symmetric_int8
from gemma_tf_distill.quantization.schemes import get_scheme

pytest.importorskip("ai_edge_quantizer")

ROWS, INPUTS, TOKENS = 64, 256, 8


def quantized_file(weights: np.ndarray, bits: int, granularity: str) -> bytes:
    """A `.tflite` of `x W^T`, quantised by ai-edge-quantizer's plain min-max with dynamic activations."""
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    module = tf.Module()
    module.weights = tf.constant(weights)
    run = tf.function(
        lambda x: tf.matmul(x, module.weights, transpose_b=True), input_signature=[tf.TensorSpec([TOKENS, INPUTS])], autograph=False
    )
    content = tf.lite.TFLiteConverter.from_concrete_functions([run.get_concrete_function()], module).convert()
    manager = recipe_manager.RecipeManager()
    manager.add_dynamic_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.FULLY_CONNECTED,
        num_bits=bits,
        granularity=getattr(qtyping.QuantGranularity, granularity),
    )
    return bytes(quantizer.Quantizer(bytearray(content), manager.get_quantization_recipe()).quantize().quantized_model)


def stored_codes(content: bytes, bits: int) -> np.ndarray:
    """The integers of the weight in a file; of 4 bits two lie in a byte, the first in its lower half."""
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    model = tfl_flatbuffer_utils.read_model(bytearray(content))
    (tensor,) = [t for t in model.subgraphs[0].tensors if list(t.shape) == [ROWS, INPUTS]]
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(np.int8)
    if bits == 4:
        data = np.stack([np.left_shift(data, 4) >> 4, data >> 4], axis=-1)
    return data.reshape(ROWS, INPUTS)


@pytest.mark.parametrize(
    ("name", "bits", "granularity"),
    [
        ("int4_channel", 4, "CHANNELWISE"),
        ("int8_channel", 8, "CHANNELWISE"),
        ("int4_block32", 4, "BLOCKWISE_32"),
        ("int4_block128", 4, "BLOCKWISE_128"),
    ],
)
def test_litert_stores_and_computes_what_was_trained(name, bits, granularity):
    from ai_edge_litert.interpreter import Interpreter

    random, scheme = np.random.default_rng(0), get_scheme(name)
    weights = tf.constant((random.normal(size=(ROWS, INPUTS)) * 0.05).astype(np.float32))
    trained = scheme.fake_quantize(weights)
    content = quantized_file(trained.numpy(), bits, granularity)
    np.testing.assert_array_equal(stored_codes(content, bits), scheme.codes(weights))

    # A mean that is far from 0, so that a zero point makes a difference.
    x = (random.normal(size=(TOKENS, INPUTS)) + 1).astype(np.float32)
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    simulated = tf.matmul(per_token_int8(tf.constant(x)), trained, transpose_b=True)
    np.testing.assert_allclose(found, simulated, atol=1e-5)
    for other in (tf.constant(x), per_token_symmetric_int8(tf.constant(x))):
        assert np.abs(found - tf.matmul(other, trained, transpose_b=True)).max() > 1e-3

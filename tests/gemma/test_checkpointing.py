"""Blocks whose activations are computed twice give the same states and the same gradients."""

import re

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.config import AttentionConfig, QuantizationConfig
from gemma_tf_distill.gemma.attention_in_place import efficient_attention
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.taps import forward
from gemma_tf_distill.quantization.apply import ModelQuantization, forward_as

TOKENS = np.array([[2, 9, 17, 30, 4, 8, 100, 5], [2, 41, 7, 0, 0, 0, 0, 0]], "int32")


def states_and_gradients(model, *, checkpointing, quantization=None, attention=None):
    backbone = model.backbone
    variables = [variable.value for variable in backbone.trainable_variables]
    towards = tf.random.stateless_normal([*TOKENS.shape, backbone.hidden_dim], seed=[1, 2])

    @tf.function(jit_compile=True)
    def run(tokens):
        inputs = {"token_ids": tokens, "padding_mask": tf.cast(tokens != 0, tf.int32)}
        with tf.GradientTape() as tape:
            # The context is left before the gradient is taken, as it is in training.
            with forward_as(quantization, training=True), efficient_attention(backbone, attention):
                tapped = forward(backbone, inputs, hidden_states=[1], checkpointing=checkpointing)
            states = tf.cast(tapped.states, tf.float32)
            loss = tf.reduce_sum(states * towards) + tf.reduce_sum(tf.cast(tapped.hidden_states[1], tf.float32) ** 2)
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return states, [tf.convert_to_tensor(gradient) for gradient in gradients]

    return run


def assert_same(ours, reference):
    (states, gradients), (expected_states, expected) = ours, reference
    np.testing.assert_allclose(states, expected_states, atol=1e-6 * np.abs(expected_states).max())
    for got, want in zip(gradients, expected, strict=True):
        # float32 sums, in another order where XLA fuses otherwise: relative to the largest entry.
        np.testing.assert_allclose(got, want, atol=1e-5 * (1e-6 + np.abs(want).max()))


def test_the_gradient_is_the_same_and_nothing_but_the_blocks_inputs_is_kept(make_gemma):
    model = make_gemma()
    runs = {checkpointing: states_and_gradients(model, checkpointing=checkpointing) for checkpointing in (False, True)}
    tokens = tf.constant(TOKENS)
    assert_same(runs[True](tokens), runs[False](tokens))
    hlo = runs[True].experimental_get_compiler_ir(tokens)(stage="hlo")
    assert len(re.findall(r" opt-barrier\(", hlo)) == model.backbone.num_layers
    # XLA would compile anew for other weights and other text if it took them for constants.
    entry = re.search(r"entry_computation_layout=\{\((.*?)\)->", hlo)[1]
    assert "s32[2,8]" in entry
    assert not re.findall(r"f32\[32,64\]\S* constant", hlo)


def test_other_weights_are_seen_without_compiling_again(make_gemma):
    model, other = make_gemma(), make_gemma(seed=5)
    run = states_and_gradients(model, checkpointing=True)
    run(tf.constant(TOKENS))
    model.backbone.set_weights(other.backbone.get_weights())
    assert_same(run(tf.constant(TOKENS)), states_and_gradients(other, checkpointing=False)(tf.constant(TOKENS)))


@pytest.mark.parametrize("scheme", ["int4_channel", "int8_channel"])
def test_a_quantised_student_is_recomputed_as_it_was_computed(make_gemma, scheme):
    model = make_gemma()
    results = []
    for checkpointing in (True, False):
        quantization = ModelQuantization(model, QuantizationConfig(scheme=scheme))
        results.append(states_and_gradients(model, checkpointing=checkpointing, quantization=quantization)(tf.constant(TOKENS)))
    assert_same(*results)
    plain = states_and_gradients(model, checkpointing=False)(tf.constant(TOKENS))
    assert np.abs(plain[0] - results[0][0]).max() > 1e-3


def test_attention_in_blocks_is_recomputed_in_blocks(make_gemma):
    model, tokens = make_gemma(), tf.constant(TOKENS)
    attention = EfficientAttention(AttentionConfig(use_flash_attention=True, block_size=8))
    runs = [states_and_gradients(model, checkpointing=checkpointing, attention=attention) for checkpointing in (True, False)]
    assert_same(*(run(tokens) for run in runs))
    # KerasHub's softmax is nowhere, and so the context was still there when the block was traced.
    assert "/softmax" not in runs[0].experimental_get_compiler_ir(tokens)(stage="hlo")
    assert "/softmax" in states_and_gradients(model, checkpointing=True).experimental_get_compiler_ir(tokens)(stage="hlo")

"""A whole Gemma on its lattice: KerasHub's layers, none of them forked."""

import math

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, QuantizationConfig, TrainingConfig
from gemma_tf_distill.errors import ConfigError, WeightsError
from gemma_tf_distill.gemma.functional import hidden_states, logits, shape_of, weights_of
from gemma_tf_distill.quantization.activations import per_token_int8
from gemma_tf_distill.quantization.apply import ModelQuantization, fake_quantized, forward_as, quantized_weights
from gemma_tf_distill.quantization.layout import matmul_shapes, matmul_weights, weight_schemes
from gemma_tf_distill.quantization.schemes import get_scheme
from gemma_tf_distill.training.optimizers import make_optimizer
from gemma_tf_distill.training.trainer import DistillationTrainer

MIXED = {"embedding": "int8_channel", "layers.*.down": "int4_channel", "layers.0.query": "float"}
EVERY = [
    QuantizationConfig(scheme="int4_channel"),
    QuantizationConfig(scheme="int4_block32", overrides=MIXED),
    QuantizationConfig(scheme="int8_channel", activations="dynamic_int8_symmetric"),
    QuantizationConfig(scheme="fp8_e4m3"),
]


def run(model, tokens):
    """Logits as a model in `forward` gives them."""
    states = model.backbone({"token_ids": tokens, "padding_mask": tf.ones_like(tokens)})
    return states, model.backbone.token_embedding.embeddings.value


def test_rows_are_those_of_the_exported_model(make_gemma):
    model = make_gemma()
    expected = weights_of(model)
    weights = matmul_weights(model.backbone)
    assert set(weights) == {name for name, value in expected.items() if value.ndim == 2}
    for name, weight in weights.items():
        value = tf.convert_to_tensor(weight.variable.value)
        np.testing.assert_array_equal(weight.rows(value), expected[name])
        np.testing.assert_array_equal(weight.from_rows(weight.rows(value)), value)
    assert matmul_shapes(model.config) == {name: expected[name].shape for name in weights}


@pytest.mark.parametrize("config", EVERY, ids=lambda config: config.scheme)
def test_fake_quantized_is_codes_times_scales_to_the_bit(make_gemma, config):
    model = make_gemma()
    copy = fake_quantized(model, config)
    stored, schemes = quantized_weights(model, config), weight_schemes(config, model.config)
    before, after = weights_of(model), weights_of(copy)
    assert set(stored) == set(schemes)
    for name, value in after.items():
        if name not in stored:
            np.testing.assert_array_equal(value, before[name])
            continue
        weight = stored[name]
        codes = weight.codes.astype(np.float32)
        assert weight.codes.itemsize == 1
        np.testing.assert_array_equal(weight.scheme.dequantize(tf.constant(codes), tf.constant(weight.scales)), value)
        assert np.all(np.abs(codes).reshape(*weight.scales.shape, -1).max(-1) == weight.scheme.largest)
    # What was quantised once comes back as the same integers.
    for name, weight in quantized_weights(copy, config).items():
        np.testing.assert_array_equal(weight.codes, stored[name].codes)
        np.testing.assert_array_equal(weight.scales, stored[name].scales)


def test_the_forward_pass_quantises_every_product_as_the_runtime_does(make_gemma, tokens):
    """Held to the exported model's forward pass with quantised weights and every linear layer's input quantised."""
    model, config = make_gemma(), QuantizationConfig(scheme="int4_block32")
    with ModelQuantization(model, config).forward(training=False) as head_input:
        states, embedding = run(model, tokens)
        found = tf.matmul(head_input(states), embedding, transpose_b=True)

    copy = fake_quantized(model, config)
    shape = shape_of(copy)
    weights = {name: tf.constant(value) for name, value in weights_of(copy).items()}
    matmul = tf.matmul

    def quantised_matmul(x, weight, **options):
        linear = options.get("transpose_b") and any(weight is value for value in weights.values())
        return matmul(per_token_int8(x) if linear else x, weight, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf, "matmul", quantised_matmul)
        expected = logits(shape, weights, tf.reshape(hidden_states(shape, weights, tokens)[0], [-1, 32]))
    # Both round what differs in the last bits: a code may flip, and move a logit by its step.
    difference = np.abs(tf.reshape(found, expected.shape) - expected)
    assert np.median(difference) < 1e-5
    plain = tf.reshape(copy.logits(tokens, tf.ones_like(tokens)), expected.shape)
    assert np.median(np.abs(plain - expected)) > 1e-3


def test_nothing_of_it_stays_behind(make_gemma, tokens):
    model = make_gemma()
    plain = run(model, tokens)[0].numpy()
    quantization = ModelQuantization(model, QuantizationConfig(scheme="int4_channel"))
    with quantization.forward(training=False) as outer, quantization.forward(training=False):
        pass
    with pytest.raises(RuntimeError), quantization.forward(training=False):
        raise RuntimeError
    np.testing.assert_array_equal(run(model, tokens)[0], plain)
    assert callable(outer)
    with forward_as(None, training=True) as head_input:
        np.testing.assert_array_equal(head_input(run(model, tokens)[0]), plain)


@pytest.mark.parametrize("config", [EVERY[1], EVERY[3]], ids=lambda config: config.scheme)
@pytest.mark.slow
def test_a_compiled_step_learns_and_settles_on_the_lattice(make_gemma, tokens, config):
    student = make_gemma(num_layers=1)
    training = TrainingConfig(batch_size=4, accumulation_steps=2, learning_rate=1e-2, warmup_fraction=0)
    quantization = ModelQuantization(student, config)
    trainer = DistillationTrainer(training, DistillationConfig(targets="dense"), total_steps=20, quantization=quantization)
    optimizer = make_optimizer(training, 20, student.backbone.trainable_variables)
    teacher = make_gemma(num_layers=1)
    losses, scales = [], []
    for _ in range(20):
        losses.append(float(trainer.train_step({"tokens": tokens}, teacher, student, optimizer)["loss"]))
        scales.append(np.concatenate([np.ravel(variable) for variable in quantization.variables if "scales" in variable.name]))
    assert losses[-1] < 0.7 * losses[0]
    assert all(math.isfinite(loss) for loss in losses)
    # The last two steps are frozen: they find the scales of the 18th, but where a row no longer reaches its largest code.
    assert np.mean(scales[16] == scales[17]) < 0.5
    assert np.mean(scales[19] == scales[17]) > 0.7

    quantization.settle()
    settled = weights_of(student)
    schemes = weight_schemes(config, student.config)
    for name, value in settled.items():
        if name in schemes:
            np.testing.assert_array_equal(schemes[name].fake_quantize(tf.constant(value)), value)
    # Float weights were left alone, the teacher too.
    assert ("layers.0.query" in schemes) == ("layers.0.query" not in config.overrides)
    np.testing.assert_array_equal(weights_of(teacher)["embedding"], weights_of(make_gemma(num_layers=1))["embedding"])


def test_gradients_go_straight_to_the_float_weights(make_gemma, tokens):
    """On weights that lie on the lattice already the gradient is the float model's, but for the inputs' rounding."""
    config = QuantizationConfig(scheme="int8_channel", activations="none")
    model = fake_quantized(make_gemma(), config)
    variables = [variable.value for variable in model.backbone.trainable_variables]

    def gradients(quantization):
        with tf.GradientTape() as tape:
            with forward_as(quantization, training=True) as head_input:
                states, embedding = run(model, tokens)
            loss = tf.reduce_mean(tf.square(tf.matmul(head_input(states), embedding, transpose_b=True)))
        return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]

    for found, expected in zip(gradients(ModelQuantization(model, config)), gradients(None), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_mixed_precision_computes_in_bfloat16(make_gemma, tokens):
    model = make_gemma(dtype="mixed_bfloat16")
    with ModelQuantization(model, QuantizationConfig(scheme="int4_channel")).forward(training=True) as head_input:
        states, embedding = run(model, tokens)
    assert head_input(states).dtype == tf.bfloat16
    assert embedding.dtype == tf.float32


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (QuantizationConfig(), "quantization.scheme must be given for quantised training"),
        (QuantizationConfig(scheme="int4_block64"), r"cuts the inputs of embedding into blocks of 64, but there are 32: use int4_block32"),
        (QuantizationConfig(scheme="int4_channel", overrides={"blocks.*": "float"}), r"there are embedding and layers.0 to layers.1 with"),
    ],
)
def test_configs_that_no_model_or_not_this_one_can_take(make_gemma, config, message):
    with pytest.raises(ConfigError, match=message):
        ModelQuantization(make_gemma(), config)


def test_weights_that_are_no_numbers_are_named(make_gemma):
    model = make_gemma()
    kernel = model.backbone.transformer_layers[1].ffw_linear.kernel
    value = kernel.numpy()
    value[3, 4] = np.nan
    kernel.assign(value)
    with pytest.raises(WeightsError, match=r"layers\.1\.down holds 1 weights that are inf or NaN"):
        fake_quantized(model, QuantizationConfig(scheme="int4_channel"))


def test_rows_of_zeros_stay_zero(make_gemma, tokens):
    model = make_gemma()
    embedding = model.backbone.token_embedding.embeddings
    embedding.assign(tf.zeros_like(embedding.value))
    for scheme in ("int4_channel", "int4_block32", "int8_channel", "fp8_e4m3"):
        stored = quantized_weights(model, QuantizationConfig(scheme=scheme))["embedding"]
        assert not np.any(stored.codes.astype(np.float32))
        with ModelQuantization(model, QuantizationConfig(scheme=scheme)).forward(training=False):
            assert np.all(np.isfinite(run(model, tokens)[0]))


def test_a_trainer_takes_only_the_model_that_its_quantization_was_made_of(make_gemma, tokens):
    quantization = ModelQuantization(make_gemma(), QuantizationConfig(scheme="int4_channel"))
    with pytest.raises(ConfigError, match="give DistillationTrainer its total_steps"):
        DistillationTrainer(TrainingConfig(), DistillationConfig(), quantization=quantization)
    trainer = DistillationTrainer(TrainingConfig(), DistillationConfig(), total_steps=3, quantization=quantization)
    with pytest.raises(ConfigError, match="another model's"):
        trainer.train_step({"tokens": tokens}, None, make_gemma(), None)


def test_schemes_of_a_large_model_need_no_weights():
    sizes = {"num_layers": 62, "hidden_dim": 5376, "intermediate_dim": 21504, "num_query_heads": 32, "num_key_value_heads": 16}
    schemes = weight_schemes(QuantizationConfig(scheme="int4_block256"), sizes | {"head_dim": 128, "vocabulary_size": 262_144})
    assert len(schemes) == 62 * 7 + 1
    assert set(schemes.values()) == {get_scheme("int4_block256")}

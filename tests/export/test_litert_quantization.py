"""A quantised `.tflite` holds the student's integers, every one, and the runtime computes with them what training simulated."""

import builtins
import dataclasses
import sys

import numpy as np
import pytest

from gemma_tf_distill.config import QuantizationConfig, StudentConfig
from gemma_tf_distill.errors import ConfigError, MissingExtraError, WeightsError
from gemma_tf_distill.export import litert
from gemma_tf_distill.export.litert_quantization import _buffer, _products, stored_weights
from gemma_tf_distill.export.litert_runtime import LiteRtModel
from gemma_tf_distill.export.parity.compare import Predictions
from gemma_tf_distill.export.parity.reference import Reference
from gemma_tf_distill.export.parity.weights import StudentNumbers
from gemma_tf_distill.export.parity.worker import predictions
from gemma_tf_distill.gemma.functional import weights_of
from gemma_tf_distill.gemma.student import build_student
from gemma_tf_distill.gemma.vocabulary import full_vocabulary
from gemma_tf_distill.quantization.apply import fake_quantized

VOCABULARY = 420
SCHEMES = {
    "int8": QuantizationConfig(scheme="int8_channel"),
    "int4": QuantizationConfig(scheme="int4_channel"),
    "blocks": QuantizationConfig(scheme="int4_block32"),
    "mixed": QuantizationConfig(scheme="int4_block32", overrides={"embedding": "int8_channel", "layers.0.down": "float"}),
}


@pytest.fixture(scope="module")
def model(make_gemma):
    """With rows and blocks of zeros, and blocks of numbers so small that their scale would be below the least."""
    model = make_gemma()
    down = model.backbone.transformer_layers[1].ffw_linear.kernel
    values = down.numpy()
    values[:, :8] = 0
    values[32:, 8:16] = 0
    values[:32, 16:24] *= 1e-4
    down.assign(values)
    return model


@pytest.fixture(scope="module")
def windows():
    random = np.random.default_rng(1)
    return [[2, *random.integers(4, VOCABULARY, size=23).tolist()] for _ in range(3)]


@pytest.fixture(scope="module", params=SCHEMES)
def exported(request, model, tmp_path_factory):
    """The config, the settled student and its file."""
    config = SCHEMES[request.param]
    student = fake_quantized(model, config)
    path = tmp_path_factory.mktemp(request.param) / "model.tflite"
    litert.export_litert(student, str(path), context_length=48, prefill_lengths=(8,), quantization=config)
    return config, student, path


def different_weights(path, student, config) -> str:
    return StudentNumbers(student, config).difference("tflite", str(path)).first


def different_predictions(path, student, config, windows) -> list[str]:
    model = LiteRtModel(path)
    with Reference(student, config, windows) as reference:
        found = Predictions(reference, reference.is_integer("tflite"))
        for index, window in enumerate(windows):
            found.add(index, predictions(model, window, reference.begin))
        return found.failures("FILE")


def test_integers_and_predictions_are_the_students(exported, windows):
    config, student, path = exported
    assert different_weights(path, student, config) == ""
    assert different_predictions(path, student, config, windows) == []


def test_what_is_read_is_what_the_student_computes_with(exported):
    config, student, path = exported
    weights, found = weights_of(student), {}
    for name, stored in stored_weights(path.read_bytes()):
        assert name not in found, f"{name} is in the file twice"
        found[name] = stored
        scheme = config.scheme_of(name)
        if scheme is None:
            np.testing.assert_array_equal(stored.codes, weights[name])
            continue
        assert stored.codes.dtype == np.int8
        assert np.abs(stored.codes).max() <= (127 if scheme == "int8_channel" else 7)
        blocks = stored.codes.reshape(*stored.scales.shape, -1)
        np.testing.assert_array_equal((blocks * stored.scales[..., None]).reshape(weights[name].shape), weights[name])
    assert len(found) == 1 + 7 * 2


def test_another_students_integers_are_named(exported, make_gemma):
    config, student, path = exported
    other = fake_quantized(make_gemma(seed=0), config)
    kernel = other.backbone.transformer_layers[0].gating_ffw_2.kernel
    for weight, same in zip(other.backbone.weights, student.backbone.weights, strict=True):
        weight.assign(same)
    values = kernel.numpy()
    values[3, 5] = -values[3, 5] or 0.1
    kernel.assign(values)
    assert different_weights(path, other, config).startswith("1 of 15 weights differ, first layers.0.up, in 1 of 2048 codes and 0 of")
    changed = dataclasses.replace(config, overrides={**config.overrides, "layers.0.query": "float"})
    assert "layers.0.query, whose" in different_weights(path, student, changed)


def test_scales_of_one_signature_are_compared_too(exported, tmp_path):
    config, student, path = exported
    content = bytearray(path.read_bytes())
    *_, last = [product for product in _products(content) if product.weight == "layers.1.key"]
    stored = last.tensor.Quantization().ScaleAsNumpy() if last.block_scales is None else _buffer(content, last.block_scales).view("float16")
    stored[1] *= 2
    (tmp_path / "model.tflite").write_bytes(content)
    difference = different_weights(tmp_path / "model.tflite", student, config)
    assert difference.startswith("1 of 15 weights differ, first layers.1.key, in 0 of 512 codes and 1 of")


def test_another_students_predictions_are_found_out(exported, windows, make_gemma):
    config, _, path = exported
    other = fake_quantized(make_gemma(seed=9), config)
    (failure,) = different_predictions(path, other, config, windows)
    assert "FILE does not compute what the student computes" in failure


def test_large_buffers_lie_behind_the_flatbuffer_and_are_missed_when_they_are_cut_off(make_gemma, tmp_path, windows):
    config, path = SCHEMES["int8"], tmp_path / "model.tflite"
    student = fake_quantized(make_gemma(hidden_dim=128, intermediate_dim=512), config)
    litert.export_litert(student, str(path), context_length=48, prefill_lengths=(), quantization=config)
    assert different_weights(path, student, config) == ""
    assert different_predictions(path, student, config, windows[:1]) == []
    path.write_bytes(path.read_bytes()[:-40_000])
    with pytest.raises(WeightsError, match=r"not a whole \.tflite"):
        LiteRtModel(path)


def test_numbers_that_litert_lacks_are_refused_before_converting(tiny_teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(litert.tf.saved_model, "save", lambda *_, **__: pytest.fail("began to convert"))
    config = QuantizationConfig(scheme="int4_channel", overrides={"layers.*.down": "fp8_e4m3"})
    with pytest.raises(ConfigError, match=r"layers\.0\.down is quantised as fp8_e4m3, and a \.tflite holds weights in int4, int8 and"):
        litert.export_litert(tiny_teacher, str(tmp_path / "m.tflite"), context_length=16, prefill_lengths=(), quantization=config)
    with pytest.raises(ConfigError, match=r"int4_block32 cuts the inputs of layers\.0\.down into blocks of 32, but there are 48"):
        litert.export_litert(
            tiny_teacher, str(tmp_path / "m.tflite"), context_length=16, prefill_lengths=(), quantization=SCHEMES["blocks"]
        )
    assert list(tmp_path.iterdir()) == []


def test_a_missing_quantizer_is_named(tiny_teacher, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(module, *args, **kwargs):
        if module.split(".")[0] == "ai_edge_quantizer":
            raise ImportError(module)
        return real(module, *args, **kwargs)

    for module in [m for m in sys.modules if m.split(".")[0] == "ai_edge_quantizer"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    small = build_student(StudentConfig(layers=(0,)), tiny_teacher, full_vocabulary(tiny_teacher.tokenizer), seed=0)
    with pytest.raises(MissingExtraError, match=r"quantising a \.tflite needs ai-edge-quantizer, which is not installed"):
        litert.export_litert(small, str(tmp_path / "m.tflite"), context_length=8, prefill_lengths=(), quantization=SCHEMES["int8"])
    assert list(tmp_path.iterdir()) == []


def test_an_odd_number_of_inputs_is_none_that_int4_can_have(make_gemma, tmp_path):
    student = make_gemma(num_layers=1, intermediate_dim=63)
    options = {"context_length": 16, "prefill_lengths": ()}
    with pytest.raises(ConfigError, match=r"layers\.0\.down has 63 inputs, and LiteRT .* even number .* choose int8_channel"):
        litert.export_litert(student, str(tmp_path / "m.tflite"), quantization=SCHEMES["int4"], **options)
    config = dataclasses.replace(SCHEMES["int4"], overrides={"*.down": "int8_channel"})
    student, path = fake_quantized(student, config), str(tmp_path / "m.tflite")
    litert.export_litert(student, path, quantization=config, **options)
    assert different_weights(path, student, config) == ""
    assert different_predictions(path, student, config, [[2, 17, 300, 5, 44, 108, 9]]) == []

"""The `.tflite` has LiteRT-LM's signatures, builtin operations, its embedding once, and the student's predictions."""

import numpy as np
import pytest

from gemma_tf_distill.config import StudentConfig
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.export import litert
from gemma_tf_distill.export.litert_runtime import LiteRtModel
from gemma_tf_distill.gemma.functional import weights_of
from gemma_tf_distill.gemma.student import build_student
from gemma_tf_distill.gemma.vocabulary import full_vocabulary

CONTEXT, VOCABULARY = 64, 420


@pytest.fixture(scope="module")
def path(pushed):
    return pushed / "model.tflite"


@pytest.fixture(scope="module")
def interpreter(path):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path))


def test_signatures_are_those_of_litert_lm(interpreter):
    signatures = interpreter.get_signature_list()
    assert set(signatures) == {"prefill_4", "prefill_16", "decode"}
    caches = {f"kv_cache_{kind}_{layer}" for kind in "kv" for layer in range(7)}
    for name, length in (("prefill_4", 4), ("prefill_16", 16), ("decode", 1)):
        runner = interpreter.get_signature_runner(name)
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        assert set(inputs) == {"tokens", "input_pos"} | caches
        assert set(outputs) == caches | ({"logits"} if name == "decode" else set())
        assert (inputs["tokens"]["shape"].tolist(), inputs["tokens"]["dtype"]) == ([1, length], np.int32)
        assert (inputs["input_pos"]["shape"].tolist(), inputs["input_pos"]["dtype"]) == ([length], np.int32)
        for cache in caches:
            for details in (inputs[cache], outputs[cache]):
                assert (details["shape"].tolist(), details["dtype"]) == ([1, 2, CONTEXT, 8], np.float32)
    assert outputs["logits"]["shape"].tolist() == [1, 1, VOCABULARY]
    assert outputs["logits"]["dtype"] == np.float32


def test_operations_are_builtin_and_weights_are_in_the_file_once(path, tiny_teacher):
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    assert len(model.subgraphs) == 3
    used = {model.operatorCodes[operator.opcodeIndex].builtinCode for graph in model.subgraphs for operator in graph.operators}
    builtin = schema.BuiltinOperator
    assert not used & {builtin.CUSTOM, builtin.DELEGATE}
    # What the quantizer and LiteRT's CPU kernels look for.
    assert {builtin.FULLY_CONNECTED, builtin.EMBEDDING_LOOKUP, builtin.DYNAMIC_UPDATE_SLICE, builtin.GELU} <= used
    assert builtin.GATHER not in used
    embedding = weights_of(tiny_teacher)["embedding"]
    sizes = [0 if buffer.data is None else len(buffer.data) for buffer in model.buffers]
    assert sizes.count(embedding.nbytes) == 1
    largest = model.buffers[sizes.index(embedding.nbytes)].data
    np.testing.assert_array_equal(np.frombuffer(bytes(largest), np.float32).reshape(embedding.shape), embedding)


def random_ids(length: int) -> list[int]:
    return [2, *np.random.default_rng(4).integers(4, VOCABULARY, size=length - 1).tolist()]


@pytest.mark.parametrize("length", [1, 2, 5, 17, 37, CONTEXT])
def test_predictions_are_the_students_whatever_prefill_does(path, tiny_teacher, length):
    model, ids = LiteRtModel(path), random_ids(length)
    model.prefill(ids[:-1])
    expected = tiny_teacher.logits([ids]).numpy()[0, -1]
    # float32 in another order of summation: logits that spread by 1 differ by about 1e-5.
    np.testing.assert_allclose(model.decode(ids[-1], length - 1), expected, atol=1e-4)


def test_a_sequence_begins_anew(path, tiny_teacher):
    model, ids = LiteRtModel(path), random_ids(30)
    model.prefill(ids)
    model.prefill(ids[:5])
    expected = tiny_teacher.logits([ids[:6]]).numpy()[0, -1]
    np.testing.assert_allclose(model.decode(ids[5], 5), expected, atol=1e-4)


def test_the_context_is_not_overrun(path):
    model = LiteRtModel(path)
    with pytest.raises(ValueError, match="over the context of 64"):
        model.decode(5, CONTEXT)
    with pytest.raises(ValueError, match="over the context of 64"):
        model.prefill(random_ids(CONTEXT + 1))


def test_a_model_over_the_limit_is_refused_before_converting(tiny_teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(litert, "FLATBUFFER_LIMIT", 2**16)
    monkeypatch.setattr(litert.tf.saved_model, "save", lambda *_, **__: pytest.fail("began to convert"))
    with pytest.raises(ConfigError, match=r"a \.tflite holds 2\.1 GB at the most: keep fewer words \(student\.vocabulary\)"):
        litert.export_litert(tiny_teacher, str(tmp_path / "m.tflite"), context_length=16, prefill_lengths=())
    assert list(tmp_path.iterdir()) == []


def test_the_limit_lets_what_fits_pass():
    litert.check_size(1_072_800_000)
    with pytest.raises(ConfigError, match=r"take 4\.0 GB"):
        litert.check_size(4_000_000_000)


def test_conversion_and_loading_print_nothing(tiny_teacher, tmp_path, capfd):
    path = tmp_path / "m.tflite"
    small = build_student(StudentConfig(layers=(0,)), tiny_teacher, full_vocabulary(tiny_teacher.tokenizer), seed=0)
    litert.export_litert(small, str(path), context_length=8, prefill_lengths=())
    LiteRtModel(path).decode(2, 0)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")

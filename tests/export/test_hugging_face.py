"""The Hugging Face folder is the student again in transformers and in KerasHub: words, weights, RoPE, ends and turns."""

import importlib.util
import json

import keras_hub
import numpy as np
import pytest

from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.export.hugging_face import export_hugging_face
from gemma_tf_distill.export.hugging_face_runtime import import_transformers
from gemma_tf_distill.gemma.functional import weights_of
from gemma_tf_distill.gemma.model import Gemma, fold_query_scale
from gemma_tf_distill.gemma.student import trim_teacher
from gemma_tf_distill.gemma.vocabulary import trim_vocabulary

LENGTH = 50  # three times the sliding window and a bit
pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra transformers")
TEXTS = [
    "",
    " Returns  the\n\n   mean",
    "naïve ☕ 漢字 \U0001f600",
    "\u202e\u0645\u0631\u062d\u0628\u0627",
    "<start_of_turn>user\nmean<end_of_turn>",
]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def transformers_log_probs(folder, ids: np.ndarray) -> np.ndarray:
    torch, transformers = import_transformers()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return log_softmax(model(torch.tensor(ids)).logits.numpy())


def random_ids(gemma: Gemma) -> np.ndarray:
    ids = np.random.default_rng(0).integers(4, gemma.tokenizer.vocabulary_size, size=(2, LENGTH)).astype("int32")
    ids[:, 0] = gemma.tokenizer.bos_id
    return ids


@pytest.mark.parametrize("scaling", [1.0, 8.0])
def test_transformers_computes_what_the_student_does(make_gemma, tmp_path, scaling):
    gemma = make_gemma(num_layers=7, intermediate_dim=48, global_rope_scaling_factor=scaling)
    export_hugging_face(gemma, str(tmp_path / "hf"))
    ids = random_ids(gemma)
    expected = log_softmax(gemma.logits(ids).numpy())
    assert expected.std() > 0.1
    # Two float32 implementations of seven layers.
    np.testing.assert_allclose(transformers_log_probs(tmp_path / "hf", ids), expected, atol=1e-4)


def test_a_query_scale_that_was_folded_in_is_there(make_gemma, tmp_path):
    gemma = make_gemma()
    fold_query_scale(gemma.backbone, 32)
    export_hugging_face(gemma, str(tmp_path / "hf"))
    ids = random_ids(gemma)
    np.testing.assert_allclose(transformers_log_probs(tmp_path / "hf", ids), log_softmax(gemma.logits(ids).numpy()), atol=1e-4)


def test_kerashub_reads_the_same_weights_back(tiny_teacher, tmp_path):
    export_hugging_face(tiny_teacher, str(tmp_path / "hf"))
    backbone = keras_hub.models.Gemma3Backbone.from_preset(str(tmp_path / "hf"), dtype="float32")
    found, expected = weights_of(Gemma(backbone, tiny_teacher.tokenizer)), weights_of(tiny_teacher)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_tokens_and_ends_are_those_of_a_trimmed_vocabulary(tiny_teacher, tmp_path):
    _, transformers = import_transformers()
    words = tiny_teacher.tokenizer.encode("Returns the mean of the values.")
    student = trim_teacher(tiny_teacher, trim_vocabulary(tiny_teacher.tokenizer, dict.fromkeys(words, 1)))
    assert student.tokenizer.vocabulary_size < tiny_teacher.tokenizer.vocabulary_size
    export_hugging_face(student, str(tmp_path / "hf"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert ids == [student.tokenizer.bos_id, *student.tokenizer.encode(text)]
        assert tokenizer.decode(student.tokenizer.encode(text)) == text
    stops = [student.tokenizer.eos_id, student.tokenizer.id_of("<end_of_turn>")]
    assert None not in stops
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "hf" / name).read_text())["eos_token_id"] == stops


def test_turns_are_written_as_gemma_was_taught_them(tiny_teacher, tmp_path):
    _, transformers = import_transformers()
    chat = [{"role": "user", "content": "Returns the"}]
    export_hugging_face(tiny_teacher, str(tmp_path / "hf"), prompt_template="gemma")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<bos><start_of_turn>user\nReturns the<end_of_turn>\n<start_of_turn>model\n"
    export_hugging_face(tiny_teacher, str(tmp_path / "plain"))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "plain").chat_template is None


def test_a_model_that_transformers_has_not(make_gemma, tmp_path):
    with pytest.raises(WeightsError, match="use_post_ffw_norm=False, which transformers' Gemma 3 has not"):
        export_hugging_face(make_gemma(use_post_ffw_norm=False), str(tmp_path / "hf"))
    assert not (tmp_path / "hf").exists()


@pytest.mark.real_weights
def test_the_real_270m_in_transformers(real_teacher, tmp_path):
    export_hugging_face(real_teacher, str(tmp_path / "hf"))
    text = "Returns the mean of the values along the given axis. Raises an error if there is none."
    ids = np.array([[real_teacher.tokenizer.bos_id, *real_teacher.tokenizer.encode(text)]], "int32")
    expected = log_softmax(real_teacher.logits(ids).numpy())
    found = transformers_log_probs(tmp_path / "hf", ids)
    np.testing.assert_allclose(found, expected, atol=5e-3)
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))

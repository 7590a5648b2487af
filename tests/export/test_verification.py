"""Files that compute something else than the student are found out, by name."""

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.export.litert import export_litert
from gemma_tf_distill.export.litert_lm_runtime import LiteRtLmModel
from gemma_tf_distill.export.samples import sample_completions
from gemma_tf_distill.export.verification import ParityError, verify_litert, verify_litert_lm, verify_saved_model
from gemma_tf_distill.gemma.student import trim_teacher
from gemma_tf_distill.gemma.vocabulary import full_vocabulary

PROMPTS = ["Returns the", "", "naïve"]
LONG = "Returns the values. " * 30


@pytest.fixture(scope="module")
def another(tiny_teacher):
    """A model of the same shape that differs in one matrix of the last layer."""
    copy = trim_teacher(tiny_teacher, full_vocabulary(tiny_teacher.tokenizer))
    kernel = copy.backbone.transformer_layers[-1].ffw_linear.kernel
    kernel.assign(np.random.default_rng(9).normal(scale=0.4, size=kernel.shape).astype("float32"))
    return copy


def test_what_was_exported_passes(pushed, tiny_teacher):
    *short, long = verify_saved_model(str(pushed / "saved_model"), tiny_teacher, [*PROMPTS, LONG], 10)
    assert [completion.text for completion in short] == sample_completions(tiny_teacher, PROMPTS, 10)
    for prompt, completion in zip(PROMPTS, short, strict=True):
        begin = [tiny_teacher.tokenizer.bos_id, *tiny_teacher.tokenizer.encode(prompt)]
        assert completion.window[: len(begin)] == begin
        assert tiny_teacher.tokenizer.decode(completion.window[len(begin) :]) == completion.text
    # A prompt longer than the context is compared as far as the model reads it.
    assert 54 <= len(long.window) <= 64
    verify_litert(str(pushed / "model.tflite"), tiny_teacher, [completion.window for completion in (*short, long)])


def test_another_models_files_are_named(pushed, another):
    with pytest.raises(ParityError, match=r"saved_model does not compute what the student computes: after .* nats behind"):
        verify_saved_model(str(pushed / "saved_model"), another, PROMPTS, 10)
    window = [2, *np.random.default_rng(1).integers(4, 420, size=20).tolist()]
    with pytest.raises(ParityError, match=r"model\.tflite does not compute what the student computes: after .* nats behind"):
        verify_litert(str(pushed / "model.tflite"), another, [window])


def test_a_bundle_is_held_to_the_tflite_in_it(pushed, tiny_teacher, another, tmp_path):
    bundle, tflite = str(pushed / "model.litertlm"), str(pushed / "model.tflite")
    verify_litert_lm(bundle, tflite, tiny_teacher, [*PROMPTS, LONG], 10)
    verify_litert_lm(bundle, tflite, tiny_teacher, [], 10)
    export_litert(another, str(tmp_path / "model.tflite"), context_length=64, prefill_lengths=(4, 16))
    (tmp_path / "tokenizer.model").write_bytes(another.tokenizer.proto)
    with pytest.raises(ParityError, match=r"model\.litertlm does not compute what the \.tflite in it computes: after .* goes on with "):
        verify_litert_lm(bundle, str(tmp_path / "model.tflite"), another, PROMPTS, 10)


@pytest.mark.parametrize("written", ["", "cut", "more"])
def test_a_bundle_that_ends_elsewhere_is_found_out(pushed, tiny_teacher, monkeypatch, written):
    real = LiteRtLmModel.complete

    def complete(self, prompt, max_new_tokens):
        text = "".join(real(self, prompt, max_new_tokens + 5 if written == "more" else max_new_tokens))
        return iter([{"": "", "cut": text[: len(text) // 2], "more": text}[written]])

    monkeypatch.setattr(LiteRtLmModel, "complete", complete)
    with pytest.raises(ParityError, match=r"model\.litertlm (wrote more than the 10 tokens|does not compute)"):
        verify_litert_lm(str(pushed / "model.litertlm"), str(pushed / "model.tflite"), tiny_teacher, ["The"], 10)


def test_a_saved_model_that_ends_early_is_found_out(pushed, tiny_teacher, monkeypatch):
    loaded = tf.saved_model.load(str(pushed / "saved_model"))
    generate = loaded.signatures["generate"]

    class Short:
        context_length = loaded.context_length
        signatures = {"generate": lambda prompt, max_new_tokens: generate(prompt=prompt, max_new_tokens=max_new_tokens - 4)}

    monkeypatch.setattr(tf.saved_model, "load", lambda path: Short)
    with pytest.raises(ParityError, match=r"chooses '<(eos|end_of_turn)>'"):
        verify_saved_model(str(pushed / "saved_model"), tiny_teacher, ["Returns the"], 10)


def test_no_prompts_make_no_samples(tiny_teacher):
    assert sample_completions(tiny_teacher, [], 10) == []

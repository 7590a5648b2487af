"""`load_generator` runs every exported format as a user would, and says clearly why it cannot."""

import builtins
import shutil
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.errors import UserError, WeightsError
from gemma_tf_distill.export.generation import PromptError, load_generator
from gemma_tf_distill.export.samples import sample_completions
from gemma_tf_distill.export.text import text_pieces

CONTEXT, NEW = 64, 10  # of the `pushed` fixture
PROMPTS = ["Returns the", "", "naïve ☕ 漢字 \U0001f600 \x00", "The quick brown fox jumps over the lazy dog"]


FILES = {"saved_model": "saved_model", "tflite": "model.tflite", "litertlm": "model.litertlm", "hugging_face": "hugging_face"}
CONTEXTS = {"hugging_face": 32_768}


@pytest.fixture(scope="module", params=FILES)
def model(request, pushed):
    if not (pushed / FILES[request.param]).exists():
        pytest.skip("needs the extra transformers")
    return load_generator(pushed / FILES[request.param])


@pytest.fixture(scope="module")
def expected(tiny_teacher):
    """What the model that was exported writes."""
    return dict(zip(PROMPTS, sample_completions(tiny_teacher, PROMPTS, NEW), strict=True))


def test_every_path_finds_its_model(pushed, tmp_path):
    assert load_generator(str(pushed) + "/").format == "saved_model"
    for name in ("model.tflite", "tokenizer.model"):
        shutil.copy(pushed / name, tmp_path / name)
    assert load_generator(tmp_path).format == "tflite"


def test_every_format_writes_what_the_student_writes(model, expected):
    assert model.context_length == CONTEXTS.get(model.format, CONTEXT)
    for prompt in PROMPTS:
        pieces = list(model.generate(prompt, NEW))
        assert "".join(pieces) == expected[prompt]
        assert len(pieces) > 1


def test_a_folder_alone_is_taken_as_it_is(pushed, expected):
    if not (pushed / "hugging_face").exists():
        pytest.skip("needs the extra transformers")
    program = f"""
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
from gemma_tf_distill.export.generation import load_generator
print("".join(load_generator({str(pushed / "hugging_face")!r}).generate("Returns the", {NEW})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, expected["Returns the"] + "\n"), done.stderr


@pytest.mark.parametrize("file", ["model.tflite", "model.litertlm"])
def test_phone_formats_run_without_tensorflow_and_print_their_text_only(pushed, expected, file):
    program = f"""
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
from gemma_tf_distill.export.generation import load_generator
print("".join(load_generator({str(pushed / file)!r}).generate("Returns the", {NEW})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected["Returns the"] + "\n", "")


def test_an_argument_that_was_no_utf8_is_read_with_replacement_characters(model):
    assert "".join(model.generate("Returns \udcff the", NEW)) == "".join(model.generate("Returns \ufffd\ufffd\ufffd the", NEW))


def test_speed_is_that_of_the_tokens_that_came(model):
    completion = model.generate("Returns the", NEW)
    assert completion.speed.decode_tokens_per_second is None
    "".join(completion)
    speed = completion.speed
    assert 1 < speed.prompt_tokens < 12
    # A piece of LiteRT-LM may be several tokens, of which this model's make a character.
    assert (2 if model.format == "litertlm" else NEW) <= speed.new_tokens <= NEW
    assert speed.decode_tokens_per_second == pytest.approx((speed.new_tokens - 1) / speed.decode_seconds)
    assert speed.prefill_tokens_per_second == pytest.approx(speed.prompt_tokens / speed.prompt_seconds)


def test_a_prompt_that_does_not_fit_is_refused_at_once(model):
    if model.context_length != CONTEXT:
        pytest.skip("a context of 32,768 tokens holds them")
    with pytest.raises(PromptError, match=r"context of 64: shorten it to 54"):
        model.generate("a long prompt " * 50, NEW)
    with pytest.raises(PromptError, match=r"do not fit in the model's context of 64: ask for at most \d+ new tokens"):
        model.generate("Returns the", 64)
    with pytest.raises(PromptError, match="at least 1, not 0"):
        model.generate("Returns the", 0)


def test_the_whole_context_can_be_used(model):
    if model.context_length != CONTEXT:
        pytest.skip("a context of 32,768 tokens takes long")
    assert "".join(model.generate("", CONTEXT - 1))


def test_no_model(tmp_path):
    with pytest.raises(WeightsError, match=r"no model at '.*/nothing': give a SavedModel or Hugging Face folder"):
        load_generator(tmp_path / "nothing")
    with pytest.raises(WeightsError, match=r"is not a model: a SavedModel folder holds saved_model\.pb"):
        load_generator(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(WeightsError, match="is not a model"):
        load_generator(tmp_path / "notes.txt")


@pytest.mark.parametrize("suffix", ["tflite", "litertlm"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file(pushed, tmp_path, suffix, share):
    content = (pushed / f"model.{suffix}").read_bytes()
    (tmp_path / f"model.{suffix}").write_bytes(content[: int(len(content) * share)])
    shutil.copy(pushed / "tokenizer.model", tmp_path)
    with pytest.raises(WeightsError, match=rf"not a whole \.{suffix}"):
        load_generator(tmp_path / f"model.{suffix}")


@settings(max_examples=60, deadline=None)
@given(header=st.binary(max_size=120), fill=st.sampled_from([b"\0", b"\xff"]))
def test_a_litertlm_of_anything(tmp_path_factory, header, fill):
    path = tmp_path_factory.mktemp("anything") / "model.litertlm"
    path.write_bytes(b"LITERTLM" + header + fill * 50_000)
    with pytest.raises(WeightsError, match="litertlm"):
        load_generator(path)


def test_a_tflite_that_is_something_else(pushed, tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"\x10\0\0\0TFL3" + b"\0" * 64)
    shutil.copy(pushed / "tokenizer.model", tmp_path)
    with pytest.raises(WeightsError):
        load_generator(tmp_path / "model.tflite")


def test_a_tflite_without_its_tokenizer(pushed, tmp_path):
    shutil.copy(pushed / "model.tflite", tmp_path)
    with pytest.raises(WeightsError, match=r"no tokenizer at .*put tokenizer\.model of the same model beside it"):
        load_generator(tmp_path / "model.tflite")


def test_a_damaged_saved_model(pushed, tmp_path):
    shutil.copytree(pushed / "saved_model", tmp_path / "m")
    (tmp_path / "m" / "saved_model.pb").write_bytes(b"not a graph")
    with pytest.raises(WeightsError, match="damaged"):
        load_generator(tmp_path / "m")


def test_a_saved_model_that_is_cut_short(pushed, tmp_path):
    shutil.copytree(pushed / "saved_model", tmp_path / "m")
    [data] = (tmp_path / "m").glob("variables/variables.data-*")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(WeightsError, match="damaged"):
        load_generator(tmp_path / "m")


@pytest.mark.parametrize(
    ("package", "name", "message"),
    [
        ("ai_edge_litert", "model.tflite", r"needs ai-edge-litert, which is not installed: pip install 'gemma-tf-distill\[litert\]'"),
        ("litert_lm", "model.litertlm", r"needs litert-lm, which is not installed: pip install 'gemma-tf-distill\[litert\]'"),
        ("tensorflow_text", "saved_model", "pip install tensorflow-text"),
    ],
)
def test_a_missing_package_is_named(pushed, monkeypatch, package, name, message):
    real = builtins.__import__

    def without(module, *args, **kwargs):
        if module.split(".")[0] == package:
            raise ImportError(module)
        return real(module, *args, **kwargs)

    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=message):
        load_generator(pushed / name)


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=40), noise=st.lists(st.integers(4, 259), max_size=6))
def test_streamed_pieces_are_whole_characters_and_join_to_the_text(tiny_tokenizer, text, noise):
    ids = [*tiny_tokenizer.encode(text), *noise]
    pieces = list(text_pieces(tiny_tokenizer, iter(ids)))
    assert "".join(pieces) == tiny_tokenizer.decode(ids)
    if not noise and "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_characters_in_several_pieces_are_whole_and_what_is_cut_off_is_replaced(pushed, monkeypatch):
    """LiteRT-LM tells bytes as they come: of a character in two pieces, and of one that the last piece cuts off."""
    from gemma_tf_distill.export import litert_lm_runtime

    model = load_generator(pushed / "model.litertlm")
    whole = "a\uffff漢\U0001f600".encode()
    monkeypatch.setattr(litert_lm_runtime, "_decode", lambda session: iter([whole[:3], whole[3:6], whole[6:7], whole[7:-1]]))
    assert list(model.generate("Returns the", NEW)) == ["a", "\uffff", "漢", "\ufffd"]

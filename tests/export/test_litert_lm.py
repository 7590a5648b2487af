"""What LiteRT-LM is told beside the model: where texts begin and end, how long they may be, and how a conversation is written."""

import litert_lm
import pytest

from gemma_tf_distill.export.litert_lm import export_litert_lm
from gemma_tf_distill.export.prompt_templates import default_prompt_template


@pytest.fixture(scope="module", params=["plain", "gemma"])
def template_and_engine(request, pushed, tiny_teacher, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("bundle") / "model.litertlm")
    export_litert_lm(str(pushed / "model.tflite"), tiny_teacher.tokenizer, path, context_length=64, prompt_template=request.param)
    with litert_lm.Engine(path, litert_lm.Backend.CPU(), cache_dir=":nocache") as engine:
        yield request.param, engine


def test_tokens(template_and_engine, tiny_teacher):
    _, engine = template_and_engine
    tokenizer = tiny_teacher.tokenizer
    assert engine.bos_token_id == tokenizer.bos_id
    assert engine.eos_token_ids == [[tokenizer.eos_id], [tokenizer.id_of("<end_of_turn>")]]
    text = "naïve ☕ 漢字 \U0001f600 returns\n\n the"
    assert engine.tokenize(text) == tokenizer.encode(text)


def test_a_conversation(template_and_engine):
    template, engine = template_and_engine
    with engine.create_conversation() as conversation:
        text = conversation.render_message_to_string({"role": "user", "content": [{"type": "text", "text": "Returns the"}]})
    assert text == {"plain": "Returns the", "gemma": "<start_of_turn>user\nReturns the<end_of_turn>\n<start_of_turn>model\n"}[template]


@pytest.mark.parametrize(
    ("source", "template"),
    [
        ("gguf:package", "plain"),
        ("preset:gemma3_1b", "plain"),
        ("preset:gemma3_instruct_1b", "gemma"),
        ("gguf:/it/gemma-3-1b-it-q4_0.gguf", "gemma"),
        ("gguf:/it/gemma-3-1b-pt-q4_0.gguf", "plain"),
        ("/models/gemma-3-1b-it/", "gemma"),
        ("gguf:/models/gemma-3-1b-it/model.gguf", "gemma"),
        ("/models/git-items", "plain"),
    ],
)
def test_the_teachers_name_says_whether_it_was_taught_turns(source, template):
    assert default_prompt_template(source) == template

"""How a conversation is written for a model, and which way a model was taught."""

import re

# Jinja, as LiteRT-LM's conversations read it; a message's content is a text or a list of parts. `<bos>` comes before, from the runtime.
_CONTENT = """\
{%- macro text(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}{%- for part in content -%}{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
"""
PROMPT_TEMPLATES = {
    # A model of text that was never taught turns: what is said is what it continues.
    "plain": _CONTENT + "{%- for message in messages -%}{{ text(message['content']) }}{%- endfor -%}",
    # The turns of Gemma's instruct models (Gemma Team 2025, "Gemma 3 Technical Report", table 4).
    "gemma": _CONTENT
    + """\
{%- for message in messages -%}
{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}
{{- text(message['content']) + '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}""",
}


def default_prompt_template(teacher_source: str) -> str:
    """`gemma` for the students of instruct models, as KerasHub's presets and Google's files and folders name them; else `plain`."""
    name = "/".join(teacher_source.lower().rstrip("/").split("/")[-2:])
    return "gemma" if re.search(r"instruct|-it(?![a-z])", name) else "plain"

"""What the models write, side by side."""

from gemma_tf_distill.report.content import Content
from gemma_tf_distill.report.markup import Markup, joined, tag


def samples(content: Content) -> Markup:
    """Greedy completions of the same prompts by teacher, student and the exported files."""
    if not content.samples:
        return tag("p", "No prompts were completed (export.prompts).", class_="note")
    scheme = content.this_run.scheme
    blocks = []
    for sample in content.samples:
        texts = [("teacher", sample["teacher"]), (f"student, {scheme or 'float'}", sample["student"])]
        same = []
        for file in content.parity:
            completion = (file.get("completions") or {}).get(sample["prompt"])
            if completion is None:
                continue
            if completion == sample["student"]:
                same.append(file["format"])
            else:
                texts.append((f"{file['format']}, {scheme or 'float'}", completion))
        if same:
            texts[1] = (f"{texts[1][0]}; the same from {_listed(same)}", texts[1][1])
        blocks.append(
            tag(
                "div",
                tag("h3", "After ", tag("code", shown(sample["prompt"]))),
                tag("div", *(_text(who, words) for who, words in texts), class_="texts"),
                class_="sample",
            )
        )
    return joined(*blocks)


def _text(who: str, words: str) -> Markup:
    return tag("div", tag("h4", who), tag("pre", words.strip("\n") or "(nothing)"))


def shown(prompt: str) -> str:
    """A prompt in one line."""
    return prompt.replace("\n", "↵")


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

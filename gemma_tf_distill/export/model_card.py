"""The model card of a version, in the form that Hugging Face's hub reads, from its manifest alone. Needs no TensorFlow."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Gemma Terms of Use, section 3.1: what has to accompany a distribution of Gemma or of a model derivative.
NOTICE = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms\n"

_RUN = {
    "saved_model": 'gemma-distill generate saved_model "Returns the"',
    "tflite": 'gemma-distill generate model.tflite "Returns the"',
    "litertlm": 'litert-lm run model.litertlm --backend cpu --prompt "Returns the"',
    "hugging_face": 'gemma-distill generate hugging_face "Returns the"',
}


def model_card(manifest: Mapping[str, Any]) -> str:
    """Markdown: what the model was distilled from and on, its figures, its files beside the student, and the terms it falls under.

    Args:
      manifest: as `write_documents` makes it, still without the card itself.
    """
    config, metrics = manifest["config"], manifest["metrics"]
    evaluation, training = metrics.get("evaluation") or {}, metrics.get("training") or {}
    teacher = manifest["parents"]["teacher"]
    base = _base_model(teacher)
    scheme = config["quantization"]["scheme"]
    header = ["---", "license: gemma", "license_link: https://ai.google.dev/gemma/terms", "pipeline_tag: text-generation"]
    header += [f"base_model: {base}"] if base else []
    header += ["tags: [gemma3, distillation]", "---"]
    distilled = bool(training)
    parts = [
        "\n".join(header),
        f"# {config['name']}",
        (f"A small Gemma 3, distilled from {_named(teacher)}" if distilled else f"A Gemma 3: {_named(teacher)}, exported as it is")
        + (f", in numbers of `{scheme}`." if scheme else "."),
        _text(config, training) if distilled else "",
        _quality(evaluation, training),
        _files(manifest),
        _terms(distilled),
        "Made by gemma-tf-distill; `manifest.json` holds the whole config, the parents and the sha256 of every file.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _named(source: str) -> str:
    return "Gemma 3 270M (`gguf:package`)" if source == "gguf:package" else f"`{source}`"


def _base_model(source: str) -> str | None:
    """The name on Hugging Face of what KerasHub's presets and the package hold."""
    if source == "gguf:package":
        return "google/gemma-3-270m"
    match = re.fullmatch(r"preset:gemma3_(instruct_)?(270m|1b|4b|12b|27b)(?:_text)?", source)
    if not match:
        return None
    base = "" if match[2] == "270m" else "-pt"
    return f"google/gemma-3-{match[2]}{'-it' if match[1] else base}"


def _text(config: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    source = config["corpus"]["source"]
    sources = ", ".join(f"`{name}`" for name in ([source] if isinstance(source, str) else source))
    tokens = training["tokens"]
    return (
        f"Trained on {tokens['train']:,} tokens of {sources} in windows of {config['corpus']['window']}, and measured on "
        f"{tokens['heldout']:,} that were held out. It knows the {training['vocabulary']:,} words of that text and reads others piece by "
        f"piece; what the text does not hold, it was not taught. {training['layers']} layers, {training['parameters']:,} parameters."
    )


def _quality(evaluation: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    rows = [
        ("teacher", evaluation.get("teacher_heldout_nll"), None, None),
        ("this model, as exported", evaluation.get("heldout_nll"), evaluation.get("kl_to_teacher"), evaluation.get("top1_agreement")),
        ("the same student in float", training.get("heldout_nll_float"), None, None),
        ("trained without the teacher", training.get("heldout_nll_control"), None, None),
        ("before training", training.get("heldout_nll_initial"), None, None),
    ]
    known = [row for row in rows if row[1] is not None]
    if not known:
        return ""
    lines = [(name, _shown(nll, ".3f"), _shown(kl, ".3f"), _shown(top1, ".1%")) for name, nll, kl, top1 in known]
    header = ("", "NLL (nats a token)", "KL to teacher", "top-1 agreement")
    return f"## Held-out text\n\n{_table([header, *lines])}"


def _files(manifest: Mapping[str, Any]) -> str:
    sizes: dict[str, int] = {}
    for file in manifest["files"]:
        sizes[file["format"]] = sizes.get(file["format"], 0) + file["bytes"]
    measured = {file["format"]: file for file in (manifest["parity"] or {}).get("files", ())}
    header = ("file", "MB", "top-1 as the student", "NLL", "decode tokens/s", "run")
    rows = [header]
    for name, command in _RUN.items():
        if name in sizes:
            found = measured.get(name, {})
            rows.append(
                (
                    name,
                    f"{sizes[name] / 1e6:.1f}",
                    _shown(found.get("top1_agreement"), ".2%"),
                    _shown(found.get("nll"), ".3f"),
                    _shown(found.get("decode_tokens_per_second"), ".0f"),
                    f"`{command}`",
                )
            )
    note = (
        "\n\nEvery file was run in its own runtime before it was pushed; agreement and NLL are those of parity's held-out tokens, speed is "
        "that of the machine that exported."
        if measured
        else ""
    )
    return f"## Files\n\n{_table(rows)}{note}"


def _terms(distilled: bool) -> str:
    derived = "It is a Model Derivative of Gemma" if distilled else "It is Gemma, in other formats"
    return (
        "## Terms\n\n"
        f"{NOTICE.strip()}. {derived}: passing it on takes these terms, their use restrictions (Gemma Prohibited Use Policy) and the file "
        "`NOTICE` along. The terms of the text that it was trained on are not in here."
    )


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)

"""The whole report as one HTML page that needs nothing else: no script, no font, no network."""

from gemma_tf_distill.report import gate_table, layers, provenance, quality, samples, slices, training, verdict
from gemma_tf_distill.report.content import Content
from gemma_tf_distill.report.markup import Markup, joined, tag
from gemma_tf_distill.report.style import CSS

# Nothing may be loaded, whatever a corpus or a model has written into the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render_page(content: Content) -> str:
    """The page, from the verdict to the command that makes the model again.

    Args:
      content: what is known of a run.

    Returns:
      HTML that is well-formed XML after its first line.
    """
    sections = [
        ("models", "Quality", "Beside its teacher, and what it would be without.", quality.models(content), False),
        ("tradeoff", "Quality against size and speed", "All finished runs in the same output root.", quality.tradeoff(content), False),
        ("files", "Files", "What leaves the pipeline, each in its own runtime.", quality.files(content), False),
        ("slices", "By slice", "The Evaluator’s figures on the exported model.", slices.slices(content), True),
        ("samples", "Samples", "Greedy completions of the same prompts.", samples.samples(content), True),
        ("training", "Training", "What was minimised, step by step.", training.curves(content), False),
        ("layers", "Layer by layer", "Where the student stands beside its teacher.", layers.layers(content), True),
        ("data", "Data", "What it was trained and measured on.", provenance.data(content), True),
        ("nodes", "Time and memory", "What each node took.", provenance.nodes(content), False),
        ("lineage", "Lineage", "What made these files.", provenance.lineage(content), True),
        ("reproduce", "Make it again", "The same config, corpus and seed.", provenance.reproduce(content), False),
    ]
    name = content.config["name"]
    state = "pushed" if content.report.get("pushed") else "blessed" if content.report["blessed"] else "not pushed"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{name}: {state}"),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(CSS)),
    )
    links = tag("ul", *(tag("li", tag("a", title, href=f"#{key}")) for key, title, _, _, _ in sections))
    header = tag(
        "header",
        tag("h1", name),
        tag("p", f"Distilled from {content.config['teacher']['source']}, {content.created} UTC", class_="sub"),
        verdict.verdict(content),
        verdict.cards(content),
        gate_table.gates(content),
        tag("nav", links, aria_label="Sections"),
    )
    blocks = [
        tag(
            "section",
            tag("h2", title, id=f"{key}-heading"),
            tag("p", lead, class_="sub"),
            body,
            id=key,
            aria_labelledby=f"{key}-heading",
            class_="long" if long else None,
        )
        for key, title, lead, body, long in sections
    ]
    footer = tag("footer", "Written by gemma-distill from report.json, ML Metadata and the artifacts of this run.")
    body = tag("body", header, tag("main", *blocks), footer)
    return f"<!DOCTYPE html>\n{joined(tag('html', head, body, lang='en'))}\n"

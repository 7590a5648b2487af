"""The whole page, as text: what is in it, what is left out, and that nothing of it is loaded or run."""

import dataclasses
import hashlib
import re
from xml.etree import ElementTree

import pytest

from gemma_tf_distill.report.content import Data, DocumentStatistics, Layers, Validation
from gemma_tf_distill.report.distances import Distance
from gemma_tf_distill.report.gates import gate_results
from gemma_tf_distill.report.page import render_page
from tests.report.conftest import GATES, PARITY, REPORT, gate, other_run, whole_content

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def parsed(page: str) -> ElementTree.Element:
    first, _, rest = page.partition("\n")
    assert first == "<!DOCTYPE html>"
    return ElementTree.fromstring(rest)


def words(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def section(root: ElementTree.Element, key: str) -> str:
    [found] = [element for element in root.iter("section") if element.get("id") == key]
    return words(found)


def test_everything_is_on_it(content):
    root = parsed(render_page(content))
    header = words(root.find("body/header"))
    assert header.index("✓ Blessed and pushed") < header.index("Perplexity0.98 ×") < header.index("Gates")
    assert "0.98 times the perplexity of its teacher, 24.1 MB as tflite" in header
    assert "It holds all 10 gates that were asked. Pushed as version 1795764746." in header
    assert "gates.min_top1_agreement≥ 50.0 %57.1 %55.9–58.3 %✓ holds" in header
    assert "Bits a byte1.021of text, teacher 1.028" in header
    models = section(root, "models")
    assert all(value in models for value in ("3.178", "3.156", "3.189", "3.334", "3.330", "4.361", "200,699", "14,656"))
    tradeoff = section(root, "tradeoff")
    assert all(name in tradeoff for name in ("demo-float", "int8", "tiny", "too-small", "push 1795700000", "rounded"))
    assert "baselinethe latest blessed model before this one3.170" in models
    slices = section(root, "slices")
    assert "source=numpy3,000" in slices
    # Top-5 agreement and calibration error with their intervals, and the teacher's.
    assert "85.3 %82.7–88.7 %0.0310.030–0.0320.042" in slices
    assert "perplexity vs teacher" in slices
    assert "23.49" not in slices
    assert section(root, "files").count("21.0 %") == 1
    assert "the teacher repeats 13.5 % of its 4-grams" in section(root, "files")
    assert "tflite, int4_block32" in section(root, "samples")
    assert "student, int4_block32; the same from saved_model" in section(root, "samples")
    assert "optimizer steps" in section(root, "training")
    assert "Most alike: 0 and 0" in section(root, "layers")
    assert "8.1 %" in section(root, "layers")
    assert "31,725 documents were read" in section(root, "data")
    assert "4.00 GB" in section(root, "nodes")
    assert "pipeline/Distiller/examples/4" in section(root, "lineage")
    assert "c0c0c0c0c0c0" in section(root, "lineage")
    assert "gemma-distill run demo" in section(root, "reproduce")


def test_links_lead_somewhere_and_ids_are_there_once(content):
    root = parsed(render_page(content))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    targets = [element.get("href")[1:] for element in root.iter("a")]
    assert targets
    assert set(targets) <= set(ids)
    for element in root.iter():
        for attribute in ("aria-labelledby", "aria-describedby"):
            assert element.get(attribute) is None or element.get(attribute) in ids


def test_nothing_is_loaded_and_nothing_is_run(content):
    page = render_page(content)
    root = parsed(page)
    assert not list(root.iter("script"))
    assert all(element.get("href") == "data:," for element in root.iter("link"))
    assert not [element for element in root.iter() if element.get("src") or any(name.startswith("on") for name in element.attrib)]
    assert "url(" not in page
    assert "@import" not in page
    [policy] = [element.get("content") for element in root.iter("meta") if element.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_whatever_data_says_stays_text():
    content = whole_content()
    evil = dataclasses.replace(
        content,
        report={**REPORT, "blessed": False, "pushed": None},
        config={**content.config, "name": EVIL, "teacher": {"source": EVIL}, "corpus": {**content.config["corpus"], "source": [EVIL]}},
        command=EVIL,
        created=EVIL,
        gates=gate_results([gate(EVIL, EVIL, None, slice=EVIL, metric=EVIL, held=False, words=EVIL), gate("max_x", EVIL, EVIL)]),
        repetition={EVIL: 0.1},
        baseline={EVIL: 1.0, "heldout_nll": EVIL},
        slices={"overall": {EVIL: 1.0}, EVIL: {"tokens": EVIL}},
        this_run=dataclasses.replace(content.this_run, scheme=EVIL, teacher=EVIL),
        other_runs=[other_run(EVIL, 3.0, 10, 10.0)],
        samples=[{"prompt": EVIL, "teacher": EVIL, "student": EVIL}],
        parity=[{**PARITY[0], "format": EVIL, "completions": {EVIL: EVIL + "!"}}],
        curves=[dataclasses.replace(curve, run=EVIL) if place == 0 else curve for place, curve in enumerate(content.curves)],
        layers=dataclasses.replace(content.layers, mapping_name=EVIL, quantization_error={EVIL: 0.1, f"layers.0.{EVIL}": 0.1}),
        nodes=[dataclasses.replace(node, name=EVIL) for node in content.nodes],
        artifacts=[
            dataclasses.replace(one, node=EVIL, output=EVIL, kind=EVIL, uri=EVIL, fingerprints={"source_digest": EVIL})
            for one in content.artifacts
        ],
        data=dataclasses.replace(
            content.data,
            anomalies=[EVIL],
            splits=[dataclasses.replace(content.data.splits[0], sources=[(EVIL, 1)])],
            validation=Validation(
                documents=[DocumentStatistics(split=EVIL, documents=1, tokens=1, sources=[(EVIL, 1, 1)], source_count=1)],
                distances=[Distance(EVIL, EVIL, EVIL, 0.1, 0.2)],
                anomalies=[EVIL],
            ),
        ),
        packages={EVIL: EVIL},
    )
    page = render_page(evil)
    root = parsed(page)
    assert "<script" not in page
    assert not list(root.iter("script"))
    assert not list(root.iter("img"))
    assert page.count("&lt;script&gt;") > 20


def test_why_a_model_is_not_pushed_stands_at_the_top(content):
    reasons = ["kl_to_teacher is 0.7660, gates.max_kl_to_teacher asks for at most 0.5", "the file is damaged"]
    failed = [
        gate("max_kl_to_teacher", 0.5, 0.766, held=False, words=reasons[0]),
        gate("parity", 0.0, 1.0, slice="files", metric="parity_failures", held=False, words=reasons[1]),
    ]
    report = {**REPORT, "blessed": False, "pushed": None, "gates": [*GATES[:2], *failed]}
    rejected = dataclasses.replace(content, report=report, gates=gate_results(report["gates"]))
    header = words(parsed(render_page(rejected)).find("body/header"))
    assert header.startswith("demo")
    assert "✗ Not blessed, not pushed" in header
    assert "It fails 2 gates:" in header
    assert all(reason in header for reason in reasons)
    assert "gates.max_kl_to_teacher≤ 0.50.766✗ fails" in header
    assert "✓ Blessed" not in header


def test_what_was_not_recorded_is_told_or_left_out(bare):
    page = render_page(bare)
    root = parsed(page)
    assert "nan" not in re.sub(r"[^a-z ]", " ", words(root.find("body")).lower()).split()
    assert "None" not in words(root.find("body"))
    assert "Not recorded in this run: layer mapping, similarity of hidden states" in section(root, "layers")
    assert "No scalars were recorded" in section(root, "training")
    assert "No figures of size, speed and quality" in section(root, "tradeoff")
    assert "wrote no metrics" in section(root, "slices")
    assert "No nodes were recorded" in section(root, "nodes")
    header = words(root.find("body/header"))
    assert "Which gates it fails was not recorded." in header
    assert "What was asked of the model and what it reached was not recorded." in header
    blessed = dataclasses.replace(bare, report={**bare.report, "blessed": True})
    assert "It holds its gates; which they were was not recorded." in words(parsed(render_page(blessed)).find("body/header"))
    assert not list(root.iter("{http://www.w3.org/2000/svg}svg"))


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": Layers()},
        {"layers": Layers(mapping=[(0, 0), (5, 1)], mapping_name="kept")},
        {"layers": Layers(quantization_error={"embedding": 0.1})},
        {"data": Data()},
        {"data": Data(validation=Validation())},
        {"data": dataclasses.replace(whole_content().data, validation=None)},
        {"other_runs": []},
        {"parity": []},
        {"slices": {"overall": {"tokens": 3.0, "something_new": float("nan"), "bounds": "1 to 2"}}},
        {"curves": whole_content().curves[:1]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_part_may_be_missing(changes):
    root = parsed(render_page(whole_content(**changes)))
    assert len(list(root.iter("section"))) == 11


def test_a_fingerprint_that_is_no_digest_is_shown_as_one(content):
    files = "[('/a folder/model.weights.h5', 123, 456)]"
    artifacts = [dataclasses.replace(one, fingerprints={"teacher_fingerprint": files}) for one in content.artifacts]
    lineage = section(parsed(render_page(dataclasses.replace(content, artifacts=artifacts))), "lineage")
    assert hashlib.sha256(files.encode()).hexdigest()[:12] in lineage
    assert "[('" not in lineage


def test_what_takes_no_time_is_no_zero(content):
    nodes = [dataclasses.replace(content.nodes[1], seconds=0.04), dataclasses.replace(content.nodes[2], seconds=0.06)]
    text = section(parsed(render_page(dataclasses.replace(content, nodes=nodes))), "nodes")
    assert "under 0.1 s" in text
    assert "0.1 s" in text.replace("under 0.1 s", "")
    assert "0.0 s" not in text


def test_documents_and_prompts_are_beside_the_training_documents(content):
    root = parsed(render_page(content))
    data = section(root, "data")
    assert "training documents1,490199,209133.70.2820.12 %0.00 %" in data
    assert "serving prompts5061212.20.4010.12 %0.00 %" in data
    assert "Sources of the held-out documents: the 2 with the most tokens of 41" in data
    tables = {element.get("aria-label"): element for element in root.iter("div") if element.get("role") == "region"}
    rows = [[words(cell) for cell in row] for row in tables["Distances"].findall(".//tbody/tr")]
    assert rows == [
        ["tokens_per_characterdrift: held-out documents, Jensen-Shannon divergence", "0.1295", "0.2", "✓ within"],
        ["sourcedrift: held-out documents, infinity norm", "0.1518", "–", "not asked"],
        ["tokens_per_characterskew: serving prompts, Jensen-Shannon divergence", "0.4321", "0.3", "✗ over"],
        ["charactersskew: serving prompts, Jensen-Shannon divergence", "–", "–", "not asked"],
    ]
    assert "Anomalies of the documents" in data
    assert "tokens_per_character of serving prompts is 0.4321" in data


def test_a_run_without_a_data_validator_says_nothing_of_documents(content):
    old = dataclasses.replace(content, data=dataclasses.replace(content.data, validation=None))
    data = section(parsed(render_page(old)), "data")
    assert "DataValidator" not in data
    assert "31,725 documents were read" in data
    found = dataclasses.replace(content.data.validation, anomalies=[])
    quiet = dataclasses.replace(content, data=dataclasses.replace(content.data, validation=found))
    assert "DataValidator found no anomalies of the documents." in section(parsed(render_page(quiet)), "data")


def test_other_vocabularies_are_told(content):
    other = dataclasses.replace(content, other_runs=[other_run("other", 3.0, 10**7, 100.0, words=7812)])
    assert "different vocabularies (7,812, 12,613 words)" in section(parsed(render_page(other)), "tradeoff")

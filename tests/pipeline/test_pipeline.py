"""The pipeline's graph: what depends on which setting. Nothing is run here (tests/pipeline/test_end_to_end.py does)."""

import pytest
from ml_metadata.proto import metadata_store_pb2

from gemma_tf_distill.config import Config, config_from_dict
from tfx_pipeline import pipeline as pipeline_module
from tfx_pipeline.pipeline import create_pipeline

BASE = {
    "name": "graph",
    "corpus": {"source": "docstrings:yaml"},
    "student": {"layers": [0, 1]},
    "gates": {"max_heldout_nll": 4.0},
}
QUANTIZED = {**BASE, "quantization": {"scheme": "int4_channel"}}
EVERY = {"CorpusGen", "TeacherScorer", "Distiller", "Exporter", "Evaluator", "Pusher"}


def parameters(config: Config) -> dict[str, dict]:
    """Execution properties of every node, as its cache key sees them."""
    pipeline = create_pipeline(config, "/artifacts", metadata_store_pb2.ConnectionConfig(), "/pushed")
    return {component.id: dict(component.exec_properties) for component in pipeline.components}


def changed(change: dict) -> set[str]:
    sections = {key: {**QUANTIZED.get(key, {}), **value} if isinstance(value, dict) else value for key, value in change.items()}
    base = QUANTIZED if "quantization" in change else BASE
    before, after = parameters(config_from_dict(base)), parameters(config_from_dict({**base, **sections}))
    return {node for node in before if before[node] != after[node]}


@pytest.mark.parametrize(
    ("change", "nodes"),
    [
        ({"gates": {"max_heldout_nll": 3.0}}, ("Evaluator", "Pusher")),
        ({"gates": {"max_regression_vs_baseline": "5%"}}, ("Evaluator", "Pusher")),
        ({"gates": {"slices": []}}, ("Evaluator", "Pusher")),
        ({"training": {"learning_rate": 0.1}}, ("Distiller", "Pusher")),
        ({"student": {"layers": [0, 2]}}, ("Distiller", "Pusher")),
        ({"distillation": {"alpha": 0.9}}, ("Distiller", "Pusher")),
        ({"attention": {"use_flash_attention": True}}, ("TeacherScorer", "Distiller", "Pusher")),
        ({"xla": {"jit_scope": "none"}}, ("Distiller", "Pusher")),
        ({"xla": {"cache_dir": "compiled"}}, ("Pusher",)),
        ({"export": {"max_new_tokens": 7}}, ("Exporter", "Pusher")),
        ({"teacher": {"batch_size": 3}}, ("TeacherScorer", "Pusher")),
        ({"data_validation": {"drift_comparator": {"infinity_norm": 0.1}}}, ("DataValidator", "Pusher")),
        # Never the Distiller, whose student is in float.
        ({"quantization": {"epochs": 2.0}}, ("Quantizer", "Pusher")),
        ({"quantization": {"scheme": "int8_channel"}}, ("Quantizer", "Exporter", "Pusher")),
    ],
    ids=str,
)
def test_a_setting_reaches_only_the_nodes_that_depend_on_it(change, nodes):
    # What is downstream of a changed node runs again because its inputs are new.
    assert changed(change) == set(nodes)


def test_the_corpus_reaches_everything_that_reads_windows():
    assert changed({"corpus": {"window": 64}}) >= {"CorpusGen", "TeacherScorer", "Distiller", "Exporter"}


@pytest.mark.parametrize(
    ("module", "node"),
    [
        ("components.corpus_gen.component", "CorpusGen"),
        ("components.data_validation.component", "DataValidator"),
        ("components.teacher_scorer.component", "TeacherScorer"),
        ("components.distiller.component", "Distiller"),
        ("components.quantizer.component", "Quantizer"),
        ("components.exporter.component", "Exporter"),
        ("components.quality_gate.component", "Evaluator"),
        ("components.pusher.component", "Pusher"),
    ],
)
def test_changed_code_reaches_its_node(monkeypatch, module, node):
    config = config_from_dict(QUANTIZED)
    before = parameters(config)
    digest = pipeline_module.source_digest
    monkeypatch.setattr(pipeline_module, "source_digest", lambda name: digest(name)[::-1] if name == module else digest(name))
    after = parameters(config)
    assert {name for name in before if before[name] != after[name]} == {node}


def test_the_evaluator_judges_the_exported_model_and_the_pusher_waits_for_it():
    pipeline = create_pipeline(config_from_dict(BASE), "/artifacts", metadata_store_pb2.ConnectionConfig(), "/pushed")
    nodes = {component.id: component for component in pipeline.components}
    assert set(nodes) == EVERY | {"StatisticsGen", "SchemaGen", "ExampleValidator", "DataValidator", "Baseline"}
    upstream = {name: {node.id for node in component.upstream_nodes} for name, component in nodes.items()}
    assert upstream["Evaluator"] == {"Exporter", "TeacherScorer", "Baseline"}
    assert {"Evaluator", "Exporter"} <= upstream["Pusher"]
    assert nodes["Evaluator"].inputs["model"] is nodes["Exporter"].outputs["model"]
    assert nodes["Pusher"].inputs["model"] is nodes["Exporter"].outputs["model"]
    assert pipeline.enable_cache
    # Beam's DirectRunner would look for another runner on the network first.
    assert "--runner=FnApiRunner" in pipeline.beam_pipeline_args


def test_a_refused_corpus_is_not_scored():
    pipeline = create_pipeline(config_from_dict(BASE), "/artifacts", metadata_store_pb2.ConnectionConfig(), "/pushed")
    nodes = {component.id: component for component in pipeline.components}
    assert nodes["DataValidator"] in nodes["TeacherScorer"].upstream_nodes
    order = [component.id for component in pipeline.components]
    assert order.index("DataValidator") < order.index("TeacherScorer")


def test_changed_prompts_are_compared_again(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Returns the\n")
    config = config_from_dict({**BASE, "data_validation": {"serving_prompts": str(prompts)}})
    before = parameters(config)
    prompts.write_text("Returns the mean\n")
    after = parameters(config)
    assert {name for name in before if before[name] != after[name]} == {"DataValidator"}


def test_a_scheme_puts_its_training_between_distiller_and_exporter():
    pipeline = create_pipeline(config_from_dict(QUANTIZED), "/artifacts", metadata_store_pb2.ConnectionConfig(), "/pushed")
    nodes = {component.id: component for component in pipeline.components}
    student = nodes["Quantizer"].outputs["quantized_student"]
    assert nodes["Quantizer"].inputs["student"] is nodes["Distiller"].outputs["student"]
    assert nodes["Exporter"].inputs["student"] is student
    assert nodes["Pusher"].inputs["student"] is student

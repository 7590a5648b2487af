"""The whole pipeline: from text to files that run, pushed only if they are good enough.

CorpusGen → StatisticsGen → SchemaGen → ExampleValidator
    └─────→ DataValidator → TeacherScorer → Distiller (→ Quantizer) → Exporter → Baseline → Evaluator (, InfraValidator) → Pusher
"""

from collections.abc import Sequence

from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.components import ExampleValidator, SchemaGen, StatisticsGen
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts

from components.corpus_gen.component import CorpusGen, corpus_gen_config
from components.data_validation.component import DataValidator, data_validator_config
from components.digest import source_digest
from components.distiller.component import Distiller
from components.distiller.settings import distiller_config
from components.exporter.component import Exporter, exporter_config
from components.pusher.component import Pusher
from components.quality_gate.baseline import LatestOtherBlessedModelStrategy
from components.quality_gate.component import Evaluator, evaluator_config
from components.quality_gate.eval_config import SPLIT
from components.quantizer.component import Quantizer, quantizer_config
from components.teacher_scorer.component import TeacherScorer, teacher_scorer_config
from gemma_tf_distill.config import Config
from gemma_tf_distill.data.fingerprint import corpus_fingerprint
from gemma_tf_distill.data.serving_prompts import prompts_fingerprint
from gemma_tf_distill.gemma.teacher import teacher_fingerprint
from tfx_pipeline.infra_validation import infra_validator
from tfx_pipeline.stops import nodes_until

# Beam's DirectRunner would first try to download the Prism runner; this is what it falls back to.
BEAM_ARGUMENTS = ("--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1")


def create_pipeline(
    config: Config,
    pipeline_root: str,
    metadata_connection_config: metadata_store_pb2.ConnectionConfig | None,
    push_directory: str,
    beam_pipeline_args: Sequence[str] = BEAM_ARGUMENTS,
    until: str | None = None,
) -> Pipeline:
    """Builds the pipeline of a config. Every node is cached: it runs again when its inputs, its settings or its code changed.

    Args:
      config: the experiment. Each component gets only the settings that it depends on, so that changing a gate, for example, runs
        only Evaluator and Pusher again.
      pipeline_root: where artifacts are kept, local or `gs://`.
      metadata_connection_config: ML Metadata's database; none on Vertex AI, which has its own.
      push_directory: parent of the pushed versions, local or `gs://`.
      beam_pipeline_args: where and how Beam runs CorpusGen, StatisticsGen, TeacherScorer and Evaluator.
      until: id of the last component, of those in `stops.STOPS`; none: all of them.

    Raises:
      CorpusError: if a source of the corpus, or the file of serving prompts, is missing.
    """
    fingerprints = {
        "corpus_fingerprint": corpus_fingerprint(config.corpus),
        "teacher_fingerprint": teacher_fingerprint(config.teacher.source),
    }
    corpus_gen = CorpusGen(
        config=corpus_gen_config(config),
        **fingerprints,
        source_digest=source_digest("components.corpus_gen.component"),
    )
    windows, tokenizer = corpus_gen.outputs["examples"], corpus_gen.outputs["tokenizer"]

    # The schema is that of the training split; what the held-out split has beyond it is an anomaly.
    statistics_gen = StatisticsGen(examples=windows)
    schema_gen = SchemaGen(statistics=statistics_gen.outputs["statistics"], infer_feature_shape=True, exclude_splits=[SPLIT])
    example_validator = ExampleValidator(statistics=statistics_gen.outputs["statistics"], schema=schema_gen.outputs["schema"])

    data_validator = DataValidator(
        examples=windows,
        tokenizer=tokenizer,
        config=data_validator_config(config),
        prompts_fingerprint=prompts_fingerprint(config.data_validation.serving_prompts),
        source_digest=source_digest("components.data_validation.component"),
    )
    teacher_scorer = TeacherScorer(
        examples=windows,
        tokenizer=tokenizer,
        config=teacher_scorer_config(config, **fingerprints),
        source_digest=source_digest("components.teacher_scorer.component"),
    )
    # It reads nothing of the validation, but scoring takes hours, and a corpus that is refused is not worth them.
    teacher_scorer.add_upstream_node(data_validator)
    scored = teacher_scorer.outputs["scored_examples"]
    distiller = Distiller(
        examples=scored,
        tokenizer=tokenizer,
        config=distiller_config(config, **fingerprints),
        source_digest=source_digest("components.distiller.component"),
    )
    student, quantizers = distiller.outputs["student"], []
    if config.quantization.scheme:
        quantizer = Quantizer(
            student=student,
            examples=scored,
            tokenizer=tokenizer,
            config=quantizer_config(config, **fingerprints),
            source_digest=source_digest("components.quantizer.component"),
        )
        student, quantizers = quantizer.outputs["quantized_student"], [quantizer]
    exporter = Exporter(
        student=student,
        examples=scored,
        config=exporter_config(config),
        source_digest=source_digest("components.exporter.component"),
    )
    candidate = exporter.outputs["model"]

    blessed = {
        "model": types.Channel(type=standard_artifacts.Model),
        "model_blessing": types.Channel(type=standard_artifacts.ModelBlessing),
    }
    if metadata_connection_config is None:  # Vertex AI resolves artifacts itself, by TFX's own strategies only.
        baseline = Resolver(LatestBlessedModelStrategy, **blessed).with_id("Baseline")
    else:
        baseline = Resolver(LatestOtherBlessedModelStrategy, **blessed, candidate=candidate).with_id("Baseline")
    evaluator = Evaluator(
        examples=scored,
        model=candidate,
        baseline_model=baseline.outputs["model"],
        config=evaluator_config(config),
        source_digest=source_digest("components.quality_gate.component"),
    )
    judges = [evaluator]
    infra_blessing = None
    if config.infra_validation:
        served = infra_validator(candidate, scored, config.infra_validation, SPLIT)
        judges.append(served)
        infra_blessing = served.outputs["blessing"]
    pusher = Pusher(
        model=candidate,
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=infra_blessing,
        model_evaluation=evaluator.outputs["evaluation"],
        student=student,
        tokenizer=tokenizer,
        examples=scored,
        push_directory=push_directory,
        config=config.to_json(),
        source_digest=source_digest("components.pusher.component"),
    )
    components = [
        corpus_gen,
        statistics_gen,
        schema_gen,
        example_validator,
        data_validator,
        teacher_scorer,
        distiller,
        *quantizers,
        exporter,
        baseline,
        *judges,
        pusher,
    ]
    if until is not None:
        kept = nodes_until([component.id for component in components], until)
        components = [component for component in components if component.id in kept]
    return Pipeline(
        pipeline_name=config.name,
        pipeline_root=pipeline_root,
        metadata_connection_config=metadata_connection_config,
        components=components,
        enable_cache=True,
        beam_pipeline_args=list(beam_pipeline_args),
    )

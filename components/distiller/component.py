"""Distiller: scored windows in, a trained student out, and beside it a control that had no teacher."""

import json

from tfx import v1 as tfx
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.types import standard_artifacts

from components.artifacts import Student, Tokenizer
from components.distiller.distil import distil
from components.teacher_scorer.address import target_address
from gemma_tf_distill.config import Config


def distiller_config(config: Config, corpus_fingerprint: str, teacher_fingerprint: str) -> str:
    """What training depends on, as the component's `config`; arguments as of `teacher_scorer_config`."""
    sections = json.loads(config.to_json("student", "attention", "distillation", "training", "xla"))
    sections["student"].pop("vocabulary")
    # Where compiled programs are kept changes nothing about them.
    sections["xla"].pop("cache_dir")
    teacher = {
        "teacher": config.teacher.source,
        "teacher_dtype": config.teacher.dtype,
        "address": target_address(config, corpus_fingerprint, teacher_fingerprint),
    }
    return json.dumps({**sections, **teacher, "seed": config.seed, "window": config.corpus.window}, sort_keys=True)


@tfx.dsl.components.component
def Distiller(
    examples: InputArtifact[standard_artifacts.Examples],
    tokenizer: InputArtifact[Tokenizer],
    student: OutputArtifact[Student],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    config: Parameter[str],
    source_digest: Parameter[str],
) -> None:
    """Trains the student in float, and the control where the config asks for one.

    Args:
      examples: windows with the teacher's targets, as TeacherScorer writes them.
      tokenizer: the student's vocabulary.
      student: `student/` and `control/` (folders of `Gemma.save`) and `metrics.json`.
      model_run: TensorBoard event files of all runs.
      config: `distiller_config`.
      source_digest: of this component's code, so that changed code is run again.

    Raises:
      ConfigError: if the layers do not fit the teacher.
      DivergenceError: if the loss is not finite.
      TargetsError: if the targets are damaged, or of something else than the config says.
    """
    distil(
        examples_uri=examples.uri,
        tokenizer_uri=tokenizer.uri,
        student_uri=student.uri,
        tensorboard_uri=model_run.uri,
        config=config,
        source_digest=source_digest,
    )

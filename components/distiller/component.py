"""Distiller: scored windows in, a trained student out, and beside it a control that had no teacher."""

from tfx import v1 as tfx
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.types import standard_artifacts

from components.artifacts import Student, Tokenizer
from components.distiller.distil import distil
from components.properties import set_training_figures


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
      student: `student/` and `control/` (folders of `Gemma.save`) and `metrics.json`, whose figures of the student are its properties.
      model_run: TensorBoard event files of all runs.
      config: of `settings.distiller_config`.
      source_digest: of this component's code, so that changed code is run again.

    Raises:
      ConfigError: if the layers do not fit the teacher.
      DivergenceError: if the loss is not finite.
      TargetsError: if the targets are damaged, or of something else than the config says.
    """
    figures = distil(
        examples_uri=examples.uri,
        tokenizer_uri=tokenizer.uri,
        student_uri=student.uri,
        tensorboard_uri=model_run.uri,
        config=config,
        source_digest=source_digest,
    )
    set_training_figures(student, figures)

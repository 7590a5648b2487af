"""Quantizer: a float student in, the same student in the numbers of a runtime out."""

import json

from tfx import v1 as tfx
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.types import standard_artifacts

from components.artifacts import Student, Tokenizer
from components.distiller.settings import distiller_config
from components.properties import set_training_figures
from components.quantizer.quantize import quantize
from gemma_tf_distill.config import Config


def quantizer_config(config: Config, corpus_fingerprint: str, teacher_fingerprint: str) -> str:
    """What the training for a scheme depends on, as the component's `config`; arguments as of `distiller_config`."""
    settings = json.loads(distiller_config(config, corpus_fingerprint, teacher_fingerprint))
    return json.dumps({**settings, **json.loads(config.to_json("quantization"))}, sort_keys=True)


@tfx.dsl.components.component
def Quantizer(
    student: InputArtifact[Student],
    examples: InputArtifact[standard_artifacts.Examples],
    tokenizer: InputArtifact[Tokenizer],
    quantized_student: OutputArtifact[Student],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    config: Parameter[str],
    source_digest: Parameter[str],
) -> None:
    """Trains a student for the numbers that it will be stored and run in. A node of its own: the next scheme needs no new distillation.

    Args:
      student: in float, as Distiller writes it.
      examples: the windows that it was trained on, with the teacher's targets.
      tokenizer: the student's vocabulary.
      quantized_student: `student/` (a folder of `Gemma.save`), whose matrices lie on their lattices, and `metrics.json`: the Distiller's,
        with the held-out figures of what the student will run as; `heldout_nll_float` is from before, and `heldout_nll_ptq` that of the
        same student rounded without training, `quantization_error` what that does to each matrix (`rounding_errors`).
      model_run: TensorBoard event files.
      config: `quantizer_config`.
      source_digest: of this component's code, so that changed code is run again.

    Raises:
      ConfigError: if the scheme does not fit the student.
      DivergenceError: if the loss is not finite.
      TargetsError: if the targets are damaged, or of something else than the config says.
    """
    figures = quantize(
        student_uri=student.uri,
        examples_uri=examples.uri,
        tokenizer_uri=tokenizer.uri,
        quantized_uri=quantized_student.uri,
        tensorboard_uri=model_run.uri,
        config=config,
        source_digest=source_digest,
    )
    set_training_figures(quantized_student, figures)

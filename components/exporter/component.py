"""Exporter: a trained student in, the files that leave the pipeline out, each proven in its own runtime."""

import dataclasses
import json

from tfx import v1 as tfx
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.types import standard_artifacts

from components.artifacts import Student
from components.exporter.export import export
from gemma_tf_distill.config import Config


def exporter_config(config: Config) -> str:
    """What the files depend on, as the component's `config`."""
    return json.dumps(
        {
            "teacher": {"source": config.teacher.source, "dtype": config.teacher.dtype},
            "window": config.corpus.window,
            "top_k": config.distillation.top_k,
            "export": dataclasses.asdict(config.export),
            "quantization": config.quantization.numbers,
        },
        sort_keys=True,
    )


@tfx.dsl.components.component
def Exporter(
    student: InputArtifact[Student],
    examples: InputArtifact[standard_artifacts.Examples],
    model: OutputArtifact[standard_artifacts.Model],
    config: Parameter[str],
    source_digest: Parameter[str],
) -> None:
    """Exports the student.

    Args:
      student: as Distiller or Quantizer writes it.
      examples: windows, of whose held-out ones some are what each file is compared with the student on.
      model: `Format-Serving/`, the SavedModel that the Evaluator judges, one byte a weight where the student has a scheme; `files/`,
        with `tokenizer.model` and, if asked for, `model.tflite` and `model.litertlm`, in the integers of that scheme, and `hugging_face/`;
        `export.json`: `samples` (`prompt`, `teacher`, `student`), `seconds` (and of them `export_seconds` and `parity_seconds`),
        `formats`, `layer_similarity` (`hidden_states` and `attention_maps`, [student layers][teacher layers] each; null without
        prompts, when there is no teacher), `quantization` (`scheme` and `overrides`, or null) and `parity` (as
        `ParityReport.to_dict`).
      config: `exporter_config`.
      source_digest: of this component's code, so that changed code is run again.

    Raises:
      ParityError: if a file, in its own runtime, does not predict what the student predicts, or does not hold its numbers.
      ConfigError: if the student is too large for a `.tflite`, or in numbers that one can't hold.
      WeightsError: if the student's weights are not finite, or the teacher, which writes samples, can't be loaded.
    """
    del source_digest
    export(student.uri, examples.uri, model.uri, config)

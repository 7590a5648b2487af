"""The Evaluator as the pipeline runs it, in a folder of its own."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import pytest
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_artifacts

from components.quality_gate.eval_config import SPLIT
from components.quality_gate.executor import Executor
from components.quality_gate.results import GateResult, read_gates
from gemma_tf_distill.config import GatesConfig
from gemma_tf_distill.gemma.tokenizer import Tokenizer

FILES = {"saved_model": {"bytes": 4_000_000, "speed": 50.0}, "tflite": {"bytes": 1_000_000, "speed": 20.0}}


class Judge:
    """Runs the Evaluator's executor, and reads back what it wrote.

    Attributes:
      outputs: the artifacts of the latest run, `evaluation` and `blessing`.
    """

    def __init__(self, folder: pathlib.Path, tokenizer: Tokenizer):
        self.folder, self.tokenizer = folder, tokenizer
        self.runs = 0
        self.outputs: dict[str, types.Artifact] = {}

    def artifact(self, name: str, tokenizer: Tokenizer | None = None, files: dict | None = FILES, failures: Sequence[str] = ()):
        """A Model artifact, whose SavedModel goes to its `Format-Serving`, with an `export.json` of `files`."""
        model = standard_artifacts.Model()
        model.uri = str(self.folder / name)
        (self.folder / name / "files").mkdir(parents=True, exist_ok=True)
        (self.folder / name / "files" / "tokenizer.model").write_bytes((tokenizer or self.tokenizer).proto)
        if files is not None:
            measured = [
                {
                    "format": format,
                    "bytes": file["bytes"],
                    "decode_tokens_per_second": file["speed"],
                    "completions": file.get("completions", {"Returns": "the mean of the values"}),
                    "failures": list(failures),
                }
                for format, file in files.items()
            ]
            for format, file in files.items():
                if format == "tflite":
                    with open(self.folder / name / "files" / "model.tflite", "wb") as content:
                        content.truncate(file["bytes"])
            report = {"parity": {"files": measured}, "samples": [{"prompt": "Returns", "teacher": "the mean", "student": "the mean"}]}
            (self.folder / name / "export.json").write_text(json.dumps(report))
        return model

    def examples(self, windows: Sequence[bytes]) -> standard_artifacts.Examples:
        import tensorflow as tf

        artifact = standard_artifacts.Examples()
        artifact.uri = str(self.folder / f"examples-{self.runs}")
        artifact.split_names = artifact_utils.encode_split_names([SPLIT])
        split = pathlib.Path(artifact.uri) / f"Split-{SPLIT}"
        split.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(split / "data-00000-of-00001.gz"), "GZIP") as writer:
            for window in windows:
                writer.write(window)
        return artifact

    def __call__(self, gates: GatesConfig, windows: Sequence[bytes], model, baseline=None) -> tuple[bool, str, dict[str, GateResult]]:
        """Whether the model is blessed, where its evaluation is, and the gates that did not hold, by `gate` and slice."""
        self.runs += 1
        evaluation, blessing = standard_artifacts.ModelEvaluation(), standard_artifacts.ModelBlessing()
        evaluation.uri = str(self.folder / f"evaluation-{self.runs}")
        blessing.uri = str(self.folder / f"blessing-{self.runs}")
        self.outputs = {"evaluation": evaluation, "blessing": blessing}
        Executor(base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=["--direct_running_mode=in_memory"])).Do(
            {"examples": [self.examples(windows)], "model": [model]} | ({"baseline_model": [baseline]} if baseline else {}),
            {"evaluation": [evaluation], "blessing": [blessing]},
            {"config": json.dumps({"gates": dataclasses.asdict(gates)}), "source_digest": "abc"},
        )
        blessed = blessing.get_int_custom_property("blessed") == 1
        files = {path.name for path in pathlib.Path(blessing.uri).iterdir()}
        assert files == {"BLESSED" if blessed else "NOT_BLESSED"}
        results = read_gates(evaluation.uri)
        assert blessed == all(result.held for result in results)
        return blessed, evaluation.uri, {f"{result.gate} {result.slice}": result for result in results if not result.held}


@pytest.fixture
def judge(tmp_path: pathlib.Path, tiny_tokenizer: Tokenizer) -> Judge:
    return Judge(tmp_path, tiny_tokenizer)

"""What the gate looks at of exported files: what their own runtimes came to, as the Exporter wrote it down."""

import dataclasses
import os

import tensorflow as tf

from components.artifact_files import EXPORT_REPORT, FILES_FOLDER, read_json
from gemma_tf_distill.export.files import total_bytes
from gemma_tf_distill.export.names import HUGGING_FACE_FOLDER, LITERT_LM_FILE, TFLITE_FILE, TOKENIZER_FILE
from gemma_tf_distill.export.repetition import repetition_rate
from gemma_tf_distill.gemma.tokenizer import Tokenizer

TEACHER = "teacher"

_PLACES = {"tflite": TFLITE_FILE, "litertlm": LITERT_LM_FILE, "hugging_face": HUGGING_FACE_FOLDER}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """Exported files in their own runtimes.

    Attributes:
      figures: by format: `bytes`, `decode_tokens_per_second` and `repetition_rate` of its greedy completions; none where a runtime
        does not tell. Under `teacher` the repetition rate of the teacher's completions of the same prompts.
      failures: in what files are not what the student is, or no longer are, a sentence each; none where that was not measured.
    """

    figures: dict[str, dict[str, float | None]]
    failures: list[str] | None


def read_exported(model_uri: str) -> Exported:
    """Reads `export.json` of an exported model; a model without one has no figures, and nothing is known of its parity."""
    path = os.path.join(model_uri, EXPORT_REPORT)
    if not tf.io.gfile.exists(path):
        return Exported(figures={}, failures=None)
    report = read_json(path)
    tokenizer = Tokenizer(_read(os.path.join(model_uri, FILES_FOLDER, TOKENIZER_FILE)))

    def repetition(texts: list[str]) -> float | None:
        return repetition_rate(tokenizer.encode_batch(texts))

    figures = {
        file["format"]: {
            "bytes": file["bytes"],
            "decode_tokens_per_second": file["decode_tokens_per_second"],
            "repetition_rate": repetition(list(file["completions"].values())),
        }
        for file in report["parity"]["files"]
    }
    figures[TEACHER] = {"repetition_rate": repetition([sample["teacher"] for sample in report["samples"]])}
    files = report["parity"]["files"]
    failures = [failure for file in files for failure in (*file["failures"], *_changed(model_uri, file["format"], file["bytes"]))]
    return Exported(figures=figures, failures=failures)


def _changed(model_uri: str, format: str, measured: int) -> list[str]:
    """Says where a file is no longer as long as when its runtime ran it. A SavedModel is loaded anyway, to be evaluated."""
    if format not in _PLACES:
        return []
    path = os.path.join(model_uri, FILES_FOLDER, _PLACES[format])
    size = total_bytes(path) if tf.io.gfile.exists(path) else 0
    if size == measured:
        return []
    return [f"{_PLACES[format]} has {size:,} bytes, and had {measured:,} when its runtime ran it: export the model again"]


def _read(path: str) -> bytes:
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()

"""All files of an export, one after another."""

import gc
import os
from collections.abc import Callable, Mapping

from gemma_tf_distill.config import ExportConfig, QuantizationConfig
from gemma_tf_distill.export.files import write_bytes
from gemma_tf_distill.export.hugging_face import export_hugging_face
from gemma_tf_distill.export.litert import export_litert
from gemma_tf_distill.export.litert_lm import export_litert_lm
from gemma_tf_distill.export.names import HUGGING_FACE_FOLDER, LITERT_LM_FILE, SAVED_MODEL_FOLDER, TFLITE_FILE, TOKENIZER_FILE
from gemma_tf_distill.export.saved_model import export_saved_model
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.monitoring.progress import doing

# Where each format lies in a version's folder.
PLACES = {
    "saved_model": SAVED_MODEL_FOLDER,
    "tflite": TFLITE_FILE,
    "litertlm": LITERT_LM_FILE,
    "hugging_face": HUGGING_FACE_FOLDER,
}


def export_files(
    student: Gemma,
    folder: str,
    options: ExportConfig,
    *,
    prompt_template: str,
    window: int,
    top_k: int,
    quantization: QuantizationConfig | None = None,
    places: Mapping[str, str] = PLACES,
) -> dict[str, str]:
    """Writes a student in every format that is asked for, and its tokenizer; each file appears whole or not at all.

    Args:
      student: the model; to be quantised it lies on its lattices.
      folder: where the files go.
      options: formats, context length, prefill lengths, new tokens.
      prompt_template: how conversations are written, a key of `PROMPT_TEMPLATES`.
      window: tokens in the windows that the SavedModel evaluates.
      top_k: teacher words a token in those windows.
      quantization: with a scheme; none: all is float32.
      places: where each format goes in the folder.

    Returns:
      The paths by format.

    Raises:
      ConfigError: if the student is too large for a `.tflite`, or in numbers that one can't hold.
      MissingExtraError: if a package that a format needs is not installed.
      WeightsError: as of each format.
    """
    # In this order, since a `.litertlm` is made of the `.tflite`.
    paths = {format: os.path.join(folder, places[format]) for format in PLACES if format in options.formats}
    tflite = os.path.join(folder, places["tflite"])
    write_bytes(os.path.join(os.path.dirname(tflite), TOKENIZER_FILE), student.tokenizer.proto)
    writers: dict[str, Callable[[str], None]] = {
        "saved_model": lambda path: export_saved_model(
            student,
            path,
            context_length=options.context_length,
            max_new_tokens=options.max_new_tokens,
            window=window,
            top_k=top_k,
            quantization=quantization,
        ),
        "tflite": lambda path: export_litert(
            student, path, context_length=options.context_length, prefill_lengths=options.prefill_lengths, quantization=quantization
        ),
        "litertlm": lambda path: export_litert_lm(
            tflite, student.tokenizer, path, context_length=options.context_length, prompt_template=prompt_template
        ),
        "hugging_face": lambda path: export_hugging_face(student, path, prompt_template=prompt_template),
    }
    for number, (format, path) in enumerate(paths.items(), start=1):
        doing(f"writing {format}, format {number} of {len(paths)}")
        writers[format](path)
        # Graphs and Keras models go in circles: without this their weights stay while the next format makes its own.
        gc.collect()
    return paths

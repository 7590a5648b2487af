"""What the Exporter does, without TFX."""

import dataclasses
import gc
import json
import os
import tempfile
import time
from typing import Any

import numpy as np
import tensorflow as tf

from components.artifact_files import EXPORT_REPORT, FILES_FOLDER
from gemma_tf_distill.config import ExportConfig, QuantizationConfig, section_from_json
from gemma_tf_distill.data.batches import split_files
from gemma_tf_distill.data.examples import model_inputs
from gemma_tf_distill.data.first_windows import first_windows
from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.export.bundle import PLACES, export_files
from gemma_tf_distill.export.files import copy_tree, write_bytes
from gemma_tf_distill.export.parity.measure import measure_parity
from gemma_tf_distill.export.parity.report import ParityError, ParityReport
from gemma_tf_distill.export.prompt_templates import default_prompt_template
from gemma_tf_distill.export.samples import sample_completions
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.storage import is_remote
from gemma_tf_distill.gemma.teacher import load_teacher, load_tokenizer
from gemma_tf_distill.gemma.vocabulary import Vocabulary
from gemma_tf_distill.monitoring.progress import doing
from gemma_tf_distill.transfer.attention_maps import attention_similarity
from gemma_tf_distill.transfer.feature_similarity import feature_similarity

# TFX's name for the folder of a Model artifact that is served and evaluated.
SERVING_FOLDER = "Format-Serving"
# Attention maps of all layers are held at once.
_SIMILARITY_WINDOWS, _SIMILARITY_TOKENS = 4, 128
_PLACES = {format: os.path.join(FILES_FOLDER, place) for format, place in PLACES.items()} | {"saved_model": SERVING_FOLDER}


def export(student_uri: str, examples_uri: str, model_uri: str, config: str) -> None:
    """Exports a student and checks every file in its own runtime; see `components.exporter.component.Exporter`."""
    if not is_remote(model_uri):
        _export(student_uri, examples_uri, model_uri, config)
        return
    # Runtimes read local files only.
    with tempfile.TemporaryDirectory() as folder:
        _export(student_uri, examples_uri, folder, config)
        copy_tree(folder, model_uri)


def _export(student_uri: str, examples_uri: str, folder: str, config: str) -> None:
    settings = json.loads(config)
    options: ExportConfig = section_from_json(ExportConfig, config, "export")
    section: QuantizationConfig = section_from_json(QuantizationConfig, config, "quantization")
    quantization = section if section.scheme else None
    began = time.monotonic()
    doing("loading the student")
    student = Gemma.load(os.path.join(student_uri, "student"))
    _check_numbers(student)
    paths = export_files(
        student,
        folder,
        options,
        prompt_template=options.prompt_template or default_prompt_template(settings["teacher"]["source"]),
        window=settings["window"],
        top_k=settings["top_k"],
        quantization=quantization,
        places=_PLACES,
    )
    written = time.monotonic()
    windows = first_windows(split_files(examples_uri, "heldout"), settings["window"], options.parity_tokens)[:, : options.context_length]
    parity = measure_parity(
        paths,
        student,
        windows,
        quantization=quantization,
        prompts=options.prompts,
        max_new_tokens=options.max_new_tokens,
    )
    if not parity.passed:
        raise ParityError("; ".join(parity.failures))
    compared, samples, similarity = time.monotonic(), [], None
    if options.prompts:
        doing("the student's sample completions")
        own = dict(zip(options.prompts, sample_completions(student, options.prompts, options.max_new_tokens), strict=True))
        teacher = _teacher(settings["teacher"]["source"], settings["teacher"]["dtype"], student)
        gc.collect()
        doing("comparing the layers of teacher and student")
        similarity = _layer_similarity(teacher, student, windows)
        doing("the teacher's sample completions")
        theirs = sample_completions(teacher, options.prompts, options.max_new_tokens)
        samples = [
            {"prompt": prompt, "teacher": text, "student": own[prompt]} for prompt, text in zip(options.prompts, theirs, strict=True)
        ]
    report = {
        "samples": samples,
        "seconds": round(time.monotonic() - began, 1),
        "export_seconds": round(written - began, 1),
        "parity_seconds": round(compared - written, 1),
        "formats": list(options.formats),
        "layer_similarity": similarity,
        "quantization": settings["quantization"] if quantization else None,
        "parity": _as_pushed(parity),
    }
    write_bytes(os.path.join(folder, EXPORT_REPORT), (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())


def _check_numbers(student: Gemma) -> None:
    """Raises WeightsError for weights that are no numbers: the files would hold them faithfully, and compute nothing."""
    for variable in student.backbone.weights:
        values = variable.numpy()
        wrong = int(np.count_nonzero(~np.isfinite(values)))
        if wrong:
            raise WeightsError(
                f"the student can't be exported: {wrong:,} of the {values.size:,} numbers of {variable.path} are not finite; train it "
                "again, with a lower training.learning_rate or another training.divergence"
            )


def _layer_similarity(teacher: Gemma, student: Gemma, windows: np.ndarray) -> dict[str, list[list[float]]]:
    """How alike the two are between their layers, on a little text."""
    inputs = model_inputs(tf.constant(windows[:_SIMILARITY_WINDOWS, : _SIMILARITY_TOKENS + 1]))
    measures = {"hidden_states": feature_similarity, "attention_maps": attention_similarity}
    return {
        name: np.round(measure(teacher.backbone, student.backbone, inputs).astype(float), 4).tolist() for name, measure in measures.items()
    }


def _as_pushed(parity: ParityReport) -> dict[str, Any]:
    """With the places that the files get in a pushed version; where they were compared may be gone by then."""
    return ParityReport(tuple(dataclasses.replace(file, path=PLACES[file.format]) for file in parity.files)).to_dict()


def _teacher(source: str, dtype: str, student: Gemma) -> Gemma:
    """The teacher with the student's words only, as it scored the corpus."""
    theirs = load_tokenizer(source)
    kept = [theirs.id_of(student.tokenizer.piece(index)) for index in range(student.tokenizer.vocabulary_size)]
    return load_teacher(source, dtype, Vocabulary(np.array(kept, np.int32), student.tokenizer.proto))

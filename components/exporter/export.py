"""What the Exporter does, without TFX."""

import gc
import json
import os
import time

import numpy as np

from gemma_tf_distill.config import ExportConfig, QuantizationConfig, section_from_json
from gemma_tf_distill.export.files import write_bytes
from gemma_tf_distill.export.litert import export_litert
from gemma_tf_distill.export.litert_lm import default_prompt_template, export_litert_lm
from gemma_tf_distill.export.names import LITERT_LM_FILE, TFLITE_FILE, TOKENIZER_FILE
from gemma_tf_distill.export.samples import sample_completions
from gemma_tf_distill.export.saved_model import export_saved_model
from gemma_tf_distill.export.verification import verify_litert, verify_litert_lm, verify_litert_weights, verify_saved_model
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.teacher import load_teacher, load_tokenizer
from gemma_tf_distill.gemma.vocabulary import Vocabulary
from gemma_tf_distill.monitoring.progress import progress

# TFX's name for the folder of a Model artifact that is served and evaluated.
SERVING_FOLDER = "Format-Serving"
FILES_FOLDER = "files"
REPORT = "export.json"


def export(student_uri: str, model_uri: str, config: str) -> None:
    """Exports a student and checks every file in its own runtime; see `components.exporter.component.Exporter`."""
    settings = json.loads(config)
    options: ExportConfig = section_from_json(ExportConfig, config, "export")
    section: QuantizationConfig = section_from_json(QuantizationConfig, config, "quantization")
    quantization = section if section.scheme else None
    steps = 2 * len(options.formats) + bool(options.prompts)
    done, began = 0, time.monotonic()

    def step() -> None:
        nonlocal done
        done += 1
        # Graphs and Keras models go in circles: without this their weights stay while the next step makes its own.
        gc.collect()
        progress("export", done, steps, unit="steps")

    progress("export", 0, steps, unit="steps")
    student = Gemma.load(os.path.join(student_uri, "student"))
    serving, files = os.path.join(model_uri, SERVING_FOLDER), os.path.join(model_uri, FILES_FOLDER)
    write_bytes(os.path.join(files, TOKENIZER_FILE), student.tokenizer.proto)
    export_saved_model(
        student,
        serving,
        context_length=options.context_length,
        max_new_tokens=options.max_new_tokens,
        window=settings["window"],
        top_k=settings["top_k"],
        quantization=quantization,
    )
    step()
    completions = verify_saved_model(serving, student, options.prompts, options.max_new_tokens)
    step()
    tflite = os.path.join(files, TFLITE_FILE)
    if "tflite" in options.formats:
        export_litert(
            student,
            tflite,
            context_length=options.context_length,
            prefill_lengths=options.prefill_lengths,
            quantization=quantization,
        )
        step()
        if quantization is not None:
            verify_litert_weights(tflite, student, quantization)
        verify_litert(tflite, student, [completion.window for completion in completions], quantization)
        step()
    if "litertlm" in options.formats:
        bundle = os.path.join(files, LITERT_LM_FILE)
        export_litert_lm(
            tflite,
            student.tokenizer,
            bundle,
            context_length=options.context_length,
            prompt_template=options.prompt_template or default_prompt_template(settings["teacher"]["source"]),
        )
        step()
        verify_litert_lm(bundle, tflite, student, options.prompts, options.max_new_tokens, quantization)
        step()
    samples = []
    if options.prompts:
        teacher = _teacher(settings["teacher"]["source"], settings["teacher"]["dtype"], student)
        gc.collect()
        theirs = sample_completions(teacher, options.prompts, options.max_new_tokens)
        samples = [
            {"prompt": prompt, "teacher": text, "student": completion.text}
            for prompt, text, completion in zip(options.prompts, theirs, completions, strict=True)
        ]
        step()
    report = {
        "samples": samples,
        "seconds": round(time.monotonic() - began, 1),
        "formats": list(options.formats),
        "quantization": settings["quantization"] if quantization else None,
    }
    write_bytes(os.path.join(model_uri, REPORT), (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())


def _teacher(source: str, dtype: str, student: Gemma) -> Gemma:
    """The teacher with the student's words only, as it scored the corpus."""
    theirs = load_tokenizer(source)
    kept = [theirs.id_of(student.tokenizer.piece(index)) for index in range(student.tokenizer.vocabulary_size)]
    return load_teacher(source, dtype, Vocabulary(np.array(kept, np.int32), student.tokenizer.proto))

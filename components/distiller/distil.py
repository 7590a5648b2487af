"""The Distiller's work, on folders: usable without a pipeline."""

import hashlib
import json
import os

import keras
import tensorflow as tf

from components.teacher_scorer.address import whole_address
from gemma_tf_distill.config import DistillationConfig, QuantizationConfig, StudentConfig, TrainingConfig, section_from_json
from gemma_tf_distill.data.batches import evaluation_batches, split_files
from gemma_tf_distill.data.calibration import calibration_windows
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.student import build_student
from gemma_tf_distill.gemma.teacher import describe_source, load_teacher
from gemma_tf_distill.gemma.vocabulary import Vocabulary, full_vocabulary
from gemma_tf_distill.quantization.apply import ModelQuantization
from gemma_tf_distill.quantization.layout import weight_schemes
from gemma_tf_distill.teacher.target_store import TargetStore
from gemma_tf_distill.training.heldout import HeldoutEvaluation, HeldoutMetrics
from gemma_tf_distill.training.loop import Run, fit, steps_for
from gemma_tf_distill.training.precision import with_precision
from gemma_tf_distill.training.quantized import fit_quantized


def distil(*, examples_uri: str, tokenizer_uri: str, student_uri: str, tensorboard_uri: str, config: str, source_digest: str) -> None:
    """Trains and saves the student and the control; see `Distiller` for the arguments.

    Checkpoints lie beside the artifacts of all executions, under a name made of everything that the training depends on: an
    execution that was killed is resumed by the next one, and another config never picks them up.
    """
    settings = json.loads(config)
    training = section_from_json(TrainingConfig, config, "training")
    distillation = section_from_json(DistillationConfig, config, "distillation")
    student_config = section_from_json(StudentConfig, config, "student")
    quantization = section_from_json(QuantizationConfig, config, "quantization")
    seed, window = settings["seed"], settings["window"]
    keras.utils.set_random_seed(seed)

    vocabulary = Vocabulary.load(tokenizer_uri)
    store = TargetStore(examples_uri, whole_address(settings["address"], vocabulary))
    train, heldout = store.files(), split_files(examples_uri, "heldout")
    heldout_batches = evaluation_batches(heldout, window=window, top_k=distillation.top_k, batch_size=training.batch_size)
    if training.batch_size > store.windows:
        raise ConfigError(f"training.batch_size is {training.batch_size}, but there are {store.windows} windows: choose at most as many")
    total_steps = steps_for(training, store.windows)

    teacher = load_teacher(settings["teacher"], vocabulary=vocabulary)
    words = full_vocabulary(teacher.tokenizer)
    cut = student_config.cut
    calibration = None if cut is None else calibration_windows(train, window, cut.calibration_tokens)
    model = build_student(student_config, teacher, words, seed=seed, dtype=training.precision, calibration=calibration)
    if quantization.scheme:
        # Hours before it would be asked for.
        weight_schemes(quantization, model.config)
    # All of the teacher's weights, those of the words that the student does not have included.
    left_out = describe_source(settings["teacher"])["vocabulary_size"] - len(words.kept_ids)
    teacher_parameters = teacher.parameters + left_out * teacher.backbone.hidden_dim
    kept_layers = student_config.layers or tuple(range(teacher.backbone.num_layers)) if student_config.starts_from_teacher else None
    live_teacher = with_precision(teacher, settings["teacher_dtype"]) if distillation.needs_live_teacher else None
    del teacher

    evaluate = HeldoutEvaluation(model)
    initial_weights = model.backbone.get_weights()
    initial = evaluate(heldout_batches)
    key = hashlib.sha256(json.dumps([config, source_digest, examples_uri, tokenizer_uri]).encode()).hexdigest()[:16]
    checkpoints = os.path.join(os.path.dirname(os.path.dirname(student_uri.rstrip("/"))), "checkpoints", key)

    def run_of(name: str, learn_from_teacher: bool) -> Run:
        return Run(
            name=name,
            learn_from_teacher=learn_from_teacher,
            checkpoints=os.path.join(checkpoints, name),
            tensorboard=os.path.join(tensorboard_uri, name),
        )

    def batches(skip: int) -> tf.data.Dataset:
        return store.batches(train, batch_size=training.batch_size, seed=seed, skip=skip)

    def run(name: str, learn_from_teacher: bool) -> HeldoutMetrics:
        model.backbone.set_weights(initial_weights)
        fit(
            model,
            run_of(name, learn_from_teacher),
            batches,
            training=training,
            distillation=distillation,
            total_steps=total_steps,
            teacher=live_teacher,
            kept_layers=kept_layers,
            seed=seed,
        )
        return evaluate(heldout_batches)

    def save(name: str) -> None:
        with_precision(model, "float32").save(os.path.join(student_uri, name))

    control = None
    if training.control:
        control = run("control", learn_from_teacher=False)
        save("control")
    student = run("student", learn_from_teacher=True)
    in_float = rounded = None
    if quantization.scheme:
        as_it_runs = ModelQuantization(model, quantization)
        evaluate_quantized = HeldoutEvaluation(model, as_it_runs)
        in_float, rounded = student, evaluate_quantized(heldout_batches)
        fit_quantized(
            model,
            run_of("quantized", learn_from_teacher=True),
            batches,
            training=training,
            distillation=distillation,
            quantization=quantization,
            windows=store.windows,
            teacher=live_teacher,
            kept_layers=kept_layers,
            seed=seed,
        )
        as_it_runs.track(frozen=False)
        student = evaluate_quantized(heldout_batches)
    save("student")
    metrics = {
        "parameters": model.parameters,
        "vocabulary": model.backbone.vocabulary_size,
        "layers": model.backbone.num_layers,
        "heldout_nll_initial": initial.nll,
        "heldout_nll": student.nll,
        "heldout_nll_control": control.nll if control else None,
        "heldout_nll_float": in_float.nll if in_float else None,
        "heldout_nll_ptq": rounded.nll if rounded else None,
        "quantization": {"scheme": quantization.scheme, "overrides": dict(quantization.overrides)} if quantization.scheme else None,
        "kl_to_teacher": student.kl_to_teacher,
        "top1_agreement": student.top1_agreement,
        "teacher_heldout_nll": student.teacher_nll,
        "teacher_parameters": teacher_parameters,
        "target_bytes_per_token": store.index["bytes_per_token"],
        "tokens": {"train": store.tokens, "heldout": student.tokens},
    }
    with tf.io.gfile.GFile(os.path.join(student_uri, "metrics.json"), "w") as file:
        file.write(json.dumps(metrics, indent=2))
    # A run shorter than `training.checkpoint_every` has none.
    if tf.io.gfile.exists(checkpoints):
        tf.io.gfile.rmtree(checkpoints)

"""Runs TFX's Evaluator, and blesses a model only if its files hold their gates, too."""

import dataclasses
import json
import os
from typing import Any

import tensorflow as tf
import tensorflow_model_analysis as tfma
from absl import logging
from tfx import types
from tfx.components.evaluator import constants
from tfx.components.evaluator import executor as tfx_evaluator
from tfx.types import artifact_utils
from tfx.utils import io_utils, json_utils, path_utils, proto_utils

from components.properties import set_figures
from components.quality_gate.eval_config import SPLIT, create_eval_config
from components.quality_gate.files import read_exported
from components.quality_gate.judge import judge
from components.quality_gate.other_vocabulary import Comparison, compare_in_bits_per_byte, vocabulary_of
from components.quality_gate.results import FILES_FILE, GATES_FILE, read_metrics
from gemma_tf_distill.config import GatesConfig, section_from_json
from gemma_tf_distill.data.batches import split_files
from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.export.saved_model_runtime import load_saved_model
from gemma_tf_distill.gemma.tokenizer import Tokenizer
from gemma_tf_distill.report.gates import OVERALL


class Executor(tfx_evaluator.Executor):
    """TFX's Evaluator with gates on files, a baseline of any vocabulary, and a list of what was asked and reached."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Judges a model.

        Args:
          input_dict: `examples` with the split `heldout`, `model`, and `baseline_model` where there is one.
          output_dict: `evaluation`, TFMA's metrics and validation, `gates.json` (a list of `GateResult`s) and `files.json` (figures of
            the exported files); figures of the whole split and of the files are properties, too. `blessing`, as TFX's Evaluator marks it:
            blessed if every gate holds.
          exec_properties: `config`, as of `evaluator_config`, and `source_digest`.

        Raises:
          WeightsError: if the baseline's files are damaged. Where the model's own are, it is not blessed.
        """
        gates = section_from_json(GatesConfig, exec_properties["config"], "gates")
        model = artifact_utils.get_single_instance(input_dict["model"])
        evaluation, blessing = (artifact_utils.get_single_instance(output_dict[name]) for name in ("evaluation", "blessing"))
        try:
            comparison = _of_another_vocabulary(input_dict)
            # TFMA gives both models the same tokens, which mean nothing to a model of other words.
            beside = input_dict if comparison is None else {**input_dict, "baseline_model": []}
            super().Do(
                beside,
                output_dict,
                {
                    **exec_properties,
                    "eval_config": proto_utils.proto_to_json(create_eval_config(gates)),
                    "example_splits": json_utils.dumps([SPLIT]),
                },
            )
            damage = []
        # Whatever TensorFlow makes of a file that it can't read comes through Beam as an error of any kind.
        except Exception:
            damage = _damage(input_dict)
            if not damage:
                raise
            comparison, beside = None, input_dict
            logging.exception("The model can't be loaded: it is not blessed")
        exported = read_exported(model.uri)
        exported = dataclasses.replace(exported, failures=[*(exported.failures or []), *damage] if damage else exported.failures)
        metrics = {} if damage else read_metrics(evaluation.uri)
        results = judge(gates, metrics, exported, baseline=bool(beside.get("baseline_model")), comparison=comparison)
        held = all(result.held for result in results)
        if held and not tfma.load_validation_result(evaluation.uri).validation_ok:
            raise RuntimeError(f"TFMA refuses a model that holds every gate: see {evaluation.uri}")
        tf.io.gfile.makedirs(evaluation.uri)
        _write_json(os.path.join(evaluation.uri, FILES_FILE), exported.figures)
        _write_json(os.path.join(evaluation.uri, GATES_FILE), [dataclasses.asdict(result) for result in results])
        figures = {f"{format}_{name}": value for format, of_format in exported.figures.items() for name, value in of_format.items()}
        set_figures(evaluation, {**metrics.get(OVERALL, {}), **figures})
        if not held:
            _refuse(blessing)


def _damage(input_dict: dict[str, list[types.Artifact]]) -> list[str]:
    """What is wrong with the candidate's SavedModel, if it can't be loaded.

    Raises:
      WeightsError: if it is the baseline's that can't be.
    """
    try:
        load_saved_model(path_utils.serving_model_path(input_dict["model"][0].uri))
    except WeightsError as error:
        return [str(error)]
    for baseline in input_dict.get("baseline_model") or ():
        load_saved_model(path_utils.serving_model_path(baseline.uri))
    return []


def _of_another_vocabulary(input_dict: dict[str, list[types.Artifact]]) -> Comparison | None:
    """The comparison with the baseline, if that has other words than the candidate."""
    candidate, baselines = input_dict["model"][0].uri, input_dict.get("baseline_model") or []
    vocabulary = vocabulary_of(candidate)
    if not baselines or vocabulary is None or vocabulary_of(baselines[0].uri) == vocabulary:
        return None
    return compare_in_bits_per_byte(
        path_utils.serving_model_path(candidate),
        path_utils.serving_model_path(baselines[0].uri),
        Tokenizer(vocabulary),
        split_files(input_dict["examples"][0].uri, SPLIT),
    )


def _refuse(blessing: types.Artifact) -> None:
    """Marks a model as not blessed, also where TFMA's thresholds would have blessed it."""
    blessed = os.path.join(blessing.uri, constants.BLESSED_FILE_NAME)
    if tf.io.gfile.exists(blessed):
        tf.io.gfile.remove(blessed)
    io_utils.write_string_file(os.path.join(blessing.uri, constants.NOT_BLESSED_FILE_NAME), "")
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, constants.NOT_BLESSED_VALUE)


def _write_json(path: str, content: Any) -> None:
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(json.dumps(content, indent=2, allow_nan=False) + "\n")

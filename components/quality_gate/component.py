"""Evaluator: TFX's own, and gates on the exported files beside those on metrics."""

import dataclasses
import json

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.quality_gate.executor import Executor
from gemma_tf_distill.config import Config


def evaluator_config(config: Config) -> str:
    """What the verdict depends on, as the component's `config`."""
    return json.dumps({"gates": dataclasses.asdict(config.gates)}, sort_keys=True)


class EvaluatorSpec(ComponentSpec):
    """Inputs, outputs and parameters of `Evaluator`."""

    PARAMETERS = {"config": ExecutionParameter(type=str), "source_digest": ExecutionParameter(type=str)}
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": ChannelParameter(type=standard_artifacts.Model, optional=True),
    }
    OUTPUTS = {
        "evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
    }


class Evaluator(base_beam_component.BaseBeamComponent):
    """Judges an exported model, as `Executor.Do` describes."""

    SPEC_CLASS = EvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        baseline_model: types.BaseChannel | None,
        config: str,
        source_digest: str,
    ):
        """Initialises the component.

        Args:
          examples: scored windows, as TeacherScorer writes them.
          model: the exported model, as Exporter writes it.
          baseline_model: the blessed model that it is compared with, where there is one.
          config: `evaluator_config`.
          source_digest: of this component's code, so that changed code is run again.
        """
        super().__init__(
            EvaluatorSpec(
                examples=examples,
                model=model,
                baseline_model=baseline_model,
                config=config,
                source_digest=source_digest,
                evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
            )
        )

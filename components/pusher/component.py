"""Pusher: a blessed model in, a versioned folder with every file that leaves the project out."""

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.artifacts import Student, Tokenizer
from components.pusher.executor import Executor


class PusherSpec(ComponentSpec):
    """Inputs, outputs and parameters of `Pusher`."""

    PARAMETERS = {
        "push_directory": ExecutionParameter(type=str),
        "config": ExecutionParameter(type=str),
        "source_digest": ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": ChannelParameter(type=standard_artifacts.Model),
        "model_blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
        "model_evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "student": ChannelParameter(type=Student),
        "tokenizer": ChannelParameter(type=Tokenizer),
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "infra_blessing": ChannelParameter(type=standard_artifacts.InfraBlessing, optional=True),
    }
    OUTPUTS = {"pushed_model": ChannelParameter(type=standard_artifacts.PushedModel)}


class Pusher(base_component.BaseComponent):
    """Pushes a blessed model to `<push_directory>/<version>/`, as `Executor.Do` describes."""

    SPEC_CLASS = PusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        *,
        model: types.BaseChannel,
        model_blessing: types.BaseChannel,
        model_evaluation: types.BaseChannel,
        student: types.BaseChannel,
        tokenizer: types.BaseChannel,
        examples: types.BaseChannel,
        push_directory: str,
        config: str,
        source_digest: str,
        infra_blessing: types.BaseChannel | None = None,
    ):
        """Initialises the component.

        Args:
          model: the exported model, as Exporter writes it.
          model_blessing: the Evaluator's verdict on it.
          model_evaluation: the Evaluator's metrics, which the manifest repeats.
          student: what was exported, for the training's metrics.
          tokenizer: the student's vocabulary.
          examples: the windows that student and evaluation are of, for the record.
          push_directory: parent of the versions, local or `gs://`.
          config: the whole config as JSON (`Config.to_json()`); the manifest holds it.
          source_digest: of this component's code, so that changed code is run again.
          infra_blessing: what TensorFlow Serving made of the model; none where it was not asked.
        """
        super().__init__(
            PusherSpec(
                model=model,
                model_blessing=model_blessing,
                model_evaluation=model_evaluation,
                student=student,
                tokenizer=tokenizer,
                examples=examples,
                infra_blessing=infra_blessing,
                push_directory=push_directory,
                config=config,
                source_digest=source_digest,
                pushed_model=types.Channel(type=standard_artifacts.PushedModel),
            )
        )

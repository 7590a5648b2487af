"""Which model a candidate is compared with."""

import os

import ml_metadata
from tfx import types
from tfx.dsl.components.common import resolver
from tfx.dsl.io import fileio


class LatestOtherBlessedModelStrategy(resolver.ResolverStrategy):
    """The latest blessed model over the same words that is not the candidate itself.

    TFX's LatestBlessedModelStrategy finds the candidate where it was blessed by an earlier run. A second run with nothing changed
    would then have a baseline that the first had not, and evaluate and push the same model again.
    """

    def resolve_artifacts(
        self, store: ml_metadata.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Resolves the baseline.

        Args:
          store: unused, the artifacts are all given.
          input_dict: `model` and `model_blessing`, all there are; `candidate`, the model that this run exported.

        Returns:
          `model` and its `model_blessing`, empty where there is none; `candidate` unchanged.
        """
        candidates = {artifact.id for artifact in input_dict["candidate"]}
        vocabularies = {_vocabulary(artifact) for artifact in input_dict["candidate"]} - {None}
        blessings = {
            blessing.get_int_custom_property("current_model_id"): blessing
            for blessing in input_dict["model_blessing"]
            if blessing.get_int_custom_property("blessed") == 1
        }
        for model in sorted(input_dict["model"], key=lambda artifact: artifact.id, reverse=True):
            if model.id in blessings and model.id not in candidates and _vocabulary(model) in vocabularies:
                return {**input_dict, "model": [model], "model_blessing": [blessings[model.id]]}
        return {**input_dict, "model": [], "model_blessing": []}


def _vocabulary(model: types.Artifact) -> bytes | None:
    """The tokenizer of an exported model; none where its files are gone, or were moved with the folder of the run."""
    path = os.path.join(model.uri, "files", "tokenizer.model")
    if not fileio.exists(path):
        return None
    with fileio.open(path, "rb") as file:
        return file.read()

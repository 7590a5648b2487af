"""Which model a candidate is compared with."""

import ml_metadata
from tfx import types
from tfx.dsl.components.common import resolver

from components.quality_gate.other_vocabulary import vocabulary_of


class LatestOtherBlessedModelStrategy(resolver.ResolverStrategy):
    """The latest blessed model that is not the candidate itself and whose files are there, of the same words or of others.

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
        blessings = {
            blessing.get_int_custom_property("current_model_id"): blessing
            for blessing in input_dict["model_blessing"]
            if blessing.get_int_custom_property("blessed") == 1
        }
        for model in sorted(input_dict["model"], key=lambda artifact: artifact.id, reverse=True):
            if model.id in blessings and model.id not in candidates and vocabulary_of(model.uri) is not None:
                return {**input_dict, "model": [model], "model_blessing": [blessings[model.id]]}
        return {**input_dict, "model": [], "model_blessing": []}

"""DataValidator: documents and prompts in, their statistics, schema and anomalies by TFDV out."""

import json

from tfx import v1 as tfx
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.types import standard_artifacts

from components.artifacts import Tokenizer
from components.data_validation.results import SERVING_SPLIT
from components.data_validation.validate import validate
from gemma_tf_distill.config import Config
from gemma_tf_distill.data.splitting import SPLITS


def data_validator_config(config: Config) -> str:
    """What the validation depends on, as the component's `config`."""
    sections = json.loads(config.to_json("data_validation"))
    return json.dumps(
        {**sections, "field": config.corpus.field, "features": config.corpus.features, "window": config.corpus.window}, sort_keys=True
    )


@tfx.dsl.components.component
def DataValidator(
    examples: InputArtifact[standard_artifacts.Examples],
    tokenizer: InputArtifact[Tokenizer],
    statistics: OutputArtifact[standard_artifacts.ExampleStatistics],
    schema: OutputArtifact[standard_artifacts.Schema],
    anomalies: OutputArtifact[standard_artifacts.ExampleAnomalies],
    config: Parameter[str],
    prompts_fingerprint: Parameter[str],
    source_digest: Parameter[str],
) -> None:
    """Compares held-out documents (drift) and serving prompts (skew) with the training documents.

    Args:
      examples: windows, and what documents are made of, as CorpusGen writes them.
      tokenizer: the student's vocabulary, by which prompts are read.
      statistics: of documents (`train`, `heldout`), prompts (`serving`) and windows (`train_windows`, `heldout_windows`).
      schema: of the training documents, with the config's limits as comparators.
      anomalies: of `heldout` (drift, schema), and with prompts of `train` (skew) and `serving` (schema); `distances.json` lists every
        distance (`Distance`).
      config: `data_validator_config`.
      prompts_fingerprint: of `data.serving_prompts`; changed prompts miss the cache.
      source_digest: of this component's code, so that changed code is run again.

    Raises:
      CorpusError: if a limit is broken and the config says to stop, or the prompts can't be read.
    """
    del prompts_fingerprint, source_digest
    found = validate(
        examples_uri=examples.uri,
        tokenizer_uri=tokenizer.uri,
        statistics_uri=statistics.uri,
        schema_uri=schema.uri,
        anomalies_uri=anomalies.uri,
        config=config,
    )
    prompts = [SERVING_SPLIT] if SERVING_SPLIT in found.anomalies else []
    statistics.splits = [*SPLITS, *prompts, *(f"{split}_windows" for split in SPLITS)]
    anomalies.splits = list(found.anomalies)

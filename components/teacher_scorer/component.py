"""TeacherScorer: token windows in, the same windows with the teacher's targets out, by Beam RunInference."""

import dataclasses
import json
import os

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from tfx import v1 as tfx
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.types import standard_artifacts

from components.artifacts import Tokenizer
from components.failures import user_errors_of_workers
from components.teacher_scorer.address import target_address, whole_address
from components.teacher_scorer.handler import TeacherModelHandler
from gemma_tf_distill.config import AttentionConfig, Config
from gemma_tf_distill.data.batches import count_split, split_files
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.vocabulary import Vocabulary
from gemma_tf_distill.teacher.target_store import write_index

SPLITS = ("train", "heldout")


def teacher_scorer_config(config: Config, corpus_fingerprint: str, teacher_fingerprint: str) -> str:
    """What targets depend on, as the component's `config`: other settings do not cost a new scoring.

    Args:
      config: the experiment.
      corpus_fingerprint: of `data.fingerprint`.
      teacher_fingerprint: of `gemma.teacher`.
    """
    return json.dumps(
        {
            "source": config.teacher.source,
            "dtype": config.teacher.dtype,
            "batch_size": config.teacher.batch_size,
            "window": config.corpus.window,
            "features": config.corpus.features,
            "top_k": config.distillation.top_k,
            "attention": dataclasses.asdict(config.attention),
            "address": target_address(config, corpus_fingerprint, teacher_fingerprint),
        },
        sort_keys=True,
    )


@tfx.dsl.components.component(use_beam=True)
def TeacherScorer(
    examples: InputArtifact[standard_artifacts.Examples],
    tokenizer: InputArtifact[Tokenizer],
    scored_examples: OutputArtifact[standard_artifacts.Examples],
    config: Parameter[str],
    source_digest: Parameter[str],
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Scores every window of the splits `train` and `heldout` once.

    Args:
      examples: windows, as CorpusGen writes them.
      tokenizer: the student's vocabulary, whose ids the windows are in.
      scored_examples: of the split `heldout` the windows with `teacher_ids`, `teacher_log_probs` and `teacher_label_log_prob`, as the
        metrics read them, and with `corpus.features`; of `train` a target store (`teacher.target_store`).
      config: `teacher_scorer_config`.
      source_digest: of this component's code, so that changed code is run again.
      beam_pipeline: given by the runner.

    Raises:
      ConfigError: if `distillation.top_k` is larger than the vocabulary.
      TargetsError: if the teacher's probabilities are not numbers.
      WeightsError: if the teacher can't be loaded.
    """
    settings = json.loads(config)
    vocabulary = Vocabulary.load(tokenizer.uri)
    words = len(vocabulary.kept_ids)
    if settings["top_k"] > words:
        raise ConfigError(f"distillation.top_k is {settings['top_k']}, but the vocabulary has {words} words: choose at most as many")
    files = {split: split_files(examples.uri, split) for split in SPLITS}
    attention = AttentionConfig(**settings.pop("attention"))
    address = whole_address(settings.pop("address"), vocabulary)
    handler = TeacherModelHandler(
        **settings,
        address=address,
        attention=attention,
        tokenizer=tokenizer.uri,
        total=sum(count_split(shards, settings["window"])[0] for shards in files.values()),
    )
    with user_errors_of_workers(), beam_pipeline as pipeline:
        windows = [
            pipeline
            | f"Read {split}" >> beam.io.ReadFromTFRecord(os.path.join(examples.uri, f"Split-{split}", "*"))
            | f"Name {split}" >> beam.Map(lambda example, split: (split, example), split)
            for split in SPLITS
        ]
        scored = windows | beam.Flatten() | RunInference(handler)
        for split in SPLITS:
            _ = (
                scored
                | f"Only {split}" >> beam.Filter(lambda window, split: window[0] == split, split)
                | f"Example {split}" >> beam.Values()
                | f"Write {split}"
                >> beam.io.WriteToTFRecord(
                    os.path.join(scored_examples.uri, f"Split-{split}", "scored"), file_name_suffix=".gz", num_shards=len(files[split])
                )
            )
    index = write_index(scored_examples.uri, address, settings["window"])
    scored_examples.set_string_custom_property("target_address", address.digest)
    scored_examples.set_float_custom_property("bytes_per_token", index["bytes_per_token"])
    scored_examples.splits = list(SPLITS)
    scored_examples.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")

"""The TFX component CorpusGen and its parameters."""

import dataclasses
import json

import apache_beam as beam
from tfx import v1 as tfx
from tfx.components.util import examples_utils
from tfx.proto import example_gen_pb2

from components.artifacts import Tokenizer
from components.corpus_gen.graph import generate, read_figures
from components.failures import user_errors_of_workers
from gemma_tf_distill.config import Config, CorpusConfig, StudentConfig, TeacherConfig, section_from_json
from gemma_tf_distill.data.splitting import SPLITS


def corpus_gen_config(config: Config) -> str:
    """What CorpusGen needs of a config, as JSON: a change of anything else must not run it again."""
    return json.dumps(
        {
            "teacher": {"source": config.teacher.source},
            "corpus": dataclasses.asdict(config.corpus),
            "student": {"vocabulary": config.student.vocabulary},
        },
        sort_keys=True,
    )


@tfx.dsl.components.component(use_beam=True)
def CorpusGen(
    examples: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Examples],
    tokenizer: tfx.dsl.components.OutputArtifact[Tokenizer],
    config: tfx.dsl.components.Parameter[str],
    corpus_fingerprint: tfx.dsl.components.Parameter[str],
    teacher_fingerprint: tfx.dsl.components.Parameter[str],
    source_digest: tfx.dsl.components.Parameter[str],
    beam_pipeline: tfx.dsl.components.BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Reads the corpus, splits it, trims the teacher's vocabulary to it, and packs it into windows.

    Args:
      examples: splits `train` and `heldout` of tf.Examples with `tokens` (int64 [corpus.window], student ids), `source` and
        each of `corpus.features` (bytes), and `length` (int64, tokens that are not padding); figures about them are custom properties,
        and in `corpus.json`, what documents are made of in `documents/` (`rows.read_rows`).
      tokenizer: the student's vocabulary, a folder of `Vocabulary.save`.
      config: of `corpus_gen_config`.
      corpus_fingerprint: of `gemma_tf_distill.data.fingerprint`; a changed corpus misses the cache.
      teacher_fingerprint: of `gemma_tf_distill.gemma.teacher`; another teacher under the same name misses the cache, here and, by new
        windows, in every component after this one.
      source_digest: of `components.digest`; changed code misses the cache.
      beam_pipeline: given by TFX.

    Raises:
      UserError: if the corpus, the teacher's tokenizer or the vocabulary's size is wrong; `raise_if_empty` for an empty split.
    """
    del corpus_fingerprint, teacher_fingerprint, source_digest
    with user_errors_of_workers(), beam_pipeline as pipeline:
        generate(
            pipeline,
            teacher_source=section_from_json(TeacherConfig, config, "teacher").source,
            corpus=section_from_json(CorpusConfig, config, "corpus"),
            vocabulary=section_from_json(StudentConfig, config, "student").vocabulary,
            examples_uri=examples.uri,
            tokenizer_uri=tokenizer.uri,
        )
    examples.splits = list(SPLITS)
    examples_utils.set_payload_format(examples, example_gen_pb2.FORMAT_TF_EXAMPLE)
    examples_utils.set_file_format(examples, "tfrecords_gzip")
    for name, number in read_figures(examples.uri).items():
        examples.set_int_custom_property(name, number)

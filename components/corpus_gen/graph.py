"""The Beam graph of CorpusGen, from shards of the corpus to TFRecord files."""

import json
import os
import uuid
from collections.abc import Mapping

import apache_beam as beam
import tensorflow as tf
from apache_beam.pvalue import AsDict, AsSingleton

from components.corpus_gen import encoding, rows, selection, windows
from gemma_tf_distill.config import CorpusConfig
from gemma_tf_distill.data.documents import expand_sources
from gemma_tf_distill.data.formats import MISSING
from gemma_tf_distill.data.splitting import EVERYTHING, HELDOUT, SPLITS, TRAIN
from gemma_tf_distill.monitoring.progress import progress

_FIGURES = "corpus.json"
_ALL = dict.fromkeys(SPLITS, EVERYTHING)
# Documents that are encoded at a time: enough to keep all cores busy.
_BATCH = {"min_batch_size": 128, "max_batch_size": 128}


def generate(
    pipeline: beam.Pipeline, *, teacher_source: str, corpus: CorpusConfig, vocabulary: str | int, examples_uri: str, tokenizer_uri: str
) -> None:
    """Adds the steps of CorpusGen to a Beam pipeline.

    Everything that decides about a document is a hash of the document, and everything that has an order is sorted by hash before it
    is packed or written: the files are the same to the byte for any order of shards and any number of workers.

    Args:
      pipeline: a pipeline that has not run.
      teacher_source: see `TeacherConfig.source`.
      corpus: what to read.
      vocabulary: see `StudentConfig.vocabulary`.
      examples_uri: folder for `Split-train/`, `Split-heldout/`, `documents/` (`rows.read_rows`) and `corpus.json`.
      tokenizer_uri: folder for the student's vocabulary.

    Raises:
      CorpusError: if a source is missing. What its files hold is seen when the pipeline runs.
    """
    read = (
        pipeline
        | "Shards" >> beam.Create(expand_sources(corpus))
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(selection.ReadShard(corpus.min_characters)).with_outputs("counts", main="documents")
    )
    documents = (
        read.documents
        # Of equal texts the one whose source, and then features, come first in the alphabet stays.
        | "Deduplicate" >> beam.CombinePerKey(min)
        | "Split" >> beam.Map(selection.split_document, corpus.heldout_fraction)
    )
    kept, counts = _select(pipeline, documents, read.counts, corpus, teacher_source)

    counted = kept | "Train" >> beam.Filter(lambda item: item.split == TRAIN) | "CountWords" >> beam.CombineGlobally(encoding.WordCounts())
    trimmed = counted | "Vocabulary" >> beam.Map(encoding.make_vocabulary, teacher_source, vocabulary)
    _ = trimmed | "SaveVocabulary" >> beam.Map(lambda vocabulary: vocabulary.save(tokenizer_uri))
    student = kept | "Batch" >> beam.BatchElements(**_BATCH) | "StudentIds" >> beam.FlatMap(encoding.to_student_ids, AsSingleton(trimmed))
    written = _write(student, corpus, examples_uri)
    _ = (
        student
        | "Row" >> beam.Map(rows.document_row, AsSingleton(trimmed), corpus.features)
        # Of more documents those whose hashes are lowest.
        | "SampleRows" >> beam.combiners.Top.PerKey(rows.MOST_DOCUMENTS, reverse=True)
        | "WriteRows" >> beam.Map(rows.write_rows, examples_uri)
    )

    figures = (
        (
            counts,
            written,
            student | "Kept" >> beam.Map(lambda item: (f"{item.split}_kept", 1)),
            trimmed | "Size" >> beam.Map(lambda vocabulary: ("words", len(vocabulary.kept_ids))),
        )
        | "Figures" >> beam.Flatten()
        | "SumFigures" >> beam.CombinePerKey(sum)
    )
    _ = (
        pipeline
        | "Once" >> beam.Create([None])
        | "WriteFigures" >> beam.Map(_write_figures, os.path.join(examples_uri, _FIGURES), AsDict(figures))
    )


def _select(
    pipeline: beam.Pipeline, documents: beam.PCollection, read_counts: beam.PCollection, corpus: CorpusConfig, teacher_source: str
) -> tuple[beam.PCollection, beam.PCollection]:
    """The documents within the caps, with the teacher's ids, and the numbers of documents."""
    counts = (
        (read_counts, documents | "CountSplits" >> beam.Map(lambda item: (item.split, 1)))
        | "Counts" >> beam.Flatten()
        | "SumCounts" >> beam.CombinePerKey(sum)
    )
    characters = (
        documents
        | "Characters" >> beam.Map(lambda item: selection.weigh(item, _ALL, len(item.text)))
        | "SampleCharacters" >> beam.CombinePerKey(selection.SampleFn())
    )
    values = (
        documents
        | "Features" >> beam.FlatMap(selection.named_features, corpus.features)
        | "Known" >> beam.Filter(lambda feature: feature[1] != MISSING)
        | "Values" >> beam.Distinct()
        | "CountValues" >> beam.combiners.Count.PerKey()
    )
    candidates_below = (
        pipeline
        | "OnceCounted" >> beam.Create([None])
        | "CutCharacters" >> beam.Map(selection.candidates_below, corpus, AsDict(characters), AsDict(counts), AsDict(values))
    )
    encoded = (
        documents
        | "Candidates" >> beam.Filter(selection.is_below, AsSingleton(candidates_below))
        | "BatchCandidates" >> beam.BatchElements(**_BATCH)
        | "Encode" >> beam.ParDo(encoding.Encode(teacher_source))
    )
    tokens = (
        encoded
        | "Tokens" >> beam.Map(lambda item, below: selection.weigh(item, below, len(item.ids) // 4), AsSingleton(candidates_below))
        | "SampleTokens" >> beam.CombinePerKey(selection.SampleFn())
    )
    kept_below = pipeline | "OnceEncoded" >> beam.Create([None]) | "CutTokens" >> beam.Map(selection.kept_below, corpus, AsDict(tokens))
    return encoded | "Keep" >> beam.Filter(selection.is_below, AsSingleton(kept_below)), counts


def _write(student: beam.PCollection, corpus: CorpusConfig, examples_uri: str) -> beam.PCollection:
    """Packs and writes; gives figures about the windows."""
    tokens = student | "Sizes" >> beam.Map(windows.origin_tokens) | "SumSizes" >> beam.CombinePerKey(sum)
    large = tokens | "Large" >> beam.Filter(windows.is_large)
    totals = tokens | "SplitSizes" >> beam.Map(lambda size: (size[0][0], size[1])) | "SumSplits" >> beam.CombinePerKey(sum)
    return (
        student
        | "GroupOf" >> beam.Map(windows.group_of, AsDict(large))
        | "Groups" >> beam.GroupByKey()
        | "Pack" >> beam.FlatMap(windows.pack_group, corpus.window, corpus.features)
        | "ShardOf" >> beam.Map(windows.shard_of, AsDict(totals), corpus.window)
        | "OutputShards" >> beam.GroupByKey()
        | "Write" >> beam.FlatMap(windows.write_shard, examples_uri)
    )


def _write_figures(_: None, path: str, figures: Mapping[str, int]) -> None:
    duplicate = figures["read"] - figures.get("short", 0) - figures[TRAIN] - figures[HELDOUT]
    partial = f"{path}.{uuid.uuid4().hex}"
    with tf.io.gfile.GFile(partial, "w") as file:
        file.write(json.dumps({**figures, "duplicate": duplicate}, indent=2, sort_keys=True) + "\n")
    tf.io.gfile.rename(partial, path, overwrite=True)
    written = sum(figures[f"{split}_windows"] for split in SPLITS)
    progress("corpus", written, written, unit="windows", words=figures["words"])


def read_figures(examples_uri: str) -> dict[str, int]:
    """Figures about what CorpusGen has written.

    Returns:
      Numbers of documents: `read`, `short` and `duplicate` among them, the others by split in `train` and `heldout`, and in
      `train_kept` and `heldout_kept` those that the caps keep. Of their windows: `train_windows`, `train_tokens` (what is not padding),
      and the same for `heldout`. `words`, the size of the student's vocabulary.
    """
    with tf.io.gfile.GFile(os.path.join(examples_uri, _FIGURES)) as file:
        return json.load(file)

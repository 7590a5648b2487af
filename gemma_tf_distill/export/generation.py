"""Runs an exported model, whatever its format: prompt in, text out. `gemma-distill generate` is this."""

import os
from collections.abc import Iterator
from typing import Protocol

from gemma_tf_distill.errors import UserError, WeightsError
from gemma_tf_distill.export.litert_lm_runtime import LiteRtLmModel
from gemma_tf_distill.export.litert_runtime import LiteRtModel
from gemma_tf_distill.export.text import stop_ids, text_pieces
from gemma_tf_distill.gemma.tokenizer import Tokenizer

TOKENIZER_FILE = "tokenizer.model"
TFLITE_FILE = "model.tflite"
LITERT_LM_FILE = "model.litertlm"
SAVED_MODEL_FOLDER = "saved_model"
_SAVED_MODEL_FILE = "saved_model.pb"


class PromptError(UserError):
    """A prompt and the tokens that were asked for do not fit in the model's context, or the request makes no sense."""


class Generator(Protocol):
    """A loaded model that completes prompts, greedily.

    Attributes:
      format: `saved_model`, `tflite` or `litertlm`.
      context_length: tokens that prompt (with `<bos>`) and completion may have together.
    """

    format: str
    context_length: int

    def generate(self, prompt: str, max_new_tokens: int) -> Iterator[str]:
        """Completes a prompt.

        Args:
          prompt: any text, also none.
          max_new_tokens: at least 1; the completion is shorter where the model ends it.

        Returns:
          The completion in pieces that are each whole UTF-8, as they are made; joined they are all of it.

        Raises:
          PromptError: at once, if prompt and `max_new_tokens` do not fit in the context, or `max_new_tokens` is below 1.
        """


def load_generator(path: str | os.PathLike) -> Generator:
    """Loads an exported model.

    Args:
      path: a SavedModel folder (local, or anything that TensorFlow opens); a pushed version's folder, of which `saved_model` is
        preferred; a local `.litertlm`; or a local `.tflite` with `tokenizer.model` beside it.

    Raises:
      WeightsError: if there is nothing, it is no such model, is damaged, or its tokenizer is missing.
      MissingExtraError: if the package that runs it is not installed.
    """
    path = os.fspath(path).rstrip("/")
    for folder in (path, os.path.join(path, SAVED_MODEL_FOLDER)):
        if _exists(os.path.join(folder, _SAVED_MODEL_FILE)):
            return SavedModelGenerator(folder)
    if _exists(os.path.join(path, TFLITE_FILE)):
        return LiteRtGenerator(os.path.join(path, TFLITE_FILE))
    if not _exists(path):
        raise WeightsError(f"no model at {path!r}: give a SavedModel folder, a pushed version's folder, or a .tflite or .litertlm file")
    if path.endswith(".tflite") and os.path.isfile(path):
        return LiteRtGenerator(path)
    if path.endswith(".litertlm") and os.path.isfile(path):
        return LiteRtLmGenerator(path)
    raise WeightsError(
        f"{path} is not a model: a SavedModel folder holds {_SAVED_MODEL_FILE}, a pushed version's folder {SAVED_MODEL_FOLDER}/ or "
        f"{TFLITE_FILE}, and a LiteRT file ends in .tflite or .litertlm"
    )


class SavedModelGenerator:
    """Runs a SavedModel that `export_saved_model` wrote; see `Generator`. The completion comes in one piece."""

    format = "saved_model"

    def __init__(self, folder: str):
        """Loads the model; raises as `load_generator` does."""
        try:
            import tensorflow as tf
            import tensorflow_text  # noqa: F401  registers the tokenizer's operations
        except ImportError as error:
            raise UserError(f"running a SavedModel needs {error.name}, which is not installed: pip install tensorflow-text") from error
        try:
            self._model = tf.saved_model.load(folder)
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise WeightsError(f"the SavedModel at {folder} is damaged ({_first_line(error)}): export it again") from error
        self._generate = self._model.signatures.get("generate")
        if self._generate is None or not hasattr(self._model, "context_length"):
            found = ", ".join(sorted(self._model.signatures)) or "none"
            raise WeightsError(
                f"{folder} is a SavedModel without the signature generate (it has: {found}): give one that this project exported"
            )
        self.context_length = int(self._model.context_length)

    def generate(self, prompt: str, max_new_tokens: int) -> Iterator[str]:
        """See `Generator.generate`."""
        import tensorflow as tf

        texts = tf.constant([_clean(prompt)])
        _check_fits(int(self._model.count_tokens(texts)[0]), max_new_tokens, self.context_length)
        found = self._generate(prompt=texts, max_new_tokens=tf.constant(max_new_tokens))
        return iter([found["text"].numpy()[0].decode(errors="replace")])


class LiteRtGenerator:
    """Runs a `.tflite` that `export_litert` wrote; see `Generator`. The completion comes token by token."""

    format = "tflite"

    def __init__(self, path: str):
        """Loads the model and `tokenizer.model` beside it; raises as `load_generator` does."""
        tokenizer_path = os.path.join(os.path.dirname(path), TOKENIZER_FILE)
        if not os.path.isfile(tokenizer_path):
            raise WeightsError(f"no tokenizer at {tokenizer_path}: a .tflite holds none, put {TOKENIZER_FILE} of the same model beside it")
        with open(tokenizer_path, "rb") as file:
            self._tokenizer = Tokenizer(file.read())
        self._model = LiteRtModel(path)
        if self._tokenizer.vocabulary_size != self._model.vocabulary_size:
            raise WeightsError(
                f"{tokenizer_path} has {self._tokenizer.vocabulary_size} pieces and {path} ranks {self._model.vocabulary_size} words: "
                "they belong to different models"
            )
        self.context_length = self._model.context_length

    def generate(self, prompt: str, max_new_tokens: int) -> Iterator[str]:
        """See `Generator.generate`."""
        ids = [self._tokenizer.bos_id, *self._tokenizer.encode(_clean(prompt))]
        _check_fits(len(ids), max_new_tokens, self.context_length)
        return text_pieces(self._tokenizer, self._new_ids(ids, max_new_tokens))

    def _new_ids(self, prompt: list[int], max_new_tokens: int) -> Iterator[int]:
        stops = stop_ids(self._tokenizer)
        self._model.prefill(prompt[:-1])
        token = prompt[-1]
        for position in range(len(prompt) - 1, len(prompt) - 1 + max_new_tokens):
            token = int(self._model.decode(token, position).argmax())
            if token in stops:
                return
            yield token


class LiteRtLmGenerator:
    """Runs a `.litertlm`; see `Generator`. The completion comes as LiteRT-LM streams it."""

    format = "litertlm"

    def __init__(self, path: str):
        """Loads the model; raises as `load_generator` does."""
        self._model = LiteRtLmModel(path)
        self.context_length = self._model.context_length

    def generate(self, prompt: str, max_new_tokens: int) -> Iterator[str]:
        """See `Generator.generate`."""
        prompt = _clean(prompt)
        _check_fits(self._model.count_tokens(prompt), max_new_tokens, self.context_length)
        return self._model.complete(prompt, max_new_tokens)


def _clean(prompt: str) -> str:
    """A prompt as every tokenizer takes it: command line arguments that were no UTF-8 carry surrogates."""
    return prompt.encode(errors="surrogatepass").decode(errors="replace")


def _check_fits(prompt_tokens: int, max_new_tokens: int, context_length: int) -> None:
    if max_new_tokens < 1:
        raise PromptError(f"the number of new tokens must be at least 1, not {max_new_tokens}")
    if prompt_tokens + max_new_tokens > context_length:
        room = context_length - prompt_tokens
        advice = f"ask for at most {room} new tokens" if room > 0 else f"shorten it to {context_length - max_new_tokens}"
        raise PromptError(
            f"the prompt has {prompt_tokens} tokens and {max_new_tokens} new ones do not fit in the model's context of {context_length}: "
            f"{advice}"
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _exists(path: str) -> bool:
    if "://" not in path:
        return os.path.exists(path)
    import tensorflow as tf

    try:
        return tf.io.gfile.exists(path)
    # A scheme that TensorFlow has no file system for, or one that it can't reach.
    except tf.errors.OpError as error:
        raise WeightsError(f"{path} can't be reached ({str(error).splitlines()[0]}): give a local path or gs://") from error

"""Runs an exported model, whatever its format: prompt in, text out. `gemma-distill generate` is this."""

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from gemma_tf_distill.errors import UserError, WeightsError
from gemma_tf_distill.export.hugging_face_runtime import HuggingFaceModel
from gemma_tf_distill.export.litert_lm_runtime import LiteRtLmModel
from gemma_tf_distill.export.litert_runtime import LiteRtModel
from gemma_tf_distill.export.names import HUGGING_FACE_FOLDER, LITERT_LM_FILE, SAVED_MODEL_FOLDER, TFLITE_FILE, TOKENIZER_FILE
from gemma_tf_distill.export.saved_model_runtime import SavedModelModel
from gemma_tf_distill.export.text import stop_ids, text_pieces
from gemma_tf_distill.gemma.tokenizer import Tokenizer

_SAVED_MODEL_FILE = "saved_model.pb"
_HUGGING_FACE_FILE = "config.json"


class PromptError(UserError):
    """A prompt and the tokens that were asked for do not fit in the model's context, or the request makes no sense."""


@dataclasses.dataclass
class Speed:
    """How fast a completion came, so far.

    Attributes:
      prompt_tokens: tokens of the prompt, `<bos>` included.
      prompt_seconds: until the first new token was there.
      new_tokens: tokens that were added; LiteRT-LM tells pieces of text, which are a token each but where a character takes several.
      decode_seconds: for all of them but the first.
    """

    prompt_tokens: int
    prompt_seconds: float = 0.0
    new_tokens: int = 0
    decode_seconds: float = 0.0

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """Tokens of the prompt a second; none before the first new token."""
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else None

    @property
    def decode_tokens_per_second(self) -> float | None:
        """New tokens a second after the first; none before there are two."""
        return (self.new_tokens - 1) / self.decode_seconds if self.new_tokens > 1 and self.decode_seconds else None


class Completion(Iterator[str]):
    """The pieces of a completion as they are made, each whole UTF-8; joined they are all of it.

    Attributes:
      speed: of what was made so far.
    """

    def __init__(self, prompt_tokens: int):
        self.speed = Speed(prompt_tokens)
        self.pieces: Iterator[str] = iter(())
        self._began = time.perf_counter()

    def __next__(self) -> str:
        return next(self.pieces)

    def count(self, tokens: int = 1) -> None:
        """Notes that so many more tokens are there."""
        seconds = time.perf_counter() - self._began
        if self.speed.new_tokens:
            self.speed.decode_seconds = seconds - self.speed.prompt_seconds
        else:
            self.speed.prompt_seconds = seconds
        self.speed.new_tokens += tokens


class Generator(Protocol):
    """A loaded model that completes prompts, greedily.

    Attributes:
      format: `saved_model`, `tflite`, `litertlm` or `hugging_face`.
      context_length: tokens that prompt (with `<bos>`) and completion may have together.
    """

    format: str
    context_length: int

    def generate(self, prompt: str, max_new_tokens: int) -> Completion:
        """Completes a prompt.

        Args:
          prompt: any text, also none.
          max_new_tokens: at least 1; the completion is shorter where the model ends it.

        Raises:
          PromptError: at once, if prompt and `max_new_tokens` do not fit in the context, or `max_new_tokens` is below 1.
        """


class TokenModel(Protocol):
    """What reads tokens one after another; see `LiteRtModel`, `SavedModelModel` and `HuggingFaceModel`."""

    context_length: int

    def prefill(self, ids: Sequence[int], position: int = 0) -> None:
        """Reads tokens that take the positions from `position` on."""

    def decode(self, token: int, position: int) -> np.ndarray:
        """Reads one token; returns float32 [V]."""

    def read(self, ids: Sequence[int], position: int) -> np.ndarray:
        """Reads some tokens; returns float32 [N, V]."""


class TextCodec(Protocol):
    """A runtime's tokenizer.

    Attributes:
      stops: ids that end a completion.
    """

    stops: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Token ids, `<bos>` first."""

    def decode(self, ids: Iterable[int]) -> str:
        """Their text."""


def load_generator(path: str | os.PathLike) -> Generator:
    """Loads an exported model.

    Args:
      path: a SavedModel folder (local, or anything that TensorFlow opens); a pushed version's folder, of which `saved_model` is
        preferred; a local Hugging Face folder; a local `.litertlm`; or a local `.tflite` with `tokenizer.model` beside it.

    Raises:
      WeightsError: if there is nothing, it is no such model, is damaged, or its tokenizer is missing.
      MissingExtraError: if the package that runs it is not installed.
    """
    path = os.fspath(path).rstrip("/")
    for folder in (path, os.path.join(path, SAVED_MODEL_FOLDER)):
        if exists(os.path.join(folder, _SAVED_MODEL_FILE)):
            return saved_model_generator(folder)
    for name, load in ((TFLITE_FILE, litert_generator), (LITERT_LM_FILE, LiteRtLmGenerator)):
        if exists(os.path.join(path, name)):
            return load(os.path.join(path, name))
    for folder in (path, os.path.join(path, HUGGING_FACE_FOLDER)):
        if os.path.isfile(os.path.join(folder, _HUGGING_FACE_FILE)):
            return hugging_face_generator(folder)
    if not exists(path):
        raise WeightsError(
            f"no model at {path!r}: give a SavedModel or Hugging Face folder, a pushed version's folder, or a .tflite or .litertlm file"
        )
    if path.endswith(".tflite") and os.path.isfile(path):
        return litert_generator(path)
    if path.endswith(".litertlm") and os.path.isfile(path):
        return LiteRtLmGenerator(path)
    raise WeightsError(
        f"{path} is not a model: a SavedModel folder holds {_SAVED_MODEL_FILE}, a Hugging Face folder {_HUGGING_FACE_FILE}, a pushed "
        f"version's folder {SAVED_MODEL_FOLDER}/ or {TFLITE_FILE}, and a LiteRT file ends in .tflite or .litertlm"
    )


class TokenGenerator:
    """Completes prompts with a model that reads tokens; see `Generator`. The completion comes token by token.

    Attributes:
      model: what reads tokens.
      codec: its tokenizer.
    """

    def __init__(self, format: str, model: TokenModel, codec: TextCodec):
        self.format, self.model, self.codec = format, model, codec
        self.context_length = model.context_length

    def generate(self, prompt: str, max_new_tokens: int) -> Completion:
        """See `Generator.generate`."""
        ids = self.codec.encode(clean_prompt(prompt))
        _check_fits(len(ids), max_new_tokens, self.context_length)
        completion = Completion(len(ids))
        completion.pieces = text_pieces(self.codec, self._counted(ids, max_new_tokens, completion))
        return completion

    def token_ids(self, prompt: Sequence[int], max_new_tokens: int) -> Iterator[int]:
        """The ids of a completion, without the one that ended it; `prompt` begins with `<bos>`."""
        self.model.prefill(prompt[:-1])
        token = prompt[-1]
        for position in range(len(prompt) - 1, len(prompt) - 1 + max_new_tokens):
            token = int(self.model.decode(token, position).argmax())
            if token in self.codec.stops:
                return
            yield token

    def _counted(self, prompt: Sequence[int], max_new_tokens: int, completion: Completion) -> Iterator[int]:
        for token in self.token_ids(prompt, max_new_tokens):
            completion.count()
            yield token


def saved_model_generator(folder: str) -> TokenGenerator:
    """Loads a SavedModel; raises as `load_generator` does."""
    model = SavedModelModel(folder)
    return TokenGenerator("saved_model", model, model.tokenizer)


def hugging_face_generator(folder: str) -> TokenGenerator:
    """Loads a Hugging Face folder; raises as `load_generator` does."""
    model = HuggingFaceModel(folder)
    return TokenGenerator(HUGGING_FACE_FOLDER, model, model.tokenizer)


def litert_generator(path: str) -> TokenGenerator:
    """Loads a `.tflite` and `tokenizer.model` beside it; raises as `load_generator` does."""
    tokenizer_path = os.path.join(os.path.dirname(path), TOKENIZER_FILE)
    if not os.path.isfile(tokenizer_path):
        raise WeightsError(f"no tokenizer at {tokenizer_path}: a .tflite holds none, put {TOKENIZER_FILE} of the same model beside it")
    with open(tokenizer_path, "rb") as file:
        codec = _SentencePieceCodec(Tokenizer(file.read()))
    model = LiteRtModel(path)
    if codec.tokenizer.vocabulary_size != model.vocabulary_size:
        raise WeightsError(
            f"{tokenizer_path} has {codec.tokenizer.vocabulary_size} pieces and {path} ranks {model.vocabulary_size} words: "
            "they belong to different models"
        )
    return TokenGenerator("tflite", model, codec)


class _SentencePieceCodec:
    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self.decode, self.stops = tokenizer, tokenizer.decode, stop_ids(tokenizer)

    def encode(self, text: str) -> list[int]:
        return [self.tokenizer.bos_id, *self.tokenizer.encode(text)]


class LiteRtLmGenerator:
    """Runs a `.litertlm`; see `Generator`. The completion comes as LiteRT-LM streams it.

    Attributes:
      model: the runtime.
    """

    format = "litertlm"

    def __init__(self, path: str):
        """Loads the model; raises as `load_generator` does."""
        self.model = LiteRtLmModel(path)
        self.context_length = self.model.context_length

    def generate(self, prompt: str, max_new_tokens: int) -> Completion:
        """See `Generator.generate`."""
        prompt = clean_prompt(prompt)
        prompt_tokens = len(self.model.encode(prompt))
        _check_fits(prompt_tokens, max_new_tokens, self.context_length)
        completion = Completion(prompt_tokens)
        completion.pieces = self._counted(prompt, max_new_tokens, completion)
        return completion

    def _counted(self, prompt: str, max_new_tokens: int, completion: Completion) -> Iterator[str]:
        for piece in self.model.complete(prompt, max_new_tokens):
            # The runtime says a piece when a token is there, or several where a character takes them.
            completion.count()
            yield piece


def clean_prompt(prompt: str) -> str:
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


def exists(path: str) -> bool:
    """Whether there is a file or folder; raises WeightsError for an address that can't be reached."""
    if "://" not in path:
        return os.path.exists(path)
    import tensorflow as tf

    try:
        return tf.io.gfile.exists(path)
    # A scheme that TensorFlow has no file system for, or one that it can't reach.
    except tf.errors.OpError as error:
        raise WeightsError(f"{path} can't be reached ({str(error).splitlines()[0]}): give a local path or gs://") from error

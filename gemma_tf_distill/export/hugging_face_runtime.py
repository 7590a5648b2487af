"""Runs a Hugging Face folder of a Gemma 3 in transformers. Imports neither TensorFlow nor Keras."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gemma_tf_distill.errors import MissingExtraError, WeightsError
from gemma_tf_distill.export.native_output import native_output_to_log


def import_transformers() -> tuple[Any, Any]:
    """The modules torch and transformers, in a process that may also hold TensorFlow.

    Raises:
      MissingExtraError: if one of them is not installed.
    """
    # Triton, which torch takes along for GPUs, and TensorFlow each bring an LLVM of their own, and the second one ends the process.
    # What runs here runs on the CPU, where torch does without it.
    sys.modules.setdefault("triton", None)  # type: ignore[arg-type]
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "transformers", "running a Hugging Face folder") from error
    return torch, transformers


class HuggingFaceModel:
    """A loaded folder and its cache. It holds one sequence; a sequence begins anew at position 0.

    Attributes:
      context_length: tokens that the model is said to read, `max_position_embeddings`.
      tokenizer: the folder's.
    """

    def __init__(self, folder: str | os.PathLike):
        """Loads a folder; it computes in float32.

        Raises:
          MissingExtraError: if transformers or torch is not installed.
          WeightsError: if the folder is damaged or holds another kind of model.
        """
        folder = os.fspath(folder)
        torch, transformers = import_transformers()
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._torch, self._cache = torch, None
        try:
            with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
                kind = json.load(file).get("model_type")
            if kind != "gemma3_text":
                raise WeightsError(
                    f"{folder} holds a model of the type {kind!r}, not gemma3_text: give a folder that this project exported"
                )
            with native_output_to_log("transformers"):
                self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
                self.tokenizer = TransformersTokenizer(transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True), folder)
        except WeightsError:
            raise
        # What a damaged folder makes safetensors, tokenizers and transformers raise has no class in common.
        except Exception as error:
            raise WeightsError(
                f"{folder} cannot be loaded by transformers ({' '.join(str(error).split())[:200]}): export it again"
            ) from error
        self.context_length: int = self._model.config.max_position_embeddings

    def prefill(self, ids: Sequence[int], position: int = 0) -> None:
        """Reads tokens that take the positions from `position` on."""
        if ids:
            self._read(ids, position, 1)

    def decode(self, token: int, position: int) -> np.ndarray:
        """Reads one token at `position`; returns the scores of all words for the next one, float32 [V]."""
        return self._read([token], position, 1)[0]

    def read(self, ids: Sequence[int], position: int) -> np.ndarray:
        """Reads some tokens; returns the scores after each of them, float32 [N, V]."""
        return self._read(ids, position, len(ids))

    def _read(self, ids: Sequence[int], position: int, kept: int) -> np.ndarray:
        with self._torch.inference_mode():
            tokens = self._torch.tensor([list(ids)])
            past: Any = self._cache if position else None
            output = self._model(input_ids=tokens, cache=past, use_cache=True, logits_to_keep=kept)
        self._cache = output.cache
        return output.logits[0].numpy()


class TransformersTokenizer:
    """A folder's tokenizer as transformers reads it.

    Attributes:
      stops: ids that end a completion, as `generation_config.json` has them.
    """

    def __init__(self, tokenizer: Any, folder: str):
        self._tokenizer = tokenizer
        with open(os.path.join(folder, "generation_config.json"), encoding="utf-8") as file:
            stops = json.load(file)["eos_token_id"]
        self.stops = (stops,) if isinstance(stops, int) else tuple(stops)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, `<bos>` first."""
        return self._tokenizer(text)["input_ids"]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without special tokens. Bytes that are not UTF-8 become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

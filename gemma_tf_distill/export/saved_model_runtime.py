"""Runs a SavedModel token by token, by its signature `logits`. Needs tensorflow and tensorflow-text alone."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gemma_tf_distill.data.packing import PAD_ID
from gemma_tf_distill.errors import UserError, WeightsError
from gemma_tf_distill.export.names import CACHE, GENERATE, LOGITS, PREFILL_PIECE


def load_saved_model(folder: str | os.PathLike) -> Any:
    """What `tf.saved_model.load` gives for a folder of `export_saved_model`.

    Raises:
      UserError: if tensorflow or tensorflow-text is not installed.
      WeightsError: if it is damaged.
    """
    try:
        import tensorflow as tf
        import tensorflow_text  # noqa: F401  registers the tokenizer's operations
    except ImportError as error:
        raise UserError(f"running a SavedModel needs {error.name}, which is not installed: pip install tensorflow-text") from error
    try:
        return tf.saved_model.load(os.fspath(folder))
    # A checkpoint that ends too soon is an IndexError.
    except (OSError, ValueError, LookupError, tf.errors.OpError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(f"the SavedModel at {folder} is damaged ({lines[0][:200]}): export it again") from error


class SavedModelModel:
    """A loaded SavedModel and its cache. It holds one sequence; a sequence begins anew at position 0.

    Attributes:
      context_length: tokens that the cache holds.
      loaded: what `tf.saved_model.load` gives.
      tokenizer: the one in its graph.
    """

    def __init__(self, folder: str | os.PathLike):
        """Loads a folder of `export_saved_model`.

        Raises:
          UserError: if tensorflow or tensorflow-text is not installed.
          WeightsError: if it is damaged, or another kind of SavedModel.
        """
        self.loaded = load_saved_model(folder)
        import tensorflow as tf

        if LOGITS not in self.loaded.signatures:
            found = ", ".join(sorted(self.loaded.signatures)) or "none"
            raise WeightsError(
                f"{folder} is a SavedModel without the signature {LOGITS} (it has: {found}): give one that this project exported"
            )
        self.loaded.unpack()
        self._logits = self.loaded.signatures[LOGITS]
        self.context_length = int(self.loaded.context_length)
        self.tokenizer = GraphTokenizer(self.loaded)
        inputs = self._logits.structured_input_signature[1]
        self._empty = {name: tf.zeros([1, *spec.shape[1:]]) for name, spec in inputs.items() if name.startswith(CACHE)}
        self._caches = self._empty

    def prefill(self, ids: Sequence[int], position: int = 0) -> None:
        """Reads tokens that take the positions from `position` on."""
        for begin in range(0, len(ids), PREFILL_PIECE):
            self._read(ids[begin : begin + PREFILL_PIECE], position + begin, 1)

    def decode(self, token: int, position: int) -> np.ndarray:
        """Reads one token at `position`; returns the scores of all words for the next one, float32 [V]."""
        return self._read([token], position, 1)[0]

    def read(self, ids: Sequence[int], position: int) -> np.ndarray:
        """Reads some tokens; returns the scores after each of them, float32 [N, V]."""
        return self._read(ids, position, len(ids))

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[list[int]]:
        """Greedy completions of a batch in one graph, by the signature `generate`: token ids, without what ended them."""
        import tensorflow as tf

        found = self.loaded.signatures[GENERATE](prompt=tf.constant(list(prompts)), max_new_tokens=tf.constant(max_new_tokens))
        rows = found["token_ids"].numpy().tolist()
        for row in rows:
            while row and row[-1] == PAD_ID:
                row.pop()
        return rows

    def _read(self, ids: Sequence[int], position: int, kept: int) -> np.ndarray:
        import tensorflow as tf

        outputs = self._logits(
            token_ids=tf.constant([ids], tf.int32),
            position=tf.constant(position),
            left_padding=tf.constant([0]),
            logits_to_keep=tf.constant(kept),
            # A ring must not hold what another sequence left in it.
            **(self._caches if position else self._empty),
        )
        scores = outputs.pop(LOGITS)
        self._caches = outputs
        return scores.numpy()[0]


class GraphTokenizer:
    """The tokenizer inside a loaded SavedModel.

    Attributes:
      stops: ids that end a completion.
    """

    def __init__(self, loaded: Any):
        self._loaded = loaded
        self.stops = tuple(loaded.stops.numpy().tolist())

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, `<bos>` first."""
        import tensorflow as tf

        return self._loaded.tokenize(tf.constant([text])).values.numpy().tolist()

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Bytes that are not UTF-8 become U+FFFD."""
        import tensorflow as tf

        return self._loaded.detokenize(tf.constant(list(ids), tf.int32)).numpy().decode(errors="replace")

"""Teacher targets, scored once: shards of the training windows, and an index that says what they are and how they look whole.

`targets.json` holds the address (of which teacher, over which words, on which text, what kind of targets), for each shard its
sha256, windows, tokens and bytes, and the sums. Shards are TFRecords of `data.examples.target_example`. The shards of the held-out
windows, which lie beside them, are described as well, apart from the sums.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gemma_tf_distill.data.batch_processor import TPUBatchProcessor
from gemma_tf_distill.data.batches import count_split, split_files
from gemma_tf_distill.data.examples import parse_targets
from gemma_tf_distill.errors import TargetsError
from gemma_tf_distill.teacher.codec import decode_draws, decode_top_k

INDEX = "targets.json"
_SPLIT, _HELDOUT = "train", "heldout"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetAddress:
    """What targets depend on; two stores with the same address hold the same.

    Attributes:
      teacher: its source, dtype and fingerprint.
      tokenizer: sha256 of the student's vocabulary.
      corpus: digest of the corpus' config and fingerprint.
      kind: `top_k`, `sampled` or `dense` (no targets are stored: the live teacher is asked).
      words: k, or the number of draws.
      least_probability: words below it were left out.
      temperature: at which the teacher was softened.
    """

    teacher: str
    tokenizer: str
    corpus: str
    kind: str
    words: int
    least_probability: float
    temperature: float

    @property
    def digest(self) -> str:
        """sha256 of all of it, in hexadecimal."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


def write_index(root: str, address: TargetAddress, window: int) -> dict[str, Any]:
    """Describes the shards that lie under `root`, an Examples artifact, and writes `targets.json` beside them.

    Returns:
      The index.
    """

    def described(split: str) -> dict[str, dict[str, Any]]:
        shards = {}
        for file in split_files(root, split):
            windows, tokens = count_split([file], window)
            content = _read(file)
            shards[os.path.basename(file)] = {
                "sha256": hashlib.sha256(content).hexdigest(),
                "windows": windows,
                "tokens": tokens,
                "bytes": len(content),
            }
        return shards

    shards = described(_SPLIT)
    total = {key: sum(shard[key] for shard in shards.values()) for key in ("windows", "tokens", "bytes")}
    index = {
        "address": dataclasses.asdict(address),
        "digest": address.digest,
        "window": window,
        "shards": shards,
        "heldout_shards": described(_HELDOUT) if tf.io.gfile.exists(os.path.join(root, f"Split-{_HELDOUT}")) else {},
        **total,
        "bytes_per_token": total["bytes"] / max(1, total["tokens"]),
    }
    with tf.io.gfile.GFile(os.path.join(root, INDEX), "w") as file:
        file.write(json.dumps(index, indent=2) + "\n")
    return index


class TargetStore:
    """The training windows of a scored corpus with their targets.

    Attributes:
      index: the content of `targets.json`.
      address: what the targets are of.
      windows: how many all shards hold.
      tokens: how many tokens of theirs count as labels.
    """

    def __init__(self, root: str, expected: TargetAddress | None = None):
        """Args:
          root: the Examples artifact, local or anything that `tf.io.gfile` opens.
          expected: what is wanted; none: whatever is there.

        Raises:
          TargetsError: if there is no index, or the targets are of something else than expected; it says in what they differ.
        """
        self._root = root
        try:
            self.index = json.loads(_read(os.path.join(root, INDEX)))
            self.address = TargetAddress(**self.index["address"])
            self._shards: dict[str, dict[str, Any]] = self.index["shards"]
            self._heldout_shards: dict[str, dict[str, Any]] = self.index["heldout_shards"]
            self._window, self.windows, self.tokens = (int(self.index[name]) for name in ("window", "windows", "tokens"))
        except (tf.errors.OpError, ValueError, KeyError, TypeError) as error:
            raise TargetsError(f"{root} holds no teacher targets: {INDEX} is missing or damaged, score the corpus again") from error
        if expected is not None and expected != self.address:
            differences = [
                f"{field.name} is {_short(getattr(self.address, field.name))} and not {_short(getattr(expected, field.name))}"
                for field in dataclasses.fields(TargetAddress)
                if getattr(self.address, field.name) != getattr(expected, field.name)
            ]
            raise TargetsError(f"the targets in {root} are of something else ({'; '.join(differences)}): score the corpus again")

    def damaged(self) -> dict[str, str]:
        """The shards that are not what the index says, each with what is wrong with it; empty where all are whole."""
        return self._damaged(_SPLIT, self._shards)

    def _damaged(self, split: str, shards: dict[str, dict[str, Any]]) -> dict[str, str]:
        found = {}
        for name, shard in shards.items():
            path = os.path.join(self._root, f"Split-{split}", name)
            if not tf.io.gfile.exists(path):
                found[name] = "it is missing"
            elif (size := tf.io.gfile.stat(path).length) < shard["bytes"]:
                found[name] = f"it is truncated: {size} bytes of {shard['bytes']}"
            elif hashlib.sha256(_read(path)).hexdigest() != shard["sha256"]:
                found[name] = "its sha256 is not the one in the index"
        return found

    def files(self, *, skip_damaged: bool = False) -> list[str]:
        """The shards' paths, sorted; every one is read and compared with its checksum first.

        Args:
          skip_damaged: leave damaged shards out.

        Raises:
          TargetsError: naming the damaged shards and what is wrong with them, unless they are to be skipped or all are damaged.
        """
        damaged = self.damaged()
        whole = [os.path.join(self._root, f"Split-{_SPLIT}", name) for name in sorted(self._shards) if name not in damaged]
        if damaged and (not skip_damaged or not whole):
            wrong = "; ".join(f"{name}: {what}" for name, what in sorted(damaged.items()))
            advice = "score the corpus again" + (f", or read the other {len(whole)} shards with skip_damaged=True" if whole else "")
            raise TargetsError(f"teacher targets in {self._root} are damaged ({wrong}): {advice}")
        return whole

    def heldout_files(self) -> list[str]:
        """The paths of the held-out windows' shards, sorted; every one is read and compared with its checksum first.

        Raises:
          TargetsError: naming the damaged shards and what is wrong with them, or if there is none.
        """
        damaged = self._damaged(_HELDOUT, self._heldout_shards)
        if damaged or not self._heldout_shards:
            wrong = "; ".join(f"{name}: {what}" for name, what in sorted(damaged.items())) or "there are none"
            raise TargetsError(f"held-out windows in {self._root} are damaged ({wrong}): score the corpus again")
        return [os.path.join(self._root, f"Split-{_HELDOUT}", name) for name in sorted(self._heldout_shards)]

    def batch_processor(self, files: Sequence[str], *, batch_size: int, seed: int) -> TPUBatchProcessor:
        """Of the batches of `files`; see `batches`."""
        return TPUBatchProcessor(files, window=self._window, batch_size=batch_size, seed=seed, parse=self._parse)

    def batches(
        self, files: Sequence[str], *, batch_size: int, seed: int, skip: int = 0, context: tf.distribute.InputContext | None = None
    ) -> tf.data.Dataset:
        """Endless full batches of `files`, in the order and with the resumption of `TPUBatchProcessor`; with a context, a process's shares.

        Returns:
          A dataset of `tokens` int32 [B, T] and, unless the kind is `dense`, `teacher_ids` int32 [B, N, words] and
          `teacher_log_probs` float32 [B, N, words] (nats; of draws, the log of a word's share); free places hold word 0 and
          `transfer.supports.NO_WORD`.
        """
        processor = self.batch_processor(files, batch_size=batch_size, seed=seed)
        return processor.batches(skip) if context is None else processor.dataset_for(context, skip)

    def _parse(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        window, words = self._window, self.address.words
        parsed = parse_targets(serialized, window)
        compressed = parsed.pop("targets")
        if self.address.kind == "dense":
            return parsed
        decode = decode_draws if self.address.kind == "sampled" else decode_top_k

        def decode_all(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            ids, log_probs = zip(*(decode(data, window - 1, words) for data in batch), strict=True)
            return np.stack(ids), np.stack(log_probs)

        ids, log_probs = tf.numpy_function(decode_all, [compressed], [tf.int32, tf.float32])
        shape = [serialized.shape[0], window - 1, words]
        return {**parsed, "teacher_ids": tf.ensure_shape(ids, shape), "teacher_log_probs": tf.ensure_shape(log_probs, shape)}


def _read(path: str) -> bytes:
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:20]}…"

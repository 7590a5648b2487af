"""What the process that runs an exported file is asked, and what it answers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Request(NamedTuple):
    """What is asked of a file.

    Attributes:
      path: the file or folder.
      windows: token ids, each beginning with `<bos>`.
      begin: how many tokens of each window are read before predictions count.
      prompts: texts to complete.
      max_new_tokens: tokens to add to each.
    """

    path: str
    windows: Sequence[Sequence[int]]
    begin: int
    prompts: Sequence[str]
    max_new_tokens: int


class LongWindow(NamedTuple):
    """A window that is longer than those that were asked for: what a runtime does otherwise with long texts is in it.

    Attributes:
      window: token ids.
      begin: how many of them were read at once.
      logits: float32 [T - begin, V].
    """

    window: list[int]
    begin: int
    logits: np.ndarray


class Completed(NamedTuple):
    """Greedy completions of the prompts that fit in the context.

    Attributes:
      prompts: those.
      prompt_ids: as the runtime's own tokenizer reads them, `<bos>` first.
      ids: the new tokens, without the one that ended them; none where the runtime tells texts only.
      texts: the same as text.
      max_new_tokens: that were asked for.
    """

    prompts: list[str]
    prompt_ids: list[list[int]]
    ids: list[list[int]] | None
    texts: list[str]
    max_new_tokens: int


class Measured(NamedTuple):
    """What running the file took.

    Attributes:
      prefill_tokens_per_second: of a prompt.
      decode_tokens_per_second: of what follows it.
      peak_bytes: of memory.
    """

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    peak_bytes: int

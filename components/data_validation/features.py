"""Documents, prompts and windows as tables for TFDV."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from components.corpus_gen.rows import count_tokens
from gemma_tf_distill.config import DOCUMENT_FEATURES
from gemma_tf_distill.data.batches import records
from gemma_tf_distill.data.examples import window_lengths
from gemma_tf_distill.gemma.vocabulary import Vocabulary

# Of more windows the first ones, whose order is that of a hash.
MOST_WINDOWS = 100_000
_WINDOWS_A_BATCH = 1024


def document_table(rows: Sequence[Mapping[str, str | int]], labels: Sequence[str] = ()) -> pd.DataFrame:
    """`DOCUMENT_FEATURES` of each document.

    Args:
      rows: counts of `count_tokens`, with those of `labels`.
      labels: categories of documents: `source` and `corpus.features`.

    Returns:
      `tokens` and `characters`, int64; `tokens_per_character`, and the shares of tokens that are byte pieces
      (`byte_token_fraction`) and `<unk>` (`unknown_token_fraction`), float64; `labels`, texts.
    """
    table = pd.DataFrame(list(rows))
    table["tokens_per_character"] = table["tokens"] / table["characters"]
    table["byte_token_fraction"] = table["byte_tokens"] / table["tokens"]
    table["unknown_token_fraction"] = table["unknown_tokens"] / table["tokens"]
    return table[[*labels, *DOCUMENT_FEATURES]]


def prompt_table(prompts: Sequence[str], vocabulary: Vocabulary) -> pd.DataFrame:
    """The same of prompts, as the student reads them."""
    encoded = vocabulary.tokenizer.encode_batch(prompts)
    return document_table(
        [count_tokens(np.asarray(ids, np.int32), len(text), vocabulary) for text, ids in zip(prompts, encoded, strict=True)]
    )


def window_table(files: Sequence[str], window: int) -> pd.DataFrame:
    """`length` (tokens that are not padding, int64) and `padding_fraction` (float64) of the windows in shards; `window` is T."""
    batches = records(files).take(MOST_WINDOWS).batch(_WINDOWS_A_BATCH)
    lengths = np.concatenate([window_lengths(batch, window).numpy() for batch in batches]).astype(np.int64)
    return pd.DataFrame({"length": lengths, "padding_fraction": 1 - lengths / window})

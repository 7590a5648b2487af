"""A few windows of a split, the same in every run."""

from collections.abc import Sequence

import numpy as np

from gemma_tf_distill.data.batches import records
from gemma_tf_distill.data.examples import parse_windows


def first_windows(files: Sequence[str], window: int, tokens: int) -> np.ndarray:
    """The first windows of the shards in their sorted order, the same in every run.

    Args:
      files: shards of windows, scored or not.
      window: T.
      tokens: how many are wanted; they are rounded up to whole windows.

    Returns:
      int32 [windows, T], fewer where there are no more.
    """
    wanted = records(files).take(-(-tokens // window))
    batches = [parse_windows(batch, window)["tokens"].numpy() for batch in wanted.batch(256)]
    return np.concatenate(batches) if batches else np.zeros([0, window], np.int32)

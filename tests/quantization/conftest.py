"""Windows for models of `make_gemma`."""

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture
def tokens(tiny_tokenizer) -> tf.Tensor:
    """int32 [4, 12]."""
    windows = np.random.default_rng(3).integers(4, 300, size=(4, 12))
    windows[:, 0] = tiny_tokenizer.bos_id
    return tf.constant(windows, tf.int32)

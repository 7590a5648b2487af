"""What a model in memory writes, to be shown beside what another writes."""

from collections.abc import Sequence

import tensorflow as tf

from gemma_tf_distill.export.decoding import completions
from gemma_tf_distill.export.text import stop_ids
from gemma_tf_distill.gemma.functional import shape_of, weights_of
from gemma_tf_distill.gemma.model import Gemma


def sample_completions(gemma: Gemma, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
    """Greedy completions, without their prompts.

    Args:
      gemma: teacher or student; computed in float32, whatever its dtype.
      prompts: any texts.
      max_new_tokens: at least 1.
    """
    if not prompts:
        return []
    shape = shape_of(gemma)
    # Tensors and not arrays: a graph takes them as inputs instead of copying them into itself.
    weights = {name: tf.constant(value) for name, value in weights_of(gemma).items()}
    ids = tf.ragged.constant([[gemma.tokenizer.bos_id, *gemma.tokenizer.encode(prompt)] for prompt in prompts], tf.int32)
    stops = stop_ids(gemma.tokenizer)
    decode = tf.function(lambda ids: completions(shape, weights, ids, max_new_tokens, stops), autograph=False)
    return [gemma.tokenizer.decode(row) for row in decode(ids).to_list()]

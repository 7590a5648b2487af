"""Losses over the whole vocabulary that never hold [tokens, vocabulary].

Hidden states and the tied embedding go in; sums of loss terms come out. Logits are made for one chunk of tokens at a time, the
gradient is taken inside the chunk, and the logits are forgotten. Memory is [chunk, vocabulary] instead of [tokens, vocabulary],
forward and backward; the work is the same, since nothing is computed twice.
"""

from collections.abc import Callable, Mapping

import tensorflow as tf

from gemma_tf_distill.transfer.head import head_logits, soft_capped

Targets = Mapping[str, tf.Tensor]
TokenLoss = Callable[[tf.Tensor, Targets], dict[str, tf.Tensor]]

# Of one chunk's float32 logits: at 262,144 words, 192 tokens. A TPU's temporaries are then 1/50 of those of all logits of 4,096 tokens.
_LOGITS_BYTES = 192 * 2**20
# Fewer make the sum of the embedding's gradients, read and written for each chunk, as slow as the products; on a CPU more fall out of
# the cache, and on none of the sizes measured were they faster.
_MOST_TOKENS = 512


def default_chunk(tokens: int, words: int) -> int:
    """Tokens whose logits exist at a time: a multiple of 8, at most 512, 192 MiB of float32 logits at the most, all chunks alike in size.

    Args:
      tokens: in all.
      words: of the vocabulary.
    """
    most = min(_MOST_TOKENS, max(8, _LOGITS_BYTES // (4 * words) // 8 * 8))
    chunks = -(-tokens // most)
    return -(-tokens // (8 * chunks)) * 8


def vocabulary_loss(
    hidden: tf.Tensor,
    embedding: tf.Tensor,
    targets: Targets,
    mask: tf.Tensor,
    token_loss: TokenLoss,
    *,
    chunk: int | None = None,
    logit_soft_cap: float | None = None,
) -> dict[str, tf.Tensor]:
    """Sums of the terms of a loss over the tokens that count.

    Args:
      hidden: [N, D], the student's final hidden states, in its compute dtype.
      embedding: [V, D], the tied embedding; logits are `hidden @ embedding.T`, multiplied in hidden's dtype.
      targets: what `token_loss` reads beside the logits, each [N, ...].
      mask: float32 [N], 1 where a token counts and 0 elsewhere.
      token_loss: from float32 logits [C, V] and the chunk's targets to named float32 terms [C]; the term `loss` is the one
        that is differentiated. It must be finite on every token, also those that do not count.
      chunk: tokens whose logits exist at a time; N need not be a multiple; none: `default_chunk`.
      logit_soft_cap: `cap * tanh(logits / cap)` is applied where given.

    Returns:
      The float32 sums of all terms over the tokens that count. Only `loss` has a gradient, to `hidden` and `embedding`.
    """
    tokens = hidden.shape[0]
    chunk = min(default_chunk(tokens, embedding.shape[0]) if chunk is None else chunk, tokens)
    chunks = -(-tokens // chunk)

    def padded(x: tf.Tensor) -> tf.Tensor:
        return tf.pad(x, [[0, chunks * chunk - tokens]] + [[0, 0]] * (x.shape.rank - 1))

    names = sorted(targets)
    values = [padded(targets[name]) for name in names]
    padded_mask = padded(mask)
    # The names of the terms are known only after a look at the loss; an abstract trace gives them without computing anything.
    target_specs = {name: tf.TensorSpec([chunk, *value.shape[1:]], value.dtype) for name, value in zip(names, values, strict=True)}
    logits_spec = tf.TensorSpec([chunk, embedding.shape[0]], tf.float32)
    terms = sorted(tf.function(token_loss).get_concrete_function(logits_spec, target_specs).structured_outputs)

    @tf.custom_gradient
    def total(hidden: tf.Tensor, embedding: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., tuple[tf.Tensor, tf.Tensor]]]:
        padded_hidden = padded(hidden)

        def weights_for(i: tf.Tensor) -> tf.Tensor:
            if embedding.dtype == hidden.dtype:
                return embedding
            # The factor is always 1, which XLA can't know: it would take a cast that is the same in every turn out of the loop and
            # keep the whole copy (320 MiB at 262,144 words of 640) where it can cast on the way into each product.
            return tf.cast(embedding * tf.cast(1 + i // chunks, embedding.dtype), hidden.dtype)

        def one_chunk(
            i: tf.Tensor, sums: list[tf.Tensor], d_hidden: tf.TensorArray, d_embedding: tf.Tensor
        ) -> tuple[tf.Tensor, list[tf.Tensor], tf.TensorArray, tf.Tensor]:
            def cut(x: tf.Tensor) -> tf.Tensor:
                return tf.slice(x, [i * chunk] + [0] * (x.shape.rank - 1), [chunk, *x.shape[1:]])

            states, counts, weights = cut(padded_hidden), cut(padded_mask), weights_for(i)
            with tf.GradientTape() as tape:
                raw = head_logits(states, weights)
                tape.watch(raw)
                losses = token_loss(soft_capped(raw, logit_soft_cap), dict(zip(names, map(cut, values), strict=True)))
                chunk_sums = [tf.reduce_sum(losses[term] * counts) for term in terms]
            d_logits = tf.cast(tape.gradient(chunk_sums[terms.index("loss")], raw), hidden.dtype)
            d_hidden = d_hidden.write(i, tf.matmul(d_logits, weights))
            d_embedding += tf.cast(tf.matmul(d_logits, states, transpose_a=True), tf.float32)
            return i + 1, [a + b for a, b in zip(sums, chunk_sums, strict=True)], d_hidden, d_embedding

        _, sums, d_hidden, d_embedding = tf.while_loop(
            lambda i, *_: i < chunks,
            one_chunk,
            (
                tf.constant(0),
                [tf.constant(0.0)] * len(terms),
                tf.TensorArray(hidden.dtype, chunks, element_shape=[chunk, hidden.shape[1]]),
                tf.zeros(embedding.shape, tf.float32),
            ),
            maximum_iterations=chunks,
        )
        d_hidden = d_hidden.concat()[:tokens]

        def grad(*upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            scale = upstream[terms.index("loss")]
            return tf.cast(scale, hidden.dtype) * d_hidden, tf.cast(scale * d_embedding, embedding.dtype)

        return sums, grad

    return dict(zip(terms, total(hidden, embedding), strict=True))

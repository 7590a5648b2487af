"""Causal attention in tiles of a block of queries and a block of keys: [tokens, tokens] never exists, forward or backward.

FlashAttention (Dao et al. 2022, arXiv:2205.14135): the softmax of a row is made while its tiles pass by (section 3.1, algorithm 1), and the
backward pass makes each tile's probabilities again from the log of their row's sum (appendix B, algorithm 4).
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Scores of keys that are not seen. A row's largest score begins so much above it that the exponential of the difference is 0 even where
# the row has seen nothing yet.
_MASKED = -1e30
_LOWEST = -1e20


class _Grid:
    """The tiles that a causal layer looks at: each block of queries with its own keys, and with the blocks before as far as it sees."""

    def __init__(self, length: int, block: int, window: int | None):
        """Args:
        length: T.
        block: S, tokens in a block.
        window: keys that a query sees, its own included; none: all before it.
        """
        self.length = length
        self.block = block
        self.window = window
        self.blocks = -(-length // block)
        self.reach = self.blocks - 1 if window is None else min(self.blocks - 1, -(-(window - 1) // block))
        self.tiles = self.blocks * (self.reach + 1) - self.reach * (self.reach + 1) // 2

    def cut(self, x: tf.Tensor, heads: int) -> tf.Tensor:
        """[B, T, heads * groups, ...] to [blocks, B, heads, S * groups, ...], padded with zeros.

        A token's query heads stay together: with one key head and one window nothing is moved at all.
        The padding needs no mask: it comes last, where no token of the window sees it, and what it sees itself is cut off again.
        """
        groups, rest = x.shape[2] // heads, x.shape[3:]
        x = tf.pad(x, [[0, 0], [0, self.blocks * self.block - self.length]] + [[0, 0]] * (x.shape.rank - 2))
        x = tf.reshape(x, [-1, self.blocks, self.block, heads, groups, *rest])
        x = tf.transpose(x, [1, 0, 3, 2, 4, *range(5, 5 + rest.rank)])
        return tf.reshape(x, [self.blocks, -1, heads, self.block * groups, *rest])

    def joined(self, x: tf.Tensor) -> tf.Tensor:
        """[blocks, B, heads, S * groups, D] to [B, T, heads * groups, D], the inverse of `cut`."""
        heads, groups, width = x.shape[2], x.shape[3] // self.block, x.shape[4]
        x = tf.reshape(x, [self.blocks, -1, heads, self.block, groups, width])
        x = tf.transpose(x, [1, 0, 3, 2, 4, 5])
        return tf.reshape(x, [-1, self.blocks * self.block, heads * groups, width])[:, : self.length]

    def over_tiles(self, tile: Callable[..., tuple[Any, ...]], state: tuple[Any, ...]) -> tuple[Any, ...]:
        """Calls `tile(row, column, kept, *state)`, which returns the next state, for the tiles of each block of queries in turn.

        `row` and `column` are the blocks of queries and keys, int32; `kept` is 0.0 at a row's first tile and else 1.0.

        One loop over all tiles, and not for each row an inner one that ends at its diagonal: so many turns as there are tiles, none of them
        for nothing, and a number that the compiler knows, which it plans and analyses better than an inner loop's changing end.
        """

        def turn(index: tf.Tensor, row: tf.Tensor, column: tf.Tensor, *state: Any) -> tuple[Any, ...]:
            kept = tf.cast(column > tf.maximum(row - self.reach, 0), tf.float32)
            state = tile(row, column, kept, *state)
            ends = column == row
            following = tf.maximum(row + 1 - self.reach, 0)
            return index + 1, tf.where(ends, row + 1, row), tf.where(ends, following, column + 1), *state

        first = (tf.constant(0), tf.constant(0), tf.constant(0))
        found = tf.while_loop(
            lambda index, *_: index < self.tiles, turn, (*first, *state), maximum_iterations=self.tiles, parallel_iterations=1
        )
        return found[3:]


class _Scores:
    """The scores of one tile, as forward and backward pass both make them."""

    def __init__(self, grid: _Grid, query: tf.Tensor, key: tf.Tensor, soft_cap: float | None, labels: tuple[tf.Tensor, tf.Tensor] | None):
        self._grid = grid
        self._query = query
        self._key = key
        self._soft_cap = soft_cap
        self._groups = query.shape[3] // grid.block
        self._labels = None
        if labels is not None:
            of_queries, of_keys = (x[:, :, None] for x in labels)
            # To [blocks, B, S * groups] and [blocks, B, S].
            self._labels = grid.cut(tf.repeat(of_queries, self._groups, axis=2), 1)[:, :, 0], grid.cut(of_keys, 1)[:, :, 0]

    def __call__(self, row: tf.Tensor, column: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Float32 [B, heads, S * groups, S], masked, and with a soft cap its slope."""
        scores = _product(_at(self._query, row), _at(self._key, column), transpose_b=True)
        slope = None
        if self._soft_cap is not None:
            bent = tf.tanh(scores / self._soft_cap)
            scores, slope = self._soft_cap * bent, 1 - tf.square(bent)
        return tf.where(self._seen(row, column), scores, _MASKED), slope

    def _seen(self, row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        # Of positions that depend on the loop: XLA would evaluate a mask that is made of constants when it compiles, number by number.
        of_queries, of_keys = tf.range(self._grid.block * self._groups) // self._groups, tf.range(self._grid.block)
        distance = (row - column) * self._grid.block + of_queries[:, None] - of_keys[None, :]
        seen = distance >= 0
        if self._grid.window is not None:
            seen = tf.logical_and(seen, distance < self._grid.window)
        if self._labels is None:
            return seen
        query_labels, key_labels = self._labels
        same = _at(query_labels, row)[:, :, None] == _at(key_labels, column)[:, None, :]
        return tf.logical_and(seen, same)[:, None]


def tiled_attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    *,
    block: int,
    window: int | None = None,
    soft_cap: float | None = None,
    labels: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> tf.Tensor:
    """What each query gathers of the values that it sees: its own token's and those before.

    Products are computed in the inputs' dtype, everything else in float32.

    Args:
      query: [B, T, H, D], multiplied by the scale, T and what follows static.
      key: [B, T, K, D] where K divides H; query heads that follow each other share their keys.
      value: [B, T, K, D].
      block: tokens in a block.
      window: keys that a query sees, its own included; none: all.
      soft_cap: scores are bent to `soft_cap * tanh(scores / soft_cap)`.
      labels: int32 [B, T] of queries and of keys, which must be equal for a query to see a key; none: only the order counts.

    Returns:
      [B, T, H, D] in the inputs' dtype, 0 where a query sees nothing; with gradients to query, key and value.
    """
    grid, heads = _Grid(query.shape[1], block, window), key.shape[2]

    @tf.custom_gradient
    def attend(
        query: tf.Tensor, key: tf.Tensor, value: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
        queries, keys, values = (grid.cut(x, heads) for x in (query, key, value))
        scores_at = _Scores(grid, queries, keys, soft_cap, labels)
        gathered, log_sums = _forward(grid, scores_at, queries, values)
        output = grid.joined(gathered)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            found = _backward(grid, scores_at, queries, keys, values, output, log_sums, upstream)
            return tuple(tf.cast(grid.joined(x), query.dtype) for x in found)

        return output, gradient

    return attend(query, key, value)


def _forward(grid: _Grid, scores_at: _Scores, queries: tf.Tensor, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What is gathered, [blocks, B, heads, S * groups, D], and float32 logs of the rows' sums [blocks, B, heads, S * groups]."""

    def tile(
        row: tf.Tensor,
        column: tf.Tensor,
        kept: tf.Tensor,
        largest: tf.Tensor,
        total: tf.Tensor,
        gathered: tf.Tensor,
        outputs: tf.TensorArray,
        log_sums: tf.TensorArray,
    ) -> tuple[Any, ...]:
        scores, _ = scores_at(row, column)
        former = tf.where(kept > 0, largest, _LOWEST)
        largest = tf.maximum(former, tf.reduce_max(scores, axis=-1))
        weights = tf.exp(scores - largest[..., None])
        kept *= tf.exp(former - largest)
        total = kept * total + tf.reduce_sum(weights, axis=-1)
        added = _product(tf.cast(weights, values.dtype), _at(values, column))
        gathered = kept[..., None] * gathered + added
        # A row that saw anything has a total of at least 1, its largest score's own; one that did not has 0, and so has what it gathered.
        # Every tile writes, and the row's last one stays: it is little beside the products.
        divisor = tf.maximum(total, 1.0)
        outputs = outputs.write(row, tf.cast(gathered / divisor[..., None], queries.dtype))
        return largest, total, gathered, outputs, log_sums.write(row, largest + tf.math.log(divisor))

    rows = _zeros(queries[0, ..., 0])
    state = (rows, rows, _zeros(queries[0]), _blocks(queries, queries.dtype), _blocks_of(rows, grid.blocks))
    *_, outputs, log_sums = grid.over_tiles(tile, state)
    return outputs.stack(), log_sums.stack()


def _backward(
    grid: _Grid,
    scores_at: _Scores,
    queries: tf.Tensor,
    keys: tf.Tensor,
    values: tf.Tensor,
    output: tf.Tensor,
    log_sums: tf.Tensor,
    upstream: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gradients of queries, keys and values, shaped as these."""
    heads, dtype = keys.shape[2], queries.dtype
    # The part of a score's gradient that all scores of a row share: rowsum(P * dP), which is rowsum(O * dO).
    shared = tf.reduce_sum(tf.cast(output, tf.float32) * tf.cast(upstream, tf.float32), axis=-1)
    shared, upstreams = grid.cut(shared, heads), grid.cut(upstream, heads)

    def tile(
        row: tf.Tensor,
        column: tf.Tensor,
        kept: tf.Tensor,
        of_query: tf.Tensor,
        of_queries: tf.TensorArray,
        of_keys: tf.TensorArray,
        of_values: tf.TensorArray,
    ) -> tuple[Any, ...]:
        scores, slope = scores_at(row, column)
        weights = tf.exp(scores - _at(log_sums, row)[..., None])
        of_weights = _product(_at(upstreams, row), _at(values, column), transpose_b=True)
        of_scores = weights * (of_weights - _at(shared, row)[..., None])
        if slope is not None:
            of_scores *= slope
        weights, of_scores = tf.cast(weights, dtype), tf.cast(of_scores, dtype)
        of_query = kept * of_query + _product(of_scores, _at(keys, column))
        of_key = of_keys.read(column) + _product(of_scores, _at(queries, row), transpose_a=True)
        of_value = of_values.read(column) + _product(weights, _at(upstreams, row), transpose_a=True)
        return (
            of_query,
            of_queries.write(row, tf.cast(of_query, dtype)),
            of_keys.write(column, of_key),
            of_values.write(column, of_value),
        )

    state = (
        _zeros(queries[0]),
        _blocks(queries, dtype),
        _blocks(keys, tf.float32),
        _blocks(values, tf.float32),
    )
    _, of_queries, of_keys, of_values = grid.over_tiles(tile, state)
    return of_queries.stack(), of_keys.stack(), of_values.stack()


def _at(x: tf.Tensor, block: tf.Tensor) -> tf.Tensor:
    return tf.gather(x, block)


def _product(a: tf.Tensor, b: tf.Tensor, **transposed: bool) -> tf.Tensor:
    return tf.cast(tf.matmul(a, b, **transposed), tf.float32)


def _zeros(like: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    # `tf.zeros_like` of a static shape is a constant, which TensorFlow writes out in memory, each of them, while it lowers a function.
    return tf.cast(tf.raw_ops.ZerosLike(x=like), dtype)


def _blocks(like: tf.Tensor, dtype: tf.DType) -> tf.TensorArray:
    """Zeros, one element a block, which a loop reads and writes in place."""
    zeros = _zeros(like, dtype)
    return tf.TensorArray(dtype, zeros.shape[0], clear_after_read=False, element_shape=zeros.shape[1:]).unstack(zeros)


def _blocks_of(block: tf.Tensor, count: int) -> tf.TensorArray:
    return _blocks(tf.repeat(block[None], count, axis=0), block.dtype)

"""The Gemma 3 forward pass in plain TensorFlow, over a dict of weights and with a key-value cache.

KerasHub's backbone trains; this one is what leaves the pipeline: it holds no Keras object, so that a SavedModel of it loads with
TensorFlow alone, and every operation of it has a LiteRT builtin. One function serves whole windows, prefill and decode. A test holds
it to `Gemma.logits`.

Architecture: Gemma 3 technical report (arXiv:2503.19786), section 2, and `keras_hub.models.Gemma3Backbone`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.gemma.model import Gemma, is_local

# Keys and values of one layer, each float32 [B, kv_heads, slots, head_dim], which is also LiteRT-LM's layout.
LayerCache = tuple[tf.Tensor, tf.Tensor]
Cache = tuple[LayerCache, ...]

_LOCAL_WAVELENGTH = 10_000.0
_GLOBAL_WAVELENGTH = 1_000_000.0
# Added to the scores of keys that a query may not see. Finite: a row that sees nothing (left padding) must not become NaN.
_MASKED = -1e9


def _gather(table: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    # From the value and not the variable: ResourceGather makes every later read of the variable (for the head) a copy.
    return tf.gather(tf.convert_to_tensor(table), ids)


def _scatter(cache: tf.Tensor, values: tf.Tensor, slots: tf.Tensor) -> tf.Tensor:
    rows = tf.meshgrid(tf.range(_size(values, 0)), tf.range(_size(values, 1)), slots, indexing="ij")
    return tf.tensor_scatter_nd_update(cache, tf.stack(rows, axis=-1), values)


@dataclasses.dataclass(frozen=True)
class Operations:
    """The operations that differ by target. The defaults are TensorFlow's own, and in a loop the cache is written in place.

    Attributes:
      lookup: rows of a table: [V, D] and int32 [N] to [N, D].
      write: puts new keys or values [B, kv_heads, T, head_dim] into a layer's cache at the places int32 [T].
      rings: whether the caches of local layers are rings that hold their window only, as `empty_cache` makes them.
    """

    lookup: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = _gather
    write: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor] = _scatter
    rings: bool = True


_TENSORFLOW = Operations()


@dataclasses.dataclass(frozen=True, kw_only=True)
class GemmaShape:
    """Everything about a Gemma 3 that is not a weight, in KerasHub's words.

    Attributes:
      local_layers: for every layer, whether it attends to the last `sliding_window_size` tokens only.
      query_scale: factor on the queries before attention.
      query_key_norm_epsilon: epsilon of the query and key norms; KerasHub does not pass `layer_norm_epsilon` on to them.
    """

    vocabulary_size: int
    hidden_dim: int
    intermediate_dim: int
    num_query_heads: int
    num_key_value_heads: int
    head_dim: int
    local_layers: tuple[bool, ...]
    sliding_window_size: int
    query_scale: float
    use_query_key_norm: bool
    use_post_attention_norm: bool
    use_post_ffw_norm: bool
    attention_logit_soft_cap: float | None
    final_logit_soft_cap: float | None
    local_rope_scaling_factor: float
    global_rope_scaling_factor: float
    layer_norm_epsilon: float
    query_key_norm_epsilon: float

    @property
    def num_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.local_layers)


def shape_of(gemma: Gemma) -> GemmaShape:
    """Reads the shape of a model.

    Raises:
      WeightsError: if it is not a causal text model (it has a vision encoder, attends in both directions, or pools).
    """
    config = gemma.backbone.get_config()
    for key in ("vision_encoder", "use_bidirectional_attention", "is_embedding_model"):
        if config.get(key):
            raise WeightsError(
                f"only causal Gemma 3 text models can be run here, and this one has {key}={config[key]!r}: use a text preset"
            )
    # From the layer and not from the config: KerasHub's decoder block sets both itself, and what it computes is what was trained.
    attention = gemma.backbone.transformer_layers[0].attention
    normalizer = config["head_dim"] if attention.query_head_dim_normalize else config["hidden_dim"] // config["num_query_heads"]
    return GemmaShape(
        local_layers=tuple(is_local(index, config) for index in range(config["num_layers"])),
        query_scale=1 / math.sqrt(normalizer),
        query_key_norm_epsilon=attention.layer_norm_epsilon,
        **{
            field.name: config[field.name]
            for field in dataclasses.fields(GemmaShape)
            if field.name not in ("local_layers", "query_scale", "query_key_norm_epsilon")
        },
    )


def weights_of(gemma: Gemma) -> dict[str, np.ndarray]:
    """The weights of a model, float32: `embedding` [V, hidden], `final_norm` [hidden] and, for every layer, `layers.I.NAME`.

    Matrices are [out, in]: `query` [heads * head_dim, hidden], `key` and `value` [kv_heads * head_dim, hidden], `attention_output`
    [hidden, heads * head_dim], `gate` and `up` [ffw, hidden], `down` [hidden, ffw]. Norms (`pre_attention_norm`, `query_norm`,
    `key_norm`, `post_attention_norm`, `pre_ffw_norm`, `post_ffw_norm`) hold the factor itself, KerasHub's `1 + scale`.
    """
    return {name: tensor.numpy() for name, tensor in weight_tensors(gemma).items()}


def weight_tensors(gemma: Gemma) -> dict[str, tf.Tensor]:
    """The same, read when it is called and, inside a `tf.function`, whenever that runs: a model in training is followed."""

    def tensor(variable: Any) -> tf.Tensor:
        return tf.cast(tf.convert_to_tensor(variable.value), tf.float32)

    def norm(layer: Any) -> tf.Tensor:
        return 1 + tensor(layer.scale)

    def heads_first(kernel: Any) -> tf.Tensor:  # [n, d, h] -> [n * h, d]
        return tf.reshape(tf.transpose(tensor(kernel), [0, 2, 1]), [-1, kernel.shape[1]])

    backbone = gemma.backbone
    weights = {"embedding": tensor(backbone.token_embedding.embeddings), "final_norm": norm(backbone.layer_norm)}
    for index, block in enumerate(backbone.transformer_layers):
        attention = block.attention
        output = tensor(attention.output_dense.kernel)
        layer = {
            "pre_attention_norm": norm(block.pre_attention_norm),
            "query": heads_first(attention.query_dense.kernel),
            "key": heads_first(attention.key_dense.kernel),
            "value": heads_first(attention.value_dense.kernel),
            "attention_output": tf.transpose(tf.reshape(output, [-1, output.shape[-1]])),
            "pre_ffw_norm": norm(block.pre_ffw_norm),
            "gate": tf.transpose(tensor(block.gating_ffw.kernel)),
            "up": tf.transpose(tensor(block.gating_ffw_2.kernel)),
            "down": tf.transpose(tensor(block.ffw_linear.kernel)),
        }
        if attention.use_query_key_norm:
            layer |= {"query_norm": norm(attention.query_norm), "key_norm": norm(attention.key_norm)}
        if block.use_post_attention_norm:
            layer["post_attention_norm"] = norm(block.post_attention_norm)
        if block.use_post_ffw_norm:
            layer["post_ffw_norm"] = norm(block.post_ffw_norm)
        weights |= {f"layers.{index}.{name}": value for name, value in layer.items()}
    return weights


def empty_cache(shape: GemmaShape, batch: int | tf.Tensor, context_length: int | tf.Tensor) -> Cache:
    """Zeros for every layer's keys and values, float32 [batch, kv_heads, slots, head_dim].

    A global layer has `context_length` slots, a local one no more than its window: a token goes to its slot modulo their number.
    """
    windows = {False: context_length, True: _minimum(context_length, shape.sliding_window_size)}
    sizes = {local: [batch, shape.num_key_value_heads, slots, shape.head_dim] for local, slots in windows.items()}
    return tuple((tf.zeros(sizes[local]), tf.zeros(sizes[local])) for local in shape.local_layers)


def hidden_states(
    shape: GemmaShape,
    weights: Mapping[str, tf.Tensor],
    tokens: tf.Tensor,
    cache: Cache | None = None,
    *,
    slots: tf.Tensor | None = None,
    left_padding: tf.Tensor | None = None,
    operations: Operations = _TENSORFLOW,
) -> tuple[tf.Tensor, Cache]:
    """Runs the decoder: whole windows without a cache; prefill (T tokens) and decode (1 token) with one.

    Args:
      shape: the model's shape.
      weights: its weights, as `weights_of` names them; tensors, variables or arrays.
      tokens: int32 [B, T]. Padding on the right changes nothing before it.
      cache: keys and values of the slots before these tokens, zeros in a ring that was never full; none: the tokens see each other only.
      slots: int32 [T], the slots that the tokens take, consecutive; none: 0 to T - 1. A token sees the slots up to its own.
      left_padding: int32 [B], the number of slots at each row's left that hold padding, so that rows of unequal length end
        together; positions count from there. None: no padding.
      operations: what differs by target.

    Returns:
      The states after the final norm, float32 [B, T, hidden], and the cache with the tokens' keys and values in it (without a
      cache: those keys and values themselves).
    """
    batch, length = _size(tokens, 0), _size(tokens, 1)
    if slots is None:
        slots = tf.range(length)
    positions = tf.reshape(slots, [1, length])
    if left_padding is not None:
        positions -= tf.reshape(left_padding, [batch, 1])
    kinds = set(shape.local_layers)
    rotations = {local: _rotation(shape, positions, local) for local in kinds}
    single = isinstance(length, int) and length == 1
    memories = {local: _memory(shape, cache, slots, single, local and operations.rings, local) for local in kinds}
    masks = {local: _mask(shape, memories[local].seen, slots, left_padding, local) for local in kinds}

    x = operations.lookup(weights["embedding"], tf.reshape(tokens, [-1])) * math.sqrt(shape.hidden_dim)
    new_cache = []
    for index, local in enumerate(shape.local_layers):
        layer = {name.split(".")[2]: value for name, value in weights.items() if name.startswith(f"layers.{index}.")}
        normed = _rms_norm(x, layer["pre_attention_norm"], shape.layer_norm_epsilon)

        former = None if cache is None else cache[index]
        remember = functools.partial(memories[local].remember, operations.write, former)
        attention, layer_cache = _attention(shape, layer, normed, (batch, length), rotations[local], masks[local], remember)
        new_cache.append(layer_cache)
        if shape.use_post_attention_norm:
            attention = _rms_norm(attention, layer["post_attention_norm"], shape.layer_norm_epsilon)
        x += attention
        normed = _rms_norm(x, layer["pre_ffw_norm"], shape.layer_norm_epsilon)
        feedforward = _linear(tf.nn.gelu(_linear(normed, layer["gate"]), approximate=True) * _linear(normed, layer["up"]), layer["down"])
        if shape.use_post_ffw_norm:
            feedforward = _rms_norm(feedforward, layer["post_ffw_norm"], shape.layer_norm_epsilon)
        x += feedforward
    x = _rms_norm(x, weights["final_norm"], shape.layer_norm_epsilon)
    return tf.reshape(x, [batch, length, shape.hidden_dim]), tuple(new_cache)


def logits(shape: GemmaShape, weights: Mapping[str, tf.Tensor], hidden: tf.Tensor) -> tf.Tensor:
    """Scores of all words, float32 [N, V], for states float32 [N, hidden]; the head is the embedding itself."""
    return _soft_cap(_linear(hidden, weights["embedding"]), shape.final_logit_soft_cap)


def _size(tensor: tf.Tensor, axis: int) -> int | tf.Tensor:
    """A dimension as a number where it is static: LiteRT folds those, and a dynamic one costs it operations."""
    static = tensor.shape[axis]
    return tf.shape(tensor)[axis] if static is None else static


def _minimum(one: int | tf.Tensor, other: int) -> int | tf.Tensor:
    return min(one, other) if isinstance(one, int) else tf.minimum(one, other)


def _linear(x: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    # A 2-D product with the weight as [out, in] is what LiteRT turns into FULLY_CONNECTED.
    return tf.matmul(x, weight, transpose_b=True)


def _rms_norm(x: tf.Tensor, weight: tf.Tensor, epsilon: float) -> tf.Tensor:
    # In this order LiteRT cannot fold the constant factor into the next product's weights (which would untie the LM head).
    return (x * weight) * tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=-1, keepdims=True) + epsilon)


def _soft_cap(x: tf.Tensor, cap: float | None) -> tf.Tensor:
    return x if cap is None else tf.tanh(x / cap) * cap


# What `_rotate` multiplies by, [B or 1, 1, T, head_dim] each.
_Rotation = tuple[tf.Tensor, tf.Tensor]


def _rotation(shape: GemmaShape, positions: tf.Tensor, local: bool) -> tuple[_Rotation, _Rotation]:
    """The rotary embedding (arXiv:2104.09864, eq. 34) of queries, with their scale in it, and of keys.

    Cosines twice, and sines with their signs: a product and a swap of halves less for each layer than by halves.
    """
    wavelength = _LOCAL_WAVELENGTH if local else _GLOBAL_WAVELENGTH
    scaling = shape.local_rope_scaling_factor if local else shape.global_rope_scaling_factor
    exponents = np.arange(0, shape.head_dim, 2, dtype=np.float32) / np.float32(shape.head_dim)
    frequencies = np.power(np.float32(wavelength), -exponents) / np.float32(scaling)
    rows, length = _size(positions, 0), _size(positions, 1)
    angles = tf.reshape(tf.cast(positions, tf.float32), [rows, 1, length, 1]) * tf.reshape(frequencies, [1, 1, 1, -1])
    cosine, sine = tf.cos(angles), tf.sin(angles)
    keys = tf.concat([cosine, cosine], axis=-1), tf.concat([-sine, sine], axis=-1)
    return (keys[0] * shape.query_scale, keys[1] * shape.query_scale), keys


def _rotate(x: tf.Tensor, rotation: _Rotation) -> tf.Tensor:
    cosines, sines = rotation
    first, second = tf.split(x, 2, axis=-1)
    return x * cosines + tf.concat([second, first], axis=-1) * sines


@dataclasses.dataclass(frozen=True)
class _Memory:
    """Where the layers of one kind keep keys and values, and what their queries see.

    Attributes:
      seen: int32 [K], the slots of the keys that queries are compared with; past all slots where there is nothing yet.
      places: int32 [T], where in a cache the new keys go; none: there is no cache.
      beside: whether queries see the cache as it was and the new keys beside it. In a ring the later of several tokens would
        otherwise take the places of keys that the earlier ones still see.
    """

    seen: tf.Tensor
    places: tf.Tensor | None = None
    beside: bool = False

    def remember(
        self, write: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor], former: LayerCache | None, keys: tf.Tensor, values: tf.Tensor
    ) -> tuple[LayerCache, LayerCache]:
        """What the queries see, and the cache with the new keys and values in it."""
        new = keys, values
        if former is None or self.places is None:
            return new, new
        # A ring takes no more than it holds.
        kept = new if not self.beside else tuple(tensor[:, :, -_size(ring, 2) :] for tensor, ring in zip(new, former, strict=True))
        cache = tuple(write(ring, tensor, self.places) for ring, tensor in zip(former, kept, strict=True))
        if not self.beside:
            return cache, cache
        return tuple(tf.concat([ring, tensor], axis=2) for ring, tensor in zip(former, new, strict=True)), cache


def _memory(shape: GemmaShape, cache: Cache | None, slots: tf.Tensor, single: bool, ring: bool, local: bool) -> _Memory:
    if cache is None:
        return _Memory(slots)
    size = _size(cache[shape.local_layers.index(local)][0], 2)
    if not ring:
        return _Memory(tf.range(size), slots)
    latest = slots[-1] if single else slots[0] - 1
    # The slot that each place of the ring holds: the latest one that falls on it.
    held = latest - tf.math.floormod(latest - tf.range(size), size)
    held = tf.where(held < 0, held.dtype.max, held)
    if single:
        return _Memory(held, tf.math.floormod(slots, size))
    return _Memory(tf.concat([held, slots], axis=0), tf.math.floormod(slots[-size:], size), beside=True)


def _mask(shape: GemmaShape, keys: tf.Tensor, slots: tf.Tensor, left_padding: tf.Tensor | None, local: bool) -> tf.Tensor:
    """What is added to the scores, float32 [B or 1, 1, groups * T, K], for the queries of one key head."""
    count = _size(keys, 0)
    keys = tf.reshape(keys, [1, 1, count])
    queries = tf.reshape(slots, [1, -1, 1])
    visible = keys <= queries
    if local:
        visible = tf.logical_and(visible, keys > queries - shape.sliding_window_size)
    if left_padding is not None:
        visible = tf.logical_and(visible, keys >= tf.reshape(left_padding, [-1, 1, 1]))
    mask = tf.where(visible, 0.0, _MASKED)
    rows, length = _size(mask, 0), _size(mask, 1)
    mask = tf.reshape(mask, [rows, 1, length, count])
    groups = shape.num_query_heads // shape.num_key_value_heads
    # A single query broadcasts over the groups by itself.
    return mask if groups == 1 or (isinstance(length, int) and length == 1) else tf.tile(mask, [1, 1, groups, 1])


def _attention(
    shape: GemmaShape,
    layer: Mapping[str, tf.Tensor],
    x: tf.Tensor,
    size: Sequence[int | tf.Tensor],
    rotation: tuple[_Rotation, _Rotation],
    mask: tf.Tensor,
    remember: Callable[[tf.Tensor, tf.Tensor], tuple[LayerCache, LayerCache]],
) -> tuple[tf.Tensor, LayerCache]:
    """Grouped-query attention (arXiv:2305.13245) of the normed states [B * T, hidden]; returns the same shape, and the cache.

    `remember` takes the new keys and values; it returns those that the queries may see, and the cache.
    """
    batch, length = size
    heads, groups = shape.num_key_value_heads, shape.num_query_heads // shape.num_key_value_heads

    def split_heads(name: str, count: int) -> tf.Tensor:  # -> [B, count, T, head_dim]
        y = tf.reshape(_linear(x, layer[name]), [batch, length, count, shape.head_dim])
        if shape.use_query_key_norm and name != "value":
            y = _rms_norm(y, layer[f"{name}_norm"], shape.query_key_norm_epsilon)
        return tf.transpose(y, [0, 2, 1, 3])

    of_query, of_key = rotation
    query = _rotate(split_heads("query", shape.num_query_heads), of_query)
    (key, value), cache = remember(_rotate(split_heads("key", heads), of_key), split_heads("value", heads))
    scores = tf.matmul(tf.reshape(query, [batch, heads, groups * length, shape.head_dim]), key, transpose_b=True)
    scores = _soft_cap(scores, shape.attention_logit_soft_cap) + mask
    mixed = tf.reshape(tf.matmul(tf.nn.softmax(scores), value), [batch, shape.num_query_heads, length, shape.head_dim])
    mixed = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, shape.num_query_heads * shape.head_dim])
    return _linear(mixed, layer["attention_output"]), cache

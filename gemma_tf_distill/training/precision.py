"""The dtypes that a model's weights are kept and multiplied in."""

import contextlib

import keras
import keras_hub
import tensorflow as tf

from gemma_tf_distill.gemma.model import Gemma


def with_precision(model: Gemma, precision: str, strategy: tf.distribute.Strategy | None = None) -> Gemma:
    """The same weights in a model that computes in `precision`: `float32`, `mixed_bfloat16` or `bfloat16`; `model` itself where it does.

    With a strategy of several devices always another model, whose variables are the strategy's.

    Micikevicius et al. 2018 keep a float32 master copy of the weights; in KerasHub that is the `mixed_bfloat16` dtype policy.
    """
    elsewhere = strategy is not None and strategy is not tf.distribute.get_strategy()
    if model.backbone.dtype_policy.name == precision and not elsewhere:
        return model
    config = model.backbone.get_config()
    config["dtype"] = keras.DTypePolicy(precision)
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        backbone = keras_hub.models.Gemma3Backbone.from_config(config)
    for target, source in zip(backbone.weights, model.backbone.weights, strict=True):
        target.assign(source)
    return Gemma(backbone=backbone, tokenizer=model.tokenizer)

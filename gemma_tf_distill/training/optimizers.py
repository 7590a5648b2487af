"""AdamW with a linear warm-up and a cosine decay, the recipe of most language-model papers."""

import keras

from gemma_tf_distill.config import TrainingConfig

# The learning rate ends at this share of its peak, as in the recipes of Chinchilla and Llama.
FINAL_FRACTION = 0.1


def make_optimizer(config: TrainingConfig, total_steps: int, variables: list[keras.Variable]) -> keras.optimizers.AdamW:
    """An optimizer, built for `variables`; weight decay is left off vectors (norm scales).

    Args:
      config: learning rate, warm-up and weight decay.
      total_steps: at which the cosine decay ends.
      variables: the trainable variables.
    """
    warmup = min(round(config.warmup_fraction * total_steps), total_steps - 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else config.learning_rate,
        decay_steps=total_steps - warmup,
        alpha=FINAL_FRACTION,
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, beta_2=0.95)
    optimizer.exclude_from_weight_decay(var_list=[v for v in variables if len(v.shape) < 2])
    optimizer.build(variables)
    return optimizer

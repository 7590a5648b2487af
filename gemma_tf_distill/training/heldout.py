"""How good a model is on the held-out split, by the same sums that the exported model's `eval` signature gives."""

from typing import NamedTuple

import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig
from gemma_tf_distill.data.examples import labels_and_mask, model_inputs
from gemma_tf_distill.gemma.attention_in_place import efficient_attention
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.monitoring.knowledge_transfer import gap_closed
from gemma_tf_distill.monitoring.progress import Ticker, progress
from gemma_tf_distill.quantization.apply import ModelQuantization, forward_as
from gemma_tf_distill.training.accumulation import replicas_in_sync, summed_over_replicas
from gemma_tf_distill.training.strategies import compiled_replica, distributed, first_replica
from gemma_tf_distill.transfer.token_losses import SoftAndHardTargets
from gemma_tf_distill.transfer.vocabulary_loss import Targets, vocabulary_loss

HELDOUT_SCALARS = {
    "distill/heldout_nll": "held-out NLL",
    "distill/heldout_kl": "KL to teacher",
    "distill/heldout_top1_agreement": "top-1 agreement",
    "distill/gap_closed": "gap closed",
}
"""What TensorBoard shows of the held-out split, and what it is called."""

_TASK = "held-out text"


class HeldoutMetrics(NamedTuple):
    """Means over the held-out tokens that count.

    Attributes:
      nll: nats a token.
      kl_to_teacher: nats a token, over the teacher's top k words and one tail bucket.
      top1_agreement: share of the tokens where student and teacher rank the same word first.
      teacher_nll: the teacher's own, nats a token.
      tokens: how many count.
    """

    nll: float
    kl_to_teacher: float
    top1_agreement: float
    teacher_nll: float
    tokens: int

    def scalars(self, control_nll: float | None) -> dict[str, float]:
        """As TensorBoard shows them (`HELDOUT_SCALARS`); `gap_closed` only where there was a control, and a gap."""
        closed = gap_closed(self.nll, control_nll, self.teacher_nll)
        values = (self.nll, self.kl_to_teacher, self.top1_agreement, closed)
        return {name: value for name, value in zip(HELDOUT_SCALARS, values, strict=True) if value is not None}


class HeldoutEvaluation:
    """Evaluates one model; compiled once, so that it can be asked again after more training."""

    def __init__(
        self,
        model: Gemma,
        quantization: ModelQuantization | None = None,
        attention: EfficientAttention | None = None,
        strategy: tf.distribute.Strategy | None = None,
    ):
        """Args:
        model: the one to evaluate, also after more training.
        quantization: of that model, to evaluate it as it will run, with what enters each product quantised; none: in float.
        attention: how the model computes its; none: as KerasHub does.
        strategy: whose replicas share each batch, and under whose scope the model was made; none: one device.
        """
        self._model = model
        self._quantization = quantization
        self._attention = attention
        self._strategy = tf.distribute.get_strategy() if strategy is None else strategy
        self._share_sums = compiled_replica(self._batch_sums, self._strategy)
        self._sums = tf.function(self._run, autograph=False)
        self._tokens: int | None = None

    def __call__(self, batches: tf.data.Dataset) -> HeldoutMetrics:
        """Means over `evaluation_batches`, whose targets were scored at temperature 1."""
        total: dict[str, float] = {}
        # How many tokens there are is known from the second time on.
        progress(_TASK, 0, self._tokens)
        ticker = Ticker(_TASK, self._tokens, unit="tokens")
        for batch in distributed(self._strategy, batches):
            sums = {name: float(value) for name, value in self._sums(batch).items()}
            total = {name: total.get(name, 0.0) + value for name, value in sums.items()}
            ticker.add(round(sums["tokens"]))
        tokens = total["tokens"]
        self._tokens = round(tokens)
        progress(_TASK, self._tokens, self._tokens)
        return HeldoutMetrics(
            total["nll"] / tokens, total["kl"] / tokens, total["hits"] / tokens, total["teacher_nll"] / tokens, round(tokens)
        )

    def _run(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        def replica(share: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            sums = self._share_sums(share)
            return summed_over_replicas(sums) if replicas_in_sync() > 1 else sums

        return first_replica(self._strategy, self._strategy.run(replica, args=(batch,)))

    def _batch_sums(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        labels, mask = labels_and_mask(batch["tokens"])
        count = labels.shape[0] * labels.shape[1]
        backbone = self._model.backbone
        with efficient_attention(backbone, self._attention), forward_as(self._quantization, training=False) as head_input:
            hidden = head_input(backbone(model_inputs(batch["tokens"]), training=False))
            embedding = backbone.token_embedding.embeddings.value
        terms = SoftAndHardTargets(DistillationConfig(), alpha=0.5, temperature=1.0)

        def token_terms(logits: tf.Tensor, targets: Targets) -> dict[str, tf.Tensor]:
            found = terms(logits, targets)
            hits = tf.argmax(logits, axis=-1, output_type=tf.int32) == targets["teacher_ids"][:, 0]
            return {**found, "hits": tf.cast(hits, tf.float32)}

        sums = vocabulary_loss(
            tf.reshape(hidden, [count, hidden.shape[-1]]),
            embedding,
            {
                "labels": tf.reshape(labels, [count]),
                "teacher_ids": tf.reshape(batch["teacher_ids"], [count, -1]),
                "teacher_log_probs": tf.reshape(batch["teacher_log_probs"], [count, -1]),
            },
            tf.reshape(mask, [count]),
            token_terms,
            logit_soft_cap=backbone.final_logit_soft_cap,
        )
        return {
            "nll": sums["hard_loss"],
            "kl": sums["soft_loss"],
            "hits": sums["hits"],
            "teacher_nll": -tf.reduce_sum(batch["teacher_label_log_prob"] * mask),
            "tokens": tf.reduce_sum(mask),
        }

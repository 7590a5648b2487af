"""What a student is like at a step, for TensorBoard: its weights as histograms, and what it writes."""

import math
from collections import defaultdict
from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from gemma_tf_distill.config import OnPolicyConfig
from gemma_tf_distill.data.packing import PAD_ID
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.monitoring.summaries import write_histogram
from gemma_tf_distill.quantization.apply import ModelQuantization
from gemma_tf_distill.training.group_norms import groups_of
from gemma_tf_distill.training.on_policy import OnPolicySampler

# Values of a group of variables: a histogram of so many bins changes no more with further ones.
_VALUES, _BINS = 16_384, 64
_PROMPTS, _PROMPT_TOKENS, _NEW_TOKENS = 3, 12, 16


class Snapshots:
    """Looks at a student without changing it, and without copying its weights."""

    def __init__(self, student: Gemma, tokens: tf.Tensor, quantized: ModelQuantization | None = None):
        """Args:
        student: read anew at every look.
        tokens: int32 [B, T] of the training split; the student continues what the first windows begin with.
        quantized: of the student, where it learns as it will be stored: what rounding does is looked at, too.
        """
        self._student = student
        self._quantized = quantized
        variables = student.backbone.trainable_variables
        groups = groups_of(student, variables)
        values: dict[str, int] = defaultdict(int)
        for variable, group in zip(variables, groups, strict=True):
            values[group] += math.prod(variable.shape)
        self._groups = {id(variable): group for variable, group in zip(variables, groups, strict=True)}
        self._places = {
            id(variable): _places(math.prod(variable.shape), values[group]) for variable, group in zip(variables, groups, strict=True)
        }
        prompt = min(_PROMPT_TOKENS, tokens.shape[1] // 2)
        self._texts = tokens[:_PROMPTS, : prompt + _NEW_TOKENS].numpy()
        # The most probable words: at this temperature noise only decides between equals.
        config = OnPolicyConfig(fraction=1.0, prompt_tokens=prompt, temperature=1e-4)
        # Not by XLA: compiling it takes longer than it will ever run.
        self._sampler = OnPolicySampler(student, config, prompt + _NEW_TOKENS, seed=0, quantization=quantized, jit_compile=False)
        self._prompt = prompt

    def write(self) -> None:
        """Writes to the current summary writer, at its step.

        Histograms `weights/GROUP` (`group_norms.GROUPS`) and, where the student is being quantised, `quantization_error/GROUP`: rounded
        minus exact, in root mean squares of the matrix. Both are of a sample of at most 16,384 values a group, the same ones each time;
        what is no number is left out of them and counted in the text `weights/not_finite`. Text `samples`: greedy continuations of
        beginnings of training windows, beside how those go on.
        """
        variables = self._student.backbone.trainable_variables
        self._histograms("weights", ((variable, tf.convert_to_tensor(variable.value)) for variable in variables))
        if self._quantized is not None:
            self._histograms("quantization_error", self._quantized.relative_errors())
        tf.summary.text("samples", self._samples())

    def _histograms(self, name: str, tensors: Iterable[tuple[keras.Variable, tf.Tensor]]) -> None:
        found: dict[str, list[np.ndarray]] = defaultdict(list)
        for variable, tensor in tensors:
            sample = tf.gather(tf.reshape(tensor, [-1]), self._places[id(variable)])
            found[self._groups[id(variable)]].append(tf.cast(sample, tf.float32).numpy())
        for group, samples in found.items():
            values = np.concatenate(samples)
            finite = np.isfinite(values)
            if not finite.all():
                told = f"{np.count_nonzero(~finite):,} of {values.size:,} sampled values of {group} are no numbers"
                tf.summary.text(f"{name}/not_finite", told)
            if finite.any():
                write_histogram(f"{name}/{group}", values[finite], _BINS)

    def _samples(self) -> list[str]:
        prompts = tf.constant(self._texts[:, : self._prompt])
        written = self._sampler(prompts, 0)["tokens"].numpy()
        blocks = []
        for text, own in zip(self._texts, written, strict=True):
            parts = (("the text begins", text[: self._prompt]), ("it goes on", text[self._prompt :]), ("the student", own[self._prompt :]))
            blocks.append("\n\n".join(f"{title}:\n\n{self._code(ids)}" for title, ids in parts))
        return blocks

    def _code(self, ids: np.ndarray) -> str:
        """Text that Markdown shows as it is."""
        text = self._student.tokenizer.decode(ids[ids != PAD_ID])
        return "\n".join(f"    {line}" for line in text.splitlines()) or "    (nothing)"


def _places(size: int, group_size: int) -> tf.Tensor:
    """int32 [n], the same ones each time: the share of `_VALUES` that a variable of `size` values has of its group; all of a small one."""
    count = max(1, round(_VALUES * size / group_size))
    drawn = np.arange(size) if count >= size else np.random.default_rng(size).integers(0, size, count)
    return tf.constant(drawn, tf.int32)

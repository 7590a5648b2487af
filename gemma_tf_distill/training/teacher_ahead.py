"""The live teacher on a device of its own, one batch ahead of the student."""

import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import psutil
import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.training.accumulation import check_parts
from gemma_tf_distill.training.batch_loss import Batch
from gemma_tf_distill.training.devices import check_teacher_device, device_names, device_of, on_device, short_name
from gemma_tf_distill.training.layer_pairs import LayerPairs
from gemma_tf_distill.training.teacher_outputs import STORED_TARGETS, Teacher, TeacherElsewhere, live_outputs, runs_for
from gemma_tf_distill.xla.optimizer import XLAOptimizer

# Of a batch's outputs in the host's memory: those of the batch in use, those of the next one, and these once more in parts.
_HELD_AT_ONCE = 3


class TeacherInStep:
    """What `TeacherAhead` is for a teacher that runs inside the student's step, or for none: batches pass as they are.

    Attributes:
      teacher: for `DistillationTrainer.train_step`.
    """

    def __init__(self, teacher: Teacher | None):
        """Args:
        teacher: live, or none.
        """
        self.teacher = teacher

    def over(self, batches: Iterable[Batch], leaves_out: Callable[[int], bool]) -> Iterator[Batch]:
        """The batches."""
        return iter(batches)

    def __call__(self, batch: Batch) -> Batch:
        """The batch."""
        return batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """There is nothing to close."""


class TeacherAhead(TeacherInStep):
    """Gives batches what the loss reads of their teacher, computed on another device while the student trains on the batch before.

    One thread takes the next batch, runs the teacher on it, and brings what it gave to the student's device: states before the head and
    what is compared, never logits. They are those that the step would compute itself, in the same parts, whatever is scheduled. To be
    used in a `with` statement, whose end waits for the forward pass that is on its way.

    Attributes:
      teacher: for `DistillationTrainer.train_step`, with the batches that `over` or a call gives.
    """

    def __init__(
        self,
        teacher: Gemma,
        device: str,
        student: Gemma,
        *,
        distillation: DistillationConfig,
        pairs: LayerPairs,
        parts: int = 1,
        attention: EfficientAttention | None = None,
        xla: XLAOptimizer | None = None,
    ):
        """Args:
          teacher: over the student's vocabulary; it is copied to the device unless it is there.
          device: such as `GPU:1`.
          student: where it lies is where the outputs are brought.
          distillation: what is learned from the teacher.
          pairs: the layers that are compared, as the trainer has them.
          parts: equal parts of a batch that the teacher sees one after the other (`training.accumulation_steps`), a divisor of B.
          attention: how the teacher computes its own; none: as KerasHub does.
          xla: what compiles the forward pass; none: XLA, without flags.

        Raises:
          ConfigError: if there is no such device, or the student trains there.
        """
        check_teacher_device(device)
        self._student_device = device_of(student)
        if short_name(self._student_device) == device:
            others = [name for name in device_names() if name != device]
            advice = f"choose {' or '.join(others)}, or null" if others else "set it to null, there is no other device"
            raise ConfigError(f"training.teacher_device is {device}, where the student trains: {advice}")
        placed = on_device(teacher, device)
        self._head = None
        if distillation.targets == "dense" or distillation.on_policy.fraction:
            with tf.device(self._student_device):
                self._head = tf.Variable(placed.backbone.token_embedding.embeddings.value, trainable=False, name="teacher_head")
        super().__init__(TeacherElsewhere(placed, self._head))
        self._device = device_of(placed)
        self._reads_stored = distillation.targets != "dense"
        self._pairs = pairs
        self._parts = parts
        compiler = XLAOptimizer() if xla is None else xla

        def compiled(targets_stored: bool) -> tf.types.experimental.PolymorphicFunction:
            return compiler.compile(lambda tokens: live_outputs(placed, tokens, pairs, attention, targets_stored=targets_stored))

        self._forward = {targets_stored: compiled(targets_stored) for targets_stored in (False, True)}
        self._checked: set[bool] = set()
        self._worker = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="teacher_ahead")

    def over(self, batches: Iterable[Batch], leaves_out: Callable[[int], bool]) -> Iterator[Batch]:
        """The batches with the teacher's outputs, of which the next one's are computed while the caller works on this one.

        Args:
          batches: as `DistillationTrainer.train_step` takes them; read by the thread, one ahead. What reading them raises is raised
            when it is their turn.
          leaves_out: of a batch's index, from 0, whether it passes as it is, since what is trained on is made of it later.

        Raises:
          ConfigError: if the outputs do not fit in the host's memory, or the config asks for targets that a batch has not.
        """
        iterator = iter(batches)

        def following(index: int) -> Batch | None:
            batch = next(iterator, None)
            return batch if batch is None or leaves_out(index) else self._with_outputs(batch)

        coming = self._worker.submit(following, 0)
        for index in itertools.count(1):
            batch = coming.result()
            if batch is None:
                return
            coming = self._worker.submit(following, index)
            yield batch

    def __call__(self, batch: Batch) -> Batch:
        """One batch with the teacher's outputs, waited for; raises as `over` does."""
        return self._worker.submit(self._with_outputs, batch).result()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Waits for a forward pass that has begun, and starts no other one."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _with_outputs(self, batch: Batch) -> Batch:
        read = batch if self._reads_stored else {"tokens": batch["tokens"]}
        if not runs_for(read, self._pairs):
            return batch
        stored = STORED_TARGETS[0] in read
        if not stored and self._head is None:
            raise ConfigError(
                "there are no stored targets (teacher_ids, teacher_log_probs) in the batch: score the corpus, or set "
                "distillation.targets=dense"
            )
        check_parts(batch["tokens"].shape[0], self._parts)
        with tf.profiler.experimental.Trace("teacher_ahead"):
            parts = [self._outputs(tokens, stored) for tokens in tf.split(batch["tokens"], self._parts)]
            with tf.device(self._student_device):
                outputs = {name: tf.concat([part[name] for part in parts], axis=0) for name in parts[0]}
        return {**batch, **outputs}

    def _outputs(self, tokens: tf.Tensor, targets_stored: bool) -> dict[str, tf.Tensor]:
        """`live_outputs` of a part of a batch, on the student's device."""
        forward = self._forward[targets_stored]
        with tf.device(self._device):
            if targets_stored not in self._checked:
                self._check_room(forward.get_concrete_function(tokens).structured_outputs)
                self._checked.add(targets_stored)
            outputs = forward(tokens)
        with tf.device(self._student_device):
            return {name: tf.identity(value) for name, value in outputs.items()}

    def _check_room(self, part: dict[str, Any]) -> None:
        # What an accelerator has left is known to its own allocator only.
        if not short_name(self._student_device).startswith("CPU"):
            return
        needed = _HELD_AT_ONCE * self._parts * sum(value.shape.num_elements() * value.dtype.size for value in part.values())
        available = psutil.virtual_memory().available
        if needed > available:
            raise ConfigError(
                f"with training.teacher_device up to {needed / 2**20:,.1f} MiB of the teacher's outputs are held at once, and "
                f"{available / 2**20:,.1f} MiB are available: lower training.batch_size, compare no attention maps, or set it to null"
            )

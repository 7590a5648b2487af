"""A config on a TPU that is not there: the training step and the scorer, compiled, weighed, and made to fit."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gemma_tf_distill.config import Config
from gemma_tf_distill.config.strategy import check_share
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.abstract import abstract_gemma
from gemma_tf_distill.gemma.flops import training_flops
from gemma_tf_distill.gemma.student import student_architecture
from gemma_tf_distill.gemma.teacher import describe_source
from gemma_tf_distill.preflight.fitting import fitting, largest_batch
from gemma_tf_distill.preflight.programs import Program, scorer_program, training_program
from gemma_tf_distill.preflight.verdict import Verdict
from gemma_tf_distill.transfer.vocabulary_loss import default_chunk
from gemma_tf_distill.xla.chips import CHIPS, Chip, chip_of
from gemma_tf_distill.xla.hlo import Buffer, HloProgram
from gemma_tf_distill.xla.tpu_compiler import FULL_EFFORT, LEAST_EFFORT, DoesNotFitError, compile_for_tpu, device_count, lowered

# Where a program that does not fit is compiled once more, to see what is large in it.
_LARGEST = "v5p"
# At least effort the compiler planned 7 % less memory for the step of the 1B than at full effort; nearer to the limit than this, relative
# to it, the full effort decides.
_CLOSE = 0.15


@dataclasses.dataclass(frozen=True)
class Preflight:
    """Verdicts of a config on a topology.

    Attributes:
      topology: as jax names it.
      devices: of it, each of which trains on its share of a batch.
      words: of the vocabulary that was assumed.
      tokens: that a device reads in one step.
      training: the training step.
      scorer: the teacher's scoring of a batch.
      proposal: settings with which the training step fits, those that have to change included; none where no setting was found.
      changes: the keys of the config that the proposal changes, with their values; empty where it fits as it is.
    """

    topology: str
    devices: int
    words: int
    tokens: int
    training: Verdict
    scorer: Verdict
    proposal: dict[str, Any] | None
    changes: dict[str, Any]

    @property
    def fits(self) -> bool:
        """Whether both programs fit."""
        return self.training.fits and self.scorer.fits

    def to_dict(self) -> dict[str, Any]:
        """As `gemma-distill preflight --json` prints it: the training step's figures, and the scorer's apart."""
        return {
            **self.training.to_dict(),
            "fits": self.fits,
            "proposal": self.proposal,
            "changes": self.changes,
            "topology": self.topology,
            "devices": self.devices,
            "words": self.words,
            "tokens_per_device": self.tokens,
            "scorer": self.scorer.to_dict(),
        }


def preflight(
    config: Config,
    topology: str,
    *,
    words: int | None = None,
    largest: bool = False,
    full_effort: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Preflight:
    """Compiles a config's training step and scorer for one device of a TPU topology. No weights are allocated, nothing is run.

    Args:
      config: whose batches are shared by all devices.
      topology: such as `v5e:2x4`.
      words: of the student's vocabulary; none: the config's number, and all of the teacher's where the corpus decides.
      largest: propose the largest batch that fits, rather than the config's own.
      full_effort: compile as the TPU's own run would; else only where the quickest program comes within 15 % of the limit.
      tell: is given a line before each long step.

    Raises:
      ConfigError: for an unknown topology, a batch that the devices can't share, and a student that is trained for a scheme's numbers
        only.
      MissingExtraError: if jax or libtpu is not installed.
      WeightsError: as of `describe_source`.
    """
    chip = chip_of(topology)
    devices = device_count(topology)
    check_share(config.training, devices)
    teacher = describe_source(config.teacher.source)
    if words is None:
        words = config.student.vocabulary if isinstance(config.student.vocabulary, int) else teacher["vocabulary_size"]
    if not 1 <= words <= teacher["vocabulary_size"]:
        raise ConfigError(f"a vocabulary of {words} words: the teacher has {teacher['vocabulary_size']}, choose at most as many")

    tell(f"compiling the teacher's scorer for {topology}: {config.teacher.batch_size} windows of {config.corpus.window} tokens")
    score = _scorer_program(config, teacher, words)
    score_hlo = lowered(score.function, *score.specs)

    def judged(config: Config) -> Verdict:
        tell(f"compiling the training step for {topology}: {_described(config)}")
        step = _training_program(config, teacher, words, devices)
        hlo = lowered(step.function, *step.specs)
        return _judge(step, hlo, topology, chip, devices, _model_flops(config, teacher, words, devices), full_effort)

    # The compiler works on one core for most of a program's time.
    with ThreadPoolExecutor(1) as beside:
        scoring = beside.submit(_judge, score, score_hlo, topology, chip, 1, 0, full_effort)
        training = judged(config)
        scorer = scoring.result()
    found = (config, training) if training.fits else fitting(config, devices, training, judged)
    chosen = None if found is None else largest_batch(found[0], devices, found[1], judged) if largest else found[0]
    return Preflight(
        topology=topology,
        devices=devices,
        words=words,
        tokens=config.training.batch_size // devices * config.corpus.window,
        training=training,
        scorer=scorer,
        proposal=None if chosen is None else _settings(chosen, words, devices),
        changes={} if chosen is None else _changes(config, chosen),
    )


def _student_sizes(config: Config, teacher: Mapping[str, Any], words: int) -> dict[str, Any]:
    return student_architecture(config.student, teacher) | {"vocabulary_size": words}


def _training_program(config: Config, teacher: Mapping[str, Any], words: int, devices: int) -> Program:
    distillation = config.distillation
    live = abstract_gemma({**teacher, "vocabulary_size": words}, config.teacher.dtype) if distillation.needs_live_teacher else None
    return training_program(
        abstract_gemma(_student_sizes(config, teacher, words), config.training.precision),
        live,
        training=config.training,
        distillation=distillation,
        windows=config.training.batch_size // devices,
        window=config.corpus.window,
        seed=config.seed,
        attention=config.attention,
    )


def _scorer_program(config: Config, teacher: Mapping[str, Any], words: int) -> Program:
    return scorer_program(
        abstract_gemma({**teacher, "vocabulary_size": words}, config.teacher.dtype),
        distillation=config.distillation,
        windows=config.teacher.batch_size,
        window=config.corpus.window,
        attention=config.attention,
    )


def _judge(program: Program, hlo: HloProgram, topology: str, chip: Chip, devices: int, model_flops: float, full_effort: bool) -> Verdict:
    arguments = {kind: 0 for kind in ("weights", "optimizer", "teacher", "batch")}
    for kind, spec in zip(program.kinds, program.specs, strict=True):
        arguments[kind] += math.prod(spec.shape) * spec.dtype.size
    effort = FULL_EFFORT if full_effort else LEAST_EFFORT
    memory, traffic, buffers = _planned(program, hlo, topology, arguments, effort)
    if effort != FULL_EFFORT and abs(sum(memory.values()) / chip.hbm_bytes - 1) < _CLOSE:
        effort = FULL_EFFORT
        memory, traffic, buffers = _planned(program, hlo, topology, arguments, effort)
    total, flops = sum(memory.values()), hlo.flops()
    seconds = {
        "compute": flops / chip.flops_per_second,
        "memory": traffic / chip.bytes_per_second,
        # A ring's all-reduce of the gradients, which is not in the compiled program (Patarasuk & Yuan 2009).
        "links": 2 * (devices - 1) / devices * arguments["weights"] / chip.link_bytes_per_second,
    }
    bound_by = max(seconds, key=lambda name: seconds[name])
    bound = seconds[bound_by]
    return Verdict(
        fits=total <= chip.hbm_bytes,
        hbm_bytes={**memory, "total": total},
        hbm_limit_bytes=chip.hbm_bytes,
        flops=flops,
        bytes=traffic,
        step_seconds_bound=bound,
        mfu_bound=(model_flops or flops) / (bound * chip.flops_per_second),
        bound_by=bound_by,
        largest_buffers=buffers,
        full_effort=effort == FULL_EFFORT,
    )


def _planned(
    program: Program, hlo: HloProgram, topology: str, arguments: Mapping[str, int], effort: float
) -> tuple[dict[str, int], int, list[Buffer]]:
    """Bytes of memory by kind, bytes to and from it, and the largest buffers."""
    try:
        executable = compile_for_tpu(hlo, topology, updated=program.updated, effort=effort)
    except DoesNotFitError as error:
        return {**arguments, "temporaries": error.temporaries, "program": 0}, 0, _buffers_elsewhere(hlo, program.updated)
    stats = executable.hlo.statistics()
    # Padded by the compiler's layouts, arguments may take more than their numbers.
    planned = executable.memory
    padding = planned.arguments - sum(arguments.values())
    extra = planned.outputs - planned.aliased
    memory = {**arguments, "temporaries": planned.temporaries + extra + max(0, padding), "program": planned.code}
    return memory, stats.bytes, stats.largest_buffers


def _buffers_elsewhere(hlo: HloProgram, updated: int) -> list[Buffer]:
    try:
        return compile_for_tpu(hlo, CHIPS[_LARGEST].example, updated=updated, effort=LEAST_EFFORT).hlo.statistics().largest_buffers
    except DoesNotFitError:
        return hlo.statistics().largest_buffers


def _model_flops(config: Config, teacher: Mapping[str, Any], words: int, devices: int) -> float:
    """Operations that a step needs; a live teacher only has a forward pass, a third of that."""
    predictions = config.corpus.window - 1
    tokens = config.training.batch_size // devices * predictions
    live = training_flops({**teacher, "vocabulary_size": words}, predictions) / 3 if config.distillation.needs_live_teacher else 0
    return tokens * (training_flops(_student_sizes(config, teacher, words), predictions) + live)


def _settings(config: Config, words: int, devices: int) -> dict[str, Any]:
    training = config.training
    part = training.batch_size // devices // training.accumulation_steps * (config.corpus.window - 1)
    return {
        "batch_size": training.batch_size,
        "accumulation_steps": training.accumulation_steps,
        "gradient_checkpointing": training.gradient_checkpointing,
        "precision": training.precision,
        "optimizer_dtype": training.optimizer_dtype,
        "chunk": min(part, default_chunk(part, words)),
    }


def _changes(config: Config, chosen: Config) -> dict[str, Any]:
    return {
        f"training.{field.name}": getattr(chosen.training, field.name)
        for field in dataclasses.fields(config.training)
        if getattr(chosen.training, field.name) != getattr(config.training, field.name)
    }


def _described(config: Config) -> str:
    training = config.training
    parts = f", in {training.accumulation_steps} parts" if training.accumulation_steps > 1 else ""
    kept = ", blocks computed twice" if training.gradient_checkpointing == "blocks" else ""
    slots = ", slots in bfloat16" if training.optimizer_dtype == "bfloat16" else ""
    return f"{training.batch_size} windows of {config.corpus.window} tokens{parts}, {training.precision}{kept}{slots}"

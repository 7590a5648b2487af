"""Which settings are proposed, by a compiler that is a formula."""

import math

import pytest

from gemma_tf_distill.config import config_from_dict
from gemma_tf_distill.preflight.fitting import fitting, largest_batch
from gemma_tf_distill.preflight.verdict import Verdict

GIB, LIMIT, DEVICES = 2**30, 16 * 2**30, 4


def config(**training):
    return config_from_dict(
        {
            "name": "tiny",
            "teacher": {"source": "gguf:package"},
            "corpus": {"source": "docstrings:numpy", "window": 64},
            "student": {"layers": [0, 1]},
            "training": training,
        }
    )


class Compiler:
    """Judges a config by the windows of a part on one device, and keeps those that it saw."""

    def __init__(self, temporaries):
        self._temporaries = temporaries
        self.seen = []

    def __call__(self, config):
        training = config.training
        part = training.batch_size // DEVICES // training.accumulation_steps
        self.seen.append(part)
        temporaries = int(self._temporaries(part, training))
        total = 4 * GIB + temporaries
        memory = {"weights": GIB, "optimizer": 2 * GIB, "teacher": 0, "batch": GIB, "temporaries": temporaries, "total": total}
        return Verdict(
            fits=total <= LIMIT,
            hbm_bytes=memory,
            hbm_limit_bytes=LIMIT,
            flops=1,
            bytes=1,
            step_seconds_bound=1.0,
            mfu_bound=0.5,
            bound_by="compute",
            largest_buffers=[],
            full_effort=True,
        )


def grown(compiler, config):
    verdict = compiler(config)
    found = largest_batch(config, DEVICES, verdict, compiler)
    return found, found.training.batch_size // DEVICES // config.training.accumulation_steps


@pytest.mark.parametrize(
    "temporaries",
    [
        pytest.param(lambda part, _: 0.1 * GIB * part, id="proportional"),
        pytest.param(lambda part, _: 3 * GIB + 0.01 * GIB * part, id="mostly gradients"),
        pytest.param(lambda part, _: 0.05 * GIB * part**1.1, id="faster than windows"),
        pytest.param(lambda part, _: 0.2 * GIB * (math.ceil(part / 8) * 8), id="in tiles of eight"),
        pytest.param(lambda part, _: 0.1 * GIB * part + (6 * GIB if part > 40 else 0), id="with a step"),
        pytest.param(lambda part, _: 12 * GIB if part == 1 else 13 * GIB, id="no room for more"),
    ],
)
def test_the_largest_batch_fits_and_an_eighth_more_does_not(temporaries):
    compiler = Compiler(temporaries)
    found, part = grown(compiler, config(batch_size=DEVICES))
    assert compiler(found).fits
    assert not compiler(config(batch_size=DEVICES * (part + max(1, math.ceil(part / 8))))).fits
    # The config itself, no more than six others, and the two of this test.
    assert len(compiler.seen) <= 9
    assert len(set(compiler.seen)) >= len(compiler.seen) - 2


def test_only_the_batch_grows_and_its_parts_with_it():
    before = config(batch_size=2 * 3 * DEVICES, accumulation_steps=3, learning_rate=1e-3)
    found, part = grown(Compiler(lambda part, _: GIB * part), before)
    assert part == 12
    assert found == config(batch_size=12 * 3 * DEVICES, accumulation_steps=3, learning_rate=1e-3)


def test_a_step_that_needs_no_memory_ends_after_six_compilations():
    compiler = Compiler(lambda part, _: 0)
    found, part = grown(compiler, config(batch_size=DEVICES))
    assert compiler.seen == [8**power for power in range(7)] and part == 8**6 and compiler(found).fits


def test_a_batch_that_does_not_fit_is_lightened_in_order():
    def temporaries(part, training):
        return GIB * part * (0.5 if training.gradient_checkpointing == "blocks" else 4) * (1 if training.precision == "float32" else 0.5)

    compiler, heavy = Compiler(temporaries), config(batch_size=64 * DEVICES)
    found, verdict = fitting(heavy, DEVICES, compiler(heavy), compiler)
    assert verdict.fits and verdict == compiler(found)
    training = found.training
    assert (training.gradient_checkpointing, training.precision, training.accumulation_steps) == ("blocks", "mixed_bfloat16", 2)
    assert training.batch_size == 64 * DEVICES
    hopeless = Compiler(lambda part, _: 20 * GIB)
    assert fitting(heavy, DEVICES, hopeless(heavy), hopeless) is None

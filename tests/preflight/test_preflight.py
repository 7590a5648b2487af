"""What a TPU would take, of tiny models, by the real compiler."""

import dataclasses
import json

import pytest

from gemma_tf_distill.config import config_from_dict
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.preflight import preflight as module
from gemma_tf_distill.preflight.preflight import preflight
from gemma_tf_distill.preflight.text import render

pytest.importorskip("jax")
pytest.importorskip("libtpu")


@pytest.fixture(scope="module")
def teacher_folder(tiny_teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("preflight") / "teacher"
    tiny_teacher.save(folder)
    return str(folder)


# With AdamW's slots 15 GB in float32, and the gradients on top.
HEAVY = {"num_layers": 1, "hidden_dim": 2048, "intermediate_dim": 200_000, "num_query_heads": 1, "num_key_value_heads": 1, "head_dim": 128}


def config(teacher_folder, *, student=None, **training):
    return config_from_dict(
        {
            "name": "tiny",
            "teacher": {"source": teacher_folder, "batch_size": 2},
            "corpus": {"source": "docstrings:numpy", "window": 64},
            "student": student or {"layers": [0, 1]},
            "distillation": {"top_k": 8},
            "training": {"batch_size": 8, **training},
        }
    )


@pytest.fixture(scope="module")
def small(teacher_folder):
    lines = []
    return preflight(config(teacher_folder), "v5e:2x2", tell=lines.append), lines


def test_a_small_step_fits_as_it_is(small, tiny_teacher):
    report, lines = small
    assert report.fits
    assert report.changes == {}
    assert (report.devices, report.tokens, report.words) == (4, 128, tiny_teacher.tokenizer.vocabulary_size)
    memory = report.training.hbm_bytes
    backbone = tiny_teacher.backbone
    embedding = backbone.token_embedding.count_params()
    block = sum(weight.shape.num_elements() for weight in backbone.transformer_layers[0].weights)
    assert memory["weights"] == 4 * (embedding + 2 * block + backbone.hidden_dim)
    # Two slots, the counter of steps and the learning rate's place, if it has one.
    assert 0 <= memory["optimizer"] - 2 * memory["weights"] <= 16
    assert memory["total"] == sum(size for kind, size in memory.items() if kind != "total")
    assert memory["teacher"] == 0
    assert report.scorer.hbm_bytes["teacher"] == 4 * backbone.count_params()
    assert [line.split(" for ")[0] for line in lines] == ["compiling the teacher's scorer", "compiling the training step"]


def test_near_the_limit_the_compiler_gives_its_full_effort(small, teacher_folder, monkeypatch):
    assert not small[0].training.full_effort
    monkeypatch.setattr("gemma_tf_distill.preflight.preflight._CLOSE", 1.0)
    report = preflight(config(teacher_folder), "v5e:2x2")
    assert report.training.full_effort
    assert report.scorer.full_effort
    # The same program, planned otherwise.
    assert report.training.flops == small[0].training.flops
    assert report.training.hbm_bytes["weights"] == small[0].training.hbm_bytes["weights"]


def test_the_bounds_follow_from_the_figures(small):
    verdict = small[0].training
    seconds = {
        "compute": verdict.flops / 197e12,
        "memory": verdict.bytes / 819e9,
        "links": 1.5 * verdict.hbm_bytes["weights"] / 200e9,
    }
    assert verdict.step_seconds_bound == max(seconds.values())
    assert seconds[verdict.bound_by] == verdict.step_seconds_bound
    assert 0 < verdict.mfu_bound < 1


def test_the_json_has_the_agreed_keys(small):
    values = json.loads(json.dumps(small[0].to_dict()))
    assert {
        "fits",
        "hbm_bytes",
        "hbm_limit_bytes",
        "flops",
        "bytes",
        "step_seconds_bound",
        "mfu_bound",
        "largest_buffers",
        "proposal",
        "scorer",
    } <= set(values)
    assert {"weights", "optimizer", "temporaries", "total"} <= set(values["hbm_bytes"])
    assert values["hbm_limit_bytes"] == 15.75 * 2**30
    assert values["proposal"]["batch_size"] == 8
    assert {"name", "shape", "bytes", "operation"} == set(values["largest_buffers"][0])


def test_a_step_that_does_not_fit_is_told_so_with_what_does(teacher_folder):
    heavy = {"student": {"sizes": HEAVY}, "batch_size": 4}
    report = preflight(config(teacher_folder, **heavy), "v5e:2x2")
    assert not report.fits
    assert report.training.hbm_bytes["total"] > report.training.hbm_limit_bytes
    assert report.training.largest_buffers[0].bytes >= 2048 * 200_000 * 4
    assert report.proposal["gradient_checkpointing"] == "blocks"
    assert report.changes["training.gradient_checkpointing"] == "blocks"
    text = render(report)
    assert "DOES NOT FIT" in text
    assert "the training step fits with --set training.gradient_checkpointing=blocks" in text


def test_the_largest_batch_is_proposed_and_can_be_set(teacher_folder, monkeypatch, small):
    def judge(program, hlo, topology, chip, devices, model_flops, full_effort):
        # By the windows of a device, half a gigabyte each.
        temporaries = next(spec.shape[0] for kind, spec in zip(program.kinds, program.specs, strict=True) if kind == "batch") << 29
        memory = {**small[0].training.hbm_bytes, "temporaries": temporaries}
        memory["total"] = sum(size for kind, size in memory.items() if kind != "total")
        return dataclasses.replace(small[0].training, fits=memory["total"] <= chip.hbm_bytes, hbm_bytes=memory)

    monkeypatch.setattr(module, "_judge", judge)
    report = preflight(config(teacher_folder), "v5e:2x2", largest=True)
    # 31 half gigabytes beside a few megabytes of weights.
    assert report.training.fits and report.changes == {"training.batch_size": 4 * 31}
    assert report.proposal["batch_size"] == 4 * 31
    assert render(report).endswith("the training step fits as it is, and with --set training.batch_size=124")
    assert preflight(config(teacher_folder, batch_size=124), "v5e:2x2").changes == {}


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v9:2x2", "'v9:2x2' is no TPU topology that is known here: .*v5e:2x4"),
        ("v5e", "'v5e' is no TPU topology"),
        ("v5e:1x1", "libtpu knows no topology 'v5e:1x1' .*such as v5e:2x2"),
    ],
)
def test_an_unknown_topology_is_refused_with_those_that_are_known(teacher_folder, topology, message):
    with pytest.raises(ConfigError, match=message):
        preflight(config(teacher_folder), topology)


def test_a_batch_that_devices_cannot_share_is_refused(teacher_folder):
    with pytest.raises(
        ConfigError, match=r"training\.batch_size is 8, which 8 devices with 2 accumulation steps each can't share: choose 16"
    ):
        preflight(config(teacher_folder, accumulation_steps=2), "v5e:2x4")
    with pytest.raises(ConfigError, match="a vocabulary of 100000 words: the teacher has"):
        preflight(config(teacher_folder), "v5e:2x2", words=100_000)

"""The weighted sum: its terms, its weights, what it refuses, and that padding changes nothing."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.config import AttentionMapsConfig, DistillationConfig, HiddenStatesConfig, Schedule
from gemma_tf_distill.errors import ConfigError, WeightsError
from gemma_tf_distill.transfer.attention_maps import attention_map_loss
from gemma_tf_distill.transfer.distillation_loss import DistillationLoss
from gemma_tf_distill.transfer.hidden_states import LinearPathDistillation
from gemma_tf_distill.transfer.outputs import StudentOutputs, TeacherOutputs

B, N, D, V = 3, 5, 4, 19


def normal(seed, *shape):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def maps(seed, heads=2):
    return tf.nn.softmax(normal(seed, B, heads, N, N))


MASK = tf.constant([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0]], tf.float32)
LABELS = tf.constant(np.random.default_rng(0).integers(0, V, [B, N]), tf.int32)
SEEN = tf.ones([B, N, N], tf.bool)


def student(**changes):
    given = {"labels": LABELS, "mask": MASK, "states": normal(1, B, N, D), "embedding": normal(2, V, D)} | changes
    return StudentOutputs(**given)


def teacher(**changes):
    return TeacherOutputs(**({"states": normal(3, B, N, D), "embedding": normal(4, V, D)} | changes))


def test_it_is_the_weighted_sum_of_its_terms():
    config = DistillationConfig(
        targets="dense", hidden_states=HiddenStatesConfig(weight=0.7), attention_maps=AttentionMapsConfig(weight=0.2)
    )
    projectors = {(5, 1): LinearPathDistillation(D), (2, 0): LinearPathDistillation(D)}
    for projector in projectors.values():
        projector.build([None, None, D])
    loss = DistillationLoss(config, projectors=projectors, attention_pairs=[(5, 1)])
    mine = student(hidden_states={0: normal(5, B, N, D), 1: normal(6, B, N, D)}, attention_maps={1: maps(7)}, visible={1: SEEN})
    theirs = teacher(hidden_states={2: normal(8, B, N, D), 5: normal(9, B, N, D)}, attention_maps={5: maps(10, heads=4)}, visible={5: SEEN})
    found = loss.compute_loss(mine, theirs, 0.3, 2.0)
    count = float(tf.reduce_sum(MASK))
    hidden = [projectors[pair](mine.hidden_states[pair[1]], theirs.hidden_states[pair[0]], MASK) for pair in projectors]
    np.testing.assert_allclose(found["hidden_states_loss"], tf.reduce_sum(tf.stack(hidden)) / 2 / count, rtol=1e-5)
    attention = attention_map_loss(mine.attention_maps[1], theirs.attention_maps[5], MASK, SEEN)
    np.testing.assert_allclose(found["attention_maps_loss"], tf.reduce_sum(attention) / count, rtol=1e-5)
    parts = 0.3 * 4 * found["soft_loss"] + 0.7 * found["hard_loss"] + 0.7 * found["hidden_states_loss"] + 0.2 * found["attention_maps_loss"]
    np.testing.assert_allclose(found["loss"], parts, rtol=1e-6)


def test_logits_and_states_give_the_same_loss():
    config = DistillationConfig(targets="dense", divergence="jensen_shannon")
    mine, theirs = student(), teacher()
    logits = student(states=None, embedding=None, logits=tf.einsum("bnd,vd->bnv", mine.states, mine.embedding))
    their_logits = TeacherOutputs(logits=tf.einsum("bnd,vd->bnv", theirs.states, theirs.embedding))
    by_states = DistillationLoss(config).compute_loss(mine, theirs)
    for outputs in ((logits, their_logits), (mine, their_logits), (logits, theirs)):
        found = DistillationLoss(config).compute_loss(*outputs)
        for name, value in by_states.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), padding=st.integers(1, 4))
def test_padding_never_changes_the_loss(seed, padding):
    """What is behind the mask may be anything, NaN in the logits too."""
    logits, theirs = normal(seed, B, N, V), normal(seed + 1000, B, N, V)
    config = DistillationConfig(targets="dense")
    plain = DistillationLoss(config).compute_loss(student(states=None, embedding=None, logits=logits), TeacherOutputs(logits=theirs))

    def longer(x, filling):
        return tf.pad(x, [[0, 0], [0, padding], *[[0, 0]] * (x.shape.rank - 2)], constant_values=filling)

    padded = StudentOutputs(labels=longer(LABELS, 0), mask=longer(MASK, 0.0), logits=longer(logits, np.nan))
    found = DistillationLoss(config).compute_loss(padded, TeacherOutputs(logits=longer(theirs, np.nan)))
    for name, value in plain.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_no_token_that_counts_gives_zero():
    found = DistillationLoss(DistillationConfig(targets="dense")).compute_loss(student(mask=tf.zeros_like(MASK)), teacher())
    assert {name: float(value) for name, value in found.items()} == {"loss": 0.0, "soft_loss": 0.0, "hard_loss": 0.0}


def test_without_a_teacher_it_is_the_cross_entropy():
    found = DistillationLoss().compute_loss(student(), None)
    logits = tf.einsum("bnd,vd->bnv", student().states, student().embedding)
    nll = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits)
    np.testing.assert_allclose(found["loss"], tf.reduce_sum(nll * MASK) / tf.reduce_sum(MASK), rtol=1e-5)
    assert sorted(found) == ["hard_loss", "loss"]


def test_what_it_refuses():
    loss = DistillationLoss(DistillationConfig(targets="dense"))
    with pytest.raises(ConfigError, match=r"alpha must be between 0 and 1, not 1\.5"):
        loss.compute_loss(student(), teacher(), alpha=1.5)
    with pytest.raises(ConfigError, match=r"alpha must be between 0 and 1, not 1\.5"):
        loss.compute_loss(student(), teacher(), alpha=tf.constant(1.5))
    with pytest.raises(ConfigError, match=r"temperature must be above 0, not -1\.0"):
        loss.compute_loss(student(), teacher(), temperature=tf.constant(-1.0))
    with pytest.raises(ConfigError, match="temperature must be above 0, not 0"):
        loss.compute_loss(student(), teacher(), temperature=0)
    with pytest.raises(WeightsError, match="the student has 19 words and the teacher 18: load the teacher over the student's vocabulary"):
        loss.compute_loss(student(), teacher(embedding=normal(4, V - 1, D)))
    scheduled = DistillationLoss(DistillationConfig(targets="dense", alpha=Schedule(start=1.0, end=0.0)))
    with pytest.raises(ConfigError, match=r"distillation\.alpha is a schedule: give compute_loss its value"):
        scheduled.compute_loss(student(), teacher())

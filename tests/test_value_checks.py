"""What checkify reports about values: the whole text, for each kind of mistake."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import checkify

from vis4d_jax_loss import (
    SumWeightedLoss,
    binary_cross_entropy,
    cross_entropy,
    embedding_distance_loss,
    iou_loss,
    l1_loss,
    mean_loss,
    multi_pos_cross_entropy,
    rotation_loss,
)

BOX = [0.0, 0.0, 1.0, 1.0]
PAIRS = jnp.ones((1, 2))
PAIR_TARGETS = "target must hold 1 (same), 0 (different) or -1 (ignored)"
NAN, INF = jnp.nan, jnp.inf
REPORTS = {
    "l1_loss: pred must be finite, got nan at (1). Bad values: 1 of 2.": (
        l1_loss,
        [1.0, NAN],
        [0.0, 0.0],
    ),
    "l1_loss: target must be finite, got inf at (0). Bad values: 1 of 2.": (
        l1_loss,
        [1.0, 1.0],
        [INF, 0.0],
    ),
    "binary_cross_entropy: output must be finite or -inf, got inf at (1). Bad values: 1 of 2.": (
        binary_cross_entropy,
        [-INF, INF],
        [0.0, 1.0],
    ),
    "binary_cross_entropy: target must hold numbers from 0 to 1, got 255.0 at (1). "
    "Bad values: 3 of 4.": (binary_cross_entropy, jnp.zeros(4), [1.0, 255.0, -0.1, NAN]),
    "cross_entropy: output must be finite or -inf, got inf at (0, 1). Bad values: 1 of 2.": (
        cross_entropy,
        [[0, INF]],
        [0],
    ),
    "cross_entropy: target must hold labels from 0 to 1, or ignore_index, got 2 at (0). "
    "Bad values: 2 of 3.": (cross_entropy, jnp.zeros((3, 2)), [2, 255, -1]),
    "cross_entropy: target must hold labels from 0 to 1, or ignore_index, got 0.5 at (1). "
    "Bad values: 1 of 2.": (cross_entropy, jnp.zeros((2, 2)), [1.0, 0.5]),
    f"multi_pos_cross_entropy: {PAIR_TARGETS}, got 2 at (0, 1). Bad values: 1 of 2.": (
        multi_pos_cross_entropy,
        PAIRS,
        [[1, 2]],
    ),
    f"embedding_distance_loss: {PAIR_TARGETS}, got 0.5 at (0, 0). Bad values: 1 of 2.": (
        embedding_distance_loss,
        PAIRS,
        [[0.5, 0]],
    ),
    "iou_loss: pred must hold boxes with x1 <= x2 and y1 <= y2, got (1.0, 0.0, 0.0, 1.0) at (1). "
    "Bad values: 1 of 2.": (iou_loss, [BOX, [1.0, 0.0, 0.0, 1.0]], [BOX, BOX]),
    "iou_loss: target must hold boxes with x1 <= x2 and y1 <= y2, got (0.0, 1.0, 1.0, 0.0) at (0). "
    "Bad values: 1 of 1.": (iou_loss, [BOX], [[0.0, 1.0, 1.0, 0.0]]),
}


def report_of(step, *arrays):
    error, _ = checkify.checkify(step)(*arrays)
    return (error.get() or "").removesuffix(" (`check` failed)")


def value_step(loss):
    return jax.jit(partial(loss, reducer=mean_loss))


def gradient_step(loss):
    """A step that uses the gradient alone: the check must not depend on the value being used."""
    inner = jax.jit(lambda p, t: loss(p, t, reducer=mean_loss))
    return jax.jit(jax.grad(inner))


@pytest.mark.parametrize("step", [value_step, gradient_step])
@pytest.mark.parametrize("message", REPORTS)
def test_a_bad_value_is_reported(message, step):
    loss, pred, target = REPORTS[message]
    assert report_of(step(loss), jnp.asarray(pred, jnp.float32), jnp.asarray(target)) == message


def test_good_values_are_not_reported():
    assert report_of(value_step(iou_loss), jnp.array([BOX]), jnp.array([BOX])) == ""


def test_masked_and_ignored_values_are_not_reported():
    where, bad = jnp.array([True, False]), jnp.array([1.0, jnp.nan])
    assert report_of(lambda x: l1_loss(x, jnp.zeros(2), where=where), bad) == ""
    logits = jnp.array([[0.0, 1.0], [jnp.nan, 0.0]])
    assert report_of(lambda z: cross_entropy(z, jnp.array([0, 255])), logits) == ""
    assert report_of(lambda s: multi_pos_cross_entropy(s, jnp.array([[1, -1]])), bad[None]) == ""


def test_classes_and_pairs_that_are_switched_off_are_not_reported():
    logits = jnp.array([[-INF, 1.0, 2.0]])
    assert report_of(value_step(cross_entropy), logits, jnp.array([1])) == ""
    assert report_of(value_step(multi_pos_cross_entropy), logits, jnp.array([[0, 1, 0]])) == ""
    assert report_of(value_step(binary_cross_entropy), logits, jnp.array([[0, 1, 0]])) == ""


def test_bins_residuals_and_weights_are_reported():
    def rotation(pred, bins, residuals):
        return rotation_loss(pred, bins, residuals, 1, mean_loss)

    pred, ones = jnp.zeros((2, 3)), jnp.ones((2, 1))
    bad = ones.at[1, 0].set(NAN)
    report = report_of(rotation, pred.at[1, 1].set(NAN), ones, ones)
    assert report == "rotation_loss: pred must be finite, got nan at (1, 1). Bad values: 1 of 6."
    report = report_of(rotation, pred, bad, ones)
    assert (
        report == "rotation_loss: target_bin must be finite, got nan at (1, 0). Bad values: 1 of 2."
    )
    report = report_of(rotation, pred, ones, bad)
    assert (
        report == "rotation_loss: target_res must be finite, got nan at (1, 0). Bad values: 1 of 2."
    )
    # The residual of a bin that is not active is not used.
    assert report_of(rotation, pred, ones.at[1, 0].set(0.0), bad) == ""

    def weighted(weight, avg_factor):
        return l1_loss(jnp.ones(2), jnp.zeros(2), SumWeightedLoss(weight, avg_factor))

    report = report_of(weighted, jnp.array([1.0, INF]), 2.0)
    assert report == "SumWeightedLoss: weight must be finite, got inf at (1). Bad values: 1 of 2."
    report = report_of(weighted, jnp.ones(2), NAN)
    assert (
        report == "SumWeightedLoss: avg_factor must be finite, got nan at (). Bad values: 1 of 1."
    )


def test_a_report_comes_through_vmap_and_a_gradient():
    grad = jax.vmap(jax.grad(lambda x: l1_loss(x, jnp.zeros(()))))
    report = report_of(jax.jit(grad), jnp.array([1.0, jnp.nan]))
    assert report == "l1_loss: pred must be finite, got nan at (1). Bad values: 1 of 2."


def test_a_report_comes_without_jit():
    with jax.disable_jit():
        report = report_of(l1_loss, jnp.array([1.0, jnp.nan]), jnp.zeros(2))
    assert report == "l1_loss: pred must be finite, got nan at (1). Bad values: 1 of 2."


def test_a_normal_step_computes_no_check():
    def step(pred, target):
        return l1_loss(pred, target, mean_loss)

    x = jnp.ones(8)
    assert "is-finite" not in jax.jit(step).lower(x, x).compile().as_text()
    checked = jax.jit(checkify.checkify(step)).lower(x, x)
    assert "is-finite" in checked.compile().as_text()

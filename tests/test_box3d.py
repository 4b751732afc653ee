"""QD-3DT's boxes: every part by hand, unknown targets, the confidence, other classes, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import (
    Box3DUncertaintyLoss,
    SumWeightedLoss,
    box3d_uncertainty_loss,
    identity_loss,
    mean_loss,
    sum_loss,
)

# Columns of a prediction with one bin: center (2), depth, dimensions (3), logit, sine, cosine,
# confidence; of a target: center (2), depth, dimensions (3), bin, angle. Two boxes.
OWN = np.array(
    [
        [1.0, 0.0, 2.0, 0.0, 0.0, 2.0, 0.0, 0.0, 1.0, 0.5],
        [0.0, 0.0, 3.0, 9.0, 9.0, 0.0, 0.0, 9.0, 9.0, 0.0],
    ],
    np.float32,
)
TARGET = np.array(
    [[0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, -1.0, 100.0, 100.0, 1.0, 0.0, 9.0]],
    np.float32,
)
LABELS = np.array([2, 0])
PRED = np.full((2, 3, 10), 7.0, np.float32)  # 7 in the other classes
PRED[[0, 1], LABELS] = OWN

HALF = 1 / 18  # an error of d >= 1/9 has the loss d - 1/18
CENTER = np.array([[1 - HALF, 0], [0, 0]])
DEPTH = np.array([0, 0])  # exact, and unknown
DIMENSIONS = np.array([[0, 0, 2 - HALF], [0, 0, 1 - HALF]])  # two are unknown
ROTATION = np.log([2, 2])  # a logit of 0; the residual of the active bin is exact
CONFIDENCE = 5 * (0.5 - HALF), 0.1 * 4.5 * np.exp(-20.0) ** 2  # targets 1 and exp(-5 * 4)
NAMES = ["loss_ctr3d", "loss_dep3d", "loss_dim3d", "loss_rot3d", "loss_unc3d"]


def loss_of(pred=PRED, target=TARGET, labels=LABELS, reducer=mean_loss, **options):
    return box3d_uncertainty_loss(pred, target, labels, reducer, num_rotation_bins=1, **options)


def assert_parts(losses, *expected):
    assert list(losses) == NAMES
    for name, part in zip(NAMES, expected, strict=True):
        np.testing.assert_allclose(losses[name], part, rtol=1e-5, atol=1e-7, err_msg=name)


def test_means_by_hand():
    expected = CENTER.mean(), 0, DIMENSIONS.sum() / 4, ROTATION.mean(), np.mean(CONFIDENCE)
    assert_parts(loss_of(), *expected)


def test_the_reducer_does_not_reduce_the_confidence():
    confidence = np.mean(CONFIDENCE)
    # The cross-entropy of the rotation is averaged over the rows for every reducer.
    assert_parts(
        loss_of(reducer=sum_loss), CENTER.sum(), 0, DIMENSIONS.sum(), np.log(2), confidence
    )
    rows = loss_of(reducer=identity_loss)
    assert_parts(rows, CENTER, DEPTH, DIMENSIONS, ROTATION, confidence)
    module = Box3DUncertaintyLoss(num_rotation_bins=1)
    assert_parts(
        module(PRED, TARGET, LABELS, reducer=identity_loss),
        *(CENTER, DEPTH, DIMENSIONS, ROTATION, confidence),
    )


def test_each_part_has_its_weight():
    parts = ["center", "depth", "dimension", "rotation", "uncertainty"]
    target = TARGET.copy()
    target[1, 2] = 1.0  # a depth that is known, and wrong by 2
    plain = list(loss_of(target=target).values())
    assert min(plain) > 0
    weights = {f"{part}_loss_weight": 2.0**i for i, part in enumerate(parts)}
    expected = [2**i * loss for i, loss in enumerate(plain)]
    assert_parts(loss_of(target=target, **weights), *expected)
    assert_parts(jax.jit(lambda weights: loss_of(target=target, **weights))(weights), *expected)
    module = Box3DUncertaintyLoss(mean_loss, *weights.values(), 1)
    assert_parts(module(PRED, target, LABELS), *expected)


def value_and_gradients(*inputs, **options):
    def total(pred, target):
        return sum(loss_of(pred, target, *inputs[2:], **options).values())

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(*inputs[:2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_other_classes_may_be_anything(bad):
    pred = np.full_like(PRED, bad)
    pred[[0, 1], LABELS] = OWN
    value, (gradient, _) = value_and_gradients(pred, TARGET, LABELS)
    expected, _ = value_and_gradients(PRED, TARGET, LABELS)
    assert value == expected
    others = np.arange(3) != LABELS[:, None]
    np.testing.assert_array_equal(np.asarray(gradient)[others], 0)


def test_targets_are_constants():
    _, (_, of_target) = value_and_gradients(PRED, TARGET, LABELS)
    np.testing.assert_array_equal(of_target, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e30])
def test_padding_may_be_anything(bad):
    pred, target = PRED.copy(), TARGET.copy()
    pred[1], target[1] = bad, bad
    where = np.array([True, False])
    value, (gradient, _) = value_and_gradients(pred, target, np.array([2, 9]), where=where)
    expected, _ = value_and_gradients(PRED[:1], TARGET[:1], LABELS[:1])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_array_equal(gradient[1], 0)
    assert np.isfinite(gradient).all()


def test_if_everything_is_masked_losses_and_gradients_are_0():
    bad = PRED * np.nan, TARGET * np.nan, np.array([-1, 2**31 - 1])
    value, (gradient, _) = value_and_gradients(*bad, where=np.zeros(2, bool))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    assert_parts(loss_of(PRED[:0], TARGET[:0], LABELS[:0]), 0, 0, 0, 0, 0)


@pytest.mark.parametrize("depth", [0.0, -1.0])
def test_if_nothing_is_known_the_part_is_0(depth):
    target = TARGET.copy()
    target[:, 2] = depth
    target[:, 3:6] = 100.0
    losses = loss_of(target=target)
    assert losses["loss_dep3d"] == losses["loss_dim3d"] == 0
    _, (gradient, _) = value_and_gradients(PRED, target, LABELS)
    np.testing.assert_array_equal(gradient[:, :, 2:6], 0)


def test_dimensions_are_unknown_one_by_one():
    target = TARGET.copy()
    target[:, 3:6] = [[100.0, 0.0, 100.0], [100.0, 5.0, 100.0]]
    expected = (0 + (4 - HALF)) / 2  # predictions 0 and 9 of the second dimension
    np.testing.assert_allclose(loss_of(target=target)["loss_dim3d"], expected, rtol=1e-6)
    target[0, 4] = np.nextafter(np.float32(100), np.float32(0))
    np.testing.assert_allclose(
        loss_of(target=target)["loss_dim3d"], (100 + 4 - 2 * HALF) / 2, rtol=1e-6
    )


def test_the_confidence_is_worth_more_where_the_depth_is_right():
    """exp(-5 d) is above 0.8 up to d = 0.0446."""
    pred = np.repeat(PRED[:1], 2, axis=0)
    target = np.repeat(TARGET[:1], 2, axis=0)
    pred[:, 2, 2] = 2 + np.array([0.044, -0.045])
    pred[:, 2, 9] = 2.0
    goal = np.exp(-5 * np.array([0.044, 0.045]))
    assert goal[0] > 0.8 > goal[1]
    losses = loss_of(pred, target, np.array([2, 2]))
    expected = (5 * (2 - goal[0] - HALF) + 0.1 * (2 - goal[1] - HALF)) / 2
    np.testing.assert_allclose(losses["loss_unc3d"], expected, rtol=1e-5)

    def confidence(pred):
        return loss_of(pred, target, np.array([2, 2]))["loss_unc3d"]

    gradient = jax.grad(confidence)(pred)
    np.testing.assert_allclose(gradient[:, 2, 9], [5 / 2, 0.1 / 2], rtol=1e-6)
    np.testing.assert_array_equal(gradient[..., :9], 0)  # not to the depth


@pytest.mark.parametrize("label", [3, -1, 255])
def test_a_label_that_is_no_class_gives_nan(label):
    losses = loss_of(labels=np.array([2, label]), reducer=identity_loss)
    for name in ("loss_ctr3d", "loss_rot3d"):
        assert np.isfinite(losses[name][0]).all()
        assert np.isnan(losses[name][1]).all()
    assert np.isnan(losses["loss_unc3d"])


def test_weights_of_rows_may_reduce_rows():
    """A weighted sum fits every part if it has one weight per row."""
    weights = SumWeightedLoss(jnp.array([[2.0], [0.0]]), 4.0)
    with raises(
        ValueError,
        "SumWeightedLoss: weight must broadcast to the shape of the loss, got weight (2, 1) and loss (2,).",
    ):
        loss_of(reducer=weights)


def test_the_mesh_axis_covers_all_counts():
    """Two shards that ``vmap`` simulates, the second of which knows no depth and no dimension."""
    loss = Box3DUncertaintyLoss(num_rotation_bins=1, axis_name="data")
    step = jax.jit(jax.vmap(loss, axis_name="data"))
    target = np.stack([TARGET, TARGET])
    target[0, :, 2], target[1, :, 2], target[1, :, 3:6] = 1.0, -1, 100.0
    losses = step(np.stack([PRED, PRED]), target, np.stack([LABELS, LABELS]))
    rows = [np.concatenate([x, x]) for x in (PRED, LABELS)]
    expected = loss_of(rows[0], target.reshape(4, -1), rows[1])
    assert_parts(losses, *([x] * 2 for x in expected.values()))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: box3d_uncertainty_loss(PRED, TARGET, LABELS),
            ValueError,
            "box3d_uncertainty_loss: pred must be [N, C, 13], got pred (2, 3, 10). Axes of size 1 never broadcast.",
        ),
        (
            lambda: loss_of(target=TARGET[:1]),
            ValueError,
            "box3d_uncertainty_loss: target must be [N, 8] if pred is [N, C, 10], got pred (2, 3, 10) and target (1, 8). Axes of size 1 never broadcast.",
        ),
        (
            lambda: loss_of(labels=LABELS[:, None]),
            ValueError,
            "box3d_uncertainty_loss: labels must be [N] if pred is [N, C, 10], got pred (2, 3, 10) and labels (2, 1). Axes of size 1 never broadcast.",
        ),
        (
            lambda: loss_of(reducer=lambda loss: loss.mean()),
            TypeError,
            "reducer: a reducer must accept where= when elements are masked, got reducer <lambda>. Use mean_loss, sum_loss or jnp.mean, or add a keyword where=None to yours.",
        ),
        (
            lambda: loss_of(reducer=jnp.mean, axis_name="data"),
            TypeError,
            "box3d_uncertainty_loss: reducer must accept axis_name if the loss has one, got reducer mean. Use mean_loss, sum_loss or identity_loss.",
        ),
        (
            lambda: Box3DUncertaintyLoss(num_rotation_bins=0),
            ValueError,
            "Box3DUncertaintyLoss: num_rotation_bins must be positive, got num_rotation_bins 0.",
        ),
        (
            lambda: Box3DUncertaintyLoss(depth_loss_weight="1"),
            TypeError,
            "Box3DUncertaintyLoss: depth_loss_weight must be a number, got depth_loss_weight '1'.",
        ),
    ],
)
def test_mistakes_are_errors(call, kind, message):
    with raises(kind, message):
        call()

"""How an error reads, and each check that several losses share."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import _checks as checks
from vis4d_jax_loss import cross_entropy, iou_loss, multi_pos_cross_entropy


def test_an_error_names_function_rule_value_and_remedy():
    with raises(ValueError, "f: x must be positive, got x 0. Use g."):
        checks.fail(ValueError, "f", "x must be positive", "x 0", "Use g.")
    with raises(TypeError, "f: x must be positive, got x 0."):
        checks.fail(TypeError, "f", "x must be positive", "x 0")


def test_names_and_values_are_listed_in_order():
    assert checks.describe(pred=(8, 4), where=(3,)) == "pred (8, 4) and where (3,)"
    assert checks.shapes_of(b=jnp.zeros((2, 1)), a=jnp.zeros(())) == "b (2, 1) and a ()"


def test_holds_hides_the_error_of_chex():
    assert checks.holds(chex.assert_shape, jnp.zeros((2, 4)), (..., 4))
    assert not checks.holds(chex.assert_shape, jnp.zeros((2, 3)), (..., 4))


@pytest.mark.parametrize(
    ("dtype", "numeric"),
    [("float32", True), ("bfloat16", True), ("uint8", True), ("bool", False), ("complex64", False)],
)
def test_which_dtypes_are_numeric(dtype, numeric):
    assert checks.is_numeric(jnp.ones(2, dtype)) == numeric


def test_numbers_must_be_numeric():
    checks.check_numeric("f", pred=jnp.ones(2), target=jnp.ones(2, int))
    message = (
        "f: target must hold floating-point or integer numbers, got target bool. Cast it first."
    )
    with raises(TypeError, message):
        checks.check_numeric("f", pred=jnp.ones(2), target=jnp.ones(2, bool))


def test_labels_may_be_boolean_but_not_complex():
    checks.check_label_dtype("f", target=jnp.ones(2, bool))
    message = (
        "f: target must hold floating-point or integer numbers, got target complex64. "
        "Cast it first."
    )
    with raises(TypeError, message):
        checks.check_label_dtype("f", target=jnp.ones(2, jnp.complex64))


def test_shapes_must_be_equal():
    checks.check_same_shape("f", a=jnp.ones(2), b=jnp.ones(2), c=jnp.ones(2))
    message = (
        "f: a and b and c must have the same shape, got a (2,) and b (2,) and c (2, 1). "
        "Losses never broadcast: (N,) against (N, 1) would silently average N * N pairs."
    )
    with raises(ValueError, message):
        checks.check_same_shape("f", a=jnp.ones(2), b=jnp.ones(2), c=jnp.ones((2, 1)))


def test_the_number_of_axes_is_counted():
    checks.check_rank("f", "[N, M]", pred=jnp.ones((2, 3)))
    checks.check_rank("f", "[N]", pred=jnp.ones(2))
    with raises(ValueError, "f: pred must be [N, M], got pred (2,). Use jax.vmap for more axes."):
        checks.check_rank("f", "[N, M]", pred=jnp.ones(2))


def test_a_mask_becomes_an_array():
    assert checks.check_mask("f", None, (2, 3)) is None
    assert checks.check_mask("f", [True, False], (2, 3)).tolist() == [True, False]
    assert checks.check_mask("f", True, (2, 3)).shape == ()


def test_a_mask_must_be_boolean():
    message = (
        "f: where must be boolean, got where int32. "
        "True means valid, False means padding; weights belong in SumWeightedLoss."
    )
    with raises(TypeError, message):
        checks.check_mask("f", [1, 0], (2,))


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 3, 1)])
def test_a_mask_must_cover_leading_axes(shape):
    message = (
        f"f: where must cover the leading axes of the loss, got where {shape} and loss (2, 3). "
        "A mask is never matched to trailing axes."
    )
    with raises(ValueError, message):
        checks.check_mask("f", np.ones(shape, bool), (2, 3))


@pytest.mark.parametrize("bad", [0, -1.0, float("nan")])
def test_options_must_be_positive(bad):
    checks.check_positive("f", beta=0.5)
    with raises(ValueError, f"f: beta must be positive, got beta {bad}. Use g."):
        checks.check_positive("f", "Use g.", beta=bad)


def check_weight(weight, loss):
    checks.check_element_weight("f", *map(jnp.asarray, (weight, loss)))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 3), (2, 1), (2, 3)])
def test_a_weight_may_broadcast_to_the_loss(shape):
    check_weight(np.ones(shape), np.ones((2, 3)))


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((2,), " For one weight per row write weight[:, None]."),
        ((3, 1), ""),
        ((2, 3, 1), ""),
        ((1, 2, 3), ""),
    ],
)
def test_a_loss_never_broadcasts_to_its_weight(shape, remedy):
    rule = "f: weight must broadcast to the shape of the loss"
    with raises(ValueError, f"{rule}, got weight {shape} and loss (2, 3).{remedy}"):
        check_weight(np.ones(shape), np.ones((2, 3)))


def test_axes_are_counted_from_the_first():
    assert checks.check_axes("f", None, (2, 3)) == (0, 1)
    assert checks.check_axes("f", -1, (2, 3)) == (1,)
    assert checks.check_axes("f", (1, -2), (2, 3)) == (1, 0)
    assert checks.check_axes("f", np.int64(1), (2, 3)) == (1,)
    assert checks.check_axes("f", (), (2, 3)) == checks.check_axes("f", None, ()) == ()


@pytest.mark.parametrize(
    ("axis", "shape"), [(2, (2, 3)), (-3, (2, 3)), ((0, 2), (2, 3)), (0, ()), ((0, -2), (2, 3))]
)
def test_an_axis_must_be_one_of_the_loss_and_must_not_repeat(axis, shape):
    message = f"f: axis must name axes of the loss, each once, got axis {axis} and loss {shape}."
    with raises(ValueError, message):
        checks.check_axes("f", axis, shape)


def test_an_axis_must_be_a_whole_number():
    with pytest.raises(TypeError):
        checks.check_axes("f", 1.0, (2, 3))


def test_a_weight_of_rows_or_columns_must_say_which():
    message = (
        "f: weight must fit the loss in one way only, got weight (3,) and loss (3, 3). "
        "Write weight[:, None] for rows or weight[None, :] for columns."
    )
    with raises(ValueError, message):
        check_weight(np.ones(3), np.ones((3, 3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: multi_pos_cross_entropy(jnp.ones(3), jnp.ones(3)),
            "multi_pos_cross_entropy: pred must be [N, M], got pred (3,). "
            "Use jax.vmap for more axes.",
        ),
        (
            lambda: iou_loss(jnp.ones((2, 3)), jnp.ones((2, 3))),
            "iou_loss: pred and target must hold boxes (x1, y1, x2, y2) on the last axis, "
            "got pred (2, 3) and target (2, 3). Expected a shape of [..., 4].",
        ),
        (
            lambda: cross_entropy(jnp.ones((2, 3)), jnp.ones(2), jnp.ones(2)),
            "cross_entropy: class_weights must hold 3 weights, one per class, "
            "got class_weights (2,). The classes are counted along class_axis of output.",
        ),
    ],
    ids=["rank", "boxes", "class_weights"],
)
def test_an_error_is_shown_without_a_second_traceback(call, message):
    with raises(ValueError, message):
        call()

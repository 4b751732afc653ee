"""What losses do first: arrays, checks and padding, for each family of losses."""

import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss.losses._inputs import (
    check_logits,
    read_binary,
    read_boxes,
    read_elements,
    read_pairs,
)

BROADCAST = "Losses never broadcast: (N,) against (N, 1) would silently average N * N pairs."
WHERE = [True, False]


def test_padding_of_elements_becomes_0():
    pred, target, mask = read_elements("f", [1.0, jnp.nan], [2, 3], WHERE)
    np.testing.assert_array_equal(pred, [1, 0])
    np.testing.assert_array_equal(target, [2, 0])
    np.testing.assert_array_equal(mask, WHERE)
    assert pred.dtype == target.dtype == jnp.float32


@pytest.mark.parametrize("dtype", [bool, int, jnp.bfloat16])
def test_padding_of_logits_and_binary_targets_becomes_0_in_float32(dtype):
    logits, target = jnp.array([1.0, jnp.nan], jnp.float16), jnp.array([1, 1], dtype)
    output, target, mask = read_binary("f", logits, target, WHERE)
    for x in (output, target):
        np.testing.assert_array_equal(x, [1, 0])
        assert x.dtype == jnp.float32
    np.testing.assert_array_equal(mask, WHERE)


def test_padding_of_boxes_becomes_0_in_float32():
    boxes = jnp.array([[0, 1, 2, 3], [9, 9, 9, 9]], jnp.bfloat16)
    pred, target, mask = read_boxes("f", boxes, boxes, WHERE)
    for x in (pred, target):
        np.testing.assert_array_equal(x, [[0, 1, 2, 3], [0, 0, 0, 0]])
        assert x.dtype == jnp.float32
    np.testing.assert_array_equal(mask, WHERE)


def test_pairs_are_returned_as_they_are():
    pred, target, mask = read_pairs("f", [[1.0, jnp.nan]], [[True, False]], [[True, False]])
    np.testing.assert_array_equal(pred, [[1, jnp.nan]])
    assert target.dtype == bool
    np.testing.assert_array_equal(mask, [[True, False]])


@pytest.mark.parametrize("read", [read_elements, read_boxes, read_pairs])
def test_without_a_mask_nothing_is_replaced(read):
    x = np.array([[0.0, 1.0, 2.0, 3.0]])
    pred, target, mask = read("f", x, x, None)
    np.testing.assert_array_equal(pred, x)
    np.testing.assert_array_equal(target, x)
    assert mask is None


@pytest.mark.parametrize("read", [read_elements, read_boxes, read_pairs])
def test_predictions_and_targets_must_match(read):
    message = f"f: pred and target must have the same shape, got pred (2, 4) and target (1, 4). {BROADCAST}"
    with raises(ValueError, message):
        read("f", np.ones((2, 4)), np.ones((1, 4)), None)
    message = "f: pred must hold floating-point or integer numbers, got pred bool. Cast it first."
    with raises(TypeError, message):
        read("f", np.ones((2, 4), bool), np.ones((2, 4)), None)


@pytest.mark.parametrize("shape", [(), (2, 5), (4, 2)])
def test_boxes_have_four_numbers(shape):
    message = (
        "f: pred and target must hold boxes (x1, y1, x2, y2) on the last axis, "
        f"got pred {shape} and target {shape}. Expected a shape of [..., 4]."
    )
    with raises(ValueError, message):
        read_boxes("f", np.ones(shape), np.ones(shape), None)


def test_a_mask_of_boxes_has_no_axis_for_their_numbers():
    message = (
        "f: where must cover the leading axes of the loss, got where (8, 4) and loss (8,). "
        "A mask is never matched to trailing axes."
    )
    with raises(ValueError, message):
        read_boxes("f", np.ones((8, 4)), np.ones((8, 4)), np.ones((8, 4), bool))


def fit(output, target, class_axis=-1, crop=False):
    check_logits("f", jnp.zeros(output), jnp.zeros(target, int), class_axis, crop=crop)


def mismatch(output, target, class_axis, crop=False):
    rule = "output without its class axis must have the shape of target"
    if output == target:
        remedy = "For one-hot targets pass the labels, target.argmax(-1)."
        return f"f: {rule}, got output {output} and target {target}. {remedy}"
    if crop:
        rule = "output without its class axis must be at least as large as target [..., H, W]"
    return (
        f"f: {rule}, got output {output} and target {target}. "
        f"Logits have one axis more than labels: the classes, here class_axis={class_axis}; "
        "use class_axis=1 for the layout [N, C, H, W]."
        + (" Enlarge smaller logits first, with jax.image.resize." if crop else "")
    )


@pytest.mark.parametrize(
    ("output", "target", "class_axis"),
    [((3,), (), -1), ((2, 3), (2,), -1), ((2, 3, 4, 5), (2, 4, 5), 1), ((3, 2), (2,), 0)],
)
def test_logits_have_one_axis_more_than_labels(output, target, class_axis):
    fit(output, target, class_axis)


@pytest.mark.parametrize(
    ("output", "target", "class_axis"),
    [
        ((2, 3), (2, 3), -1),  # one-hot labels
        ((2, 3, 8, 8), (2, 8, 8), -1),  # the other layout
        ((2, 3, 8, 8), (2, 8, 8), 4),  # no such axis
        ((2, 5, 4, 3), (2, 4, 4), -1),  # a margin, which only segmentation cuts off
    ],
)
def test_logits_and_labels_must_match(output, target, class_axis):
    with raises(ValueError, mismatch(output, target, class_axis)):
        fit(output, target, class_axis)


@pytest.mark.parametrize(
    ("output", "target", "class_axis"),
    [((5, 4, 3), (4, 4), -1), ((2, 3, 5, 4), (2, 4, 4), 1), ((2, 2, 5, 6, 3), (2, 2, 5, 6), -1)],
)
def test_logits_may_have_a_margin_where_it_is_cut_off(output, target, class_axis):
    fit(output, target, class_axis, crop=True)


@pytest.mark.parametrize(
    ("output", "target", "class_axis"),
    [
        ((2, 4, 4, 3), (2, 5, 4), -1),  # too few rows
        ((1, 4, 4, 3), (2, 4, 4), -1),  # another number of images
        ((4, 3), (4,), -1),  # one axis instead of two
        ((2, 3, 4, 4), (2, 4, 4), -1),  # the other layout
    ],
)
def test_logits_must_be_at_least_as_large_as_labels(output, target, class_axis):
    with raises(ValueError, mismatch(output, target, class_axis, crop=True)):
        fit(output, target, class_axis, crop=True)


def test_channels_first_by_mistake_is_an_error_where_a_margin_is_cut_off():
    message = (
        "f: output must have its classes on class_axis, got output (2, 9, 4, 3) and "
        "target (2, 4, 3) with class_axis=-1. "
        "It looks like [N, C, H, W]: pass class_axis=1. Otherwise cut output to size first."
    )
    with raises(ValueError, message):
        fit((2, 9, 4, 3), (2, 4, 3), crop=True)
    with raises(ValueError, message.replace("class_axis=-1", "class_axis=3")):
        fit((2, 9, 4, 3), (2, 4, 3), class_axis=3, crop=True)
    fit((2, 9, 4, 3), (2, 4, 3), class_axis=1, crop=True)
    fit((2, 9, 5, 3), (2, 4, 3), crop=True)  # a margin in both directions
    fit((2, 4, 4, 4), (2, 4, 4), crop=True)  # as many classes as pixels


def test_integer_boxes_are_subtracted_before_they_are_rounded():
    low = 100_000_000
    box = np.array([[low, low, low + 1, low + 3]])
    pred, target, _ = read_boxes("f", box, box + 1, None)
    np.testing.assert_array_equal(pred, [[0, 0, 1, 3]])
    np.testing.assert_array_equal(target, [[1, 1, 2, 4]])


def test_labels_must_be_numeric():
    message = "f: target must hold floating-point or integer numbers, got target complex64. Cast it first."
    with raises(TypeError, message):
        check_logits("f", jnp.zeros((2, 3)), jnp.zeros(2, jnp.complex64), -1)

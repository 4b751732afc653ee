"""Lengths and areas of pairs of boxes, and the two forms of a derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss import _box_pairs
from vis4d_jax_loss._box_pairs import Areas, Lengths, areas, iou_of, lengths, lengths_xy, on_pairs
from vis4d_jax_loss.box import IOU
from vis4d_jax_loss.losses._giou import CIOU, DIOU, GIOU

SCALE = 2.0**-18
BOX, OTHER = jnp.array([0.0, 0.0, 4.0, 2.0]), jnp.array([1.0, 0.5, 5.0, 3.0])


def scaled(*sides):
    return Lengths(*(SCALE * np.float32(side) for side in sides))


def test_lengths_by_hand():
    # Own side, other side, overlap, enclosing side, distance of the centers.
    assert lengths_xy(BOX, OTHER) == [scaled(4, 4, 3, 5, -1), scaled(2, 2.5, 1.5, 3, -0.75)]


def test_inverted_boxes_and_boxes_apart_have_negative_lengths():
    numbers = map(jnp.float32, (3.0, 1.0, 5.0, 6.0))
    assert lengths(*numbers) == scaled(-2, 1, -4, 3, -3.5)


def test_lengths_of_large_integers_are_exact():
    low = 100_000_000
    numbers = (jnp.int32(n) for n in (low, low + 1, low, low + 3))
    assert lengths(*numbers) == scaled(1, 3, 1, 3, -1)


def test_areas_by_hand():
    expected = SCALE**2 * np.array([3 * 1.5, 8 + 10 - 4.5, 5 * 3])
    np.testing.assert_allclose(areas(*lengths_xy(BOX, OTHER)), expected, rtol=1e-6)
    inverted = jnp.array([4.0, 0.5, 0.0, 3.0])
    shared, union, _ = areas(*lengths_xy(inverted, OTHER))
    assert shared == 0
    assert union == SCALE**2 * 10


def test_the_iou_of_boxes_without_area_is_0():
    assert iou_of(Areas(*jnp.zeros(3))) == 0
    assert iou_of(Areas(*jnp.array([1.0, 4.0, 9.0]))) == 0.25


@pytest.mark.parametrize("function", [IOU, GIOU, DIOU, CIOU], ids=["iou", "giou", "diou", "ciou"])
def test_both_forms_of_a_derivative_agree(function, monkeypatch):
    rng = np.random.default_rng(0)
    # Whole numbers: many edges are equal, many boxes touch, are inverted or have no area.
    corners = rng.integers(0, 5, (2, 500, 2, 2))
    corners[:, 50:] = np.sort(corners[:, 50:], axis=2)
    boxes = jnp.asarray(corners.reshape(2, 500, 4), jnp.float32)
    by_form = {}
    for form in (_box_pairs._gradient_by_corner, _box_pairs._gradient_by_number):
        monkeypatch.setattr(_box_pairs, "_gradient_by_corner", form)
        step = jax.jit(jax.grad(lambda boxes: jnp.sum(on_pairs(function, *boxes))))
        by_form[form.__name__] = np.asarray(step(boxes))
    corner, number = by_form.values()
    np.testing.assert_allclose(number, corner, rtol=1e-5, atol=1e-6)
    assert np.count_nonzero(corner) > 500


def test_a_derivative_is_chosen_for_the_platform():
    """A CPU gets the form that reshapes, others the form that stacks."""

    def text(platform):
        step = jax.jit(jax.grad(lambda boxes: on_pairs(IOU, *boxes)))
        exported = jax.export.export(step, platforms=[platform])
        return exported(jax.ShapeDtypeStruct((2, 4), jnp.float32)).mlir_module()

    assert "reverse" in text("cpu")
    assert "reverse" not in text("tpu")
    assert "reverse" not in text("cuda")

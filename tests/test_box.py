"""Geometry alone: values and derivatives of the IoU, where a loss's ``eps`` would hide them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from vis4d_jax_loss.box import paired_iou

BOX = jnp.array([0.0, 0.0, 1.0, 1.0])
NOTHING_SHARED = {
    "apart": jnp.array([2.0, 2.0, 3.0, 3.0]),
    "touching": jnp.array([1.0, 0.0, 2.0, 1.0]),
    "a point": jnp.zeros(4),
    "inverted": jnp.array([1.0, 1.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("first", [BOX, jnp.zeros(4)], ids=["box", "point"])
@pytest.mark.parametrize("kind", NOTHING_SHARED)
def test_boxes_that_share_no_area_have_iou_0_and_stand_still(kind, first):
    pair = first, NOTHING_SHARED[kind]
    assert paired_iou(*pair) == 0
    for argument in (0, 1):
        gradient = jax.grad(paired_iou, argument)
        np.testing.assert_array_equal(gradient(*pair), 0)
        np.testing.assert_array_equal(jax.jacrev(gradient, argument)(*pair), 0)
    with jax.debug_infs(True):
        jax.grad(paired_iou)(*pair)


def test_derivatives_agree_with_finite_differences():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 1, (2, 8, 2))
    boxes = np.concatenate([low, low + rng.uniform(1.5, 3, (2, 8, 2))], axis=-1)
    with jax.enable_x64(True):
        check_grads(paired_iou, tuple(jnp.asarray(boxes)), order=2, modes=("fwd", "rev"))

"""Logits with labels: what is read, weighted and marked."""

import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss.losses._labelled import (
    cross_entropy_of_labels,
    mark_labels,
    read_labelled,
    weight_of_label,
)

NAN = jnp.nan
LOGITS = jnp.array([[NAN, NAN, 9], [0, 0, 9], [NAN, 0, 9], [0, 0, 9]], jnp.bfloat16).T


def read(labels, where=None):
    """Logits with the classes on axis 0, cut to four elements."""
    return read_labelled("f", LOGITS[:2], jnp.array(labels), 255, -2, where)


def test_logits_become_float32_and_0_where_they_are_skipped():
    labelled = read([255, 1, 0, 2], jnp.array([True, True, False, True]))
    np.testing.assert_array_equal(labelled.logits, jnp.zeros((2, 4)))
    assert labelled.logits.dtype == jnp.float32
    assert labelled.axis == 0
    np.testing.assert_array_equal(labelled.labels.skipped, [True, False, True, False])
    np.testing.assert_array_equal(labelled.labels.invalid, [False, False, False, True])


def test_larger_logits_are_cut_to_the_labels():
    logits = jnp.arange(24.0).reshape(2, 3, 4)
    labelled = read_labelled("f", logits, jnp.zeros((2, 2), int), None, 0, None)
    np.testing.assert_array_equal(labelled.logits, logits[:, :2, :2])


def test_losses_are_marked():
    labelled = read([255, 1, 0, 2], jnp.array([True, True, False, True]))
    loss = mark_labels(cross_entropy_of_labels(labelled), labelled.labels)
    np.testing.assert_allclose(loss, [0, np.log(2), 0, NAN], rtol=1e-6)


def test_the_weight_of_a_label_is_that_of_its_class():
    labelled = read([255, 1, 0, 2], jnp.array([True, True, False, True]))
    np.testing.assert_array_equal(weight_of_label("f", (3.0, 5.0), labelled), [0, 5, 3, 0])


def test_weights_must_be_one_number_per_class():
    with raises(
        ValueError,
        "f: class_weights must hold 2 weights, one per class, got class_weights (3,). The classes are counted along class_axis of output.",
    ):
        weight_of_label("f", (1.0, 2.0, 3.0), read([0, 0, 0, 0], jnp.zeros(4, bool)))
    with raises(
        TypeError,
        "f: class_weights must be numbers, got class_weights mean. A reducer is passed by name: reducer=mean_loss.",
    ):
        weight_of_label("f", jnp.mean, read([0, 0, 0, 0], jnp.zeros(4, bool)))


@pytest.mark.parametrize("where", [np.ones(3, bool), np.ones((4, 2), bool)])
def test_a_mask_covers_the_labels(where):
    with raises(
        ValueError,
        f"f: where must cover the leading axes of the loss, got where {where.shape} and loss (4,). A mask is never matched to trailing axes.",
    ):
        read([0, 0, 0, 0], where)

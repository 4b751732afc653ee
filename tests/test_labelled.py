"""Logits with labels: what is read, weighted and marked."""

import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss.losses._labelled import (
    cross_entropy_of_labels,
    mark_labels,
    read_class_weights,
    read_labelled,
    valid_labels,
    weight_of_label,
)

NAN = jnp.nan
LOGITS = jnp.array([[NAN, NAN, 9], [0, 0, 9], [NAN, 0, 9], [0, 0, 9]], jnp.bfloat16).T


def read(labels, where=None):
    """Logits with the classes on axis 0, cut to four elements."""
    return read_labelled("f", LOGITS[:2], jnp.array(labels), 255, -2, where)


def test_logits_stay_what_they_are_where_they_are_skipped():
    labelled = read([255, 1, 0, 2], jnp.array([True, True, False, True]))
    assert labelled.logits.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        labelled.logits.astype(jnp.float32), LOGITS[:2].astype(jnp.float32)
    )
    assert labelled.axis == 0
    np.testing.assert_array_equal(labelled.labels.skipped, [True, False, True, False])
    np.testing.assert_array_equal(labelled.labels.invalid, [False, False, False, True])
    np.testing.assert_array_equal(valid_labels(labelled.labels), [-1, 1, -1, -1])


def test_integer_logits_become_float32():
    labelled = read_labelled("f", jnp.zeros((2, 3), int), jnp.zeros(2, int), None, 1, None)
    assert labelled.logits.dtype == jnp.float32


def test_larger_logits_are_cut_to_the_labels():
    logits = jnp.arange(24.0).reshape(2, 3, 4)
    labelled = read_labelled("f", logits, jnp.zeros((2, 2), int), None, 0, None)
    np.testing.assert_array_equal(labelled.logits, logits[:, :2, :2])


def test_losses_are_marked():
    labelled = read([255, 1, 0, 2], jnp.array([True, True, False, True]))
    loss = mark_labels(cross_entropy_of_labels(labelled), labelled.labels)
    np.testing.assert_allclose(loss, [0, np.log(2), 0, NAN], rtol=1e-6)


def weights_of(class_weights, labelled):
    return read_class_weights("f", class_weights, labelled.logits, labelled.axis)


def test_the_weight_of_a_label_is_that_of_its_class():
    labelled = read([255, 1, 0, 2], jnp.array([True, True, False, True]))
    weights = weights_of((3.0, 5.0), labelled)
    np.testing.assert_array_equal(weights, [[3], [5]])
    np.testing.assert_array_equal(weight_of_label(weights, labelled), [0, 5, 3, 0])


def test_weights_must_be_one_number_per_class():
    labelled = read([0, 0, 0, 0], jnp.zeros(4, bool))
    with raises(
        ValueError,
        "f: class_weights must hold 2 weights, one per class, got class_weights (3,). The classes are counted along class_axis of output.",
    ):
        weights_of((1.0, 2.0, 3.0), labelled)
    with raises(
        TypeError,
        "f: class_weights must be numbers, got class_weights mean. A reducer is passed by name: reducer=mean_loss.",
    ):
        weights_of(jnp.mean, labelled)


@pytest.mark.parametrize("where", [np.ones(3, bool), np.ones((4, 2), bool)])
def test_a_mask_covers_the_labels(where):
    with raises(
        ValueError,
        f"f: where must cover the leading axes of the loss, got where {where.shape} and loss (4,). A mask is never matched to trailing axes.",
    ):
        read([0, 0, 0, 0], where)

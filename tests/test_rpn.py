"""The region proposal network: names, defaults, and a sampler from ``random_k_mask``."""

import jax
import jax.numpy as jnp
import numpy as np

import vis4d_jax_loss as vjl

LOG2 = np.log(2.0)
CLS, REG = np.zeros((1, 6, 1), np.float32), np.full((1, 6, 4), 0.25, np.float32)
LABELS = np.array([[1, 0, 0, 1, 0, 0]])
TARGETS = np.zeros((1, 6, 4), np.float32)


def test_objectness_is_a_binary_cross_entropy_and_boxes_have_an_l1_loss():
    losses = vjl.rpn_loss(CLS, REG, LABELS, TARGETS)
    assert losses._fields == ("rpn_loss_cls", "rpn_loss_bbox")
    np.testing.assert_allclose(losses, (LOG2, 2 / 6), rtol=1e-6)


def test_it_is_the_dense_anchor_head_with_other_defaults():
    options = dict(label_where=LABELS == 1, avg_factor=5.0)
    losses = dict(loss_cls=vjl.SigmoidFocalLoss(), loss_bbox=vjl.l2_loss)
    expected = vjl.dense_anchor_head_loss(CLS, REG, LABELS, TARGETS, **losses, **options)
    np.testing.assert_array_equal(
        vjl.rpn_loss(CLS, REG, LABELS, TARGETS, **losses, **options), expected
    )
    np.testing.assert_array_equal(
        vjl.RPNLoss(**losses)(CLS, REG, LABELS, TARGETS, **options), expected
    )


def test_a_sample_of_anchors_is_one_trace_whatever_its_size_is():
    traces = []

    @jax.jit
    def step(key, labels):
        traces.append(labels)
        positive, negative = labels == 1, labels == 0
        chosen = vjl.random_k_mask(key, 1, positive)
        chosen |= vjl.random_k_mask(key, 3 - jnp.sum(chosen), negative)
        return vjl.rpn_loss(CLS, REG, labels, TARGETS, label_where=chosen)

    for labels, boxes in ((LABELS, 1 / 3), (LABELS * 0, 0)):
        losses = step(jax.random.key(0), labels)
        np.testing.assert_allclose(losses, (LOG2, boxes), rtol=1e-6)
    assert len(traces) == 1

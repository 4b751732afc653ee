"""Values are checked on request: free in a normal step, exact under checkify."""

import importlib.util
import sys
from functools import partial
from types import ModuleType

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import checkify

from vis4d_jax_loss import (
    _value_checks,
    cross_entropy,
    embedding_distance_loss,
    iou_loss,
    l1_loss,
    mean_loss,
    multi_pos_cross_entropy,
)

BOX = [0.0, 0.0, 1.0, 1.0]
PAIR = jnp.ones((1, 2))
REPORTS = {
    "l1_loss: pred must be finite, got 1 other of 2": (l1_loss, [1.0, jnp.nan], [0.0, 0.0]),
    "cross_entropy: output must be finite, got 1 other of 2": (cross_entropy, [[0, jnp.inf]], [0]),
    "cross_entropy: target must hold labels from 0 to 1, or ignore_index, got 2 other of 3": (
        cross_entropy,
        jnp.zeros((3, 2)),
        [2, 255, -1],
    ),
    "multi_pos_cross_entropy: target must hold 1 (same), 0 (different) or -1 (ignored), got 1 other": (
        multi_pos_cross_entropy,
        PAIR,
        [[1, 2]],
    ),
    "embedding_distance_loss: target must hold 1 (same), 0 (different) or -1": (
        embedding_distance_loss,
        PAIR,
        [[0.5, 0]],
    ),
    "iou_loss: pred must hold boxes with x1 <= x2 and y1 <= y2, got 1 other of 2": (
        iou_loss,
        [BOX, [1.0, 0.0, 0.0, 1.0]],
        [BOX, BOX],
    ),
    "iou_loss: target must hold boxes with x1 <= x2": (iou_loss, [BOX], [[0.0, 1.0, 1.0, 0.0]]),
}


def gradient_alone(loss):
    """Of the value nothing is needed: a check stays because the gradient uses what it returns."""
    inner = jax.jit(lambda p, t: loss(p, t, reducer=mean_loss))
    return jax.jit(jax.grad(inner))


@pytest.mark.parametrize(
    "wrap", [lambda loss: jax.jit(partial(loss, reducer=mean_loss)), gradient_alone]
)
@pytest.mark.parametrize("message", REPORTS)
def test_checkify_reports(message, wrap):
    loss, pred, target = REPORTS[message]
    step = checkify.checkify(wrap(loss))
    error, _ = step(jnp.asarray(pred, jnp.float32), jnp.asarray(target))
    assert message in error.get()


def test_checkify_reports_through_gradients_and_vmap():
    grad = jax.vmap(jax.grad(lambda p: l1_loss(p, jnp.zeros(()))))
    error, _ = checkify.checkify(jax.jit(grad))(jnp.array([1.0, jnp.nan]))
    assert "l1_loss: pred must be finite" in error.get()


def test_checkify_reports_without_jit():
    with jax.disable_jit():
        error, _ = checkify.checkify(l1_loss)(jnp.array([1.0, jnp.nan]), jnp.zeros(2))
    assert "l1_loss: pred must be finite" in error.get()


def test_an_array_shared_by_a_batch_stays_shared_where_its_check_is_not():
    logits = jnp.array([[0.0, 1.0, 2.0], [3.0, 0.0, 1.0]])
    targets = jnp.array([[0, 1], [255, 2], [2, 255]])
    losses = jax.vmap(lambda target: cross_entropy(logits, target))(targets)
    assert jnp.array_equal(losses, jnp.stack([cross_entropy(logits, t) for t in targets]))


def test_a_normal_step_does_not_compute_the_checks():
    def step(pred, target):
        return l1_loss(pred, target, mean_loss)

    x = jnp.ones(8)
    assert "is-finite" not in jax.jit(step).lower(x, x).compile().as_text()
    checked = jax.jit(checkify.checkify(step)).lower(x, x)
    assert "is-finite" in checked.compile().as_text()


def test_checks_report_where_jax_has_moved_its_registry(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax._src.checkify", ModuleType("moved"))
    spec = importlib.util.spec_from_file_location("another_jax", _value_checks.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def step(x):
        return 2 * module.expect_finite("loss", pred=x)

    x = jnp.array([1.0, jnp.inf])
    assert jax.make_jaxpr(step)(x).effects  # the reports are there, and what they cost
    error, value = checkify.checkify(jax.jit(step))(x)
    assert "loss: pred must be finite, got 1 other of 2" in error.get()
    assert (value == 2 * x).all()

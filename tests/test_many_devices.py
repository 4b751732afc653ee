"""Many devices, simulated on the CPU in another process, and micro-batches on one device."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import vis4d_jax_loss as vjl

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [
        "eight_devices.py",
        "eight_devices_mining.py",
        "eight_devices_counts.py",
        "eight_devices_dice.py",
        "eight_devices_heads.py",
        "eight_devices_reducers.py",
    ],
)
def test_eight_devices(file):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n=0",
        "--no-header",
        str(HERE / file),
    ]
    done = subprocess.run(
        command, cwd=HERE.parent, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


MICRO = 4
BOXES = np.sort(np.random.default_rng(0).uniform(0, 9, (MICRO, 6, 2, 2)), axis=2)
BOXES = BOXES.reshape(MICRO, 6, 4).astype(np.float32)
PRED = np.roll(BOXES, 1, axis=1) + np.float32(0.25)
VALID = np.random.default_rng(1).random((MICRO, 6)) > 0.6
VALID[2] = False  # a micro-batch in which everything is masked


def accumulate(loss_sum, params, batches):
    """Sum of losses, its gradient and the count over micro-batches, divided once at the end."""

    def add(carry, batch):
        (total, count), grads = jax.value_and_grad(loss_sum, has_aux=True)(params, batch)
        return jax.tree.map(jnp.add, carry, (total, count, grads)), None

    zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    (total, count, grads), _ = lax.scan(add, zeros, batches)
    scale = jnp.where(count > 0, 1 / jnp.maximum(count, 1), 0)
    return total * scale, jax.tree.map(lambda g: g * scale, grads)


def shifted(params, pred):
    return params["scale"] * pred + params["shift"]


@pytest.mark.parametrize("loss", [vjl.iou_loss, vjl.smooth_l1_loss], ids=lambda f: f.__name__)
def test_micro_batches_equal_the_large_batch(loss):
    params = {"scale": jnp.array(1.1), "shift": jnp.array([0.1, -0.2, 0.3, 0.0])[None]}

    def loss_sum(params, batch):
        pred, target, valid = batch
        losses = loss(shifted(params, pred), target, where=valid)
        return jnp.sum(losses), jnp.sum(valid) * (losses.size / valid.size)

    def large(params):
        pred, target = PRED.reshape(-1, 4), BOXES.reshape(-1, 4)
        return loss(shifted(params, pred), target, vjl.mean_loss, where=VALID.ravel())

    step = jax.jit(lambda params: accumulate(loss_sum, params, (PRED, BOXES, VALID)))
    value, grads = step(params)
    expected, expected_grads = jax.jit(jax.value_and_grad(large))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), grads, expected_grads)


def test_weighted_micro_batches_equal_the_large_batch():
    rng = np.random.default_rng(0)
    pred, target = (
        rng.normal(size=(MICRO, 6, 5)).astype(np.float32),
        rng.integers(0, 2, (MICRO, 6, 5)),
    )
    weight = VALID.astype(np.float32)
    params = {"scale": jnp.array(0.7)}

    def loss_sum(params, batch):
        pred, target, weight = batch
        loss = vjl.MultiPosCrossEntropyLoss()(params["scale"] * pred, target, weight, 1.0)
        return loss, jnp.sum(weight)

    def large(params):
        flat = (x.reshape(-1, *x.shape[2:]) for x in (params["scale"] * pred, target, weight))
        return vjl.MultiPosCrossEntropyLoss()(*flat, weight.sum())

    value, grads = jax.jit(lambda p: accumulate(loss_sum, p, (pred, target, weight)))(params)
    expected, expected_grads = jax.jit(jax.value_and_grad(large))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grads["scale"], expected_grads["scale"], rtol=1e-5)


def test_micro_batches_have_zero_loss_if_everything_is_masked():
    params = {"scale": jnp.array(1.0), "shift": jnp.zeros((1, 4))}

    def loss_sum(params, batch):
        pred, target, valid = batch
        loss = vjl.iou_loss(shifted(params, pred), target, vjl.sum_loss, where=valid)
        return loss, jnp.sum(valid, dtype=jnp.float32)

    value, grads = accumulate(loss_sum, params, (PRED, BOXES * np.nan, VALID & False))
    assert value == 0
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(grads))

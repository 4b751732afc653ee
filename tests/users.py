"""Losses as a user writes them, and models that hold a loss."""

import pickle
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from vis4d_jax_loss import L1Loss, Loss, mean_loss

X = jnp.array([[1.0, 2.0]])


class HingeLoss(Loss):
    margin: float = 1.0

    def __call__(self, pred, target, *, reducer=None, where=None):
        return self.reduce(jax.nn.relu(self.margin - pred * target), where, reducer)


class QuantileLoss(Loss):
    """As a user would write one."""

    quantile: float = 0.5

    def __call__(self, pred, target, *, reducer=None, where=None):
        error = target - pred
        losses = jnp.maximum(self.quantile * error, (self.quantile - 1) * error)
        return self.reduce(losses, where, reducer)


class NNXModel(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(2, 2, rngs=rngs)
        self.loss = L1Loss(mean_loss)

    def __call__(self, x):
        return self.loss(self.layer(x), x)


class LinenModel(nn.Module):
    loss: Any = L1Loss(mean_loss)

    @nn.compact
    def __call__(self, x):
        return self.loss(nn.Dense(2)(x), x)


class SowingLoss(Loss):
    """Keeps the largest error where Flax finds it."""

    margin: float = 0.0

    def __call__(self, pred, target, *, reducer=None, where=None):
        error = jnp.abs(pred - target) - self.margin
        self.sow(nnx.Intermediate, "worst", jnp.max(error))
        return self.reduce(error, where, reducer)


class SowingModel(nnx.Module):
    def __init__(self, loss, rngs):
        self.layer, self.loss = nnx.Linear(2, 2, rngs=rngs), loss

    def __call__(self, x):
        return self.loss(self.layer(x), x)


def snapshot(loss):
    leaves, treedef = jax.tree.flatten(loss)
    return loss, hash(loss), leaves, treedef, repr(loss), pickle.dumps(loss)


class WithInit(Loss):
    def __init__(self, scale, reducer=mean_loss):
        super().__init__(reducer)
        self.scale = [scale, scale]

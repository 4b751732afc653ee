"""Terms of an objective that several tests use, with losses that are easy to compute by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

import vis4d_jax_loss as vjl
from vis4d_jax_loss import LossModule, LossTerm, data_key, pred_key

OUTPUTS = {"x": jnp.array([1.0, 3.0]), "logits": jnp.zeros((1, 2, 2, 2))}
BATCH = {"x": jnp.zeros(2), "mask": jnp.ones((1, 2, 2), int)}
PAIR = {"pred": pred_key("x"), "target": data_key("x")}
SEG = {"output": pred_key("logits"), "target": data_key("mask")}
L1, L2 = vjl.L1Loss(vjl.mean_loss), vjl.L2Loss(vjl.mean_loss)
L1_TERM = LossTerm(L1, 1.0, PAIR)  # the loss of OUTPUTS and BATCH is 2
L2_TERM = LossTerm(L2, 1.0, PAIR)  # 5
SEG_TERM = LossTerm(vjl.SegCrossEntropyLoss(), 1.0, SEG)  # LOG2
LOG2 = np.log(2.0)


def identity(x):
    return x


def value_term(weight=1.0):
    """A term whose loss is the output called value."""
    return LossTerm(identity, weight, {"x": pred_key("value")})


def call(terms, *arguments, exclude=(), **keywords):
    """Call an objective, by default with OUTPUTS and BATCH."""
    return LossModule(terms, exclude)(*(arguments or (OUTPUTS, BATCH)), **keywords)


def floats(metrics):
    """Metrics to compare approximately."""
    return {name: pytest.approx(float(value)) for name, value in metrics.items()}

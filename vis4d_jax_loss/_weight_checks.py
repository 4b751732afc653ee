"""The wording of every error about the weights of an objective."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from vis4d_jax_loss._checks import fail, is_real
from vis4d_jax_loss._name_checks import kind_of, there_is


def check_weight(weight: Any, key: type, nested: bool) -> None:
    """Weights are numbers, scalar arrays or schedules, or a dict of them."""
    if not isinstance(weight, Mapping):
        _check_one_weight(weight)
        return
    if any(isinstance(part, key) for part in weight.values()):
        remedy = "Keys belong in inputs: LossTerm(loss, inputs={...})."
        fail(TypeError, "LossTerm", "weight must not be a dict of keys", "a key", remedy)
    if nested:
        rule = "the weight of a LossModule must be one for all its terms"
        remedy = "Its own terms have weights of their own."
        fail(TypeError, "LossTerm", rule, kind_of(weight), remedy)
    for name, part in weight.items():
        if isinstance(part, Mapping):
            rule = "weights by key must not be nested"
            inner = next(iter(part), "...")
            remedy = f'Write the whole path: {{"{name}.{inner}": 2.0}}.'
            fail(TypeError, "LossTerm", rule, f'a dict under "{name}"', remedy)
        _check_one_weight(part)


def _check_one_weight(weight: Any) -> None:
    if isinstance(weight, nnx.Variable):  # callable, but no schedule
        check_scalar_weight(weight, "Pass its value, weight[...], to one made inside the step.")
    elif not callable(weight):
        check_scalar_weight(weight)


def check_scalar_weight(weight: Any, remedy: str = "") -> None:
    kinds = jax.Array | np.ndarray | np.number | int | float
    if not isinstance(weight, kinds) or not is_real(weight):
        rule = "a weight must be a real number, a scalar array, a schedule, or a dict of them"
        fail(TypeError, "LossTerm", rule, kind_of(weight), remedy)
    if np.shape(weight):
        remedy = "Weights of single elements belong in SumWeightedLoss."
        rule = "the weight of a term must be a scalar"
        fail(ValueError, "LossTerm", rule, f"weight {np.shape(weight)}", remedy)


def check_hashable_weight(traced: bool) -> None:
    if traced:
        rule = "an objective whose weights are arrays has no hash"
        remedy = "It is an argument of the step, not a static one: jit a function that takes it."
        fail(TypeError, "LossTerm", rule, "an array", remedy)


def check_step(step: Any) -> None:
    if step is None:
        remedy = "Call objective(outputs, batch, step=step)."
        fail(ValueError, "LossModule", "a weight that is a schedule needs step", "None", remedy)


def check_weights(weights: Mapping[str, Any], entries: Collection[str]) -> None:
    for key in weights:
        if key not in entries:
            rule = "weights by key must name losses that the term returns"
            remedy = there_is(key, entries)
            if "" in entries:
                remedy = "It returns one loss without a key: give it one weight."
            fail(ValueError, "LossTerm", rule, f'"{key}"', remedy)

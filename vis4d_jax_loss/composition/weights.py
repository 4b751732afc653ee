"""Weights of the terms of an objective: numbers, schedules, arrays, or a dict of them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import FrozenDict
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import fail, is_numeric
from vis4d_jax_loss._numerics import to_common_float
from vis4d_jax_loss.composition.errors import available, kind_of
from vis4d_jax_loss.composition.paths import InputPath

#: A function of the step that returns a weight, such as the schedules of optax.
Schedule = Callable[[Any], ArrayLike]

#: The weight of a :class:`LossTerm`: a number, a schedule, or a scalar array.
TermWeight = ArrayLike | Schedule


def frozen_weight(weight: Any, nested: bool) -> Any:
    """Check the weight of a term, and make it hashable: a number of NumPy becomes a scalar."""
    if not isinstance(weight, Mapping):
        _check_weight(weight)
        return _without_array(weight)
    if any(isinstance(part, InputPath) for part in weight.values()):
        remedy = "Paths belong in inputs: LossTerm(loss, inputs={...})."
        fail(TypeError, "LossTerm", "weight must not be a dict of paths", "a path", remedy)
    if nested:
        rule = "the weight of a LossModule must be one for all its terms"
        remedy = "Its own terms have weights of their own."
        fail(TypeError, "LossTerm", rule, kind_of(weight), remedy)
    for name, part in weight.items():
        if isinstance(part, Mapping):
            inner = next(iter(part), "...")
            remedy = f'Write the whole path: {{"{name}.{inner}": 2.0}}.'
            got = f'a dict under "{name}"'
            fail(TypeError, "LossTerm", "a dict of weights must not be nested", got, remedy)
        _check_weight(part)
    return FrozenDict({name: _without_array(part) for name, part in weight.items()})


def _without_array(weight: Any) -> Any:
    """Weights of NumPy are numbers, and static. Those of JAX may be traced, and stay arrays."""
    return weight[()] if isinstance(weight, np.ndarray) else weight


def _check_weight(weight: Any) -> None:
    if isinstance(weight, nnx.Variable):  # callable, but not a schedule
        remedy = "Pass its value, weight[...], and create the objective inside the step."
        _check_scalar_weight(weight, remedy)
    elif not callable(weight):
        _check_scalar_weight(weight)


def _check_scalar_weight(weight: Any, remedy: str = "") -> None:
    kinds = jax.Array | np.ndarray | np.number | int | float
    if not isinstance(weight, kinds) or not is_numeric(weight):
        rule = "a weight must be a number, a scalar array, a schedule, or a dict of them"
        fail(TypeError, "LossTerm", rule, kind_of(weight), remedy)
    if np.shape(weight):
        remedy = "Weights of single elements belong in SumWeightedLoss."
        rule = "the weight of a term must be a scalar"
        fail(ValueError, "LossTerm", rule, f"weight {np.shape(weight)}", remedy)


def weights_by_path(weight: Any, paths: Collection[str]) -> dict[str, Any]:
    """The weight of each loss of a term, by the loss's path within the term."""
    if not isinstance(weight, Mapping):
        return dict.fromkeys(paths, weight)
    for path in weight:
        if path not in paths:
            rule = "a dict of weights must name losses that the term returns"
            remedy = available(path, paths)
            if "" in paths:
                remedy = "The term returns a single loss: give it a single weight."
            fail(ValueError, "LossTerm", rule, f'"{path}"', remedy)
    return {path: weight.get(path, 1.0) for path in paths}


def weighted(loss: jax.Array, weight: TermWeight, step: ArrayLike | None) -> jax.Array:
    """A loss times its weight at a step, in float32 or better."""
    if callable(weight):
        if step is None:
            rule, remedy = "a schedule needs step", "Call objective(outputs, batch, step=step)."
            fail(ValueError, "LossModule", rule, "None", remedy)
        weight = weight(_signed(step))
    _check_scalar_weight(weight)
    loss, weight = to_common_float(loss, weight)
    return weight * loss


def _signed(step: Any) -> Any:
    """Make an unsigned step signed: a schedule that begins later subtracts its beginning.

    ``nnx.Optimizer`` counts in uint32, where 0 - 100 is 4,294,967,196: the end of the schedule.
    """
    if jnp.issubdtype(jnp.result_type(step), jnp.unsignedinteger):
        return jnp.asarray(step).astype(jnp.int32)
    return step


def which_are_arrays(weight: Any) -> tuple[bool, ...]:
    """For a weight, or for each weight of a dict: whether it is an array, and so may be traced."""
    return tuple(isinstance(part, jax.Array) for part in _flat(weight)[0])


def split_arrays(weight: Any, is_array: Sequence[bool]) -> tuple[list[Any], Any]:
    """The arrays of a weight, and the hashable rest."""
    parts, structure = _flat(weight)
    marked = list(zip(parts, is_array, strict=True))
    arrays = [part for part, is_array in marked if is_array]
    return arrays, (structure, tuple(None if is_array else part for part, is_array in marked))


def join_arrays(numbers: Any, is_array: Sequence[bool], arrays: Sequence[Any]) -> Any:
    """The weight that :func:`split_arrays` split, with anything in the place of its arrays."""
    structure, parts = numbers
    remaining = iter(arrays)
    marked = zip(parts, is_array, strict=True)
    return structure.unflatten([next(remaining) if is_array else part for part, is_array in marked])


def _flat(weight: Any) -> tuple[list[Any], Any]:
    # Everything but a dict is a single weight, also a pytree that a transformation put there.
    return jax.tree.flatten(weight, is_leaf=lambda x: not isinstance(x, Mapping))

"""Weights of the terms of an objective: numbers, schedules, arrays, or a dict of them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import FrozenDict
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import fail, is_numeric
from vis4d_jax_loss._numerics import to_float
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
    return weight.item() if isinstance(weight, np.ndarray | np.generic) else weight


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


def at_step(weight: Any, step: ArrayLike | None) -> Any:
    """The value of a weight, or of each weight of a dict, at a step."""
    if isinstance(weight, Mapping):
        return {name: at_step(part, step) for name, part in weight.items()}
    if callable(weight):
        if step is None:
            rule, remedy = "a schedule needs step", "Call objective(outputs, batch, step=step)."
            fail(ValueError, "LossModule", rule, "None", remedy)
        weight = weight(_signed(step))
    _check_scalar_weight(weight)
    return weight


def weighted(loss: ArrayLike, weight: TermWeight, step: ArrayLike | None) -> jax.Array:
    """A loss times its weight at a step, in float32 or better. The product with 0 is always 0."""
    loss, weight = to_float(loss), at_step(weight, step)
    if not isinstance(weight, jax.Array):
        # A constant 0 keeps the loss out of the gradient.
        return jnp.asarray(weight, loss.dtype) * loss if weight else jnp.zeros_like(loss)
    # Where the weight is 0, neither a NaN loss nor a NaN tangent may reach the product. A finite
    # loss stays, because it is the derivative with respect to the weight.
    finite = lax.stop_gradient(jnp.where(jnp.isfinite(loss), loss, 0))
    return weight.astype(loss.dtype) * jnp.where(weight == 0, finite, loss)


def close_gradient(arguments: Any, weight: Any) -> Any:
    """The arguments of a loss, with gradient 0 where the weight of the loss is 0.

    The weight sends the gradient 0 into such a loss, and the derivative of the loss may turn it
    into NaN, as 0 times infinity.
    """
    if not isinstance(weight, jax.Array):
        return arguments
    leaves, structure = jax.tree.flatten(arguments, is_leaf=_is_module)
    closed = iter(_closed_where(weight == 0, [x for x in leaves if _is_floating(x)]))
    leaves = [next(closed) if _is_floating(x) else x for x in leaves]
    return jax.tree.unflatten(structure, leaves)


def _is_module(x: Any) -> bool:
    """Whether ``x`` may have state, which a copy would not share."""
    return isinstance(x, nnx.Module | nnx.Variable)


def _is_floating(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)


@jax.custom_jvp
def _closed_where(closed: jax.Array, arrays: list[jax.Array]) -> list[jax.Array]:
    """Arrays whose tangents and gradients are exactly 0 if they are closed."""
    return arrays


@_closed_where.defjvp
def _closed_where_jvp(primals, tangents):
    (closed, arrays), (_, tangents) = primals, tangents
    tangents = [lax.select(closed, jnp.zeros_like(t), t) for t in tangents]
    return _closed_where(closed, arrays), tangents


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
    """The arrays of a weight, in a dict if the weight is one, and the hashable rest."""
    parts, structure = _flat(weight)
    marked = list(zip(parts, is_array, strict=True))
    arrays = [part for part, is_array in marked if is_array]
    numbers = tuple(None if is_array else part for part, is_array in marked)
    if not isinstance(weight, Mapping):
        return arrays, (structure, numbers, ())
    names = tuple(name for name, is_array in zip(sorted(weight), is_array, strict=True) if is_array)
    named = dict(zip(names, arrays, strict=True))
    return [named] if named else [], (structure, numbers, names)


def join_arrays(static: Any, is_array: Sequence[bool], arrays: Sequence[Any]) -> Any:
    """The weight that :func:`split_arrays` split, with anything in the place of its arrays."""
    structure, numbers, names = static
    if names:
        (named,) = arrays  # a dict, or what a transformation gave for all of it
        arrays = [named[name] if isinstance(named, dict) else named for name in names]
    remaining = iter(arrays)
    marked = zip(numbers, is_array, strict=True)
    return structure.unflatten([next(remaining) if is_array else part for part, is_array in marked])


def _flat(weight: Any) -> tuple[list[Any], Any]:
    # Everything but a dict is a single weight, also a pytree that a transformation put there.
    return jax.tree.flatten(weight, is_leaf=lambda x: not isinstance(x, Mapping))

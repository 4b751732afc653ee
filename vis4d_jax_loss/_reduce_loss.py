"""How any reducer is applied to losses under a mask."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vis4d_jax_loss._checks import check_reducer, describe, fail
from vis4d_jax_loss._mesh_axis import AxisName
from vis4d_jax_loss._numerics import expand_mask, fill_masked
from vis4d_jax_loss.hard_mean import HardMeanLoss
from vis4d_jax_loss.reducer import (
    LossReducer,
    OverAxis,
    identity_loss,
    mean_loss,
    sum_loss,
)
from vis4d_jax_loss.weighted_reducer import SumWeightedLoss, WeightedMeanLoss

#: Our reducers whose mesh axis is an option.
WITH_AXIS = (HardMeanLoss, SumWeightedLoss, WeightedMeanLoss)

# Reductions that need an initial value where everything is masked. A list, since not every reducer
# has a hash.
_INITIAL = [
    (jnp.max, -math.inf),
    (jnp.amax, -math.inf),
    (jnp.min, math.inf),
    (jnp.amin, math.inf),
]


def reduce_loss(
    reducer: LossReducer,
    loss: jax.Array,
    where: jax.Array | None = None,
    *,
    optional: bool = False,
) -> jax.Array:
    """Apply any reducer to a loss under a mask that covers its leading axes.

    A mask that the caller gave must be respected. An ``optional`` mask follows from the data alone:
    a reducer that takes no mask may ignore it.
    """
    check_reducer("reducer", reducer)
    reduce: Any = reducer
    parameters = parameters_of(reducer) or {}
    any_keyword = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    takes_where = "where" in parameters or any_keyword
    # Our own reducers return 0 themselves if everything is masked. They have an axis_name, and may
    # count the elements of other shards.
    like_numpy = ("axis" in parameters or any_keyword) and "axis_name" not in parameters
    like_numpy = like_numpy and takes_where
    if like_numpy and where is None and not loss.size:
        where = jnp.full(loss.shape, True)
    if where is None or (optional and not takes_where):
        return jnp.asarray(reduce(loss))
    if not takes_where:
        got = describe(reducer=getattr(reducer, "__name__", type(reducer).__name__))
        remedy = "Use mean_loss, sum_loss or jnp.mean, or add a keyword where=None to yours."
        rule = "a reducer must accept where= when elements are masked"
        fail(TypeError, "reducer", rule, got, remedy)
    loss = fill_masked(loss, where)
    if not _is_our_function(reducer):  # ours read masks over leading axes
        where = expand_mask(where, loss.shape)
    if like_numpy:
        return _reduce_like_numpy(reduce, loss, where, parameters)
    return jnp.asarray(reduce(loss, where=where))


def _is_our_function(reducer: LossReducer) -> bool:
    inner = reducer.reducer if isinstance(reducer, OverAxis) else reducer
    function = getattr(inner, "func", inner)  # of a functools.partial
    return any(function is ours for ours in (mean_loss, sum_loss, identity_loss))


def _reduce_like_numpy(
    reduce: Callable[..., jax.Array],
    loss: jax.Array,
    where: jax.Array,
    parameters: Mapping[str, inspect.Parameter],
) -> jax.Array:
    """Apply a reducer such as ``jnp.mean``; the result is 0 where everything is masked.

    ``jnp.mean`` of an empty mask is NaN, and ``jnp.max`` needs an initial value for any mask.
    """
    # What functools.partial has bound is a default of the signature.
    bound = {name: parameter.default for name, parameter in parameters.items()}
    axis: Any = {name: bound[name] for name in ("axis", "keepdims") if _is_given(bound.get(name))}
    any_valid = jnp.any(where, **axis)
    nothing_valid = ~jnp.any(where, **axis | dict(keepdims=True))
    function = getattr(reduce, "func", reduce)
    initial = next((value for known, value in _INITIAL if known is function), None)
    if initial is not None and not _is_given(bound["initial"]):
        reduce = functools.partial(reduce, initial=initial)
    return jnp.where(any_valid, reduce(loss, where=where | nothing_valid), 0)


def _is_given(option: Any) -> bool:
    return option is not None and option is not inspect.Parameter.empty


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """The parameters of a callable by name; None for some written in C, which have no signature."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None


def reduce_scalar(function: str, reducer: LossReducer, loss: jax.Array) -> jax.Array:
    """Apply a reducer to a loss that is a scalar already."""
    check_no_axis(function, reducer)
    return reduce_loss(reducer, loss)


def check_no_axis(function: str, reducer: LossReducer) -> None:
    """A loss that reduces by itself must add the sums and counts of other shards by itself."""
    bound = getattr(reducer, "keywords", {}).get("axis_name")
    axis = reducer.axis_name if isinstance(reducer, (OverAxis, *WITH_AXIS)) else bound
    if axis is not None:
        rule = "the reducer must not have a mesh axis, because this loss reduces by itself"
        got = describe(reducer=getattr(reducer, "__name__", type(reducer).__name__))
        remedy = (
            f"Pass axis_name={axis!r} to the loss; a mean over shards would be a mean of means."
        )
        fail(TypeError, function, rule, got, remedy)


def over_shards(function: str, reducer: LossReducer, axis_name: AxisName | None) -> LossReducer:
    """The reducer of one part of a loss, adding over the same shards as the other parts."""
    check_no_axis(function, reducer)
    if axis_name is None:
        return reducer
    if isinstance(reducer, WITH_AXIS):
        return dataclasses.replace(reducer, axis_name=axis_name)
    if "axis_name" not in (parameters_of(reducer) or {}):
        rule = "reducer must accept axis_name if the loss has one"
        got = f"reducer {getattr(reducer, '__name__', type(reducer).__name__)}"
        fail(TypeError, function, rule, got, "Use mean_loss, sum_loss or identity_loss.")
    return OverAxis(reducer, axis_name)

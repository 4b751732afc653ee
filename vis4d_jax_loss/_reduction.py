"""Calling what users bring: any reducer under a mask, and what a callable's parameters are."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vis4d_jax_loss import _checks
from vis4d_jax_loss._numerics import blank, cover
from vis4d_jax_loss.reducer import LossReducer


def reduce_loss(
    reducer: LossReducer,
    loss: jax.Array,
    where: jax.Array | None = None,
    *,
    optional: bool = False,
) -> jax.Array:
    """Apply any reducer to a loss under a mask that covers its leading axes.

    A mask that the caller gave must be honoured. An ``optional`` one follows from the data alone,
    and a reducer that takes no mask may do without it.
    """
    reduce: Any = reducer
    parameters = parameters_of(reducer) or {}
    any_keyword = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    takes_where = "where" in parameters or any_keyword
    numpy_style = takes_where and "axis" in parameters
    if numpy_style and where is None and not loss.size:
        where = jnp.full(loss.shape, True)
    if where is None or (optional and not takes_where):
        return jnp.asarray(reduce(loss))
    _checks.check_takes_where(reducer, takes_where)
    where = cover(where, loss.shape)
    loss = blank(loss, where)
    if numpy_style:
        # NumPy's reductions make NaN of nothing. Ours make 0, and may see more than this shard.
        some = jnp.any(where)
        return jnp.where(some, reduce(loss, where=where | ~some), 0)
    return jnp.asarray(reduce(loss, where=where))


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """The parameters of any callable by name; None for some written in C, which do not tell."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None

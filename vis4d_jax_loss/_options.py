"""Options of modules: values that can be hashed, so numbers and tuples instead of arrays."""

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from vis4d_jax_loss._checks import describe, fail


def as_option(value: Any) -> Any:
    """Arrays and lists as tuples, NumPy's scalars as Python's numbers; other values unchanged."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) or _is_concrete(value):
        return as_option(np.asarray(value).tolist())
    if type(value) in (list, tuple):
        return tuple(map(as_option, value))
    return value


def _is_concrete(value: Any) -> bool:
    is_array = isinstance(value, jax.Array) and not isinstance(value, Tracer)
    return is_array and not jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def check_option(cls: type, name: str, value: Any) -> None:
    """An option takes part in comparing and hashing the module, so it cannot be an array."""
    for part in _parts(value):
        if not _is_hashable(part):
            rule = f"the option {name} must be hashable, and no array"
            got = describe(**{name: _kind(part)})
            fail(TypeError, cls.__name__, rule, got, _remedy(cls, name, part))


def _parts(value: Any) -> Iterator[Any]:
    """The entries of nested tuples."""
    if type(value) is tuple:
        for part in value:
            yield from _parts(part)
    else:
        yield value


def _is_hashable(value: Any) -> bool:
    if isinstance(value, nnx.Variable):
        return False  # hashed by identity
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _kind(value: Any) -> str:
    return value.aval.str_short() if isinstance(value, jax.Array) else type(value).__name__


def _remedy(cls: type, name: str, value: Any) -> str:
    if isinstance(value, dict):
        return "Use a tuple of pairs, or flax.core.FrozenDict."
    if isinstance(value, set):
        return "Use a frozenset or a tuple."
    if isinstance(value, nnx.Variable):
        return "Keep it in the model, and pass its value in the call."
    if name == "reducer":
        return f"Pass it in the call: {call_of(cls, 'reducer=...')}."
    function = _function_with(cls, name)
    return (
        f"Pass it to the function: {function}(..., {name}=...)."
        if function
        else "Pass it in the call."
    )


def call_of(cls: type, *keywords: str) -> str:
    """How a module is called, with its required arguments: ``L1Loss()(pred, target)``."""
    _, *parameters = inspect.signature(cls.__call__).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
    return f"{cls.__name__}()({', '.join([*required, *keywords])})"


def _function_with(cls: type, option: str) -> str | None:
    """The function beside a class (or its base) that takes the option, and may get an array."""
    for base in cls.__mro__:
        for name, function in vars(sys.modules[base.__module__]).items():
            if inspect.isfunction(function) and function.__module__ == base.__module__:
                parameters = inspect.signature(function).parameters
                if not name.startswith("_") and {option, "reducer"} <= parameters.keys():
                    return name
    return None

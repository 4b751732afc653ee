"""Keys: where the arguments of a loss are, and how what it returns is named."""

import dataclasses
import functools
import inspect
import types
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vis4d_jax_loss import _checks, _name_checks
from vis4d_jax_loss._numerics import cover
from vis4d_jax_loss._reduction import parameters_of

# Attributes that an object's own dictionary does not hold.
_DESCRIPTORS = (property, functools.cached_property, types.MemberDescriptorType)


class Key(NamedTuple):
    """Where an argument of a loss comes from: made by :func:`pred_key` and :func:`data_key`."""

    source: str
    path: str


def pred_key(path: str = "") -> Key:
    """Name a part of the model's outputs.

    Args:
        path: Dotted path through mappings, attributes, named tuples and sequences, such as
            ``"rpn.boxes"`` or ``"levels.0"``; nothing for the outputs as a whole.

    Example:
        >>> term = LossTerm(L1Loss(mean_loss), inputs={"pred": pred_key(), "target": data_key("y")})
        >>> print(LossModule({"l1": term})(jnp.array([1.0, 3.0]), {"y": jnp.zeros(2)})[0])
        2.0
    """
    _name_checks.check_path("pred_key", path)
    return Key("outputs", path)


def data_key(path: str = "") -> Key:
    """Name a part of the batch; a path like that of :func:`pred_key`.

    Example:
        >>> print(data_key("targets.boxes").path)
        targets.boxes
    """
    _name_checks.check_path("data_key", path)
    return Key("batch", path)


def find(node: Any, key: Key) -> Any:
    """Follow a key into outputs or a batch; a key of a mapping may itself hold dots."""
    path = key.path
    while path:
        there = members(node)
        dotted = [name for name in there if f"{path}.".startswith(f"{name}.")]
        name = max(dotted, key=len, default=path.partition(".")[0])
        if name not in there and isinstance(getattr(type(node), name, None), _DESCRIPTORS):
            # Those of an array, such as T, are no parts of the outputs.
            there |= {} if is_array(node) else {name: getattr(node, name)}
        _name_checks.check_found(name, f"{key.source}.{key.path}", there, node)
        node, path = there[name], path[len(name) + 1 :]
    return node


def members(node: Any) -> dict[str, Any]:
    """What can be named within a mapping, a named tuple, a sequence or an object."""
    if is_array(node):
        return {}
    if isinstance(node, Mapping):
        return {str(key): value for key, value in node.items()}
    if hasattr(node, "_fields"):
        return {name: getattr(node, name) for name in node._fields}
    if isinstance(node, Sequence):
        return {str(index): value for index, value in enumerate(node)}
    if dataclasses.is_dataclass(node):
        return {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    names = getattr(node, "__dict__", ())
    return {name: getattr(node, name) for name in names if not name.startswith("_")}


def is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray)


def arguments_of(
    loss: Callable[..., Any],
    inputs: Mapping[str, Key],
    name: str,
    outputs: Any,
    batch: Any,
    key: Any,
    where: Any,
) -> dict[str, Any]:
    """What the loss of the term of that name is called with."""
    sources = {"outputs": outputs, "batch": batch}
    arguments = {argument: find(sources[at.source], at) for argument, at in inputs.items()}
    # What a partial has bound already is the default of its signature.
    free = {argument: p.default for argument, p in (parameters_of(loss) or {}).items()}
    takes_key = any(
        free.get("key", False) is default for default in (None, inspect.Parameter.empty)
    )
    if key is not None and takes_key:
        # By name: another term more or less does not change this one's randomness.
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        arguments = {"key": own} | arguments
    if where is not None and "where" in free:
        _name_checks.check_masks_leading_axes(loss)
        bound = None if free["where"] is inspect.Parameter.empty else free["where"]
        arguments["where"] = _both(arguments.get("where", bound), jnp.asarray(where))
    _name_checks.check_nothing_missing(free, arguments)
    return arguments


def _both(own: ArrayLike | None, shared: jax.Array) -> jax.Array:
    """What two masks over leading axes have in common."""
    if own is None:
        return shared
    small, large = sorted([jnp.asarray(own), shared], key=jnp.ndim)
    _checks.check_where("LossModule", small, large.shape)
    _checks.check_where("LossModule", large, large.shape)
    return cover(small, large.shape) & large


def scalars(path: str, result: Any) -> Iterator[tuple[str, jax.Array | None]]:
    """Flatten what a loss returned to scalars under dotted paths."""
    named = hasattr(result, "_fields") or dataclasses.is_dataclass(result)
    if named or isinstance(result, Mapping):
        parts = result if isinstance(result, Mapping) else members(result)
        for name, part in parts.items():
            _name_checks.check_part(name)
            yield from scalars(f"{path}.{name}" if path else str(name), part)
    elif path and result is None:
        yield path, None
    else:
        _name_checks.check_scalar(path, result)
        yield path, jnp.asarray(result)

"""Keys: where in the outputs or the batch the arguments of a loss are."""

import dataclasses
import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vis4d_jax_loss import _name_checks

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

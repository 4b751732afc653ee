"""Paths into the outputs and the batch, and the names of the results of a loss."""

import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vis4d_jax_loss.composition import errors

# Attributes that are not in the dictionary of an object.
_DESCRIPTORS = (property, functools.cached_property, types.MemberDescriptorType)


class InputPath(NamedTuple):
    """Where an argument of a loss comes from; :func:`pred_key` and :func:`data_key` create it."""

    source: str
    path: str


def pred_key(path: str = "") -> Any:
    """Name a part of the model's outputs.

    Args:
        path: Dotted path through mappings, attributes, named tuples and sequences, such as
            ``"rpn.boxes"``, ``"levels.0"`` or ``"levels.-1"``. Without a path, all of the outputs.

    Returns:
        An :class:`InputPath`. Type checkers accept it wherever the loss expects an array, such as
        in ``SumWeightedLoss(data_key("weight"), data_key("num_samples"))``.

    Example:
        >>> term = LossTerm(L1Loss(mean_loss), inputs={"pred": pred_key(), "target": data_key("y")})
        >>> print(LossModule({"l1": term})(jnp.array([1.0, 3.0]), {"y": jnp.zeros(2)})[0])
        2.0
    """
    errors.check_path("pred_key", path)
    return InputPath("outputs", path)


def data_key(path: str = "") -> Any:
    """Name a part of the batch.

    Args:
        path: Dotted path, as in :func:`pred_key`. Without a path, the whole batch.

    Example:
        >>> print(data_key("targets.boxes").path)
        targets.boxes
    """
    errors.check_path("data_key", path)
    return InputPath("batch", path)


def find(node: Any, place: InputPath) -> Any:
    """Follow a path into outputs or a batch. A key of a mapping may itself contain dots."""
    path = place.path
    while path:
        parts = members(node)
        dotted = [name for name in parts if f"{path}.".startswith(f"{name}.")]
        name = max(dotted, key=len, default=path.partition(".")[0])
        if name not in parts:
            parts |= _unlisted(node, name)
        errors.check_found(name, f"{place.source}.{place.path}", parts, node)
        node, path = parts[name], path[len(name) + 1 :]
    return node


def _unlisted(node: Any, name: str) -> dict[str, Any]:
    """A property of an object, or a place that is counted from the end of a sequence."""
    if is_array(node):
        # Attributes of an array, such as T, are not parts of the outputs.
        return {}
    if isinstance(node, Sequence) and name in map(str, range(-len(node), 0)):
        return {name: node[int(name)]}
    is_attribute = isinstance(getattr(type(node), name, None), _DESCRIPTORS)
    return {name: getattr(node, name)} if is_attribute else {}


def members(node: Any) -> dict[str, Any]:
    """The parts of a mapping, a named tuple, a sequence or an object, by name."""
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


def scalars(path: str, result: Any) -> Iterator[tuple[str, jax.Array | None]]:
    """Flatten the result of a loss to scalars with dotted paths."""
    named = hasattr(result, "_fields") or dataclasses.is_dataclass(result)
    if named or isinstance(result, Mapping):
        parts = result if isinstance(result, Mapping) else members(result)
        for name, part in parts.items():
            errors.check_part(name)
            yield from scalars(f"{path}.{name}" if path else str(name), part)
    elif path and result is None:
        yield path, None
    else:
        errors.check_scalar(path, result)
        yield path, jnp.asarray(result)

"""Paths: where the arguments of a loss come from, and how its results are named."""

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

from vis4d_jax_loss._checks import check_mask
from vis4d_jax_loss._numerics import expand_mask
from vis4d_jax_loss._reduce_loss import parameters_of
from vis4d_jax_loss.composition import errors

# Attributes that are not in the dictionary of an object.
_DESCRIPTORS = (property, functools.cached_property, types.MemberDescriptorType)


class InputPath(NamedTuple):
    """Where an argument of a loss comes from; :func:`pred_key` and :func:`data_key` create it."""

    source: str
    path: str


def pred_key(path: str = "") -> InputPath:
    """Name a part of the model's outputs.

    Args:
        path: Dotted path through mappings, attributes, named tuples and sequences, such as
            ``"rpn.boxes"`` or ``"levels.0"``. Without a path, all of the outputs.

    Example:
        >>> term = LossTerm(L1Loss(mean_loss), inputs={"pred": pred_key(), "target": data_key("y")})
        >>> print(LossModule({"l1": term})(jnp.array([1.0, 3.0]), {"y": jnp.zeros(2)})[0])
        2.0
    """
    errors.check_path("pred_key", path)
    return InputPath("outputs", path)


def data_key(path: str = "") -> InputPath:
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
        is_attribute = isinstance(getattr(type(node), name, None), _DESCRIPTORS)
        if name not in parts and is_attribute and not is_array(node):
            # Attributes of an array, such as T, are not parts of the outputs.
            parts |= {name: getattr(node, name)}
        errors.check_found(name, f"{place.source}.{place.path}", parts, node)
        node, path = parts[name], path[len(name) + 1 :]
    return node


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


def arguments_of(
    loss: Callable[..., Any],
    inputs: Mapping[str, InputPath],
    term: str,
    outputs: Any,
    batch: Any,
    key: jax.Array | None,
    where: ArrayLike | None,
) -> dict[str, Any]:
    """The arguments with which the loss of a term is called."""
    sources = {"outputs": outputs, "batch": batch}
    arguments = {name: find(sources[place.source], place) for name, place in inputs.items()}
    # An argument that functools.partial has bound is the default in its signature.
    defaults = {name: p.default for name, p in (parameters_of(loss) or {}).items()}
    takes_key = any(
        defaults.get("key", False) is default for default in (None, inspect.Parameter.empty)
    )
    if key is not None and takes_key:
        # Fold in the name: adding a term does not change the randomness of the others.
        own_key = jax.random.fold_in(key, zlib.crc32(term.encode()))
        arguments = {"key": own_key} | arguments
    if where is not None and "where" in defaults:
        errors.check_masks_leading_axes(loss)
        bound = None if defaults["where"] is inspect.Parameter.empty else defaults["where"]
        arguments["where"] = _intersection(arguments.get("where", bound), jnp.asarray(where))
    errors.check_key_and_where(defaults, arguments)
    return arguments


def _intersection(own: ArrayLike | None, shared: jax.Array) -> jax.Array:
    """Elements that two masks over leading axes both contain."""
    if own is None:
        return shared
    small, large = sorted([jnp.asarray(own), shared], key=jnp.ndim)
    check_mask("LossModule", small, large.shape)
    check_mask("LossModule", large, large.shape)
    return expand_mask(small, large.shape) & large


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

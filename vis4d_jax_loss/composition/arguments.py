"""The arguments of a term's loss: pytrees of paths and constants, its random key and its mask."""

import dataclasses
import inspect
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import check_mask
from vis4d_jax_loss._numerics import expand_mask
from vis4d_jax_loss._reduce_loss import parameters_of
from vis4d_jax_loss.composition import errors
from vis4d_jax_loss.composition.paths import InputPath, find


class Call(NamedTuple):
    """What an objective is called with."""

    outputs: Any
    batch: Any
    step: ArrayLike | None = None
    key: jax.Array | None = None
    where: ArrayLike | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class InputTree:
    """A pytree of paths and constants, compared and hashed by value.

    The pytree itself may contain lists, and reducers that have no hash.
    """

    leaves: tuple[Any, ...]
    structure: Any
    places: tuple[str, ...] = dataclasses.field(compare=False)

    @property
    def tree(self) -> Any:
        return self.structure.unflatten(self.leaves)

    def __reduce__(self) -> Any:
        # JAX pickles no structure that has nodes of other classes than its own.
        return _input_tree, (self.tree,)

    def __repr__(self) -> str:
        return repr(self.tree)


def _input_tree(tree: Any) -> InputTree:
    def is_path(x: Any) -> bool:
        return isinstance(x, InputPath)

    marked, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_path)
    leaves = tuple(x.item() if isinstance(x, np.generic) else x for _, x in marked)
    places = tuple(jax.tree_util.keystr(path) for path, _ in marked)
    return InputTree(leaves, structure, places)


def frozen_inputs(inputs: Mapping[str, Any]) -> FrozenDict[str, Any]:
    """Check the inputs of a term, and make them hashable."""
    errors.check_inputs(inputs)
    return FrozenDict({name: _frozen_input(name, value) for name, value in inputs.items()})


def _frozen_input(argument: str, value: Any) -> Any:
    tree = value if isinstance(value, InputTree) else _input_tree(value)
    for place, leaf in zip(tree.places, tree.leaves, strict=True):
        is_reducer = argument == "reducer" and callable(leaf)
        if not isinstance(leaf, InputPath | int | float) and not is_reducer:
            errors.fail_input(f'"{argument}"{place}', leaf)
    if value is None:
        return None
    return tree.leaves[0] if tree.places == ("",) else tree


def arguments_of(
    loss: Callable[..., Any], inputs: Mapping[str, Any], term: str, call: Call
) -> dict[str, Any]:
    """The arguments with which the loss of a term is called."""
    arguments = {name: _resolved(name, value, call) for name, value in inputs.items()}
    # An argument that functools.partial has bound is the default in its signature.
    defaults = {name: p.default for name, p in (parameters_of(loss) or {}).items()}
    takes_key = any(
        defaults.get("key", False) is default for default in (None, inspect.Parameter.empty)
    )
    if call.key is not None and takes_key:
        # Fold in the name: adding a term does not change the randomness of the others.
        own_key = jax.random.fold_in(call.key, zlib.crc32(term.encode()))
        arguments = {"key": own_key} | arguments
    if opts_out_of_mask(inputs):
        if "where" not in defaults:
            del arguments["where"]
    elif call.where is not None:
        errors.check_takes_mask(term, loss, "where" in {**defaults, **arguments})
        errors.check_masks_leading_axes(loss)
        own = arguments.get("where", defaults.get("where"))
        arguments["where"] = _intersection(own, jnp.asarray(call.where))
    errors.check_key_and_where(defaults, arguments)
    return arguments


def opts_out_of_mask(inputs: Mapping[str, Any]) -> bool:
    """Whether the inputs say that a term is not masked."""
    return "where" in inputs and inputs["where"] is None


def _resolved(argument: str, value: Any, call: Call) -> Any:
    """An argument, with what its paths lead to in their place."""
    if not isinstance(value, InputTree):
        return _looked_up(f'"{argument}"', value, call)
    places = [f'"{argument}"{place}' for place in value.places]
    marked = zip(places, value.leaves, strict=True)
    return value.structure.unflatten([_looked_up(place, leaf, call) for place, leaf in marked])


def _looked_up(place: str, value: Any, call: Call) -> Any:
    if not isinstance(value, InputPath):
        return value
    with errors.note_input(place):
        return find(getattr(call, value.source), value)


def _intersection(own: ArrayLike | None, shared: jax.Array) -> jax.Array:
    """Elements that two masks over leading axes both contain."""
    if own is None or own is inspect.Parameter.empty:
        return shared
    small, large = sorted([jnp.asarray(own), shared], key=jnp.ndim)
    check_mask("LossModule", small, large.shape)
    check_mask("LossModule", large, large.shape)
    return expand_mask(small, large.shape) & large

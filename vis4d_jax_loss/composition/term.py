"""LossTerm: one loss with its weight and its inputs."""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jax.tree_util import GetAttrKey

from vis4d_jax_loss._numerics import to_float
from vis4d_jax_loss._reduce_loss import parameters_of
from vis4d_jax_loss.composition import errors
from vis4d_jax_loss.composition.arguments import (
    Call,
    arguments_of,
    frozen_inputs,
    opts_out_of_mask,
)
from vis4d_jax_loss.composition.paths import data_key, pred_key, scalars
from vis4d_jax_loss.composition.weights import (
    TermWeight,
    at_step,
    close_gradient,
    frozen_weight,
    join_arrays,
    split_arrays,
    weighted,
    weights_by_path,
    which_are_arrays,
)


class Entry(NamedTuple):
    """A loss (None if it is left out), what the metrics show, and whether the total counts it."""

    value: jax.Array | None
    metric: jax.Array | None
    counted: bool = True
    subtotal: bool = False


class Objective(abc.ABC):
    """What a term knows of a LossModule that is its loss."""

    @abc.abstractmethod
    def _entries(self, call: Call, unweighted: bool) -> dict[str, Entry]:
        """The losses of all terms by their paths."""


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class LossTerm:
    """One term of a :class:`LossModule`: a loss, its weight, and where its arguments come from.

    Args:
        loss: A module or function of this library or of optax, a lambda, or another
            :class:`LossModule`. It returns a scalar, or scalars in dicts, named tuples and
            dataclasses, which may be nested; None means that a loss is left out.
        weight: A number, a scalar array (traced or not), or a schedule, which is called with the
            step. A schedule is compared by identity, so create it once. For a loss that returns a
            dict, a dict of such weights by dotted path; losses that it does not name have weight 1.
            A weight of exactly 0 switches the term off, even if its loss is NaN.
        inputs: Maps the names of the loss's arguments to :func:`pred_key` or :func:`data_key`, or
            to a pytree of them, such as a list or a :class:`SumWeightedLoss`. Numbers and None are
            passed as they are, and so is a function for ``reducer``. ``"where": None`` keeps the
            mask of the call away from this term. A :class:`LossModule` takes ``outputs`` and
            ``batch``; by default it gets all of both.

    Raises:
        ValueError: If the loss has no such argument, or ``inputs`` lacks a required one.
        TypeError: If ``loss`` is not callable, or a weight or an input has the wrong type.

    Example:
        >>> import optax
        >>> term = LossTerm(L1Loss(), weight=optax.linear_schedule(0.0, 1.0, 1000), inputs={
        ...     "pred": pred_key("boxes"), "target": data_key("boxes"),
        ...     "reducer": SumWeightedLoss(data_key("weight"), data_key("num_samples"))})
        >>> print(*term.inputs)
        pred target reducer
    """

    loss: Callable[..., Any]
    weight: TermWeight | Mapping[str, TermWeight] = 1.0
    inputs: Mapping[str, Any] = FrozenDict()
    _is_array: tuple[bool, ...] = dataclasses.field(init=False, repr=False, compare=False)
    _is_nested: bool = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        nested = isinstance(self.loss, Objective)
        errors.check_loss(self.loss)
        weight = frozen_weight(self.weight, nested)
        inputs = dict(frozen_inputs(self.inputs))
        if nested:
            inputs = {"outputs": pred_key(), "batch": data_key()} | inputs
        # Any term may opt out of the mask, also one whose loss takes none.
        names = [name for name in inputs if name != "where" or not opts_out_of_mask(inputs)]
        errors.check_arguments(self.loss, names, parameters_of(self.loss))
        fields = dict(weight=weight, inputs=FrozenDict(inputs))
        set_fields(self, **fields, _is_array=which_are_arrays(weight), _is_nested=nested)

    def __hash__(self) -> int:
        if any(self._is_array):
            errors.fail_to_hash()
        return hash((self.loss, self.weight, self.inputs))

    # Weights that are arrays are leaves, and may be traced, also those of a nested objective. The
    # constructor decides which they are, because a transformation may replace them by None, shapes
    # or axes.

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], Any]:
        arrays, numbers = split_arrays(self.weight, self._is_array)
        nested, loss = ([self.loss], None) if self._is_nested else ([], self.loss)
        children = [(GetAttrKey("loss"), child) for child in nested]
        children += [(GetAttrKey("weight"), child) for child in arrays]
        return children, (loss, self.inputs, numbers, self._is_array, self._is_nested)

    @classmethod
    def tree_unflatten(cls, static: Any, children: Iterable[Any]) -> "LossTerm":
        loss, inputs, numbers, is_array, is_nested = static
        arrays = list(children)
        loss = arrays.pop(0) if is_nested else loss
        fields = dict(loss=loss, weight=join_arrays(numbers, is_array, arrays), inputs=inputs)
        return unchecked(cls, **fields, _is_array=is_array, _is_nested=is_nested)


def evaluate(term: LossTerm, name: str, call: Call, unweighted: bool) -> dict[str, Entry]:
    """The losses of a term by their path within it; the path of a scalar is empty."""
    arguments = arguments_of(term.loss, term.inputs, name, call)
    weight = at_step(term.weight, call.step)
    arguments = close_gradient(arguments, weight)
    if isinstance(term.loss, Objective):
        inner = Call(**dict(step=call.step) | arguments)
        entries = term.loss._entries(inner, unweighted)
        total = sum_of(entries)
        entries["loss"] = Entry(total, total, counted=False, subtotal=True)
    else:
        entries = dict[str, Entry]()
        for path, loss in scalars("", term.loss(**arguments)):
            errors.check_unique(path or name, entries)
            loss = None if loss is None else to_float(loss)
            entries[path] = Entry(loss, loss)
    by_path = weights_by_path(weight, entries)
    return {path: _weighted_entry(e, by_path[path], unweighted) for path, e in entries.items()}


def _weighted_entry(entry: Entry, weight: Any, unweighted: bool) -> Entry:
    if entry.value is None or entry.metric is None:
        return entry
    value = metric = weighted(entry.value, weight, None)
    if unweighted:
        metric = entry.metric
    elif entry.metric is not entry.value:  # the terms of a nested objective are unweighted
        metric = weighted(entry.metric, weight, None)
    return entry._replace(value=value, metric=metric)


def sum_of(entries: Mapping[str, Entry]) -> jax.Array:
    """The total of the entries that count, in float32 or better."""
    counted = [e.value for e in entries.values() if e.counted and e.value is not None]
    dtype = jnp.float64 if any(x.dtype == jnp.float64 for x in counted) else jnp.float32
    return sum((x.astype(dtype) for x in counted), jnp.zeros((), dtype))


def unchecked(cls: type, **fields: Any) -> Any:
    """An instance that may contain whatever a transformation put in the place of arrays."""
    instance: Any = object.__new__(cls)
    set_fields(instance, **fields)
    return instance


def set_fields(instance: Any, **fields: Any) -> None:
    """Set fields of a frozen dataclass."""
    for name, value in fields.items():
        object.__setattr__(instance, name, value)

"""LossModule and LossTerm: named losses and weights, added up to one total and its metrics."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jax.typing import ArrayLike

from vis4d_jax_loss.composition import errors
from vis4d_jax_loss.composition.paths import InputPath, arguments_of, data_key, pred_key, scalars
from vis4d_jax_loss.composition.weights import (
    TermWeight,
    frozen_weight,
    join_arrays,
    split_arrays,
    weighted,
    weights_by_path,
    which_are_arrays,
)
from vis4d_jax_loss.reducer import parameters_of


@jax.tree_util.register_pytree_node_class
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
        inputs: Maps the names of the loss's arguments to :func:`pred_key` or :func:`data_key`. A
            :class:`LossModule` takes ``outputs`` and ``batch``; by default it gets all of both.

    Raises:
        ValueError: If the loss has no such argument, or ``inputs`` lacks a required one.
        TypeError: If ``loss`` is not callable, or a weight or an input has the wrong type.

    Example:
        >>> import optax
        >>> term = LossTerm(SegCrossEntropyLoss(), weight=optax.linear_schedule(0.0, 1.0, 1000),
        ...     inputs={"output": pred_key("logits"), "target": data_key("mask")})
        >>> print(*term.inputs)
        output target
    """

    loss: Callable[..., Any]
    weight: TermWeight | Mapping[str, TermWeight] = 1.0
    inputs: Mapping[str, InputPath] = FrozenDict()
    _is_array: tuple[bool, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        nested = isinstance(self.loss, LossModule)
        errors.check_loss(self.loss)
        weight = frozen_weight(self.weight, nested)
        errors.check_inputs(self.inputs, InputPath)
        inputs = {"outputs": pred_key(), "batch": data_key()} if nested else {}
        inputs |= self.inputs
        errors.check_arguments(self.loss, inputs, parameters_of(self.loss))
        is_array = which_are_arrays(weight)
        _set_fields(self, weight=weight, inputs=FrozenDict(inputs), _is_array=is_array)

    def __hash__(self) -> int:
        if any(self._is_array):
            errors.fail_to_hash()
        return hash((self.loss, self.weight, self.inputs))

    # Weights that are arrays are leaves, and may be traced. The constructor decides which they are,
    # because a transformation may replace them by None, shapes or axes.

    def tree_flatten(self) -> tuple[list[Any], Any]:
        arrays, numbers = split_arrays(self.weight, self._is_array)
        return arrays, (self.loss, self.inputs, numbers, self._is_array)

    @classmethod
    def tree_unflatten(cls, static: Any, arrays: Sequence[Any]) -> "LossTerm":
        loss, inputs, numbers, is_array = static
        weight = join_arrays(numbers, is_array, arrays)
        return _unchecked(cls, loss=loss, weight=weight, inputs=inputs, _is_array=is_array)


class _Entry(NamedTuple):
    """A weighted loss (None if it is left out), and whether it is part of the total."""

    value: jax.Array | None
    counted: bool = True
    subtotal: bool = False


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class LossModule:
    r"""Named losses with weights as one objective: ``objective(outputs, batch) -> total, metrics``.

    .. math:: L = \sum_{i \notin \mathrm{exclude}} w_i(\mathrm{step}) \, \ell_i

    with the loss :math:`\ell_i` and the weight :math:`w_i` of term i.

    It is pure, immutable, compared and hashed by value, and a pytree whose only leaves are weights
    that are arrays; with such weights it has no hash.

    Args:
        terms: Names and terms, as a dict or pairs. A :class:`LossModule` is a term of weight 1.
        exclude: Names of metrics, or of whole terms, to keep out of the total and the gradient.

    Raises:
        ValueError: If a name is used twice, is empty or ``"loss"``. When called: if ``exclude``, an
            input or a weight names something that does not exist, or a schedule gets no step.
        TypeError: If a term has the wrong type. When called: if it returns anything but scalars.

    Example:
        >>> import optax
        >>> objective = LossModule({
        ...     "box": LossTerm(IoULoss(mean_loss, mode="linear"), weight=5.0, inputs={
        ...         "pred": pred_key("boxes"), "target": data_key("boxes"),
        ...         "where": data_key("valid")}),
        ...     "seg": LossTerm(
        ...         SegCrossEntropyLoss(), weight=optax.linear_schedule(0.0, 1.0, 1000),
        ...         inputs={"output": pred_key("logits"), "target": data_key("mask")}),
        ... })
        >>> outputs = {"boxes": jnp.array([[0., 0., 2., 2.]]), "logits": jnp.zeros((1, 4, 4, 2))}
        >>> batch = {"boxes": jnp.array([[0., 0., 4., 2.]]), "valid": jnp.array([True]),
        ...     "mask": jnp.ones((1, 4, 4), int)}
        >>> step = jax.jit(jax.value_and_grad(objective, has_aux=True))
        >>> (total, metrics), grads = step(outputs, batch, step=500)
        >>> print({name: round(float(value), 3) for name, value in metrics.items()})
        {'box': 2.5, 'loss': 2.847, 'seg.loss_seg': 0.347}
    """

    terms: Mapping[str, LossTerm]
    exclude: tuple[str, ...] = ()

    def __init__(
        self,
        terms: "Mapping[str, LossTerm | LossModule] | Iterable[tuple[str, LossTerm | LossModule]]",
        exclude: str | Iterable[str] = (),
    ) -> None:
        pairs = errors.check_named_terms(terms.items() if isinstance(terms, Mapping) else terms)
        pairs = [(k, LossTerm(v) if isinstance(v, LossModule) else v) for k, v in pairs]
        errors.check_terms(pairs, LossTerm)
        names = {exclude} if isinstance(exclude, str) else set(map(str, exclude))
        _set_fields(self, terms=FrozenDict(pairs), exclude=tuple(sorted(names)))

    def __call__(
        self,
        outputs: Any,
        batch: Any,
        step: ArrayLike | None = None,
        key: jax.Array | None = None,
        where: ArrayLike | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Compute the total and the weighted terms.

        Args:
            outputs: The model's outputs: arrays in mappings, named tuples, dataclasses and
                sequences, which may be nested.
            batch: The data, in the same form.
            step: Passed to schedules.
            key: A ``jax.random`` key. Each term with an argument ``key`` gets a different one,
                derived from its name: adding a term does not change the randomness of the others.
            where: Mask of valid elements over the leading axes of every term with an argument
                ``where``, such as ``[B]`` for the valid images of a batch. A term's own mask is
                narrowed by it. Terms without such an argument are not masked. A loss of optax or
                JAX with ``where`` is an error, since its masks broadcast from the right.

        Returns:
            The total, a scalar in float32 or better, and the metrics, all on the device. Each term
            is there under its name, times its weight; entries of a dict are ``name.entry``, those
            of a nested module too, whose own total is ``name.loss``. The total is ``loss``.
        """
        entries = self._entries(outputs, batch, step, key, where)
        total = _sum(entries)
        metrics = {name: entry.value for name, entry in entries.items() if entry.value is not None}
        return total, metrics | {"loss": total}

    def _entries(self, outputs, batch, step, key, where) -> dict[str, _Entry]:
        entries: dict[str, _Entry] = {}
        for name, term in self.terms.items():
            with errors.note_term(name):
                parts = _evaluate(term, name, outputs, batch, step, key, where)
            for path, entry in parts.items():
                full = f"{name}.{path}" if path else name
                errors.check_unique(full, entries)
                counted = entry.counted and not self._excludes(name, full)
                entries[full] = entry._replace(counted=counted)
        names = [name for name, entry in entries.items() if not entry.subtotal]
        errors.check_excludes(list(self.exclude), names, list(self.terms))
        return entries

    def _excludes(self, term: str, entry: str) -> bool:
        """An excluded name is that of a term, of an entry, or of a dict of entries."""
        return term in self.exclude or any(
            f"{entry}.".startswith(f"{name}.") for name in self.exclude if name not in self.terms
        )

    def tree_flatten(self) -> tuple[list[LossTerm], Any]:
        names = tuple(sorted(self.terms))
        return [self.terms[name] for name in names], (names, self.exclude)

    @classmethod
    def tree_unflatten(cls, static: Any, terms: Sequence[Any]) -> "LossModule":
        names, exclude = static
        return _unchecked(cls, terms=FrozenDict(zip(names, terms, strict=True)), exclude=exclude)


def _evaluate(
    term: LossTerm, name: str, outputs: Any, batch: Any, step: Any, key: Any, where: Any
) -> dict[str, _Entry]:
    """The weighted losses of a term by their path within it; the path of a scalar is empty."""
    arguments = arguments_of(term.loss, term.inputs, name, outputs, batch, key, where)
    if isinstance(term.loss, LossModule):
        entries = term.loss._entries(**dict(step=step, key=None, where=None) | arguments)
        entries["loss"] = _Entry(_sum(entries), counted=False, subtotal=True)
    else:
        entries = {}
        for path, loss in scalars("", term.loss(**arguments)):
            errors.check_unique(path or name, entries)
            entries[path] = _Entry(loss)
    for path, weight in weights_by_path(term.weight, entries).items():
        loss = entries[path].value
        if loss is not None:
            entries[path] = entries[path]._replace(value=weighted(loss, weight, step))
    return entries


def _sum(entries: Mapping[str, _Entry]) -> jax.Array:
    counted = [e.value for e in entries.values() if e.counted and e.value is not None]
    return functools.reduce(jnp.add, counted, jnp.zeros((), jnp.float32))


def _unchecked(cls: type, **fields: Any) -> Any:
    """An instance that may contain whatever a transformation put in the place of arrays."""
    instance: Any = object.__new__(cls)
    _set_fields(instance, **fields)
    return instance


def _set_fields(instance: Any, **fields: Any) -> None:
    """Set fields of a frozen dataclass."""
    for name, value in fields.items():
        object.__setattr__(instance, name, value)

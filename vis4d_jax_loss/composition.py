"""Composition: named losses, weights and schedules, added up to one objective and its metrics."""

import dataclasses
import functools
import inspect
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jax.typing import ArrayLike

from vis4d_jax_loss import _checks, _name_checks
from vis4d_jax_loss._numerics import cover, to_float
from vis4d_jax_loss.keys import Key, data_key, find, is_array, members, pred_key

Schedule = Callable[[Any], ArrayLike]
Weight = ArrayLike | Schedule


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class LossTerm:
    """One term of a :class:`LossModule`: a loss, its weight, and where its arguments come from.

    Args:
        loss: Any callable that returns a scalar, or a dict or named tuple of scalars, nested at
            will (None stands for a loss left out): a module or function of this library or of
            optax, a lambda, or another :class:`LossModule`.
        weight: A number; a schedule, called with the step; a scalar array, traced or not; or, for
            a loss that returns a dict, a dict of such weights by key (1 for a key without one).
        inputs: From the names of the loss's arguments to :func:`pred_key` or :func:`data_key`. A
            :class:`LossModule` takes ``outputs`` and ``batch``, by default those of the whole.

    Raises:
        ValueError: If the loss has no such argument, or needs one that ``inputs`` lacks.
        TypeError: If ``loss`` is not callable, a weight is none, or an input no key.

    Example:
        >>> import optax
        >>> term = LossTerm(SegCrossEntropyLoss(), weight=optax.linear_schedule(0.0, 1.0, 1000),
        ...     inputs={"output": pred_key("logits"), "target": data_key("mask")})
        >>> print(*term.inputs)
        output target
    """

    loss: Callable[..., Any]
    weight: Weight | Mapping[str, Weight] = 1.0
    inputs: Mapping[str, Key] = FrozenDict()

    def __post_init__(self) -> None:
        _name_checks.check_loss(self.loss)
        _name_checks.check_inputs(self.inputs, Key)
        nested = isinstance(self.loss, LossModule)
        inputs = {"outputs": pred_key(), "batch": data_key()} if nested else {}
        inputs |= self.inputs
        _name_checks.check_arguments(self.loss, inputs, _parameters(self.loss))
        _name_checks.check_weight(self.weight, nested)
        weight = FrozenDict(self.weight) if isinstance(self.weight, Mapping) else self.weight
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "inputs", FrozenDict(inputs))

    # Weights that are arrays are leaves, so that they may be traced; the rest is static.

    def tree_flatten(self) -> tuple[list[Any], Any]:
        weights, structure = jax.tree.flatten(self.weight, is_leaf=callable)
        arrays = [x if is_array(x) else None for x in weights]
        static = tuple(None if is_array(x) else x for x in weights)
        return arrays, (self.loss, self.inputs, structure, static)

    @classmethod
    def tree_unflatten(cls, static: Any, arrays: Sequence[Any]) -> "LossTerm":
        loss, inputs, structure, rest = static
        weights = [a if b is None else b for a, b in zip(arrays, rest, strict=True)]
        return _unchecked(cls, loss=loss, weight=structure.unflatten(weights), inputs=inputs)


class _Entry(NamedTuple):
    """A weighted loss, and whether it counts towards the total."""

    value: jax.Array
    counted: bool = True
    subtotal: bool = False


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class LossModule:
    r"""Named losses with weights as one objective: ``objective(outputs, batch) -> total, metrics``.

    .. math:: L = \sum_{i \notin \mathrm{exclude}} w_i(\mathrm{step}) \, \ell_i

    Pure, and made for ``jax.value_and_grad(objective, has_aux=True)``. It is immutable, compared
    and hashed by value, and a pytree whose only leaves are weights that are arrays.

    Args:
        terms: From names to terms, as a dict or as pairs. A :class:`LossModule` may stand for a
            term of weight 1.
        exclude: Names of metrics, or of whole terms, to keep out of the total and the gradient.

    Raises:
        ValueError: If a name is taken twice, is empty or ``"loss"``, or if ``exclude`` or, when
            called, an input or a weight names what is not there; if a schedule gets no step.
        TypeError: If a term is none, or returns anything but scalars.

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
        >>> outputs = {
        ...     "boxes": jnp.array([[0.0, 0.0, 2.0, 2.0]]), "logits": jnp.zeros((1, 4, 4, 2))}
        >>> batch = {
        ...     "boxes": jnp.array([[0.0, 0.0, 4.0, 2.0]]), "valid": jnp.array([True]),
        ...     "mask": jnp.ones((1, 4, 4), int)}
        >>> step = jax.jit(jax.value_and_grad(objective, has_aux=True))
        >>> (total, metrics), grads = step(outputs, batch, step=500)
        >>> print({name: round(float(value), 3) for name, value in metrics.items()})
        {'box': 2.5, 'loss': 2.847, 'seg.loss_seg': 0.347}
    """

    terms: Mapping[str, LossTerm]
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        pairs = self.terms.items() if isinstance(self.terms, Mapping) else self.terms
        pairs = [(k, LossTerm(v) if isinstance(v, LossModule) else v) for k, v in pairs]
        _name_checks.check_terms(pairs, LossTerm)
        object.__setattr__(self, "terms", FrozenDict(pairs))
        exclude = (self.exclude,) if isinstance(self.exclude, str) else tuple(self.exclude)
        object.__setattr__(self, "exclude", exclude)

    def __call__(
        self,
        outputs: Any,
        batch: Any,
        step: ArrayLike | None = None,
        key: jax.Array | None = None,
        where: ArrayLike | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The total, and every weighted term by name.

        Args:
            outputs: What the model returned: an array, or mappings, named tuples, dataclasses,
                sequences of arrays, nested at will.
            batch: The same for the data.
            step: What schedules are called with.
            key: A ``jax.random`` key, of which every term with an argument ``key`` gets its own,
                derived from its name: adding a term does not change the others' randomness.
            where: True for what is real, over the leading axes of *every* term with an argument
                ``where``, such as ``[B]`` for the real images of a batch; a term's own ``where``
                is narrowed by it. A term without such an argument sees everything.

        Returns:
            The total, a scalar in float32 or better, and the metrics, all on the device: each term
            times its weight under its name, dict entries under ``name.entry``, those of a nested
            module likewise, its own total being ``name.loss``; and the total as ``loss``.
        """
        entries = self._entries(outputs, batch, step, key, where)
        total = _sum(entries)
        return total, {name: entry.value for name, entry in entries.items()} | {"loss": total}

    def _entries(self, outputs, batch, step, key, where) -> dict[str, _Entry]:
        entries: dict[str, _Entry] = {}
        for name, term in self.terms.items():
            with _name_checks.within(name):
                parts = _evaluate(term, name, outputs, batch, step, key, where)
            for path, (value, counted, subtotal) in parts.items():
                full = f"{name}.{path}" if path else name
                _name_checks.check_new(full, entries)
                counted &= not any(f"{full}.".startswith(f"{e}.") for e in self.exclude)
                entries[full] = _Entry(value, counted, subtotal)
        parts = [name for name, entry in entries.items() if not entry.subtotal]
        _name_checks.check_excludes(self.exclude, parts, list(self.terms))
        return entries

    def tree_flatten(self) -> tuple[list[LossTerm], Any]:
        return list(self.terms.values()), (tuple(self.terms), self.exclude)

    @classmethod
    def tree_unflatten(cls, static: Any, terms: Sequence[Any]) -> "LossModule":
        names, exclude = static
        return _unchecked(cls, terms=FrozenDict(zip(names, terms, strict=True)), exclude=exclude)


def _evaluate(
    term: LossTerm, name: str, outputs: Any, batch: Any, step: Any, key: Any, where: Any
) -> dict[str, _Entry]:
    """The weighted losses of a term by their path within it, a scalar's being empty."""
    arguments = _arguments(term, name, outputs, batch, key, where)
    if isinstance(term.loss, LossModule):
        entries = term.loss._entries(**dict(step=step, key=None, where=None) | arguments)
        entries["loss"] = _Entry(_sum(entries), counted=False, subtotal=True)
    else:
        entries = {path: _Entry(loss) for path, loss in _scalars("", term.loss(**arguments))}
    if isinstance(term.weight, Mapping):
        _name_checks.check_weights(term.weight, entries)
        weights = {path: term.weight.get(path, 1.0) for path in entries}
    else:
        weights = dict.fromkeys(entries, term.weight)
    return {
        path: entry._replace(value=_weighted(entry.value, weights[path], step))
        for path, entry in entries.items()
    }


def _arguments(
    term: LossTerm, name: str, outputs: Any, batch: Any, key: Any, where: Any
) -> dict[str, Any]:
    """What a term's loss is called with."""
    sources = {"outputs": outputs, "batch": batch}
    arguments = {name: find(sources[at.source], at) for name, at in term.inputs.items()}
    parameters = _parameters(term.loss)
    if key is not None and "key" in parameters and "key" not in arguments:
        # By name: another term more or less does not change this one's randomness.
        arguments["key"] = jax.random.fold_in(key, zlib.crc32(name.encode()))
    if where is not None and "where" in parameters:
        arguments["where"] = _both(arguments.get("where"), jnp.asarray(where))
    return arguments


def _weighted(loss: jax.Array, weight: Weight, step: ArrayLike | None) -> jax.Array:
    if callable(weight):
        _name_checks.check_step(step)
        weight = weight(_signed(step))
    _name_checks.check_scalar_weight(weight)
    loss, weight = to_float(loss, weight)
    return weight * loss


def _signed(step: ArrayLike) -> ArrayLike:
    """A step that may become negative: a schedule that begins later subtracts its beginning.

    ``nnx.Optimizer`` counts in uint32, where 0 - 100 is the far end of the schedule.
    """
    if jnp.issubdtype(jnp.result_type(step), jnp.unsignedinteger):
        return jnp.asarray(step).astype(jnp.int32)
    return step


def _sum(entries: Mapping[str, _Entry]) -> jax.Array:
    counted = [entry.value for entry in entries.values() if entry.counted]
    return functools.reduce(jnp.add, counted, jnp.zeros((), jnp.float32))


def _scalars(path: str, result: Any) -> Iterator[tuple[str, jax.Array]]:
    """Flatten what a loss returned to scalars under dotted paths."""
    if not (isinstance(result, Mapping) or hasattr(result, "_fields")):
        _name_checks.check_scalar(path, result)
        yield path, jnp.asarray(result)
        return
    for name, part in members(result).items():
        if part is not None:
            yield from _scalars(f"{path}.{name}" if path else str(name), part)


def _parameters(loss: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments that a loss takes by name, but for those that a partial has bound."""
    try:
        parameters = dict(inspect.signature(loss).parameters)
    except (TypeError, ValueError):  # some callables written in C have no signature
        return {"**": inspect.Parameter("anything", inspect.Parameter.VAR_KEYWORD)}
    bound = loss.keywords if isinstance(loss, functools.partial) else ()
    return {name: p for name, p in parameters.items() if name not in bound}


def _unchecked(cls: type, **fields: Any) -> Any:
    """An instance around whatever a transformation puts in the place of arrays."""
    instance = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(instance, name, value)
    return instance


def _both(own: ArrayLike | None, shared: jax.Array) -> jax.Array:
    """What two masks over leading axes have in common."""
    if own is None:
        return shared
    small, large = sorted([jnp.asarray(own), shared], key=jnp.ndim)
    _checks.check_where("LossModule", small, large.shape)
    _checks.check_where("LossModule", large, large.shape)
    return cover(small, large.shape) & large

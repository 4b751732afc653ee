"""Composition: named losses, weights and schedules, added up to one objective and its metrics."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jax.typing import ArrayLike

from vis4d_jax_loss import _name_checks, _weight_checks
from vis4d_jax_loss._numerics import to_float
from vis4d_jax_loss._reduction import parameters_of
from vis4d_jax_loss.keys import Key, arguments_of, data_key, pred_key, scalars

Schedule = Callable[[Any], ArrayLike]
Weight = ArrayLike | Schedule


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class LossTerm:
    """One term of a :class:`LossModule`: a loss, its weight, and where its arguments come from.

    Args:
        loss: Any callable that returns a scalar, or a dict, named tuple or dataclass of scalars,
            nested at will (None stands for a loss left out): a module or function of this library
            or of optax, a lambda, or another :class:`LossModule`.
        weight: A number; a schedule, called with the step and compared by identity, so make it
            once; a scalar array, traced or not; or, for a loss that returns a dict, a dict of such
            weights by dotted path (1 for what it does not name).
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
    _is_leaf: tuple[bool, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        nested = isinstance(self.loss, LossModule)
        _name_checks.check_loss(self.loss)
        _weight_checks.check_weight(self.weight, Key, nested)
        _name_checks.check_inputs(self.inputs, Key)
        inputs = {"outputs": pred_key(), "batch": data_key()} if nested else {}
        inputs |= self.inputs
        _name_checks.check_arguments(self.loss, inputs, parameters_of(self.loss))
        weight = self.weight
        if isinstance(weight, Mapping):
            weight = FrozenDict({key: _as_scalar(part) for key, part in weight.items()})
        object.__setattr__(self, "weight", _as_scalar(weight))
        object.__setattr__(self, "inputs", FrozenDict(inputs))
        weights = jax.tree.leaves(self.weight, is_leaf=_is_weight)
        object.__setattr__(self, "_is_leaf", tuple(isinstance(w, jax.Array) for w in weights))

    def __hash__(self) -> int:
        _weight_checks.check_hashable_weight(any(self._is_leaf))
        return hash((self.loss, self.weight, self.inputs))

    # Weights that are arrays are leaves, so that they may be traced; the rest is static. Which they
    # are is settled once: a transformation may put anything in their place.

    def tree_flatten(self) -> tuple[list[Any], Any]:
        weights, structure = jax.tree.flatten(self.weight, is_leaf=_is_weight)
        pairs = list(zip(weights, self._is_leaf, strict=True))
        rest = tuple(None if is_leaf else weight for weight, is_leaf in pairs)
        leaves = [weight for weight, is_leaf in pairs if is_leaf]
        return leaves, (self.loss, self.inputs, structure, rest, self._is_leaf)

    @classmethod
    def tree_unflatten(cls, static: Any, leaves: Sequence[Any]) -> "LossTerm":
        loss, inputs, structure, rest, is_leaf = static
        remaining = iter(leaves)
        weights = [next(remaining) if leaf else w for w, leaf in zip(rest, is_leaf, strict=True)]
        weight = structure.unflatten(weights)
        return _unchecked(cls, loss=loss, weight=weight, inputs=inputs, _is_leaf=is_leaf)


class _Entry(NamedTuple):
    """A weighted loss (None: left out), and whether it counts towards the total."""

    value: jax.Array | None
    counted: bool = True
    subtotal: bool = False


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class LossModule:
    r"""Named losses with weights as one objective: ``objective(outputs, batch) -> total, metrics``.

    .. math:: L = \sum_{i \notin \mathrm{exclude}} w_i(\mathrm{step}) \, \ell_i

    Pure, and made for ``jax.value_and_grad(objective, has_aux=True)``. It is immutable, compared
    and hashed by value, and a pytree whose only leaves are weights that are arrays; with such
    weights it has no hash.

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

    terms: "Mapping[str, LossTerm | LossModule] | Iterable[tuple[str, LossTerm | LossModule]]"
    exclude: str | Iterable[str] = ()

    def __post_init__(self) -> None:
        pairs = self.terms.items() if isinstance(self.terms, Mapping) else self.terms
        pairs = _name_checks.check_pairs(pairs)
        pairs = [(k, LossTerm(v) if isinstance(v, LossModule) else v) for k, v in pairs]
        _name_checks.check_terms(pairs, LossTerm)
        exclude = (self.exclude,) if isinstance(self.exclude, str) else self.exclude
        object.__setattr__(self, "terms", FrozenDict(pairs))
        object.__setattr__(self, "exclude", tuple(sorted(set(map(str, exclude)))))

    @property
    def _terms(self) -> dict[str, LossTerm]:
        return dict(self.terms)  # type: ignore[arg-type]

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
                is narrowed by it. A term without such an argument sees everything; one of optax or
                JAX, whose masks broadcast from the right, is an error.

        Returns:
            The total, a scalar in float32 or better, and the metrics, all on the device: each term
            times its weight under its name, dict entries under ``name.entry``, those of a nested
            module likewise, its own total being ``name.loss``; and the total as ``loss``.
        """
        entries = self._entries(outputs, batch, step, key, where)
        total = _sum(entries)
        metrics = {name: entry.value for name, entry in entries.items() if entry.value is not None}
        return total, metrics | {"loss": total}

    def _entries(self, outputs, batch, step, key, where) -> dict[str, _Entry]:
        entries: dict[str, _Entry] = {}
        for name, term in self._terms.items():
            with _name_checks.within(name):
                parts = _evaluate(term, name, outputs, batch, step, key, where)
            for path, entry in parts.items():
                full = f"{name}.{path}" if path else name
                _name_checks.check_new(full, entries)
                counted = entry.counted and not self._excludes(name, full)
                entries[full] = entry._replace(counted=counted)
        parts = [name for name, entry in entries.items() if not entry.subtotal]
        _name_checks.check_excludes(list(self.exclude), parts, list(self._terms))
        return entries

    def _excludes(self, term: str, entry: str) -> bool:
        """A name is that of a term, or else of an entry or of what holds it."""
        return term in self.exclude or any(
            f"{entry}.".startswith(f"{name}.") for name in self.exclude if name not in self._terms
        )

    def tree_flatten(self) -> tuple[list[LossTerm], Any]:
        names = tuple(sorted(self._terms))
        return [self._terms[name] for name in names], (names, self.exclude)

    @classmethod
    def tree_unflatten(cls, static: Any, terms: Sequence[Any]) -> "LossModule":
        names, exclude = static
        return _unchecked(cls, terms=FrozenDict(zip(names, terms, strict=True)), exclude=exclude)


def _evaluate(
    term: LossTerm, name: str, outputs: Any, batch: Any, step: Any, key: Any, where: Any
) -> dict[str, _Entry]:
    """The weighted losses of a term by their path within it, a scalar's being empty."""
    arguments = arguments_of(term.loss, term.inputs, name, outputs, batch, key, where)
    if isinstance(term.loss, LossModule):
        entries = term.loss._entries(**dict(step=step, key=None, where=None) | arguments)
        entries["loss"] = _Entry(_sum(entries), counted=False, subtotal=True)
    else:
        entries = {}
        for path, loss in scalars("", term.loss(**arguments)):
            _name_checks.check_new(path or name, entries)
            entries[path] = _Entry(loss)
    if isinstance(term.weight, Mapping):
        _weight_checks.check_weights(term.weight, entries)
        weights = {path: term.weight.get(path, 1.0) for path in entries}
    else:
        weights = dict.fromkeys(entries, term.weight)
    for path, entry in entries.items():
        if entry.value is not None:
            entries[path] = entry._replace(value=_weighted(entry.value, weights[path], step))
    return entries


def _weighted(loss: jax.Array, weight: Weight, step: ArrayLike | None) -> jax.Array:
    if callable(weight):
        _weight_checks.check_step(step)
        weight = weight(_signed(step))
    _weight_checks.check_scalar_weight(weight)
    loss, weight = to_float(loss, weight)
    return weight * loss


def _signed(step: Any) -> Any:
    """A step that may become negative: a schedule that begins later subtracts its beginning.

    ``nnx.Optimizer`` counts in uint32, where 0 - 100 is the far end of the schedule.
    """
    if jnp.issubdtype(jnp.result_type(step), jnp.unsignedinteger):
        return jnp.asarray(step).astype(jnp.int32)
    return step


def _sum(entries: Mapping[str, _Entry]) -> jax.Array:
    counted = [e.value for e in entries.values() if e.counted and e.value is not None]
    return functools.reduce(jnp.add, counted, jnp.zeros((), jnp.float32))


def _is_weight(x: Any) -> bool:
    """Not a dict of them; whatever a transformation put in its place, None and pytrees too."""
    return not isinstance(x, Mapping)


def _as_scalar(weight: Any) -> Any:
    """Weights of NumPy are numbers, and static; those of JAX may be traced."""
    return weight[()] if isinstance(weight, np.ndarray) else weight


def _unchecked(cls: type, **fields: Any) -> Any:
    """An instance around whatever a transformation puts in the place of arrays."""
    instance = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(instance, name, value)
    return instance

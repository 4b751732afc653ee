"""LossModule: named losses and weights, added up to one total and its metrics."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from flax.core import FrozenDict
from jax.tree_util import GetAttrKey
from jax.typing import ArrayLike

from vis4d_jax_loss.composition import errors
from vis4d_jax_loss.composition.arguments import Call
from vis4d_jax_loss.composition.term import (
    Entry,
    LossTerm,
    Objective,
    evaluate,
    set_fields,
    sum_of,
    unchecked,
)


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, init=False)
class LossModule(Objective):
    r"""Named losses with weights as one objective: ``objective(outputs, batch) -> total, metrics``.

    .. math:: L = \sum_{i \notin \mathrm{exclude}} w_i(\mathrm{step}) \, \ell_i

    with the loss :math:`\ell_i` and the weight :math:`w_i` of term i.

    It is pure, immutable, compared and hashed by value, and a pytree whose only leaves are weights
    that are arrays; with such weights it has no hash.

    Args:
        terms: Names and terms, as a dict or pairs. A :class:`LossModule` is a term of weight 1.
        exclude: Names of metrics, or of whole terms, to keep out of the total and the gradient.
        unweighted: If True, the metrics are the losses without their weights, also those of nested
            objectives. A total named ``loss`` always contains the weights of its own terms.

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
    exclude: tuple[str, ...]
    unweighted: bool

    def __init__(
        self,
        terms: "Mapping[str, LossTerm | LossModule] | Sequence[tuple[str, LossTerm | LossModule]]",
        exclude: str | Iterable[str] = (),
        *,
        unweighted: bool = False,
    ) -> None:
        pairs = errors.check_named_terms(terms.items() if isinstance(terms, Mapping) else terms)
        pairs = [(k, LossTerm(v) if isinstance(v, LossModule) else v) for k, v in pairs]
        errors.check_terms(pairs, LossTerm)
        errors.check_unweighted(unweighted)
        exclude = (exclude,) if isinstance(exclude, str) else exclude
        exclude = tuple(sorted(set(map(str, exclude))))
        set_fields(self, terms=FrozenDict(pairs), exclude=exclude, unweighted=unweighted)

    def __call__(
        self,
        outputs: Any,
        batch: Any,
        step: ArrayLike | None = None,
        key: jax.Array | None = None,
        where: ArrayLike | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Compute the total and the metrics.

        Args:
            outputs: The model's outputs: arrays in mappings, named tuples, dataclasses and
                sequences, which may be nested.
            batch: The data, in the same form.
            step: Passed to schedules.
            key: A ``jax.random`` key. Each term with an argument ``key`` gets a different one,
                derived from its name: adding a term does not change the randomness of the others.
            where: Mask of valid elements over the leading axes of every term, such as ``[B]`` for
                the valid images of a batch. A term's own mask is narrowed by it. A loss without an
                argument ``where`` is an error, and so is one of optax or JAX, since their masks
                broadcast from the right. A term with the input ``"where": None`` is not masked.

        Returns:
            The total, a scalar in float32 or better, and the metrics, all on the device. Each term
            has its own name, and is multiplied by its weight unless ``unweighted`` is set. Entries
            of a dict are ``name.entry``, those of a nested module too, whose own total is
            ``name.loss``. The total is ``loss``.
        """
        entries = self._entries(Call(outputs, batch, step, key, where))
        total = sum_of(entries)
        metrics = {name: e.metric for name, e in entries.items() if e.metric is not None}
        return total, metrics | {"loss": total}

    def _entries(self, call: Call, unweighted: bool = False) -> dict[str, Entry]:
        unweighted = unweighted or self.unweighted
        entries: dict[str, Entry] = {}
        for name, term in self.terms.items():
            with errors.note_term(name), jax.named_scope(name):
                parts = evaluate(term, name, call, unweighted)
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

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], Any]:
        return [(GetAttrKey("terms"), self.terms)], (self.exclude, self.unweighted)

    @classmethod
    def tree_unflatten(cls, static: Any, children: Iterable[Any]) -> "LossModule":
        (terms,), (exclude, unweighted) = children, static
        return unchecked(cls, terms=terms, exclude=exclude, unweighted=unweighted)

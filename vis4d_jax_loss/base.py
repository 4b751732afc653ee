"""Loss: what every loss module extends."""

import dataclasses
import inspect
from typing import Any, dataclass_transform

import jax
import numpy as np
from flax import nnx
from jax.core import Tracer

from vis4d_jax_loss import _checks
from vis4d_jax_loss.reducer import LossReducer, identity_loss


class _ConstructorSignature:
    """What ``help()`` and the documentation show for a class; an instance shows its call's.

    Without it they show Flax's ``(*args, **kwargs)``.
    """

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")
        constructor = inspect.signature(owner.__init__)
        return constructor.replace(parameters=list(constructor.parameters.values())[1:])


@dataclass_transform(frozen_default=True)
class Loss(nnx.Module):
    """A loss with its options: immutable, compared and hashed by value, an empty pytree.

    Every subclass becomes a frozen dataclass: its annotated fields are its options. It is called at
    once, without ``init`` or ``apply``; it is a jit argument (static or not) that never causes a
    second trace for equal options; and it is an attribute of any NNX or Linen model without adding
    to its state. Sequences given as options become tuples.

    Args:
        reducer: Maps the losses to the result, unless a call names another one.

    Raises:
        TypeError: If an option is not hashable, such as an array or a ``SumWeightedLoss``. Traced
            values belong in the call: ``loss(pred, target, reducer=SumWeightedLoss(...))``.

    Example:
        A loss of your own is a class with its options and a call:

        >>> class HingeLoss(Loss):
        ...     margin: float = 1.0
        ...
        ...     def __call__(self, pred, target, *, reducer=None):
        ...         return self.choose(reducer)(jax.nn.relu(self.margin - pred * target))
        >>> print(HingeLoss(jnp.sum, margin=0.5)(jnp.array([0.25, 2.0]), jnp.array([1.0, 1.0])))
        0.25
    """

    reducer: LossReducer = identity_loss

    __signature__ = _ConstructorSignature()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True)(cls)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, list | np.ndarray) or _is_concrete(value):
                value = _as_tuple(value)
                object.__setattr__(self, field.name, value)
            _checks.check_hashable(type(self).__name__, field.name, value)

    def choose(self, reducer: LossReducer | None) -> LossReducer:
        """The reducer of this call: the given one, or else the module's own."""
        return self.reducer if reducer is None else reducer


dataclasses.dataclass(frozen=True)(Loss)


def _is_concrete(value: Any) -> bool:
    return isinstance(value, jax.Array) and not isinstance(value, Tracer)


def _as_tuple(value: Any) -> Any:
    if isinstance(value, np.ndarray | jax.Array):
        value = np.asarray(value).tolist()
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value

"""Loss: the class that every loss module extends."""

import dataclasses
import inspect
import re
from typing import Any, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import check_mask, describe, fail
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.reducer import LossReducer, identity_loss

# From Flax 0.12 on, an nnx.Module is a pytree. Before, each loss registers itself.
_MODULES_ARE_PYTREES = issubclass(nnx.Module, getattr(nnx, "Pytree", ()))


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

    Every subclass becomes a frozen dataclass whose annotated fields are its options. A loss has no
    ``init``, no ``apply`` and no state. It can be an argument of a jitted function, static or not,
    and equal options never cause a second trace. It can be an attribute of any NNX or Linen model,
    and adds nothing to the model's state. Sequences given as options become tuples.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.

    Raises:
        TypeError: If an option is not hashable, such as an array or a ``SumWeightedLoss``. Pass
            traced values in the call: ``loss(pred, target, reducer=SumWeightedLoss(...))``.

    Example:
        Your own loss is a class with its options and a call that ends in :meth:`reduce`:

        >>> class HingeLoss(Loss):
        ...     margin: float = 1.0
        ...
        ...     def __call__(self, pred, target, *, reducer=None, where=None):
        ...         return self.reduce(jax.nn.relu(self.margin - pred * target), where, reducer)
        >>> loss = HingeLoss(jnp.mean, margin=0.5)
        >>> pred, target = jnp.array([0.25, 2.0, jnp.nan]), jnp.ones(3)
        >>> print(loss, loss(pred, target, where=jnp.array([True, True, False])))
        HingeLoss(reducer=mean, margin=0.5) 0.125
    """

    reducer: LossReducer = identity_loss

    __signature__ = _ConstructorSignature()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _make_value(cls)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, list | np.ndarray) or _is_concrete(value):
                value = _as_tuple(value)
                object.__setattr__(self, field.name, value)
            _check_hashable(type(self).__name__, field.name, value)

    def reduce(
        self, loss: ArrayLike, where: ArrayLike | None = None, reducer: LossReducer | None = None
    ) -> jax.Array:
        """Reduce losses under a mask, as the last line of a module's call.

        Args:
            loss: Losses of any shape.
            where: Mask of valid elements over the leading axes of ``loss``. Masked losses are
                replaced before the reducer sees them. In a gradient, NaN padding must be replaced
                before your arithmetic sees it.
            reducer: Used instead of the module's own reducer.

        Returns:
            What the reducer returns.
        """
        loss = jnp.asarray(loss)
        where = check_mask(type(self).__name__, where, loss.shape)
        return reduce_loss(self._reducer_for_call(reducer), loss, where)

    def _reducer_for_call(self, reducer: LossReducer | None) -> LossReducer:
        return self.reducer if reducer is None else reducer

    def __repr__(self) -> str:
        """Show the options that differ from their defaults."""
        options = [
            f"{field.name}={_shown(getattr(self, field.name))}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(options)})"

    __str__ = __repr__


def _make_value(cls: type) -> None:
    """Make a class of losses a frozen dataclass and an empty pytree."""
    dataclasses.dataclass(frozen=True, repr=False)(cls)
    if not _MODULES_ARE_PYTREES:
        jax.tree_util.register_static(cls)


_make_value(Loss)


def _is_concrete(value: Any) -> bool:
    return isinstance(value, jax.Array) and not isinstance(value, Tracer)


def _as_tuple(value: Any) -> Any:
    if isinstance(value, np.ndarray | jax.Array):
        value = np.asarray(value).tolist()
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    """A value without addresses, which change from run to run; a function is its name."""
    name = getattr(value, "__name__", None)
    return name or re.sub(r"<function (\S+) at 0x\w+>| at 0x\w+", r"\1", repr(value))


def _check_hashable(function: str, name: str, value: Any) -> None:
    """An option takes part in comparing and hashing the module, so it cannot be an array."""
    try:
        hash(value)
    except TypeError:
        rule = f"the option {name} must be hashable"
        remedy = (
            "A module stores no arrays: pass traced values in the call, "
            "such as reducer=SumWeightedLoss(weight, avg_factor)."
        )
        fail(TypeError, function, rule, describe(**{name: type(value).__name__}), remedy)

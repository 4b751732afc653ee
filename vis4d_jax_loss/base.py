"""HeadLoss and Loss: the classes that every loss module extends."""

import inspect
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import check_mask, check_reducer, has_arrays
from vis4d_jax_loss._module import FrozenModule
from vis4d_jax_loss._options import as_option, call_of, check_option
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.reducer import LossReducer, identity_loss


class _ConstructorSignature:
    """What ``help()`` and the documentation show for a class; an instance shows its call's.

    Without it they show Flax's ``(*args, **kwargs)``.
    """

    def __get__(self, instance: Any, owner: Any) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")
        constructor = inspect.signature(owner.__init__)
        return constructor.replace(parameters=list(constructor.parameters.values())[1:])


class HeadLoss(FrozenModule):
    """The losses of a whole head with their options: immutable, compared by value, an empty pytree.

    It has no reducer: a head reduces its losses itself, and returns several of them by name.
    Otherwise it is as :class:`Loss`.
    """

    __signature__: ClassVar[Any] = _ConstructorSignature()

    def __post_init__(self) -> None:
        """For a subclass that calls it through ``super()``: its options are tuples afterwards."""
        self._read_options()

    def _read_options(self) -> None:
        for name, value in self._options().items():
            value = as_option(value)
            object.__setattr__(self, name, value)
            check_option(type(self), name, value)


class Loss(HeadLoss):
    """A loss with its options: immutable, compared and hashed by value, an empty pytree.

    Every subclass becomes a frozen dataclass whose annotated fields are its options. A loss has no
    ``init``, no ``apply`` and no state. It can be an argument of a jitted function, static or not,
    and equal options never cause a second trace. It can be an attribute of any NNX or Linen model,
    and adds nothing to the model's state. Lists and arrays given as options become tuples. Options
    may be losses, or tuples of losses. An option without a default needs
    ``class MyLoss(Loss, kw_only=True)``.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.

    Raises:
        TypeError: If ``reducer`` is not callable, or an option is not hashable, such as a traced
            array or a ``SumWeightedLoss``. Pass these in the call:
            ``loss(pred, target, reducer=SumWeightedLoss(...))``.

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

    @classmethod
    def _check_arguments(cls, args: tuple[Any, ...]) -> None:
        if (
            args
            and has_arrays(args[0])
            and next(iter(inspect.signature(cls).parameters)) == "reducer"
        ):
            cls._check_reducer(args[0])

    @classmethod
    def _check_reducer(cls, reducer: Any) -> None:
        if not callable(reducer) or isinstance(reducer, type):
            remedy = f"Create the module, then call it: {call_of(cls)}."
            check_reducer(cls.__name__, reducer, remedy)

    def _read_options(self) -> None:
        self._check_reducer(self.reducer)
        super()._read_options()

    def reduce(
        self, loss: ArrayLike, where: ArrayLike | None = None, reducer: LossReducer | None = None
    ) -> jax.Array:
        """Apply mask and reducer. Call it last in ``__call__``.

        Args:
            loss: Losses of any shape.
            where: Mask of valid elements over the leading axes of ``loss``. It protects the value.
                If padding may be NaN, also replace it in your inputs, e.g. by
                ``jnp.where(where, pred, 0)``, or the gradient is NaN.
            reducer: Used instead of the module's own reducer.

        Returns:
            What the reducer returns.
        """
        loss = jnp.asarray(loss)
        where = check_mask(type(self).__name__, where, loss.shape)
        return reduce_loss(self._reducer_for_call(reducer), loss, where)

    def _reducer_for_call(self, reducer: LossReducer | None) -> LossReducer:
        return self.reducer if reducer is None else reducer

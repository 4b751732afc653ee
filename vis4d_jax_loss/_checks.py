"""How every error reads, and the checks that several losses share.

All of them run while a step is traced. chex does the checking where it can, and its own messages
stay hidden. What keeps a loss from broadcasting is compared in plain Python, because
``chex.disable_asserts()`` must not switch that off.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike


def fail(kind: type[Exception], function: str, rule: str, got: str, remedy: str = "") -> NoReturn:
    """Raise an error in the form that all errors share."""
    raise kind(f"{function}: {rule}, got {got}. {remedy}".rstrip()) from None


def describe(**values: Any) -> str:
    """List names and what they have, in the given order: ``pred (8, 4) and where (3,)``."""
    return " and ".join(f"{name} {value}" for name, value in values.items())


def shapes_of(**arrays: jax.Array) -> str:
    return describe(**{name: x.shape for name, x in arrays.items()})


def holds(assertion: Callable[..., Any], *args: Any) -> bool:
    """Whether an assertion of chex, or a similar function of NumPy, raises nothing."""
    try:
        assertion(*args)
    except (AssertionError, ValueError):
        return False
    return True


def is_numeric(x: Any) -> bool:
    """Whether ``x`` has a floating or integer dtype: not a mask, and not complex."""
    dtype = jnp.result_type(x)
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


def check_numeric(function: str, **arrays: jax.Array) -> None:
    for name, x in arrays.items():
        if not is_numeric(x):
            rule = f"{name} must hold floating-point or integer numbers"
            fail(TypeError, function, rule, describe(**{name: x.dtype}), "Cast it first.")


def check_label_dtype(function: str, **labels: jax.Array) -> None:
    """Labels may have any numeric dtype, and may be boolean."""
    check_numeric(function, **{name: x for name, x in labels.items() if x.dtype != bool})


def check_same_shape(function: str, **arrays: jax.Array) -> None:
    first, *others = arrays.values()
    if any(x.shape != first.shape for x in others):
        rule = f"{' and '.join(arrays)} must have the same shape"
        remedy = "Losses never broadcast: (N,) against (N, 1) would silently average N * N pairs."
        if not all(holds(np.broadcast_shapes, x.shape, first.shape) for x in others):
            remedy = ""
        fail(ValueError, function, rule, shapes_of(**arrays), remedy)


def check_rank(function: str, axes: str, **arrays: jax.Array) -> None:
    """``axes`` names the axes, as in ``"[N, M]"``."""
    for name, x in arrays.items():
        if x.ndim != axes.count(",") + 1:
            remedy = "Use jax.vmap for more axes."
            fail(ValueError, function, f"{name} must be {axes}", shapes_of(**{name: x}), remedy)


def check_layout(function: str, **layouts: tuple[jax.Array, str]) -> None:
    """Check arrays that share axes, each with a layout such as ``"[P, 4]"``.

    A number in a layout is a size. A letter is a size that must be the same in all layouts.
    """
    sizes: dict[str, Any] = {}
    known: list[str] = []
    for name, (x, layout) in layouts.items():
        axes = layout.strip("[]").split(", ")
        same_rank = len(axes) == x.ndim
        pairs = list(zip(axes, x.shape, strict=True)) if same_rank else []
        if not same_rank or any(_size_of(axis, n, sizes) != n for axis, n in pairs):
            others = {k: layouts[k] for k in known[:1]}
            rule = f"{name} must be {layout}"
            rule += "".join(f" if {k} is {axes}" for k, (_, axes) in others.items())
            shapes = {k: array for k, (array, _) in others.items()} | {name: x}
            fail(ValueError, function, rule, shapes_of(**shapes), "Axes of size 1 never broadcast.")
        known.append(name)


def _size_of(axis: str, found: Any, sizes: dict[str, Any]) -> Any:
    return int(axis) if axis.isdigit() else sizes.setdefault(axis, found)


def check_mask(
    function: str, where: ArrayLike | None, shape: tuple[int, ...], name: str = "where"
) -> jax.Array | None:
    """Return a mask as an array; it must be boolean and cover the leading axes of the loss."""
    if where is None:
        return None
    where = jnp.asarray(where)
    if where.dtype != bool:
        remedy = "True means valid, False means padding; weights belong in SumWeightedLoss."
        got = describe(**{name: where.dtype})
        fail(TypeError, function, f"{name} must be boolean", got, remedy)
    if where.shape != shape[: where.ndim]:
        rule = f"{name} must cover the leading axes of the loss"
        remedy = "A mask is never matched to trailing axes."
        fail(ValueError, function, rule, describe(**{name: where.shape}, loss=shape), remedy)
    return where


def check_number(function: str, **options: Any) -> None:
    """An option that is a number: Python's, NumPy's, or a scalar array, traced or not."""
    for name, value in options.items():
        if not isinstance(value, int | float | np.number | jax.Array) or np.ndim(value):
            got = describe(**{name: repr(value)})
            fail(TypeError, function, f"{name} must be a number", got)


def check_integer(function: str, **options: Any) -> None:
    """An option that decides about shapes, and so cannot be traced."""
    for name, value in options.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            got = describe(**{name: repr(value)})
            fail(TypeError, function, f"{name} must be an integer", got)


def check_axes(
    function: str, axis: int | Sequence[int] | None, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the axes to reduce, counted from the first; by default all."""
    ndim = len(shape)
    if axis is None:
        return tuple(range(ndim))
    axes = [operator.index(i) for i in (axis if isinstance(axis, Sequence) else [axis])]
    counted = tuple(i % ndim if -ndim <= i < ndim else ndim for i in axes)
    if ndim in counted or len(set(counted)) < len(counted):
        rule = "axis must name axes of the loss, each once"
        fail(ValueError, function, rule, describe(axis=axis, loss=shape))
    return counted


def check_positive(function: str, remedy: str = "", **options: Any) -> None:
    """Check options that are numbers; the sign of a traced one is not known."""
    check_number(function, **options)
    for name, value in options.items():
        if not isinstance(value, Tracer) and not value > 0:
            got = describe(**{name: value})
            fail(ValueError, function, f"{name} must be positive", got, remedy)


def check_element_weight(function: str, weight: jax.Array, loss: jax.Array) -> None:
    """The weight broadcasts to the loss, never the loss to the weight, and in one way only."""
    got = shapes_of(weight=weight, loss=loss)

    def broadcasts(shape: tuple[int, ...]) -> bool:
        axes = zip(reversed(shape), reversed(loss.shape), strict=False)
        return len(shape) <= loss.ndim and all(n in (1, m) for n, m in axes)

    if not broadcasts(weight.shape):
        axes = ", None" * (loss.ndim - weight.ndim)
        remedy = f"For one weight per row write weight[:{axes}]." if weight.ndim == 1 else ""
        fail(ValueError, function, "weight must broadcast to the shape of the loss", got, remedy)
    missing = (1,) * (loss.ndim - weight.ndim)
    as_rows, as_columns = weight.shape + missing, missing + weight.shape
    if as_rows != as_columns and broadcasts(as_rows):
        remedy = "Write weight[:, None] for rows or weight[None, :] for columns."
        fail(ValueError, function, "weight must fit the loss in one way only", got, remedy)


def check_reducer(
    function: str,
    reducer: Any,
    array_remedy: str = "Weights belong in reducer=SumWeightedLoss(weight, avg_factor).",
) -> None:
    """A reducer is a function or another callable object, and no class.

    Args:
        function: Name of the function or class that got the reducer.
        reducer: Any value.
        array_remedy: What to do instead of passing an array.
    """
    if callable(reducer) and not isinstance(reducer, type):
        return
    got, remedy = repr(reducer), "Use mean_loss, sum_loss or jnp.mean; pass other options by name."
    if reducer is None:
        remedy = "Use mean_loss, or identity_loss to keep one loss per element."
    elif isinstance(reducer, type):
        got, remedy = f"the class {reducer.__name__}", "Pass a function such as mean_loss."
    elif has_arrays(reducer):
        got, remedy = str(getattr(reducer, "shape", type(reducer).__name__)), array_remedy
    rule = "reducer must be a function of the losses"
    fail(TypeError, function, rule, describe(reducer=got), remedy)


def has_arrays(value: Any) -> bool:
    """Whether the value is an array or a container, which may have arrays in it."""
    return isinstance(value, jax.Array | np.ndarray | list | tuple | dict)

"""Class labels: which elements have one, which are ignored, and which labels are invalid."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import fail
from vis4d_jax_loss._numerics import as_array, expand_mask, to_float

#: A label, or several labels, whose loss and gradient are 0; None for no label.
IgnoreIndex = int | Sequence[int] | None

_INT32 = np.iinfo(np.int32)


class Labels(NamedTuple):
    """Labels as int32, and masks of the elements without a valid label."""

    value: jax.Array
    skipped: jax.Array  # ignored or masked
    invalid: jax.Array  # neither skipped nor a class: the loss is NaN


class _FromModule:
    """Default of ``ignore_index`` in the call of a module, since None is a value."""

    def __repr__(self) -> str:
        return "<the module's own>"


FROM_MODULE: Any = _FromModule()


def labels_as_array(target: ArrayLike) -> jax.Array:
    """Labels as an array of JAX; integers of NumPy stay, as JAX may wrap wide ones around."""
    keep = isinstance(target, np.ndarray) and target.dtype.kind in "iu"
    return cast(jax.Array, target) if keep else as_array(target)


def read_labels(
    function: str,
    target: Any,
    ignore_index: Any,
    num_classes: int,
    mask: jax.Array | None,
    name: str = "target",
) -> Labels:
    """Tell classes, ignored labels and invalid labels apart."""
    ignored = ignored_labels(function, ignore_index, num_classes)
    labels, exact, fits = as_int32(target)
    skipped = jnp.full(labels.shape, False)
    for label in ignored:
        skipped |= _find(label, target, labels, fits)
    if mask is not None:
        skipped |= ~expand_mask(mask, labels.shape)
    invalid = ~skipped & ~(fits & (labels >= 0) & (labels < num_classes))
    bad = invalid | (~skipped & ~exact)
    shown = as_array(target)
    rule = f"{name} must hold labels from 0 to {num_classes - 1}"
    rule += ", or ignore_index" if name == "target" else ""
    labels = _value_checks.expect_labels(function, rule, labels, bad, shown)
    return Labels(labels, skipped, invalid)


def ignored_labels(function: str, ignore_index: Any, num_classes: int | None = None) -> list[Any]:
    """The labels to ignore, each an int or a traced scalar."""
    if ignore_index is None:
        labels = []
    elif isinstance(ignore_index, Sequence) or np.ndim(ignore_index) == 1:
        labels = list(ignore_index)
    else:
        labels = [ignore_index]
    if not all(map(_is_label, labels)):
        rule = "ignore_index must be a label, a tuple of labels, or None for no label"
        fail(TypeError, function, rule, f"ignore_index {ignore_index!r}")
    known = [int(label) for label in labels if not isinstance(label, Tracer)]
    if 255 in known and isinstance(num_classes, int) and num_classes > 255:
        message = (
            f"{function}: class 255 of {num_classes} is never learned, because ignore_index "
            "contains 255. Pass ignore_index=None to ignore no label, or the label to ignore."
        )
        warnings.warn(message, stacklevel=2)
    return known + [label for label in labels if isinstance(label, Tracer)]


def _is_label(x: Any) -> bool:
    if isinstance(x, int):
        return not isinstance(x, bool)
    is_scalar = isinstance(x, jax.Array | np.ndarray | np.generic) and x.ndim == 0
    return is_scalar and jnp.issubdtype(x.dtype, jnp.integer)


def _find(label: Any, target: Any, labels: jax.Array, fits: Any) -> Any:
    """Where a label is. One that int32 cannot hold is compared with the labels as they were."""
    if isinstance(label, Tracer) or _INT32.min <= label <= _INT32.max:
        return fits & (labels == label)
    if not jnp.issubdtype(target.dtype, jnp.integer):
        return np.False_
    limits = jnp.iinfo(target.dtype)
    held = limits.min <= label <= limits.max
    return jnp.asarray(target == target.dtype.type(label)) if held else np.False_


def as_int32(target: Any) -> tuple[jax.Array, Any, Any]:
    """Labels as int32, whether each is a whole number, and whether int32 can hold it."""
    if jnp.issubdtype(target.dtype, jnp.floating):
        target = to_float(target)
        fits = (target >= -(2.0**31)) & (target < 2.0**31)
        whole = jnp.trunc(target)
        return jnp.where(fits, whole, -1).astype(jnp.int32), target == whole, fits
    if target.dtype.itemsize < 4 or target.dtype == np.int32:
        return as_array(target).astype(jnp.int32), np.True_, np.True_
    fits = target <= target.dtype.type(_INT32.max)
    if target.dtype.kind == "i":
        fits &= target >= target.dtype.type(_INT32.min)
    select = np.where if isinstance(target, np.ndarray) else jnp.where
    labels = select(fits, target, target.dtype.type(0)).astype(np.int32)
    return jnp.asarray(labels), np.True_, jnp.asarray(fits)

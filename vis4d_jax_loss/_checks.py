"""The wording of every error: static facts, checked when a loss is traced."""

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import chex
import jax
import jax.numpy as jnp


def _describe(got: dict[str, Any]) -> str:
    """Name shapes, dtypes or options in the given order: ``pred (8, 4) and where (3,)``."""
    return " and ".join(f"{name} {value}" for name, value in got.items())


def fail(kind: type[Exception], function: str, rule: str, got: str, remedy: str) -> NoReturn:
    """Raise in the one form of every error."""
    raise kind(f"{function}: {rule}, got {got}. {remedy}".rstrip())


def _fail(kind: type[Exception], function: str, rule: str, remedy: str, **got: Any) -> NoReturn:
    fail(kind, function, rule, _describe(got), remedy)


def is_real(x: Any) -> bool:
    """Whether it holds numbers: booleans are masks, complex numbers have no order."""
    dtype = jnp.result_type(x)
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


@contextmanager
def _rule(function: str, rule: str, remedy: str, **arrays: jax.Array):
    """Turn chex's AssertionError into this library's one form of error."""
    try:
        yield
    except AssertionError:
        shapes = {name: x.shape for name, x in arrays.items()}
    else:
        return
    _fail(ValueError, function, rule, remedy, **shapes)


def check_real(function: str, **arrays: jax.Array) -> None:
    for name, x in arrays.items():
        if not is_real(x):
            rule = f"{name} must hold floating-point or integer numbers"
            _fail(TypeError, function, rule, "Cast it first.", **{name: x.dtype})


def check_labels(function: str, target: jax.Array) -> None:
    """Class labels may be of any real dtype, and boolean."""
    if target.dtype != bool:
        check_real(function, target=target)


def check_same_shape(function: str, remedy: str = "", **arrays: jax.Array) -> None:
    remedy = remedy or (
        "Losses never broadcast: (N,) against (N, 1) would average N * N pairs without a word."
    )
    rule = f"{' and '.join(arrays)} must have the same shape"
    with _rule(function, rule, remedy, **arrays):
        chex.assert_equal_shape(list(arrays.values()))


def check_rank(function: str, axes: str, **arrays: jax.Array) -> None:
    """``axes`` names them, as in ``"[N, M]"``."""
    for name, x in arrays.items():
        with _rule(function, f"{name} must be {axes}", "Use jax.vmap for more axes.", **{name: x}):
            chex.assert_rank(x, axes.count(",") + 1)


def check_boxes(function: str, **boxes: jax.Array) -> None:
    for name, x in boxes.items():
        rule = f"{name} must hold boxes (x1, y1, x2, y2) on its last axis"
        with _rule(function, rule, "Expected a shape of [..., 4].", **{name: x}):
            chex.assert_shape(x, (..., 4))


def check_where(function: str, where: jax.Array | None, shape: tuple[int, ...]) -> None:
    """A mask is boolean and covers the leading axes of the per-element loss."""
    if where is None:
        return
    if where.dtype != bool:
        remedy = "True is real, False is padding; weights belong in SumWeightedLoss."
        _fail(TypeError, function, "where must be boolean", remedy, where=where.dtype)
    if where.shape != shape[: where.ndim]:
        remedy = "A mask is never matched to trailing axes."
        rule = "where must cover the leading axes of the loss"
        _fail(ValueError, function, rule, remedy, where=where.shape, loss=shape)


def check_logits(
    function: str, output: jax.Array, target: jax.Array, class_axis: int, *, crop: bool = False
) -> None:
    """The logits' shape without its class axis is the labels' shape, or contains it (``crop``)."""
    remedy = (
        f"Logits have one axis more than labels: the classes, here class_axis={class_axis}; "
        "use class_axis=1 for the layout [N, C, H, W]."
    )
    rule = "output without its class axis must have the shape of target"
    if crop:
        rule = "output without its class axis must be at least as large as target [..., H, W]"
        remedy += " Enlarge smaller logits first, by jax.image.resize."
    with _rule(function, rule, remedy, output=output, target=target):
        chex.assert_rank(output, target.ndim + 1)
        if not -output.ndim <= class_axis < output.ndim:
            raise AssertionError
        shape = tuple(n for i, n in enumerate(output.shape) if i != class_axis % output.ndim)
        if crop:
            larger = all(n >= m for n, m in zip(shape[-2:], target.shape[-2:], strict=True))
            if target.ndim < 2 or shape[:-2] != target.shape[:-2] or not larger:
                raise AssertionError
        else:
            chex.assert_shape(target, shape)


def check_class_weights(function: str, class_weights: jax.Array, num_classes: int) -> None:
    rule = f"class_weights must hold one weight for each of the {num_classes} classes"
    remedy = "The classes are counted along class_axis of output."
    with _rule(function, rule, remedy, class_weights=class_weights):
        chex.assert_shape(class_weights, (num_classes,))


def check_rotation(
    function: str, pred: jax.Array, target_bin: jax.Array, target_res: jax.Array, num_bins: int
) -> None:
    remedy = "Columns of pred are num_bins logits, then (sin, cos) for each bin."
    rule = (
        f"for num_bins={num_bins}, pred must be [B, >= {3 * num_bins}], "
        f"target_bin [B, {num_bins}] and target_res [B, >= {num_bins}]"
    )
    arrays = dict(pred=pred, target_bin=target_bin, target_res=target_res)
    with _rule(function, rule, remedy, **arrays):
        chex.assert_rank([pred, target_bin, target_res], 2)
        chex.assert_shape(target_bin, (pred.shape[0], num_bins))
        chex.assert_shape(target_res, (pred.shape[0], None))
        if pred.shape[1] < 3 * num_bins or target_res.shape[1] < num_bins:
            raise AssertionError


def check_transforms(function: str, transforms: Any) -> None:
    if not isinstance(transforms, list | tuple):
        rule = "transforms must be a list of arrays [N, r, c]"
        remedy = "One array goes into a list of its own."
        _fail(TypeError, function, rule, remedy, transforms=type(transforms).__name__)


def check_option(function: str, name: str, value: Any, allowed: Iterable[Any]) -> None:
    allowed = tuple(allowed)
    if value not in allowed:
        rule = f"{name} must be one of {', '.join(map(repr, allowed))}"
        _fail(ValueError, function, rule, "", **{name: repr(value)})


def check_positive(function: str, remedy: str = "", **options: Any) -> None:
    for name, value in options.items():
        if not value > 0:
            _fail(ValueError, function, f"{name} must be positive", remedy, **{name: value})


def check_one_weight_each(
    function: str, weights: Sequence[Any], feature_idx: Sequence[int]
) -> None:
    if len(weights) != len(feature_idx):
        rule = "weights must hold one weight for each entry of feature_idx"
        got = dict(weights=weights, feature_idx=feature_idx)
        _fail(ValueError, function, rule, "", **got)


def check_levels(function: str, feature_idx: Sequence[int], num_levels: int) -> None:
    got = dict(feature_idx=tuple(feature_idx), outputs=f"of {num_levels} levels")
    if len(set(feature_idx)) != len(feature_idx):
        remedy = "A repeated level would overwrite its own key."
        _fail(ValueError, function, "feature_idx must not repeat a level", remedy, **got)
    if any(not -num_levels <= i < num_levels for i in feature_idx):
        _fail(ValueError, function, "feature_idx must name levels of outputs", "", **got)


def check_key(function: str, key: Any) -> None:
    if key is None:
        remedy = "Random mining needs a jax.random key, a new one each step."
        _fail(ValueError, function, "hard_mining=False needs key", remedy, key=None)


def check_count(function: str, k: jax.Array) -> None:
    if not jnp.issubdtype(k.dtype, jnp.integer) or k.ndim:
        rule, remedy = "k must be an integer scalar", "It may be traced."
        _fail(TypeError, function, rule, remedy, k=f"{k.dtype} {k.shape}")


def check_takes_where(reducer: Any, takes_where: bool) -> None:
    if not takes_where:
        remedy = "Use mean_loss, sum_loss or jnp.mean, or add a keyword where=None to yours."
        name = getattr(reducer, "__name__", type(reducer).__name__)
        rule = "a reducer must accept where= when elements are masked"
        _fail(TypeError, "reducer", rule, remedy, reducer=name)


def check_weight(function: str, weight: jax.Array, avg_factor: jax.Array, loss: jax.Array) -> None:
    """A weight broadcasts into the loss, never the loss into it, and in one way only."""
    rule, remedy = "avg_factor must be a scalar", "Divide the weight for one factor an element."
    with _rule(function, rule, remedy, avg_factor=avg_factor):
        chex.assert_rank(avg_factor, 0)
    rule = "weight must broadcast to the shape of the loss"
    remedy = "For a weight a row write weight[:, None]."
    with _rule(function, rule, remedy, weight=weight, loss=loss):
        chex.assert_is_broadcastable(weight.shape, loss.shape)
    missing = loss.ndim - weight.ndim
    as_rows = weight.shape + (1,) * missing
    as_columns = (1,) * missing + weight.shape
    fits_rows = all(n in (1, m) for n, m in zip(as_rows, loss.shape, strict=True))
    if as_rows != as_columns and fits_rows:
        remedy = "Write weight[:, None] for rows or weight[None, :] for columns."
        rule = "weight must fit the loss in one way only"
        _fail(ValueError, function, rule, remedy, weight=weight.shape, loss=loss.shape)


def check_hashable(function: str, name: str, value: Any) -> None:
    """An option takes part in comparing and hashing the module, so it cannot be an array."""
    try:
        hash(value)
    except TypeError:
        rule = f"the option {name} must be hashable"
        remedy = (
            "A module stores no arrays: pass traced values in the call, "
            "such as reducer=SumWeightedLoss(weight, avg_factor)."
        )
    else:
        return
    _fail(TypeError, function, rule, remedy, **{name: type(value).__name__})

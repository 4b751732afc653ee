"""Random inputs: every loss against NumPy in float64, and against itself.

Many inputs are ties, huge, tiny, masked or without any valid row. An oracle computes one loss for
each row (or one scalar) and the gradient of their sum, and says how large the numbers were that a
loss rounds on its way. By default the examples are the same in every run. For others, and more,
set their number: ``FUZZ_EXAMPLES=1300 pytest -m slow tests/test_fuzz.py``.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import POISON, POISON_INT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vis4d_jax_loss as vjl

pytestmark = pytest.mark.slow

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
fuzz = settings(
    max_examples=int(EXAMPLES or 100),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
ROWS = 4


def array(elements, *shape, dtype=np.float32):
    size = int(np.prod(shape))
    numbers = st.lists(elements, min_size=size, max_size=size)
    return numbers.map(lambda x: np.array(x, dtype).reshape(shape))


def floats(low, high):
    return st.floats(low, high, width=32, allow_subnormal=False)


def numbers(largest=1e10):
    """Small integers and fractions, which repeat; and numbers of every size up to the largest."""
    few = st.sampled_from([0.0, -0.0, 0.25, 0.5, -0.5, 1.0, -1.0, 2.0, -3.0])
    sizes = [10.0**k for k in (-15, -6, -3, 3, 5, 10) if 10.0**k <= largest]
    extreme = st.sampled_from([sign * size for size in sizes for sign in (1, -1)])
    return st.one_of(few, floats(-5, 5), extreme)


def oracle_of_errors(value, slope):
    """The oracle of a loss of ``pred - target``, element by element."""

    def oracle(pred, target):
        error = pred - target
        slopes = slope(error)
        return value(error), {"pred": slopes, "target": -slopes}, {}

    return oracle


def smooth(beta):
    return oracle_of_errors(
        lambda d: np.where(np.abs(d) < beta, d**2 / (2 * beta), np.abs(d) - beta / 2),
        lambda d: np.clip(d / beta, -1, 1),
    )


def sigmoid(x):
    return np.where(x > 0, 1, np.exp(-np.abs(x))) / (1 + np.exp(-np.abs(x)))


def rotation(pred, target_bin, target_res, mean=False):
    logits, values = pred[:, :2], pred[:, 2:].reshape(-1, 2, 2)
    bce = np.maximum(logits, 0) - logits * target_bin + np.log1p(np.exp(-np.abs(logits)))
    active = (target_bin == 1)[..., None]
    sine, cosine = np.sin(target_res), np.cos(target_res)
    error = np.where(active, values - np.stack([sine, cosine], -1), 0)
    residual = np.where(np.abs(error) < 1, error**2 / 2, np.abs(error) - 0.5)
    slope = np.clip(error, -1, 1)
    gradients = {
        "pred": np.concatenate([sigmoid(logits) - target_bin, slope.reshape(-1, 4)], axis=1),
        "target_res": -slope[..., 0] * cosine + slope[..., 1] * sine,
    }
    size = 1 + np.abs(logits).sum(1) + np.where(active, np.abs(values), 0).sum((1, 2))
    if mean:  # of the cross-entropy over rows, and of the residuals over the active rows of a bin
        residuals = residual.sum((0, 2)) / np.maximum(active.sum((0, 2)), 1)
        return bce.sum(1).mean() + residuals.sum(), size.sum()
    sizes = {"loss": size, "pred": 1, "target_res": 1}
    return bce.sum(1) + residual.sum((1, 2)), gradients, sizes


def binary(output, target):
    losses = np.maximum(output, 0) - output * target + np.log1p(np.exp(-np.abs(output)))
    gradients = {"output": sigmoid(output) - target, "target": -output}
    return losses, gradients, {"output": 1}


def focal(gamma):
    """The sigmoid focal loss without weights."""

    def oracle(output, target):
        cost, _, _ = binary(output, target)
        probs, inverse = sigmoid(output), sigmoid(-output)
        mistake = (1 - target) * probs + target * inverse
        # The derivative of the logarithm of the mistake; 1 - p for a mistake that rounds to 0.
        spread = (1 - 2 * target) * probs * inverse
        inner = np.where(mistake > 0, spread / np.where(mistake > 0, mistake, 1), 0)
        slope = mistake**gamma * (probs - target + gamma * inner * cost)
        return mistake**gamma * cost, {"output": slope}, {"output": 1 + gamma}

    return oracle


def heatmap(output, target):
    peak = target == 1
    losses, gradients, sizes = focal(2)(output, 1.0 * peak)
    weight = np.where(peak, 1, (1 - target) ** 4)
    return weight * losses, {"output": weight * gradients["output"]}, sizes


def mean_of_rotation(**inputs):
    return rotation(**inputs, mean=True)


EPS = 3e-7


def iou(mode):
    def oracle(pred, target):
        def sides_of(low, high):
            return np.maximum(high - low, 0)

        def overlap(a, b):
            return sides_of(np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:]))

        areas = [sides_of(x[:, :2], x[:, 2:]).prod(1) for x in (pred, target)]
        shared_sides = overlap(pred, target)
        shared = shared_sides.prod(1)
        union = areas[0] + areas[1] - shared
        valid = (shared > 0) & (shared >= EPS * union)
        safe_union = np.where(valid, union, 1)
        ratio = np.where(valid, shared / safe_union, EPS)
        loss = {"linear": 1 - ratio, "square": 1 - ratio**2, "log": -np.log(ratio)}[mode]
        outer = {"linear": -np.ones_like(ratio), "square": -2 * ratio, "log": -1 / ratio}[mode]

        def gradient(own, other):
            sign = np.array([-1, -1, 1, 1])
            difference = other - own
            # A corner moves the overlap if it is the inner one; at a tie it counts half.
            limiting = np.where(sign * difference > 0, 1, np.where(difference == 0, 0.5, 0))
            d_shared = sign * limiting * np.tile(shared_sides[:, ::-1], 2)
            d_own = sign * np.tile(sides_of(own[:, :2], own[:, 2:])[:, ::-1], 2)
            d_union = d_own - d_shared
            slope = d_shared / safe_union[:, None] - (ratio / safe_union)[:, None] * d_union
            return np.where(valid[:, None], outer[:, None] * slope, 0)

        largest = np.abs(np.concatenate([pred, target], 1)).max(1)
        size = np.where(valid, np.abs(outer) * largest / safe_union, 0)[:, None]
        gradients = {"pred": gradient(pred, target), "target": gradient(target, pred)}
        return loss, gradients, {"loss": 1, "pred": size, "target": size}

    return oracle


CLASS_WEIGHTS = np.float32([0.1, 1.0, 0.0, 7.0])


def entropy(logits, labels, weights=None):
    """Loss and gradient of logits with classes last; label 255 is ignored."""
    shifted = logits - logits.max(-1, keepdims=True)
    total = np.exp(shifted).sum(-1, keepdims=True)
    chosen = labels[..., None] == np.arange(logits.shape[-1])
    loss = np.log(total[..., 0]) - np.where(chosen, shifted, 0).sum(-1)
    weight = (labels != 255).astype(float)
    if weights is not None:
        weight = weight * weights[np.where(labels == 255, 0, labels)]
    gradient = (np.exp(shifted) / total - chosen) * weight[..., None]
    return loss * weight, gradient, 1 + np.abs(loss)


def oracle_of_classes(axis=-1, weights=None, shape=None):
    def oracle(output, target):
        logits = np.moveaxis(output, axis, -1)
        inside = logits if shape is None else logits[:, : shape[0], : shape[1]]
        loss, inner, size = entropy(inside, target, weights)
        gradient = np.zeros_like(logits)
        gradient[tuple(map(slice, inside.shape))] = inner
        size = size if weights is None else size * 7
        return loss, {"output": np.moveaxis(gradient, -1, axis)}, {"loss": size, "output": 10}

    return oracle


def two_levels(fine, coarse, target):
    losses, gradients, sizes = [], {}, 1
    for name, logits, factor in (("fine", fine, 2.0), ("coarse", coarse, -0.5)):
        loss, gradient, size = entropy(logits, target)
        losses.append(factor * loss)
        gradients[name], sizes = factor * gradient, sizes + 2 * size
    return sum(losses), gradients, {"loss": sizes, "fine": 10, "coarse": 10}


def call_two_levels(fine, coarse, target, reducer, where):
    levels = vjl.multi_level_seg_loss(
        [fine, coarse], target, reducer, (0, -1), (2.0, -0.5), where=where
    )
    return levels["loss_seg_level0"] + levels["loss_seg_level-1"]


def multi_pos(pred, target):
    losses, gradient, sizes = np.zeros(len(pred)), np.zeros_like(pred), np.ones(len(pred))
    for i, (x, t) in enumerate(zip(pred, target, strict=True)):
        negative, positive = x[t == 0], -x[t == 1]
        if not len(negative) or not len(positive):
            continue
        ratios = (negative[:, None] + positive[None, :]).ravel()
        log_sum = np.logaddexp.reduce(ratios)
        losses[i] = np.logaddexp(0, log_sum)
        sizes[i] = 1 + np.abs(ratios).max()
        soft = [np.exp(v - np.logaddexp.reduce(v)) for v in (negative, positive)]
        gradient[i, t == 0] = sigmoid(log_sum) * soft[0]
        gradient[i, t == 1] = -sigmoid(log_sum) * soft[1]
    return losses, {"pred": gradient}, {"loss": sizes, "pred": 10 * np.minimum(sizes, 100)[:, None]}


def mean_of_multi_pos(pred, target):
    """Rows without any pair are not counted."""
    losses, _, sizes = multi_pos(pred, target)
    return losses.sum() / max(1, np.sum(np.any(target >= 0, axis=1))), sizes["loss"].sum()


def embedding(pred, target, weight, bound=0.75, margin=0.25):
    """The scalar loss: all positives, and the largest negatives."""
    used, flat = weight > 0, np.arange(pred.size)
    positive, negative = used & (target == 1), used & (target == 0)
    inner = np.where(positive, pred, np.where(negative, pred - margin, 0))
    x = np.clip(inner, 0, 1)
    num_pos, num_neg = positive.sum(), negative.sum()
    limited = num_neg / max(1, num_pos) > bound
    k = int(max(1, num_pos) * bound) if limited else num_neg
    order = np.lexsort((flat, -x.ravel(), ~negative.ravel()))[:k]
    kept = positive | np.isin(flat, order).reshape(pred.shape)
    divisor = max(1, kept.sum())
    error = np.where(kept, x - (target == 1), 0)
    inside = (inner >= 0) & (inner <= 1)
    gradients = {
        "pred": np.where(inside, 2 * weight * error, 0) / divisor,
        "weight": error**2 / divisor,
    }
    return np.sum(np.where(kept, weight, 0) * error**2) / divisor, gradients, {}


def orthogonal(transform):
    excess = transform @ transform.swapaxes(1, 2) - np.eye(transform.shape[1])
    norm = np.sqrt((excess**2).sum((1, 2)))
    size = 1 + (transform**2).sum((1, 2))
    gradient = 2 * excess @ transform / np.where(norm, norm, 1)[:, None, None]
    # Close to an orthogonal transform, rounding decides the direction of the gradient.
    slope_size = 20 * size**1.5 / np.where(norm, norm, 1)
    sizes = {"loss": size.mean(), "transform": slope_size[:, None, None] / len(norm)}
    return norm.mean(), {"transform": gradient / len(norm)}, sizes


def boxes():
    """Coordinates that repeat, so that boxes touch, coincide or are inverted; in several units."""
    grid = array(st.integers(0, 6).map(float), ROWS, 4)
    free = array(floats(0.5, 8), ROWS, 4)
    ordered = st.tuples(array(floats(0.5, 4), ROWS, 2), array(floats(0.5, 4), ROWS, 2)).map(
        lambda x: np.concatenate([x[0], x[0] + x[1]], axis=1)
    )
    units = st.sampled_from([2.0**-12, 1.0, 2.0**20, 2.0**60])
    pairs = st.one_of(st.tuples(kind, kind) for kind in (grid, free, ordered))
    pairs = st.one_of(pairs, ordered.map(lambda x: (x, x)), st.tuples(grid, ordered))
    return st.tuples(pairs, units).map(lambda x: tuple(np.float32(x[1] * b) for b in x[0]))


def named(strategy, *names):
    return strategy.map(lambda arrays: dict(zip(names, arrays, strict=True)))


def errors(*shape):
    pred, target = array(numbers(), *shape), array(numbers(), *shape)
    pairs = st.one_of(st.tuples(pred, target), pred.map(lambda x: (x, x)))
    return named(pairs, "pred", "target")


LABELS = st.sampled_from([0, 1, 2, 3, 255])
TARGETS = st.sampled_from([1, 0, 0, -1])


def labels(*shape):
    return array(LABELS, *shape, dtype=np.int32)


@dataclass(eq=False)
class Fuzz:
    """A loss, how its inputs are drawn, and its oracle."""

    name: str
    call: Callable[..., Any]
    inputs: st.SearchStrategy
    oracle: Callable[..., Any]
    #: Changes of the inputs, and by what each multiplies the loss.
    symmetries: tuple[tuple[Callable[..., Any], float], ...] = ()
    scalar: bool = False
    rows_may_move: bool = True
    #: The mean and the size of its numbers, if it is not simply the mean of the losses.
    mean_oracle: Callable[..., Any] | None = None

    def __repr__(self):
        return self.name

    def _repr_pretty_(self, printer, cycle):  # for hypothesis
        printer.text(self.name)

    def mean(self, **inputs):
        if self.mean_oracle is not None:
            return self.mean_oracle(**inputs)
        losses, _, sizes = self.oracle(**inputs)
        return np.mean(losses), np.mean(size_of(sizes, "loss", losses))

    @functools.cached_property
    def step(self):
        """Losses, sum and mean, with the gradients of the last two; compiled once."""

        def reduced(wrt, inputs, where, reducer):
            loss = self.call(**inputs | wrt, reducer=reducer, where=where)
            return jnp.sum(loss), loss

        def step(inputs, where):
            wrt = {name: x for name, x in inputs.items() if x.dtype == jnp.float32}
            differentiate = jax.value_and_grad(reduced, has_aux=True)
            results = {}
            for reducer in (vjl.identity_loss, vjl.mean_loss):
                (_, loss), gradients = differentiate(wrt, inputs, where, reducer)
                results[reducer.__name__] = loss, gradients
            results["sum_loss"] = reduced(wrt, inputs, where, vjl.sum_loss)[1]
            return results

        compiled = jax.jit(step)
        return lambda inputs, where: jax.tree.map(np.asarray, compiled(inputs, where))


def switched(pred, target):
    return dict(pred=target, target=pred)


def scaled(factor):
    return lambda pred, target: dict(pred=pred * factor, target=target * factor)


def transposed(pred, target):
    return dict(pred=pred[:, [1, 0, 3, 2]], target=target[:, [1, 0, 3, 2]])


def shifted(output, target):
    return dict(output=np.round(output) % 64 + 8, target=target)


def rotation_call(pred, target_bin, target_res, reducer, where):
    return vjl.rotation_loss(pred, target_bin, target_res, 2, reducer, where=where)


def mirrored(pred, target_bin, target_res):
    """The sine changes its sign with the angle."""
    signs = np.float32([1, 1, -1, 1, -1, 1])
    return dict(pred=pred * signs, target_bin=target_bin, target_res=-target_res)


def opposite(output, target):
    return dict(output=-output, target=1 - target)


def exchanged(pred, target):
    """The positives of the opposite similarities are the negatives."""
    return dict(pred=-pred, target=np.where(target < 0, target, 1 - target).astype(np.int32))


def orthogonal_call(transform, reducer, where):
    return vjl.orthogonal_transform_regularization_loss([transform], reducer, where=where)


def pixels(axis, *size):
    shape = (ROWS, *size, 4) if axis == -1 else (ROWS, 4, *size)
    return array(numbers(), *shape)


REGRESSION = (switched, 1.0)
LOSSES = [
    Fuzz(
        "l1_loss",
        vjl.l1_loss,
        errors(ROWS, 3),
        oracle_of_errors(np.abs, np.sign),
        (REGRESSION, (scaled(4), 4.0)),
    ),
    Fuzz(
        "l2_loss",
        vjl.l2_loss,
        errors(ROWS, 3),
        oracle_of_errors(np.square, lambda d: 2 * d),
        (REGRESSION, (scaled(4), 16.0)),
    ),
    Fuzz(
        "smooth_l1_loss",
        functools.partial(vjl.smooth_l1_loss, beta=0.5),
        errors(ROWS, 3),
        smooth(0.5),
        (REGRESSION,),
    ),
    Fuzz(
        "smooth_l1_loss of a long axis",
        functools.partial(vjl.smooth_l1_loss, beta=2.0),
        errors(ROWS, 16),
        smooth(2.0),
        (REGRESSION,),
    ),
    *(
        Fuzz(
            name,
            call,
            named(
                st.tuples(
                    array(numbers(), ROWS, 3),
                    array(st.sampled_from([0.0, 1.0, 1.0, 0.5, 0.9]), ROWS, 3),
                ),
                "output",
                "target",
            ),
            oracle,
            symmetries,
        )
        for name, call, oracle, symmetries in [
            ("binary_cross_entropy", vjl.binary_cross_entropy, binary, ((opposite, 1.0),)),
            ("heatmap_focal_loss", vjl.heatmap_focal_loss, heatmap, ()),
            *(
                (
                    f"sigmoid_focal_loss with gamma {gamma}",
                    functools.partial(vjl.sigmoid_focal_loss, alpha=None, gamma=gamma),
                    focal(gamma),
                    ((opposite, 1.0),),
                )
                for gamma in (0.5, 2.0)
            ),
        ]
    ),
    Fuzz(
        "rotation_loss",
        rotation_call,
        named(
            st.tuples(
                array(numbers(), ROWS, 6),
                array(st.sampled_from([0.0, 1.0, 1.0, 0.5]), ROWS, 2),
                array(st.one_of(floats(-3, 3), floats(-1000, 1000)), ROWS, 2),
            ),
            "pred",
            "target_bin",
            "target_res",
        ),
        rotation,
        ((mirrored, 1.0),),
        mean_oracle=mean_of_rotation,
    ),
    *(
        Fuzz(
            f"iou_loss {mode}",
            functools.partial(vjl.iou_loss, mode=mode, eps=EPS),
            named(boxes(), "pred", "target"),
            iou(mode),
            (REGRESSION, (scaled(0.25), 1.0), (transposed, 1.0)),
        )
        for mode in ("linear", "square", "log")
    ),
    *(
        Fuzz(
            f"cross_entropy over axis {axis}",
            functools.partial(vjl.cross_entropy, class_weights=CLASS_WEIGHTS, class_axis=axis),
            named(st.tuples(pixels(axis, 3), labels(ROWS, 3)), "output", "target"),
            oracle_of_classes(axis, CLASS_WEIGHTS.astype(float)),
        )
        for axis in (1, -1)
    ),
    Fuzz(
        "seg_cross_entropy_loss",
        vjl.seg_cross_entropy_loss,
        named(st.tuples(pixels(-1, 2, 3), labels(ROWS, 1, 2)), "output", "target"),
        oracle_of_classes(shape=(1, 2)),
    ),
    Fuzz(
        "multi_level_seg_loss",
        call_two_levels,
        named(
            st.tuples(pixels(-1, 1, 2), pixels(-1, 1, 2), labels(ROWS, 1, 2)),
            "fine",
            "coarse",
            "target",
        ),
        two_levels,
    ),
    Fuzz(
        "multi_pos_cross_entropy",
        vjl.multi_pos_cross_entropy,
        named(
            st.tuples(array(numbers(), ROWS, 5), array(TARGETS, ROWS, 5, dtype=np.int32)),
            "pred",
            "target",
        ),
        multi_pos,
        ((exchanged, 1.0),),
        mean_oracle=mean_of_multi_pos,
    ),
    Fuzz(
        "embedding_distance_loss",
        functools.partial(vjl.embedding_distance_loss, neg_pos_ub=0.75, neg_margin=0.25),
        named(
            st.tuples(
                array(st.one_of(st.integers(-4, 8).map(lambda i: i / 8), floats(-1, 1)), ROWS, 5),
                array(TARGETS, ROWS, 5, dtype=np.int32),
                array(st.sampled_from([1.0, 1.0, 2.0, 0.5, 0.0]), ROWS, 5),
            ),
            "pred",
            "target",
            "weight",
        ),
        embedding,
        scalar=True,
        rows_may_move=False,  # ties go to the lowest index
    ),
    Fuzz(
        "orthogonal_transform_regularization_loss",
        orthogonal_call,
        named(
            st.tuples(
                st.one_of(
                    array(numbers(1e5), ROWS, 2, 3),
                    array(st.sampled_from([0.0, 1.0, -1.0]), ROWS, 2, 3),
                    array(floats(-2, 2), ROWS, 2, 3),
                )
            ),
            "transform",
        ),
        orthogonal,
        ((lambda transform: dict(transform=transform[:, :, ::-1]), 1.0),),
        scalar=True,
    ),
]

every_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)
ALL = np.ones(ROWS, bool)
MASKS = st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).map(np.array)


def as_double(inputs):
    return {name: x.astype(float) if x.dtype == np.float32 else x for name, x in inputs.items()}


def assert_close(actual, expected, size):
    """Equal up to rounding of numbers of a size; numbers below 1e-37 are 0 in float32."""
    assert np.all(np.isfinite(actual))
    size = np.broadcast_to(np.asarray(size, float), np.shape(expected))
    difference = np.abs(np.asarray(actual, float) - expected)
    allowed = 1e-5 * np.abs(expected) + 2e-6 * size + 1e-37
    assert np.all(difference <= allowed), (actual, expected, allowed)


def size_of(sizes, name, like):
    size = np.asarray(sizes.get(name, 0.0))
    return np.broadcast_to(
        size.reshape(size.shape + (1,) * (np.ndim(like) - size.ndim)), np.shape(like)
    )


def poisoned(inputs, where, shift):
    """Replace the masked rows by a mixture of harmful values."""

    def poison(x):
        mixture = POISON if x.dtype == np.float32 else POISON_INT
        bad = np.resize(np.roll(mixture, shift), x.shape).astype(x.dtype)
        return np.where(where.reshape(-1, *[1] * (x.ndim - 1)), x, bad)

    return {name: poison(x) for name, x in inputs.items()}


@every_loss
@fuzz
@given(data=st.data())
def test_losses_and_gradients_equal_the_oracle(loss, data):
    inputs = data.draw(loss.inputs)
    losses, gradients = loss.step(inputs, ALL)["identity_loss"]
    expected, slopes, sizes = loss.oracle(**as_double(inputs))
    assert_close(losses, expected, size_of(sizes, "loss", expected))
    for name, slope in slopes.items():
        assert_close(gradients[name], slope, size_of(sizes, name, slope))


@every_loss
@fuzz
@given(data=st.data())
def test_masking_equals_dropping_for_any_padding(loss, data):
    inputs, where = data.draw(loss.inputs), data.draw(MASKS)
    shift = data.draw(st.integers(0, 6))
    results = loss.step(poisoned(inputs, where, shift), where)
    if not where.any():
        for value, gradients in (results["identity_loss"], results["mean_loss"]):
            assert not np.any(value)
            assert not any(np.any(g) for g in gradients.values())
        return
    kept = as_double({name: x[where] for name, x in inputs.items()})
    expected, slopes, sizes = loss.oracle(**kept)
    for reducer in ("identity_loss", "mean_loss"):
        value, gradients = results[reducer]
        if not loss.scalar and reducer == "identity_loss":
            assert not np.any(value[~where])
            assert_close(value[where], expected, size_of(sizes, "loss", expected))
        else:
            assert_close(value, *loss.mean(**kept))
        assert all(np.all(np.isfinite(g)) for g in gradients.values())
        assert not any(np.any(g[~where]) for g in gradients.values())
    for name, slope in slopes.items():
        assert_close(results["identity_loss"][1][name][where], slope, size_of(sizes, name, slope))


@every_loss
@fuzz
@given(data=st.data())
def test_the_sum_of_identity_loss_is_sum_loss(loss, data):
    if loss.name == "rotation_loss":
        pytest.skip("the cross-entropy is a mean, unless the reducer keeps the rows")
    inputs, where = data.draw(loss.inputs), data.draw(MASKS)
    results = loss.step(inputs, where)
    losses = np.asarray(results["identity_loss"][0], float)
    assert_close(results["sum_loss"], losses.sum(), np.abs(losses).sum())


@pytest.mark.parametrize("loss", [x for x in LOSSES if x.rows_may_move], ids=repr)
@fuzz
@given(data=st.data())
def test_the_order_of_rows_does_not_matter(loss, data):
    inputs, where = data.draw(loss.inputs), data.draw(MASKS)
    order = np.array(data.draw(st.permutations(range(ROWS))))
    first = loss.step(inputs, where)
    second = loss.step({name: x[order] for name, x in inputs.items()}, where[order])
    for reducer in ("identity_loss", "mean_loss"):
        (value, gradients), (other, others) = first[reducer], second[reducer]
        if value.ndim:
            np.testing.assert_array_equal(other, value[order])
        else:
            assert_close(other, value, np.abs(value))
        for name, gradient in gradients.items():
            np.testing.assert_allclose(others[name], gradient[order], rtol=1e-5, atol=1e-37)


SYMMETRIES = [(loss, *symmetry) for loss in LOSSES for symmetry in loss.symmetries]


@pytest.mark.parametrize(
    ("loss", "change", "factor"),
    SYMMETRIES,
    ids=[f"{loss}-{i}" for i, (loss, *_) in enumerate(SYMMETRIES)],
)
@fuzz
@given(data=st.data())
def test_symmetries(loss, change, factor, data):
    inputs = data.draw(loss.inputs)
    losses, _ = loss.step(inputs, ALL)["identity_loss"]
    changed, _ = loss.step({k: np.asarray(x) for k, x in change(**inputs).items()}, ALL)[
        "identity_loss"
    ]
    _, _, sizes = loss.oracle(**as_double(inputs))
    assert_close(changed, factor * losses.astype(float), size_of(sizes, "loss", losses))


@every_loss
@fuzz
@given(data=st.data())
def test_huge_and_tiny_numbers_have_finite_gradients(loss, data):
    inputs, where = data.draw(loss.inputs), data.draw(MASKS)
    largest = 1e15 if loss.name != "l2_loss" else 1e18
    shares = ("target_bin", "target" if "output" in inputs else None)  # from 0 to 1
    unit = data.draw(st.sampled_from([1e-30, 1e-15, 1e5, largest]))
    bounded = {
        name: np.clip(x * np.float32(unit), -largest, largest).astype(np.float32)
        if x.dtype == np.float32 and name not in shares
        else x
        for name, x in inputs.items()
    }
    for value, gradients in (loss.step(bounded, where)[k] for k in ("identity_loss", "mean_loss")):
        assert np.all(np.isfinite(value))
        assert all(np.all(np.isfinite(g)) for g in gradients.values())

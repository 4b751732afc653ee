"""Masks of exactly k elements: the largest ones, or random ones, of any dtype and rank."""

import functools
import gc
import math

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises
from hypothesis import given, settings
from jax import export
from jax.experimental import checkify
from jax.experimental.jet import jet
from searches import search  # noqa: F401

from vis4d_jax_loss import hard_negative_mask, random_k_mask, top_k_mask
from vis4d_jax_loss._numerics import enable_x64

SHAPES = [(), (0,), (7,), (2, 5), (2, 1, 4)]
DTYPES = ["float32", "float16", "int8", "uint8", "int32", "uint32", "int16"]

compiled_top_k = jax.jit(top_k_mask)


def slow_top_k_mask(values, k, where):
    """Sort in Python by (NaN first, value, index) and mark the first k."""

    def rank(index):
        value = values.flat[index].item()
        return (0, 0, index) if value != value else (1, -value, index)

    candidates = [i for i in range(values.size) if where.flat[i]]
    mask = np.zeros(values.size, bool)
    mask[sorted(candidates, key=rank)[: max(k, 0)]] = True
    return mask.reshape(values.shape)


@st.composite
def selections(draw):
    dtype, shape = np.dtype(draw(st.sampled_from(DTYPES))), draw(st.sampled_from(SHAPES))
    if dtype.kind == "f":
        numbers = st.floats(width=8 * dtype.itemsize)
        few = st.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-7, -1e-7])
    else:
        info = np.iinfo(dtype)
        numbers = st.integers(info.min, info.max)
        few = st.sampled_from([info.min, info.max, 0, 1])
    elements = draw(st.sampled_from([numbers, few]))  # a few numbers tie often
    with np.errstate(all="ignore"):
        values = np.array(draw(st.lists(elements, min_size=10, max_size=10))).astype(dtype)
    values = np.resize(values, shape)
    where = draw(hnp.arrays(bool, shape))
    return values, draw(st.integers(-2, values.size + 2)), where


@settings(max_examples=400, deadline=None)
@given(selections())
def test_top_k_mask_agrees_with_a_sort(selection):
    values, k, where = selection
    np.testing.assert_array_equal(
        compiled_top_k(values, k, where), slow_top_k_mask(values, k, where)
    )


@pytest.mark.parametrize("k", [-1, 0, 1, 3, 7, 8, 2**40])
def test_k_may_be_negative_and_larger_than_the_array(k):
    values, where = jnp.arange(8.0), jnp.array([True] * 7 + [False])
    mask = top_k_mask(values, k, where)
    np.testing.assert_array_equal(mask, slow_top_k_mask(np.arange(8.0), k, np.asarray(where)))
    assert mask.sum() == min(max(k, 0), 7)


def test_ties_go_to_the_lowest_flat_index():
    values = jnp.array([[1.0, 5.0, 1.0], [1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(compiled_top_k(values, 3), [[True, True, True], [False] * 3])
    np.testing.assert_array_equal(
        compiled_top_k(values[:, ::-1], 4), [[True] * 3, [True, False, False]]
    )


def test_zeros_tie_and_nan_is_the_largest():
    values = jnp.array([-0.0, 0.0, -jnp.nan, jnp.inf])
    np.testing.assert_array_equal(compiled_top_k(values, 1), [False, False, True, False])
    np.testing.assert_array_equal(compiled_top_k(values, 3), [True, False, True, True])


def test_k_0_marks_nothing_among_nan_and_ties():
    for values in ([jnp.nan, jnp.nan], [0.0, 0.0], [jnp.inf, jnp.nan]):
        assert not compiled_top_k(jnp.array(values), 0).any()


def test_subnormal_numbers_are_distinguished():
    values = np.array([0.0, 1e-45, 3e-45, -1e-45], np.float32)
    np.testing.assert_array_equal(compiled_top_k(values, 2), [False, True, True, False])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.int4])
def test_narrow_dtypes(dtype):
    values = jnp.array([-3, 7, 0, 5, 7, -8], dtype)
    np.testing.assert_array_equal(
        compiled_top_k(values, 3), [False, True, False, True, True, False]
    )


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.int64, jnp.uint64])
def test_wide_dtypes(dtype):
    with enable_x64(True):
        values = jnp.array([2**53, 2**53 - 1, 1, 2**53], dtype)
        mask = jax.jit(top_k_mask)(values, 3)
    np.testing.assert_array_equal(mask, [True, True, False, True])


def test_k_is_traced_and_vmap_equals_a_loop():
    values = jax.random.randint(jax.random.key(0), (5, 3, 4), 0, 6)
    ks = jnp.arange(5) * 3
    batched = jax.jit(jax.vmap(top_k_mask))(values, ks)
    for mask, row, k in zip(batched, values, ks, strict=True):
        np.testing.assert_array_equal(mask, compiled_top_k(row, k))


def test_the_mask_is_constant_under_differentiation():
    def kept(x):
        return jnp.sum(jnp.where(top_k_mask(x, 2), x**2, 0))

    gradient = jax.jit(jax.grad(kept))(jnp.array([1.0, 3.0, 2.0]))
    np.testing.assert_array_equal(gradient, [0, 6, 4])
    second = jax.jit(jax.hessian(kept))(jnp.array([1.0, 3.0, 2.0]))
    np.testing.assert_array_equal(second, np.diag([0, 2, 2]))


def test_the_compiled_program_contains_no_sort_and_no_gather():
    step = jax.jit(top_k_mask).lower(jnp.ones((64, 32)), 5, jnp.ones((64, 32), bool))
    program = step.compile().as_text()
    assert not any(f" {name}(" in program for name in ("sort", "gather", "scatter", "topk"))


@pytest.mark.parametrize("k", [-1, 0, 1, 4, 6, 99])
def test_random_k_mask_marks_exactly_k_candidates(k):
    where = jnp.array([[True, False, True, True], [True, True, False, True]])
    mask = random_k_mask(jax.random.key(0), k, where)
    assert mask.sum() == min(max(k, 0), 6)
    assert not np.any(mask & ~where)


def test_random_k_mask_chooses_each_candidate_equally_often():
    where = jnp.array([True, True, False, True, True])
    keys = jax.random.split(jax.random.key(0), 4000)
    share = jax.jit(jax.vmap(lambda key: random_k_mask(key, 2, where)))(keys).mean(axis=0)
    # Each of 4 candidates with probability 1/2; the standard error is 0.008.
    np.testing.assert_allclose(share, [0.5, 0.5, 0, 0.5, 0.5], atol=0.04)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: top_k_mask(jnp.array([True]), 1),
            TypeError,
            "top_k_mask: values must hold floating-point or integer numbers, got values bool. Cast it first.",
        ),
        (
            lambda: top_k_mask(jnp.ones(3), 1.0),
            TypeError,
            "top_k_mask: k must be an integer scalar, got k float32 (). It may be traced.",
        ),
        (
            lambda: top_k_mask(jnp.ones(3), jnp.array([1])),
            TypeError,
            "top_k_mask: k must be an integer scalar, got k int32 (1,). It may be traced.",
        ),
        (
            lambda: top_k_mask(jnp.ones((2, 3)), 1, jnp.ones(3, bool)),
            ValueError,
            "top_k_mask: where must cover the leading axes of the loss, got where (3,) and loss (2, 3). A mask is never matched to trailing axes.",
        ),
        (
            lambda: random_k_mask(jax.random.key(0), 1, jnp.ones(3)),
            TypeError,
            "random_k_mask: where must be boolean, got where float32. True means valid, False means padding; weights belong in SumWeightedLoss.",
        ),
    ],
)
def test_mistakes_are_errors(call, kind, message):
    with raises(kind, message):
        call()


COST = jnp.array([[0.1, 0.9, 0.4], [0.8, 0.2, 0.7]])
POSITIVE = jnp.array([[True, False, False], [False, False, False]])


@pytest.mark.parametrize(
    ("neg_pos_ub", "expected"),
    [
        (2.0, [[1, 1, 0], [1, 0, 0]]),
        (3.0, [[1, 1, 0], [1, 0, 1]]),
        (0.5, [[1, 0, 0], [0, 0, 0]]),  # int(0.5) is 0
        (9.0, [[1, 1, 1], [1, 1, 1]]),
        (0.0, [[1, 1, 1], [1, 1, 1]]),  # no limit
        (-1, [[1, 1, 1], [1, 1, 1]]),
    ],
)
def test_hard_negatives_by_hand(neg_pos_ub, expected):
    np.testing.assert_array_equal(hard_negative_mask(COST, POSITIVE, neg_pos_ub), expected)
    traced = jax.jit(hard_negative_mask)(COST, POSITIVE, jnp.float32(neg_pos_ub))
    np.testing.assert_array_equal(traced, expected)


def test_hard_negatives_without_a_positive_are_counted_as_for_one():
    mask = hard_negative_mask(COST, POSITIVE & False)
    np.testing.assert_array_equal(mask, [[0, 1, 0], [1, 0, 1]])


def test_hard_negatives_are_as_many_as_in_python():
    positive = jnp.arange(1000) < 100
    assert hard_negative_mask(jnp.zeros(1000), positive, 0.29).sum() == 100 + 28


def test_masked_elements_are_neither_positives_nor_hard_negatives():
    where = jnp.array([[False, False, True], [True, True, True]])
    for padding in (9.0, jnp.nan, -jnp.inf):
        cost = COST.at[0, :2].set(padding)
        positive = POSITIVE.at[1, 1].set(True)
        mask = hard_negative_mask(cost, positive, 1.0, where)
        np.testing.assert_array_equal(mask, [[0, 0, 0], [1, 1, 0]])
        mask = hard_negative_mask(cost, positive, 1.0, where[:, 0])
        np.testing.assert_array_equal(mask, [[0, 0, 0], [1, 1, 0]])
    assert not hard_negative_mask(COST, POSITIVE, where=where & False).any()


def test_hard_negatives_of_each_image():
    cost = jnp.stack([COST, COST[::-1]])
    positive = jnp.stack([POSITIVE, POSITIVE & False])
    masks = jax.jit(jax.vmap(functools.partial(hard_negative_mask, neg_pos_ub=1.0)))(cost, positive)
    np.testing.assert_array_equal(masks, [[[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 0]]])


def test_hard_negatives_over_shards():
    mapped = jax.vmap(
        functools.partial(hard_negative_mask, neg_pos_ub=2.0, axis_name="shards"),
        axis_name="shards",
    )
    np.testing.assert_array_equal(
        mapped(COST, POSITIVE), hard_negative_mask(COST, POSITIVE, neg_pos_ub=2.0)
    )


def test_the_costs_of_hard_negatives_have_no_gradient():
    def mined(cost):
        return jnp.sum(jnp.where(hard_negative_mask(cost, POSITIVE, 1.0), cost**2, 0))

    np.testing.assert_allclose(jax.grad(mined)(COST), [[0.2, 1.8, 0], [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: hard_negative_mask(COST, jnp.ones((2, 3), jnp.int32)),
            TypeError,
            "positive must be boolean, got positive int32. Compare the labels first, e.g. labels > 0.",
        ),
        (
            lambda: hard_negative_mask(COST, POSITIVE[:, :2]),
            ValueError,
            "cost and positive must have the same shape, got cost (2, 3) and positive (2, 2).",
        ),
        (
            lambda: hard_negative_mask(COST > 0, POSITIVE),
            TypeError,
            "cost must hold floating-point or integer numbers, got cost bool. Cast it first.",
        ),
        (
            lambda: hard_negative_mask(COST, POSITIVE, None),
            TypeError,
            "neg_pos_ub must be a number, got neg_pos_ub None.",
        ),
        (
            lambda: hard_negative_mask(COST, POSITIVE, where=jnp.ones(3, bool)),
            ValueError,
            "where must cover the leading axes of the loss, got where (3,) and loss (2, 3). A mask is never matched to trailing axes.",
        ),
    ],
)
def test_mistakes_about_hard_negatives_are_errors(call, kind, message):
    with raises(kind, f"hard_negative_mask: {message}"):
        call()


TIES = jnp.array([[1.0, 2.0, 1.0, 0.0], [1.0, 1.0, 2.0, 1.0]])
EAGER = {
    "without ties": lambda: top_k_mask(TIES, 2),
    "ties": lambda: top_k_mask(TIES, 4, TIES > 0),
    "traced k": lambda: top_k_mask(TIES, jnp.int32(4)),
    "random": lambda: random_k_mask(jax.random.key(0), 3, TIES > 0),
    "vmap": lambda: jax.vmap(top_k_mask)(TIES, jnp.array([1, 2])),
    "grad": lambda: jax.grad(lambda x: jnp.sum(jnp.where(top_k_mask(x, 3), x, 0)))(TIES),
}


def compilations(caplog, function):
    """Names of the programs that a call compiles."""
    caplog.clear()
    with jax.log_compiles():
        jax.block_until_ready(function())
    return [r.getMessage() for r in caplog.records if "Finished XLA comp" in r.getMessage()]


@pytest.mark.parametrize("call", EAGER.values(), ids=EAGER)
def test_a_second_eager_call_compiles_nothing(call, caplog):
    call()
    assert compilations(caplog, call) == []


def test_another_k_compiles_nothing(caplog):
    top_k_mask(TIES, 3)
    assert compilations(caplog, lambda: top_k_mask(TIES, 5)) == []
    assert compilations(caplog, lambda: top_k_mask(TIES, np.int64(6))) == []


@pytest.mark.parametrize("call", EAGER.values(), ids=EAGER)
def test_eager_calls_leave_nothing_behind(call):
    for _ in range(3):
        call()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(30):
        call()
    gc.collect()
    assert len(gc.get_objects()) - before < 100


def test_without_jit():
    with jax.disable_jit():
        np.testing.assert_array_equal(top_k_mask(jnp.array([1.0, 1.0, 0.0]), 1), [1, 0, 0])
        np.testing.assert_array_equal(top_k_mask(TIES, 4), [[1, 1, 1, 0], [0, 0, 1, 0]])
        assert random_k_mask(jax.random.key(0), 3, TIES > 0).sum() == 3
        rows = jax.vmap(top_k_mask)(TIES, jnp.array([1, 2]))
        np.testing.assert_array_equal(rows, [[0, 1, 0, 0], [1, 0, 1, 0]])


def test_within_other_transformations():
    expected = compiled_top_k(TIES, 4)

    def mask(x):
        return top_k_mask(x, 4)

    with jax.checking_leaks():
        np.testing.assert_array_equal(jax.jit(mask)(TIES), expected)
    np.testing.assert_array_equal(jax.checkpoint(mask)(TIES), expected)
    error, value = checkify.checkify(jax.jit(mask), errors=checkify.all_checks)(TIES)
    error.throw()
    np.testing.assert_array_equal(value, expected)
    _, scanned = jax.lax.scan(lambda _, x: (None, mask(x)), None, TIES[None])
    np.testing.assert_array_equal(scanned[0], expected)
    value, tangent = jax.jvp(lambda x: jnp.where(mask(x), x, 0), (TIES,), (TIES,))
    np.testing.assert_array_equal(tangent, value)


@pytest.mark.parametrize("shape", [(2, 3), (1, 1), (4, 5)])
def test_export_with_symbolic_shapes(shape):
    n, m = export.symbolic_shape("n, m")
    values = jax.random.randint(jax.random.key(1), shape, 0, 3).astype(jnp.float32)
    struct = jax.ShapeDtypeStruct((n, m), jnp.float32)
    for k in (0, 2, 3):
        exported = export.export(jax.jit(lambda x, k=k: top_k_mask(x, k)))(struct)
        np.testing.assert_array_equal(exported.call(values), compiled_top_k(values, k))

    def half(x, where):
        return top_k_mask(x, x.size // 2, where)

    exported = export.export(jax.jit(half))(struct, jax.ShapeDtypeStruct((n,), bool))
    where = np.arange(shape[0]) != 1
    expected = compiled_top_k(values, values.size // 2, where)
    np.testing.assert_array_equal(exported.call(values, where), expected)


def test_export_of_random_masks_with_symbolic_shapes():
    (n,) = export.symbolic_shape("n")
    key = jax.random.PRNGKey(0)
    where = jax.ShapeDtypeStruct((n,), bool)
    exported = export.export(jax.jit(lambda key, where: random_k_mask(key, 3, where)))(key, where)
    mask = exported.call(key, jnp.arange(9) % 2 == 0)
    assert mask.sum() == 3
    assert not mask[1::2].any()


WIDE = [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1]


@pytest.mark.parametrize(
    "mine", [top_k_mask, lambda x, k: random_k_mask(jax.random.key(0), k, x < 9)]
)
def test_wide_k(mine):
    values = jnp.arange(4.0)
    for k in [*WIDE, 2**70]:
        assert mine(values, k).all(), k
        assert not mine(values, -k).any(), k
    for k in WIDE:
        assert mine(values, np.int64(k)).all(), k
        assert mine(values, np.array(k)).all(), k
        assert mine(values, np.uint64(k)).all(), k
        assert not mine(values, np.int64(-k)).any(), k
    assert mine(values, jnp.uint32(2**32 - 1)).all()
    assert mine(values, jnp.uint32(2**31)).all()
    assert not mine(values, jnp.int32(-(2**31))).any()


def test_wide_traced_k():
    values = jnp.arange(4.0)
    assert compiled_top_k(values, jnp.uint32(2**31 + 2)).all()
    with enable_x64(True):
        for k in WIDE:
            assert compiled_top_k(values, jnp.int64(k)).all(), k
            assert compiled_top_k(values, jnp.uint64(k)).all(), k
            assert not compiled_top_k(values, jnp.int64(-k)).any(), k


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16, jnp.uint32, jnp.int32])
def test_narrow_k_and_strict_promotion(dtype):
    with jax.numpy_dtype_promotion("strict"):
        assert top_k_mask(jnp.arange(300.0), jnp.array(100, dtype)).sum() == 100
        assert jax.jit(top_k_mask)(TIES, jnp.array(4, dtype), TIES > 0).sum() == 4


def test_more_elements_than_can_be_counted():
    def shape_of(*shape):
        return jax.eval_shape(lambda x: top_k_mask(x, 5), jax.ShapeDtypeStruct(shape, np.uint8))

    assert shape_of(2**32 - 1).shape == (2**32 - 1,)
    with pytest.raises(
        ValueError, match=r"top_k_mask: .* at most 2\*\*32 - 1 elements .* 4294967296"
    ):
        shape_of(2**16, 2**16)
    values = jax.ShapeDtypeStruct((4, 2**30), np.uint8)
    shards = jax.vmap(lambda x: top_k_mask(x, 5, axis_name="shards"), axis_name="shards")
    with pytest.raises(ValueError, match=r"at most 2\*\*32 - 1 elements .* 4294967296 elements"):
        jax.eval_shape(shards, values)


def test_ties_over_vmapped_shards():
    values = jax.random.randint(jax.random.key(0), (5, 3, 4), 0, 3)
    for axes in ("shards", ("shards",)):
        mapped = jax.vmap(
            lambda x, k, axes=axes: top_k_mask(x, k, axis_name=axes), (0, None), axis_name="shards"
        )
        for k in (-1, 0, 1, 7, 20, 33, 59, 60, 99):
            np.testing.assert_array_equal(mapped(values, k), compiled_top_k(values, k))


def test_errors_name_the_function():
    with pytest.raises(TypeError, match="random_k_mask: where must be boolean, got where float32"):
        random_k_mask(jax.random.key(0), 1, jnp.ones(3))
    for bad in (1.0, True, np.float32(1), np.array([1])):
        with pytest.raises(TypeError, match="random_k_mask: k must be an integer scalar, got k "):
            random_k_mask(jax.random.key(0), bad, jnp.ones(3, bool))


def test_taylor_mode():
    def kept(x):
        return jnp.sum(jnp.where(top_k_mask(x, 2), x**2, 0))

    x, series = jnp.array([1.0, 3.0, 2.0]), ((jnp.ones(3), jnp.zeros(3)),)
    for function in (kept, jax.jit(kept)):
        value, (first, second) = jet(function, (x,), series)
        np.testing.assert_allclose([value, first, second], [13, 10, 4], rtol=1e-5)

"""How many elements are kept: as many as Python's floats give."""

import functools
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from vis4d_jax_loss._kept_count import fraction_to_keep, negatives_to_keep
from vis4d_jax_loss._numerics import enable_x64


def python_negatives(num_pos, num_neg, neg_pos_ub):
    num_pos = max(1, num_pos)
    if neg_pos_ub > 0 and num_neg / num_pos > neg_pos_ub:
        return int(num_pos * neg_pos_ub)
    return num_neg


@pytest.mark.parametrize(
    "neg_pos_ub",
    [0.29, 0.5, 1.1, 2.3, 1 / 3, 0.1, 3, 123.456, 2**-30, 1e9, -1.0, 0.0, math.inf, math.nan],
)
def test_negatives_to_keep_equals_python(neg_pos_ub):
    rng = random.Random(0)
    top = 2**31 - 1
    counts = [*range(400), *(rng.randint(0, top) for _ in range(600)), 100, 200, 300, top]
    finite = neg_pos_ub if math.isfinite(neg_pos_ub) else 3.0
    pairs = [
        (p, min(max(0, int(max(1, p) * finite) + d), top)) for p in counts for d in (-1, 0, 1, 9)
    ]
    pos, neg = (jnp.array(column, jnp.int32) for column in zip(*pairs, strict=True))
    kept = jax.jit(jax.vmap(lambda p, n: negatives_to_keep(p, n, neg_pos_ub)))(pos, neg)
    expected = [python_negatives(p, n, neg_pos_ub) for p, n in pairs]
    np.testing.assert_array_equal(kept, np.minimum(expected, neg))


def test_negatives_to_keep_rounds_like_float64():
    # All three exact products are below the integer; the float64 nearest to 300 * 0.29 is 87.
    assert [int(n * 0.29) for n in (100, 200, 300)] == [28, 57, 87]
    for num_pos, kept in ((100, 28), (200, 57), (300, 87)):
        assert negatives_to_keep(jnp.int32(num_pos), jnp.int32(10**6), 0.29) == kept
    # 29 / 100 is 0.29 and not more than it, so the limit of 28 does not apply.
    assert negatives_to_keep(jnp.int32(100), jnp.int32(29), 0.29) == 29


def test_the_number_survives_every_transformation():
    def keep(num_pos):
        return negatives_to_keep(num_pos, jnp.int32(10**6) + num_pos, 0.29)

    counts = jnp.array([100, 200, 300])
    for step in (jax.vmap(keep), jax.jit(jax.vmap(keep)), jax.vmap(jax.jit(keep))):
        np.testing.assert_array_equal(step(counts), [28, 57, 87])
        np.testing.assert_array_equal(jax.jit(step)(counts), [28, 57, 87])
        np.testing.assert_array_equal(checkify.checkify(step)(counts)[1], [28, 57, 87])


def test_the_result_is_int32():
    assert negatives_to_keep(jnp.int32(1), jnp.int32(9), 3.0).dtype == jnp.int32


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "uint8"])
@pytest.mark.parametrize(
    "neg_pos_ub", [0.29, 0.5, 1 / 3, 3.0, 123.456, -1.0, 0.0, math.inf, math.nan]
)
def test_a_traced_bound_counts_with_the_value_of_its_dtype(neg_pos_ub, dtype):
    if not jnp.issubdtype(dtype, jnp.floating):
        neg_pos_ub = max(int(np.nan_to_num(neg_pos_ub)) % 256, 0)
    traced = jnp.array(neg_pos_ub, dtype)
    counts = [0, 1, 2, 3, 7, 99, 100, 200, 300, 2**24 + 1, 2**31 - 1]
    pos, neg = (x.ravel() for x in np.meshgrid(counts, counts))
    step = jax.jit(jax.vmap(negatives_to_keep, (0, 0, None)))
    kept = step(jnp.array(pos, jnp.int32), jnp.array(neg, jnp.int32), traced)
    expected = [
        python_negatives(int(p), int(n), float(traced)) for p, n in zip(pos, neg, strict=True)
    ]
    np.testing.assert_array_equal(kept, expected)


def test_a_traced_bound_in_float64_is_exact():
    with enable_x64(True):
        for num_pos, kept in ((100, 28), (200, 57), (300, 87)):
            traced = jax.jit(negatives_to_keep)(jnp.int32(num_pos), jnp.int32(10**6), 0.29)
            assert traced == kept


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.int32, np.uint8, np.float16])
def test_a_numpy_bound(kind):
    kept = negatives_to_keep(jnp.int32(100), jnp.int32(10**6), kind(3))
    assert kept == 300


def test_counts_beyond_int32():
    def kept(num_pos, neg_pos_ub):
        negatives = negatives_to_keep(jnp.uint32(num_pos), jnp.uint32(3 * 2**30), neg_pos_ub)
        return int(negatives)

    assert kept(2**30, 2.5) == int(2.5 * 2**30)
    assert kept(2**30, jnp.float32(2.5)) == int(2.5 * 2**30)
    assert kept(2**30, 3.0) == 3 * 2**30
    assert kept(0, 2.0**31 + 2) == 2**31 + 2
    assert kept(0, 1e300) == 3 * 2**30


FRACTIONS = [0.0, 1.0, 0.5, 0.25, 0.29, 0.1, 0.7, 1 / 3, 2 / 3, 0.999999, 1e-9, 2.0**-32]


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_a_fraction_equals_python(fraction):
    rng = random.Random(0)
    large = [2**24 + 1, 2**31 - 1, 2**31, 2**32 - 1, *(rng.randrange(2**32) for _ in range(500))]
    counts = [*range(400), *large]
    kept = jax.jit(lambda n: fraction_to_keep(n, fraction))(jnp.array(counts, jnp.uint32))
    np.testing.assert_array_equal(kept, [math.floor(fraction * n) for n in counts])


def test_a_fraction_is_rounded_like_a_float64():
    # In float32, 0.29 * 100 is 29, and 2**24 + 1 is 2**24.
    assert fraction_to_keep(jnp.uint32(100), 0.29) == 28
    assert fraction_to_keep(jnp.uint32(2**24 + 1), 1.0) == 2**24 + 1


def test_a_fraction_survives_every_transformation():
    counts, kept = jnp.array([100, 200, 300], jnp.uint32), [28, 57, 87]
    one = functools.partial(fraction_to_keep, fraction=0.29)
    for step in (one, jax.vmap(one), jax.jit(one), jax.vmap(jax.jit(one))):
        np.testing.assert_array_equal(step(counts), kept)
        np.testing.assert_array_equal(checkify.checkify(step)(counts)[1], kept)

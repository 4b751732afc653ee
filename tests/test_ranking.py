"""The integers that rank elements have the order of the values, and of the index reversed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss._numerics import enable_x64
from vis4d_jax_loss._ranking import digits, ordered_codes

FLOATS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
INTEGERS = ["int64", "int32", "int16", "int8", "int4", "uint64", "uint32", "uint16", "uint8"]


@pytest.mark.parametrize("dtype", FLOATS)
def test_codes_of_floats_rise_with_the_value(dtype):
    with enable_x64(True):
        tiny = float(jnp.finfo(dtype).smallest_subnormal)
        values = [-jnp.inf, -2.0, -tiny, -0.0, 0.0, tiny, 2.0, jnp.inf, jnp.nan, -jnp.nan]
        if dtype == "float8_e4m3fn":  # has no infinity
            values = [-448.0, *values[1:7], 448.0, *values[8:]]
        codes = jax.jit(ordered_codes)(jnp.array(values, dtype)).tolist()
    assert codes[:4] == sorted(set(codes[:4]))
    assert codes[3] == codes[4]
    assert codes[4:9] == sorted(set(codes[4:9]))
    assert codes[8] == codes[9]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_codes_of_integers_rise_with_the_value(dtype):
    with enable_x64(True):
        info = jnp.iinfo(dtype)
        values = [info.min, info.min + 1, int(info.max) // 2, info.max - 1, info.max]
        codes = ordered_codes(jnp.array(values, dtype))
        assert jnp.issubdtype(codes.dtype, jnp.unsignedinteger)
        assert codes.tolist() == sorted(set(codes.tolist()))


def test_the_digits_are_the_code_and_the_place_from_the_end():
    codes = jnp.arange(6, dtype=jnp.uint16).reshape(2, 3)
    (first, first_bits), (place, place_bits) = digits(codes, None)
    assert first is codes
    np.testing.assert_array_equal(place, [[5, 4, 3], [2, 1, 0]])
    assert (first_bits, place_bits) == (16, 3)


@pytest.mark.parametrize(("size", "bits"), [(0, 1), (1, 1), (3, 2), (4, 3), (7, 3), (8, 4)])
def test_no_place_has_all_of_its_bits_set(size, bits):
    (_, (place, place_bits)) = digits(jnp.zeros(size, jnp.uint32), None)
    assert place_bits == bits
    assert jnp.max(place, initial=0) < 2**bits - 1


def test_the_first_shard_has_the_largest_digit():
    def shard_digit(codes):
        _, (shard, bits), _ = digits(codes, "shards")
        assert bits == 2
        return shard

    codes = jnp.zeros((3, 2), jnp.uint32)
    shards = jax.vmap(shard_digit, axis_name="shards")(codes)
    np.testing.assert_array_equal(shards, [2, 1, 0])

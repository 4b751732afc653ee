"""Sums and counts over the shards of an axis, which ``vmap`` simulates."""

import jax
import jax.numpy as jnp
import numpy as np

from vis4d_jax_loss._mesh_axis import count_elements, psum_over


def test_sums_are_added_over_a_mesh_axis():
    shards = jnp.arange(4.0)
    assert psum_over(shards, None) is shards
    added = jax.vmap(lambda x: psum_over(x, "shards"), axis_name="shards")(shards)
    np.testing.assert_array_equal(added, [6] * 4)


def test_elements_are_counted_over_a_mesh_axis():
    mask = jnp.array([[True, False, True], [False, False, True]])
    assert count_elements(mask) == 3
    counts = jax.vmap(lambda x: count_elements(x, "shards"), axis_name="shards")(mask)
    np.testing.assert_array_equal(counts, [3, 3])


def test_counts_beyond_int32():
    # 3 shards of 2**30 elements; XLA never stores them.
    def count(x):
        return count_elements(jnp.broadcast_to(x, (2**30,)), "shards")

    counts = jax.jit(jax.vmap(count, axis_name="shards"))(jnp.ones(3, bool))
    np.testing.assert_array_equal(counts, 3 * 2**30)

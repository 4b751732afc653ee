"""Strict arithmetic for every test, and names for the doctests."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import vis4d_jax_loss

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "standard")


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    names = {name: getattr(vis4d_jax_loss, name) for name in vis4d_jax_loss.__all__}
    doctest_namespace.update(names, jax=jax, jnp=jnp, NamedSharding=NamedSharding, P=P)

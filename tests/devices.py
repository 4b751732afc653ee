"""Meshes of 8 simulated devices, and what a compiled program sends between them."""

import functools
import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

SHARDS, ROWS = 8, 24
MASK = np.zeros((SHARDS, ROWS // SHARDS), bool)
MASK[[0, 6]] = True
MASK[2, 1] = MASK[7, 2] = True
MASK[3:5, :2] = True  # on shards 1 and 5 everything is masked
MASK = MASK.ravel()

COMMUNICATION = re.compile(
    r" = (.*?) (?:all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast"
    r"|reduce-scatter|ragged-all-to-all)(?:-start)?\("
)


every_kind = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)

set_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh  # the name before JAX 0.7


def make_mesh(kind):
    return jax.make_mesh((SHARDS,), ("data",), axis_types=(kind,))


def shard(tree, mesh, axis=0):
    """Put arrays on the mesh, sharded over one axis."""

    def put(x):
        spec = P(*("data" if i == axis else None for i in range(np.ndim(x))))
        return jax.device_put(x, NamedSharding(mesh, spec))

    return jax.tree.map(put, tree)


def run(step, args):
    """Run a compiled step and return its results and its program."""
    compiled = jax.jit(step).lower(*args).compile()
    return compiled(*args), compiled.as_text()


def assert_same(actual, expected):
    assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(assert_close, actual, expected)


def assert_little_is_communicated(program, largest=1):
    """The program has no sort, and sends no array of more elements than ``largest``."""
    assert not re.search(r" (sort|custom-call)\(.*(?i:sort|top_?k)", program)
    assert " sort(" not in program
    shapes = [s for m in COMMUNICATION.findall(program) for s in re.findall(r"\[([\d,]*)\]", m)]
    assert shapes, "no communication at all: was anything sharded?"
    sizes = [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes]
    assert max(sizes) <= largest, f"communicated {max(sizes)} elements"

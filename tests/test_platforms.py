"""The search of mining is chosen where a program is lowered: a GPU or a TPU gets no loop."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from vis4d_jax_loss import top_k_mask

VALUES = jax.ShapeDtypeStruct((64, 32), jnp.float32)
K = jax.ShapeDtypeStruct((), jnp.int32)


def exported(*platforms):
    return export.export(jax.jit(top_k_mask), platforms=platforms)(VALUES, K)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
def test_only_a_cpu_searches_in_a_loop(platform):
    program = exported(platform).mlir_module()
    assert ("stablehlo.while" in program) == (platform == "cpu")


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_a_gpu_takes_few_passes(platform):
    """Each pass counts for 4 or 5 bits: 32 bits of the value, then 12 of the index."""
    counts = re.findall(r"reduce.*: \(tensor<64x32x(\d+)xui32>", exported(platform).mlir_module())
    assert [int(n) for n in counts] == [32, 32, 16, 32, 16, 32, 16, 16, 16, 16]


def test_a_program_for_several_platforms():
    values = np.random.default_rng(0).normal(size=VALUES.shape).astype(np.float32).round(1)
    mask = exported("cpu", "cuda", "tpu").call(values, np.int32(100))
    np.testing.assert_array_equal(mask, top_k_mask(values, 100))

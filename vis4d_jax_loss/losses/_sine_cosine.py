"""Sine and cosine of the same angles, vectorised.

Why this file exists: on a CPU, XLA computes ``jnp.sin`` and ``jnp.cos`` number by number, and each
reduces its angle by itself. The rotation loss needs both for every angle. The arithmetic below is
vectorised and shares the reduction, and the loss takes less than half of the time
(docs/performance.md). ``tests/test_sine_cosine.py`` holds it to the accuracy of float32.
"""

import math

import jax
import jax.numpy as jnp


@jax.custom_jvp
def sine_and_cosine(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sine and cosine; in float32 within 1.2e-7 for angles up to 10,000 radians.

    For larger angles, the error is about as large as the rounding of the angle itself.

    References:
        Cody and Waite, Software Manual for the Elementary Functions, 1980 (reduction in three
        parts), with minimax polynomials on [-pi/4, pi/4].
    """
    if x.dtype != jnp.float32:
        return jnp.sin(x), jnp.cos(x)
    quarter_turns = jnp.round(x * (2 / math.pi))
    # pi/2 in three parts. The products with the first two are exact.
    rest = x - quarter_turns * (201 / 2**7)
    rest = rest - quarter_turns * (2029 / 2**22)
    rest = rest - quarter_turns * 7.5497900e-8
    rest = jnp.clip(rest, -1, 1)  # for a huge angle, the rest is nothing but rounding error
    square = rest * rest
    sine = -1.66666549e-1 + square * (8.33217791e-3 - square * 1.95172664e-4)
    sine = rest + rest * square * sine
    cosine = 4.16666469e-2 + square * (-1.38873672e-3 + square * 2.44384151e-5)
    cosine = 1 - 0.5 * square + square * square * cosine

    def sine_in_quarter(quarter: jax.Array) -> jax.Array:
        value = jnp.where(quarter & 1, cosine, sine)
        return jnp.where(quarter & 2, -value, value)

    quarter = quarter_turns.astype(jnp.int32)
    return sine_in_quarter(quarter), sine_in_quarter(quarter + 1)


@sine_and_cosine.defjvp
def _sine_and_cosine_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    sine, cosine = sine_and_cosine(x)
    return (sine, cosine), (cosine * dx, -sine * dx)

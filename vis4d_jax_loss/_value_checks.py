"""What is reported about values under ``checkify``; a normal step computes none of it.

Each function returns the array that it checks. Use the returned array, or the check may be lost.
"""

import jax
import jax.numpy as jnp

from vis4d_jax_loss._expect import expect
from vis4d_jax_loss._numerics import fill_masked


def expect_finite(
    function: str, name: str, x: jax.Array, where: jax.Array | None = None
) -> jax.Array:
    """Report values that are NaN or infinite; ``where`` may exclude some."""
    bad = ~jnp.isfinite(fill_masked(x, where))
    return expect(x, bad, x, f"{function}: {name} must be finite")


def expect_finite_or_off(
    function: str, name: str, x: jax.Array, where: jax.Array | None = None
) -> jax.Array:
    """Report NaN and +inf. A class or a pair is switched off by -inf.

    Values that ``where`` excludes are not reported, and stay what they are.
    """
    checked = x if where is None else jnp.where(where, x, 0)
    bad = jnp.isnan(checked) | (checked == jnp.inf)
    return expect(x, bad, x, f"{function}: {name} must be finite or -inf", checked)


def expect_probabilities(function: str, name: str, x: jax.Array) -> jax.Array:
    """Report values outside of [0, 1], NaN included."""
    bad = ~((x >= 0) & (x <= 1))
    return expect(x, bad, x, f"{function}: {name} must hold numbers from 0 to 1")


def expect_not_negative(function: str, name: str, x: jax.Array) -> jax.Array:
    """Report values that are negative, NaN or infinite."""
    bad = ~((x >= 0) & (x < jnp.inf))
    return expect(x, bad, x, f"{function}: {name} must be finite and not negative")


def expect_labels(
    function: str, rule: str, labels: jax.Array, bad: jax.Array, target: jax.Array
) -> jax.Array:
    """Report labels that are neither a class nor ignored, and labels that are not whole numbers."""
    return expect(labels, bad, target, f"{function}: {rule}")


def expect_pair_targets(
    function: str, kind: jax.Array, unknown: jax.Array, target: jax.Array
) -> jax.Array:
    """Report targets of pairs that have no meaning; returns the kinds of the pairs."""
    rule = "target must hold 1 (same), 0 (different) or -1 (ignored)"
    return expect(kind, unknown, target, f"{function}: {rule}")


def expect_ordered_boxes(function: str, name: str, boxes: jax.Array) -> jax.Array:
    """Report boxes whose second corner is not to the lower right of the first."""
    inverted = jnp.any(boxes[..., 2:] < boxes[..., :2], axis=-1)
    rule = f"{name} must hold boxes with x1 <= x2 and y1 <= y2"
    return expect(boxes, inverted, boxes, f"{function}: {rule}")

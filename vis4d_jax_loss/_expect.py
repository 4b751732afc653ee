"""The primitive that carries a value check through a compiled step.

How it works: ``expect(x, bad, values, message)`` returns ``x``. The primitive behind it compiles to
nothing, so a normal step computes no check. Padding may stay in ``x``: under ``checkify``, whose
float checks report each operation with a NaN as its result, ``cleaned`` is returned instead.
``checkify`` interprets a traced step and looks up a rule for each primitive in a registry. Our rule
calls ``checkify.debug_check`` there. Calling ``debug_check`` directly would be simpler, but it has
an effect, and JAX calls a compiled step with effects through Python, which is slower (see
docs/performance.md).
Use the returned array: otherwise some transformations, such as ``jax.checkpoint``, drop the check.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import checkify, jet
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_expected = Primitive("expected")


@_expected.def_impl
def _evaluate(x, cleaned, bad, values, message):
    return x


@_expected.def_abstract_eval
def _abstract(x, cleaned, bad, values, message):
    return x


def _lower(context, x, cleaned, bad, values, message):
    return [x]


def _jvp(primals, tangents, message):
    # The check has no derivative of its own.
    return _expected.bind(*primals, message=message), tangents[0]


def _batch(arrays, axes, message):
    sizes = (x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
    size = next(sizes)
    # ``bad`` and ``values`` must agree on their axes: put the batch first in both.
    first = [
        jnp.broadcast_to(x[None], (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(arrays, axes, strict=True)
    ]
    if axes[0] == axes[1]:
        return _expected.bind(*arrays[:2], *first[2:], message=message), axes[0]
    return _expected.bind(*first, message=message), 0


def _jet(primals_in: Any, series_in: Any, **params: Any) -> Any:
    return _expected.bind(*primals_in, **params), series_in[0]


mlir.register_lowering(_expected, _lower)
ad.primitive_jvps[_expected] = _jvp
batching.primitive_batchers[_expected] = _batch
jet.jet_rules[_expected] = _jet


def _debug_check(bad: jax.Array, values: jax.Array, message: str) -> None:
    """Report the first bad value, its place and the number of bad values."""
    if not bad.size:
        return
    # Neither reshaped nor indexed, since the arrays may be sharded explicitly.
    places = jnp.zeros(bad.shape, jnp.int32)
    for axis, length in enumerate(bad.shape):
        places = places * length + lax.broadcasted_iota(jnp.int32, bad.shape, axis)
    first = jnp.min(jnp.where(bad, places, bad.size - 1))
    place = jnp.unravel_index(first, bad.shape)
    shown: dict[str, Any] = {f"axis{i}": index for i, index in enumerate(place)}
    chosen = lax.expand_dims(places == first, range(bad.ndim, values.ndim))
    chosen = jnp.where(chosen, values, 0)
    got = jnp.ravel(jnp.sum(chosen, axis=tuple(range(bad.ndim))))
    shown |= {f"value{i}": number for i, number in enumerate(got)}
    value = ", ".join(f"{{value{i}}}" for i in range(got.size))
    value = f"({value})" if got.size > 1 else value
    axes = ", ".join(f"{{axis{i}}}" for i in range(bad.ndim))
    text = message.replace("{", "{{").replace("}", "}}")
    text += f", got {value} at ({axes}). Bad values: {{count}} of {bad.size}."
    count = jnp.sum(bad, dtype=jnp.int32)
    checkify.debug_check(count == 0, text, count=count, **shown)


def _check_directly(
    x: jax.Array,
    bad: jax.Array,
    values: jax.Array,
    message: str,
    cleaned: jax.Array | None = None,
) -> jax.Array:
    _debug_check(bad, values, message)
    return x if cleaned is None else cleaned


def _bind(
    x: jax.Array,
    bad: jax.Array,
    values: jax.Array,
    message: str,
    cleaned: jax.Array | None = None,
) -> jax.Array:
    return _expected.bind(x, x if cleaned is None else cleaned, bad, values, message=message)


def _checkify_rule(*arguments, message):
    """Run the check where checkify meets the primitive."""
    # The arguments before the operands differ between releases of JAX: pass them through unchanged.
    *state, _, cleaned, bad, values = arguments
    check = jax.jit(partial(_debug_check, message=message))
    with jax.disable_jit(False):  # so that the check is a single call even under disable_jit
        calls = jax.make_jaxpr(check)(bad, values).eqns
    if not calls:
        return state[0], cleaned
    error, _ = error_checks[calls[0].primitive](*state, bad, values, **calls[0].params)
    return error, cleaned


try:
    from jax._src.checkify import error_checks
except ImportError:
    # The registry is private, and JAX may move it. Then call debug_check: a compiled step is
    # slower, and vmap over an explicitly sharded axis fails.
    expect = _check_directly
else:
    error_checks[_expected] = _checkify_rule
    expect = _bind

"""The primitive that carries a value check through a compiled step.

How it works: ``expect(x, bad, message)`` returns ``x``, and the primitive behind it lowers to
nothing, so that a normal step computes no check. ``checkify`` interprets a traced step and looks up
a rule for each primitive in a registry; our rule runs ``checkify.debug_check`` at that place.
Binding ``debug_check`` directly would be simpler. It is an effect, however, and JAX calls a
compiled step that has an effect through Python, which is slower (see docs/performance.md).
The check depends on ``x``: use the returned array, or the check is dropped as dead code.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import checkify
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_expected = Primitive("expected")


@_expected.def_impl
def _evaluate(x, bad, message):
    return x


@_expected.def_abstract_eval
def _abstract(x, bad, message):
    return x


def _lower(context, x, bad, message):
    return [x]


def _jvp(primals, tangents, message):
    return _expected.bind(*primals, message=message), tangents[0]


def _batch(arrays, axes, message):
    return _expected.bind(*arrays, message=message), axes[0]


mlir.register_lowering(_expected, _lower)
ad.primitive_jvps[_expected] = _jvp
batching.primitive_batchers[_expected] = _batch


def _debug_check(bad: jax.Array, message: str) -> None:
    count = jnp.sum(bad, dtype=jnp.int32)
    checkify.debug_check(
        count == 0, f"{message}. Bad values: {{count}} of {bad.size}.", count=count
    )


def _check_directly(x: jax.Array, bad: jax.Array, message: str) -> jax.Array:
    _debug_check(bad, message)
    return x


def _bind(x: jax.Array, bad: jax.Array, message: str) -> jax.Array:
    return _expected.bind(x, bad, message=message)


def _rule(*arguments, message):
    """Run the check where checkify meets the primitive."""
    # The arguments before the operands differ between releases of JAX: pass them on unread.
    *state, x, bad = arguments
    check = jax.jit(partial(_debug_check, message=message))
    with jax.disable_jit(False):  # so that the check is traced as a single call
        (call,) = jax.make_jaxpr(check)(bad).eqns
    error, _ = error_checks[call.primitive](*state, bad, **call.params)
    return error, x


try:
    from jax._src.checkify import error_checks
except ImportError:
    # The registry is private, and JAX may move it. Checks still work then, but a step with a loss
    # is called through Python, and vmap over an explicitly sharded axis is not supported.
    expect = _check_directly
else:
    error_checks[_expected] = _rule
    expect = _bind

"""The primitive that carries a check: invisible in a normal step, run by checkify."""

import importlib.util
import re
import sys
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from vis4d_jax_loss import _expect, cross_entropy
from vis4d_jax_loss._expect import expect

GOOD, BAD = jnp.array([1.0, 2.0]), jnp.array([1.0, -2.0])


def doubled(x):
    return 2 * expect(x, x < 0, x, "f: x must not be negative")


def report_of(step, *arrays):
    error, _ = checkify.checkify(step)(*arrays)
    return (error.get() or "").removesuffix(" (`check` failed)")


@pytest.mark.parametrize("step", [doubled, jax.jit(doubled), jax.vmap(doubled)])
def test_the_array_is_returned_unchanged(step):
    np.testing.assert_array_equal(step(BAD), 2 * BAD)


def test_checkify_counts_the_bad_values():
    assert report_of(doubled, GOOD) == ""
    for step in (doubled, jax.jit(doubled)):
        assert (
            report_of(step, BAD)
            == "f: x must not be negative, got -2.0 at (1). Bad values: 1 of 2."
        )


def test_a_check_stays_in_the_gradient():
    def square(x):
        x = expect(x, x < 0, x, "f: x must not be negative")
        return jnp.sum(x * x)

    np.testing.assert_array_equal(jax.grad(square)(BAD), 2 * BAD)
    np.testing.assert_array_equal(jax.hessian(square)(BAD), 2 * np.eye(2))
    report = report_of(jax.jit(jax.grad(square)), BAD)
    assert report == "f: x must not be negative, got -2.0 at (1). Bad values: 1 of 2."


def test_a_check_is_mapped_by_vmap():
    rows = jnp.stack([GOOD, GOOD, BAD])
    np.testing.assert_array_equal(jax.vmap(doubled)(rows), 2 * rows)
    np.testing.assert_array_equal(jax.vmap(doubled, 1, 1)(rows), 2 * rows)
    report = report_of(jax.jit(jax.vmap(doubled)), rows)
    assert report == "f: x must not be negative, got -2.0 at (2, 1). Bad values: 1 of 6."


def test_the_place_counts_the_batch_axis_first():
    rows = jnp.stack([GOOD, BAD])
    for axis in (0, 1):
        step = jax.vmap(doubled, in_axes=axis, out_axes=axis)
        report = report_of(step, jnp.moveaxis(rows, 0, axis))
        assert report == "f: x must not be negative, got -2.0 at (1, 1). Bad values: 1 of 4."


def test_a_value_may_be_a_row_and_a_message_may_contain_braces():
    def step(x):
        return expect(x, x[:, 0] > x[:, 1], x, "f: {x} must be sorted")

    report = report_of(step, jnp.array([[1, 2], [4, 3]]))
    assert report == "f: {x} must be sorted, got (4, 3) at (1). Bad values: 1 of 2."


def test_an_empty_array_has_no_bad_value():
    assert report_of(doubled, jnp.zeros((0, 2))) == ""


def test_an_array_without_batch_axis_may_have_a_batch_of_checks():
    limits = jnp.array([[0.0, 0.0], [9.0, 9.0]])
    step = jax.vmap(lambda limit: 2 * expect(GOOD, limit > GOOD, GOOD, "f: x is too small"))
    np.testing.assert_array_equal(step(limits), [2 * GOOD] * 2)
    logits = jnp.array([[0.0, 1.0, 2.0], [3.0, 0.0, 1.0]])
    targets = jnp.array([[0, 1], [255, 2], [2, 255]])
    losses = jax.vmap(lambda target: cross_entropy(logits, target))(targets)
    assert jnp.array_equal(losses, jnp.stack([cross_entropy(logits, t) for t in targets]))


def test_a_compiled_step_contains_no_check():
    def plain(x):
        return 2 * x

    def instructions(step):
        text = jax.jit(step).lower(GOOD).compile().as_text()
        return re.findall(r" = \S+ (\w+)\(", text)

    assert instructions(doubled) == instructions(plain)
    assert "multiply" in instructions(plain)


def test_the_primitive_has_no_effect():
    # JAX calls a compiled step that has an effect through Python, which is slower.
    program = jax.make_jaxpr(doubled)(GOOD)
    assert "expected" in str(program)
    assert not program.effects


def test_checks_still_work_if_jax_moves_its_registry(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax._src.checkify", ModuleType("moved"))
    spec = importlib.util.spec_from_file_location("another_jax", _expect.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.expect is module._check_directly
    assert expect is _expect._bind

    def step(x):
        return 2 * module.expect(x, x < 0, x, "f: x must not be negative")

    assert jax.make_jaxpr(step)(GOOD).effects
    assert (
        report_of(jax.jit(step), BAD)
        == "f: x must not be negative, got -2.0 at (1). Bad values: 1 of 2."
    )
    np.testing.assert_array_equal(jax.jit(step)(GOOD), 2 * GOOD)

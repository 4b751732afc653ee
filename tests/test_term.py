"""A term as a pytree: the names of its array weights, and what may replace them."""

import jax
import jax.numpy as jnp
import optax
import pytest
from terms import BATCH, L1, L1_TERM, OUTPUTS, PAIR

from vis4d_jax_loss import LossModule, LossTerm, pred_key


def two(x):
    return {"a": x, "b": 2 * x, "c": 3 * x}


def learned():
    """An objective whose weights are arrays at every place where they may be."""
    some = {"a": jnp.float32(1), "b": 2.0, "c": jnp.float32(3)}
    inner = LossModule({"l1": LossTerm(L1, jnp.float32(4), PAIR)})
    return LossModule(
        {
            "box": LossTerm(L1, jnp.float32(5), PAIR),
            "dict": LossTerm(two, some, {"x": pred_key("value")}),
            "fixed": LossTerm(L1, 2.0, PAIR),
            "nested": LossTerm(inner, jnp.float32(6)),
        }
    )


def names(tree):
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def test_array_weights_have_names():
    assert names(learned()) == [
        ".terms['box'].weight",
        ".terms['dict'].weight['a']",
        ".terms['dict'].weight['c']",
        ".terms['nested'].loss.terms['l1'].weight",
        ".terms['nested'].weight",
    ]
    assert names(learned().terms["dict"]) == [".weight['a']", ".weight['c']"]
    assert names(LossModule({"l1": L1_TERM})) == []


def test_the_leaves_of_an_objective_may_be_chosen_by_name():
    def label(path, _):
        return "train" if "box" in jax.tree_util.keystr(path) else "keep"

    def labels(params):
        return jax.tree_util.tree_map_with_path(label, params)

    transform = optax.multi_transform(
        {"train": optax.sgd(1.0), "keep": optax.set_to_zero()}, labels
    )
    params = {"objective": learned()}
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = transform.update(ones, transform.init(params), params)
    assert [float(x) for x in jax.tree.leaves(updates)] == [-1, 0, 0, 0, 0]


def test_weights_of_a_nested_objective_are_leaves():
    outputs = OUTPUTS | {"value": jnp.float32(1)}
    traces = []

    @jax.jit
    def total(objective):
        traces.append(1)
        return objective(outputs, BATCH)[0]

    # 5 * 2 + (1 + 4 + 9) + 2 * 2 + 6 * 4 * 2
    assert total(learned()) == 10 + 14 + 4 + 48
    assert total(jax.tree.map(lambda x: 0 * x, learned())) == 4 + 4
    assert len(traces) == 1
    slopes = jax.grad(total)(learned())
    assert [float(x) for x in jax.tree.leaves(slopes)] == [2, 1, 3, 12, 8]


@pytest.mark.parametrize("other", [True, None, 1.5, "label", {"a": 1.0}])
def test_transformations_may_replace_weights_of_nested_objectives(other):
    replaced = jax.tree.map(lambda _: other, learned())
    again = jax.tree.map(lambda x: x, replaced)
    assert jax.tree.structure(again) == jax.tree.structure(replaced)
    assert jax.tree.leaves(replaced) == 5 * jax.tree.leaves(other)


def test_a_prefix_stands_for_all_weights_of_a_term():
    term = learned().terms["dict"]
    for other in (None, 7.0):
        replaced = jax.tree.map(
            lambda _, other=other: other, term, is_leaf=lambda x: isinstance(x, dict)
        )
        assert replaced.weight == {"a": other, "b": 2.0, "c": other}

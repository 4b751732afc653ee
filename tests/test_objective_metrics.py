"""Metrics of an objective without weights, and the names of its terms in a profile."""

import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import raises
from terms import BATCH, L1, L1_TERM, L2_TERM, OUTPUTS, PAIR, SEG_TERM, floats, value_term

import vis4d_jax_loss as vjl
from vis4d_jax_loss import LossModule, LossTerm, data_key, pred_key

TERMS = {
    "l1": LossTerm(L1, 10.0, PAIR),
    "l2": LossTerm(L2_TERM.loss, optax.linear_schedule(0.0, 1.0, 10), PAIR),
}


def test_unweighted_metrics_are_the_losses_themselves():
    objective = LossModule(TERMS, exclude="l1", unweighted=True)
    (total, metrics), gradient = jax.value_and_grad(objective, has_aux=True)(OUTPUTS, BATCH, step=5)
    assert floats(metrics) == {"l1": 2.0, "l2": 5.0, "loss": 2.5}
    assert total == 2.5
    np.testing.assert_allclose(gradient["x"], [0.5, 1.5])


def test_an_unweighted_metric_shows_a_loss_that_is_switched_off():
    objective = LossModule({"t": value_term(0.0)}, unweighted=True)
    total, metrics = objective({"value": jnp.bfloat16(3)}, {})
    assert (total, metrics["t"]) == (0, 3)
    assert metrics["t"].dtype == jnp.float32


def test_unweighted_metrics_of_a_dict_and_of_none():
    term = LossTerm(lambda x: {"a": x, "b": 2 * x, "c": None}, {"b": 5.0}, {"x": pred_key()})
    _, metrics = LossModule({"t": term}, unweighted=True)(jnp.float32(1), {})
    assert floats(metrics) == {"t.a": 1.0, "t.b": 2.0, "loss": 11.0}


@pytest.mark.parametrize(
    ("outer", "inner", "shown"),
    [(False, False, 60.0), (True, False, 2.0), (False, True, 6.0), (True, True, 2.0)],
)
def test_unweighted_metrics_of_nested_objectives(outer, inner, shown):
    # The weight of a term is left out if its objective, or one around it, is unweighted.
    head = LossModule({"l1": LossTerm(L1, 10.0, PAIR)}, unweighted=inner)
    objective = LossModule({"head": LossTerm(head, 3.0)}, unweighted=outer)
    total, metrics = objective(OUTPUTS, BATCH)
    assert floats(metrics) == {"head.l1": shown, "head.loss": 20.0 if outer else 60.0, "loss": 60.0}
    assert total == 60


def test_unweighted_is_part_of_the_value():
    plain, unweighted = LossModule(TERMS), LossModule(TERMS, unweighted=True)
    assert plain != unweighted
    assert unweighted == LossModule(TERMS, unweighted=True)
    assert len({plain, unweighted, LossModule(TERMS, unweighted=True)}) == 2
    assert jax.tree.structure(plain) != jax.tree.structure(unweighted)
    terms = {"l1": L1_TERM}
    pickled = pickle.loads(pickle.dumps(LossModule(terms, unweighted=True)))
    assert pickled == LossModule(terms, unweighted=True)
    step = jax.jit(lambda objective: objective(OUTPUTS, BATCH, step=10)[1])
    assert floats(step(plain))["l1"] == 20
    assert floats(step(unweighted))["l1"] == 2


def test_unweighted_must_be_a_bool():
    message = "LossModule: unweighted must be True or False, got str 'l1'."
    with raises(TypeError, message):
        LossModule(TERMS, unweighted="l1")


def test_weighted_metrics_are_computed_once():
    objective = LossModule({"l1": LossTerm(L1, jnp.float32(10), PAIR)})
    products = [str(e.primitive) for e in jax.make_jaxpr(objective)(OUTPUTS, BATCH).eqns]
    assert products.count("mul") == 1


# Names in a profile.


def scopes(function, *arguments):
    """The scopes of all operations of a lowered program."""
    lowered = jax.jit(function).lower(*arguments)
    text = lowered.compile().as_text()
    return re.findall(r'op_name="([^"]*)"', text)


def test_each_term_has_a_scope_of_its_name():
    inner = LossModule({"l1": L1_TERM, "seg": SEG_TERM})
    objective = LossModule({"head": inner, "roi.box": L2_TERM})
    outputs = {"x": jnp.arange(1.0, 3.0), "logits": jnp.ones((1, 2, 2, 2))}
    names = scopes(jax.value_and_grad(objective, has_aux=True), outputs, BATCH)
    for scope in ("head", "head/l1", "head/seg", "roi.box"):
        parts = [re.escape(part) for part in scope.split("/")]
        pattern = r"\b" + r"\)*/(?:\w+\()*".join(parts) + r"\b"
        assert any(re.search(pattern, name) for name in names), scope


def test_scopes_change_nothing_in_the_program():
    def by_hand(outputs, batch):
        a = L1(outputs["x"], batch["x"])
        b = 10.0 * L2_TERM.loss(outputs["x"], batch["x"])
        return a + b, {"l1": a, "l2": b, "loss": a + b}

    objective = LossModule({"l1": L1_TERM, "l2": LossTerm(L2_TERM.loss, 10.0, PAIR)})
    costs = []
    for loss in (objective, by_hand):
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        compiled = step.lower(OUTPUTS, BATCH).compile()
        analysis = compiled.cost_analysis()
        costs.append((analysis["bytes accessed"], compiled.memory_analysis().temp_size_in_bytes))
    assert costs[0] == costs[1]


def test_called_twice_eagerly_an_objective_compiles_at_most_once():
    schedule = optax.linear_schedule(0.0, 1.0, 10)
    objective = LossModule({"l1": LossTerm(L1, schedule, PAIR), "seg": SEG_TERM})
    step = jax.value_and_grad(objective, has_aux=True)
    step(OUTPUTS, BATCH, step=1)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    step(OUTPUTS, BATCH, step=2)
    assert compiled == []


def test_terms_are_a_mapping_of_terms():
    objective = LossModule([("l1", L1_TERM), ("in", LossModule({"l2": L2_TERM}))])
    assert dict(objective.terms)["l1"] == L1_TERM
    assert isinstance(objective.terms["in"], LossTerm)
    assert objective.terms["in"].loss.terms["l2"] == L2_TERM
    assert vjl.LossModule(objective.terms) == objective


# Recipes of docs/composition.md and docs/many_devices.md.


def test_an_epoch_is_averaged_by_sums_and_counts():
    inputs = PAIR | {"where": data_key("valid")}
    objective = LossModule(
        {
            "l1": LossTerm(L1, inputs=inputs),
            "l1_sum": LossTerm(vjl.L1Loss(vjl.sum_loss), inputs=inputs),
            "count": LossTerm(lambda where: jnp.sum(where), inputs={"where": data_key("valid")}),
        },
        exclude=("l1_sum", "count"),
    )
    rng = np.random.default_rng(0)
    x, valid = rng.normal(size=(3, 6)).astype(np.float32), rng.random((3, 6)) > 0.5
    metrics = [
        objective({"x": x[i]}, {"x": np.zeros(6, np.float32), "valid": valid[i]})[1]
        for i in range(3)
    ]
    sums = jax.tree.map(lambda *values: sum(map(float, values)), *metrics)
    assert sums["l1_sum"] / sums["count"] == pytest.approx(np.abs(x[valid]).mean())
    assert sums["l1"] / 3 != pytest.approx(np.abs(x[valid]).mean())


def test_multi_steps_with_uneven_counts_equal_the_whole_batch():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    valid = jnp.asarray([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]], bool)
    inputs = {"pred": pred_key(), "target": data_key("y"), "where": data_key("valid")}
    share = inputs | {"reducer": vjl.SumWeightedLoss(1.0, data_key("share"))}
    term = LossTerm(vjl.L2Loss(), inputs=share)
    whole = jax.grad(lambda w: vjl.l2_loss(w * x, 0 * x, vjl.mean_loss, where=valid))(
        jnp.float32(2)
    )

    def loss(w, i):
        batch = {"y": 0 * x[i], "valid": valid[i], "share": valid.sum() / 4}
        return LossModule({"l2": term})(w * x[i], batch)[0]

    optimizer = optax.MultiSteps(optax.sgd(1.0), every_k_schedule=4)
    w = jnp.float32(2)
    state = optimizer.init(w)
    for i in range(4):
        updates, state = optimizer.update(jax.grad(loss)(w, i), state, w)
        w = optax.apply_updates(w, updates)
    np.testing.assert_allclose(w, 2 - whole, rtol=1e-6)


def test_a_wrong_label_is_seen_in_the_loss_and_not_in_the_gradient():
    inputs = {"output": pred_key(), "target": data_key()}
    objective = LossModule({"ce": LossTerm(vjl.CrossEntropyLoss(vjl.mean_loss), inputs=inputs)})
    logits, labels = jnp.zeros((2, 3)), jnp.array([0, 7])
    (total, _), gradient = jax.value_and_grad(objective, has_aux=True)(logits, labels)
    assert np.isnan(total)
    assert np.isfinite(gradient).all()
    optimizer = optax.apply_if_finite(optax.sgd(1.0), 5)
    _, state = optimizer.update(gradient, optimizer.init(logits))
    assert state.total_notfinite == 0

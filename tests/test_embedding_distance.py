"""Embedding distance: mining by hand, the borders of the clamp, and ignored pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises
from jax import export
from jax.experimental import checkify

from vis4d_jax_loss import EmbeddingDistanceLoss, embedding_distance_loss, mean_loss
from vis4d_jax_loss._numerics import enable_x64

PRED = jnp.array([[0.9, 0.5, 0.2, 0.31, 0.8, 0.7]])
TARGET = jnp.array([[1, 0, 0, 0, 0, 0]])


def differentiate(pred, target, weight=None, **options):
    step = jax.jit(
        jax.value_and_grad(lambda p: embedding_distance_loss(p, target, weight, **options))
    )
    return step(jnp.asarray(pred))


def test_values_by_hand():
    value, gradient = differentiate(PRED, TARGET)
    np.testing.assert_allclose(value, (0.1**2 + 0.2**2 + 0.5**2 + 0.4**2) / 4, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.05, 0.1, 0, 0, 0.25, 0.2]], atol=1e-7)


@pytest.mark.parametrize(
    ("neg_pos_ub", "kept"), [(1.0, 1), (2.5, 2), (0.5, 0), (5.0, 5), (-1.0, 5), (0.0, 5)]
)
def test_the_maximum_number_of_negatives(neg_pos_ub, kept):
    _, weight, count = EmbeddingDistanceLoss(neg_pos_ub=neg_pos_ub).update_weight(
        PRED, TARGET, jnp.ones((1, 6))
    )
    assert count == 1 + kept
    hardest = np.argsort(-np.asarray(PRED[0, 1:]))[:kept] + 1
    np.testing.assert_array_equal(np.flatnonzero(weight), sorted([0, *hardest]))


def test_without_positives_the_maximum_is_that_of_one_positive():
    _, weight, count = EmbeddingDistanceLoss().update_weight(PRED, TARGET * 0, jnp.ones((1, 6)))
    np.testing.assert_array_equal(weight, [[1, 0, 0, 0, 1, 1]])
    assert count == 3
    assert embedding_distance_loss(PRED, TARGET * 0, neg_pos_ub=0.5) == 0  # no pair is kept


def test_ties_go_to_the_lowest_index():
    loss = EmbeddingDistanceLoss(neg_pos_ub=2.0)
    pred = jnp.array([[0.9, 0.5, 0.5], [0.5, 0.5, 0.5]])
    target = jnp.array([[1, 0, 0], [0, 0, 0]])
    _, weight, _ = loss.update_weight(pred, target, jnp.ones((2, 3)))
    np.testing.assert_array_equal(weight, [[1, 1, 1], [0, 0, 0]])
    # Above 1 the clamp makes the losses equal: the first pairs are kept.
    _, weight, _ = loss.update_weight(pred.at[1].set(7.0) + 1, target, jnp.ones((2, 3)))
    np.testing.assert_array_equal(weight, [[1, 1, 1], [0, 0, 0]])


def test_the_maximum_is_computed_as_in_python():
    pred, target = jnp.full((10, 20), 0.5), jnp.arange(200).reshape(10, 20) < 100
    _, _, count = EmbeddingDistanceLoss(neg_pos_ub=0.29).update_weight(
        pred, target, jnp.ones((10, 20))
    )
    assert count == 100 + 28


def test_the_clamp_passes_the_whole_gradient_at_its_borders():
    # Positives at 0 and 1, above 1 and below 0; then a negative at exactly 1 + margin.
    value, gradient = differentiate([[0.0, 1.0, 1.25, -0.125]], jnp.ones((1, 4)))
    assert value == (1 + 0 + 0 + 1) / 4
    np.testing.assert_array_equal(gradient, [[-0.5, 0, 0, 0]])
    _, gradient = differentiate([[1.25]], jnp.zeros((1, 1)), neg_margin=0.25)
    assert gradient == 2.0


def test_margins_by_hand():
    value, _ = differentiate([[1.0, 0.5]], jnp.array([[1, 0]]), pos_margin=0.3, neg_margin=0.1)
    np.testing.assert_allclose(value, (0.3**2 + 0.4**2) / 2, rtol=1e-6)
    value, _ = differentiate([[1.0, 0.5]], jnp.array([[1, 0]]), pos_margin=-0.3, neg_margin=-0.1)
    np.testing.assert_allclose(value, (0 + 0.5**2) / 2, rtol=1e-6)


def test_weights_scale_the_sum_but_not_the_order_or_the_count():
    weight = jnp.array([[0.5, 0.25, 1.0, 1.0, 0.01, 1.0]])
    value, _ = differentiate(PRED, TARGET, weight, neg_pos_ub=2.0)
    np.testing.assert_allclose(value, (0.5 * 0.1**2 + 0.01 * 0.5**2 + 1.0 * 0.4**2) / 3, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 0.99])
@pytest.mark.parametrize("how", ["target", "weight", "negative weight", "where"])
def test_ignored_pairs_change_nothing(how, bad):
    pred, target = jnp.array([[0.9, bad, 0.8, 0.7, 0.6]]), jnp.array([[1, 0, 0, 0, 0]])
    weight, where = jnp.ones((1, 5)), None
    if how == "target":
        target = target.at[0, 1].set(-1)
    elif how == "where":
        where = jnp.array([[True, False, True, True, True]])
        weight, target = weight.at[0, 1].set(jnp.nan), target.at[0, 1].set(7)
    else:
        weight = weight.at[0, 1].set(0.0 if how == "weight" else -3.0)
    value, gradient = differentiate(pred, target, weight, neg_pos_ub=2.0, where=where)
    kept = np.array([0, 2, 3, 4])
    expected, expected_gradient = differentiate(pred[:, kept], target[:, kept], neg_pos_ub=2.0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, kept], expected_gradient, rtol=1e-6)
    assert gradient[0, 1] == 0


def test_update_weight_returns_the_pairs_without_padding():
    where = jnp.array([[True, True, False, True, True, True]])
    pred = PRED.at[0, 2].set(jnp.nan)
    x, weight, _ = EmbeddingDistanceLoss().update_weight(
        pred, TARGET, jnp.ones((1, 6)), where=where
    )
    np.testing.assert_allclose(x, [[0.9, 0.2, 0, 0.01, 0.5, 0.4]], atol=1e-6)
    np.testing.assert_array_equal(weight, [[1, 1, 0, 0, 1, 1]])


@pytest.mark.parametrize("bad", [2.0, 0.5, np.nan])
def test_an_invalid_target_gives_nan(bad):
    target = TARGET.astype(float).at[0, 2].set(bad)
    assert np.isnan(embedding_distance_loss(PRED, target))
    assert not np.isnan(embedding_distance_loss(PRED, target, jnp.ones((1, 6)).at[0, 2].set(0)))


def test_weights_of_0_give_zero_loss_and_gradient():
    value, gradient = differentiate(PRED, TARGET, jnp.zeros((1, 6)))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_random_mining_keeps_the_same_number():
    loss = EmbeddingDistanceLoss(neg_pos_ub=2.0, hard_mining=False)
    chosen = set()
    for seed in range(8):
        key = jax.random.key(seed)
        _, weight, count = loss.update_weight(PRED, TARGET, jnp.ones((1, 6)), key)
        assert weight[0, 0] == 1
        assert weight.sum() == count == 3
        chosen.add(tuple(np.flatnonzero(weight)))
        assert loss(PRED, TARGET, key=key) >= 0
    assert len(chosen) > 2


def test_mining_under_vmap_and_in_half_precision():
    preds = jnp.stack([PRED, PRED[:, ::-1]]).astype(jnp.float16)
    targets = jnp.stack([TARGET, TARGET[:, ::-1]])
    losses = jax.vmap(EmbeddingDistanceLoss())(preds, targets)
    np.testing.assert_allclose(losses, [0.115, 0.115], rtol=1e-3)
    assert losses.dtype == jnp.float32


def test_a_large_half_precision_loss_does_not_overflow():
    pred = jnp.ones((300, 300), jnp.float16)
    assert embedding_distance_loss(pred, jnp.zeros((300, 300)), neg_pos_ub=0.0, neg_margin=0.0) == 1


BROADCAST = "Losses never broadcast: (N,) against (N, 1) would silently average N * N pairs."


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: embedding_distance_loss(PRED, TARGET[:, :1]),
            f"pred and target must have the same shape, got pred (1, 6) and target (1, 1). {BROADCAST}",
        ),
        (
            lambda: embedding_distance_loss(PRED, TARGET, jnp.ones((1, 1))),
            f"pred and weight must have the same shape, got pred (1, 6) and weight (1, 1). {BROADCAST}",
        ),
        (
            lambda: embedding_distance_loss(PRED, TARGET, hard_mining=False),
            "hard_mining=False needs key, got key None. Pass a jax.random key, a new one per step.",
        ),
    ],
)
def test_mistakes_are_errors(call, message):
    with raises(ValueError, f"embedding_distance_loss: {message}"):
        call()


def test_an_error_of_update_weight_names_the_method():
    message = (
        "EmbeddingDistanceLoss.update_weight: hard_mining=False needs key, got key None. "
        "Pass a jax.random key, a new one per step."
    )
    with raises(ValueError, message):
        EmbeddingDistanceLoss(hard_mining=False).update_weight(PRED, TARGET, jnp.ones((1, 6)))


EAGER = {
    "hard": lambda: embedding_distance_loss(PRED, TARGET),
    "ties": lambda: embedding_distance_loss(PRED * 0, TARGET, neg_pos_ub=2.0),
    "weighted": lambda: embedding_distance_loss(PRED, TARGET, jnp.ones((1, 6)), where=TARGET >= 0),
    "random": lambda: EmbeddingDistanceLoss(hard_mining=False)(PRED, TARGET, key=jax.random.key(0)),
    "traced": lambda: embedding_distance_loss(PRED, TARGET, neg_pos_ub=jnp.float32(2)),
}


@pytest.mark.parametrize("call", EAGER.values(), ids=EAGER)
def test_a_second_eager_call_compiles_nothing(call, caplog):
    call()
    caplog.clear()
    with jax.log_compiles():
        call()
    compiled = [r.getMessage() for r in caplog.records if "Finished XLA comp" in r.getMessage()]
    assert compiled == []


@pytest.mark.parametrize("call", EAGER.values(), ids=EAGER)
def test_without_jit(call):
    expected = call()
    with jax.disable_jit():
        np.testing.assert_allclose(call(), expected, rtol=1e-6)


@pytest.mark.parametrize("number", [float, np.float64, np.float32, np.int64, np.uint8, jnp.float32])
def test_options_may_be_numpy_scalars(number):
    options = dict(neg_pos_ub=number(1), pos_margin=number(0), neg_margin=number(1))
    expected = embedding_distance_loss(PRED + 0.5, TARGET, neg_pos_ub=1, pos_margin=0, neg_margin=1)
    for loss in (
        embedding_distance_loss(PRED + 0.5, TARGET, **options),
        EmbeddingDistanceLoss(**options)(PRED + 0.5, TARGET),
    ):
        assert loss == expected
        assert loss.dtype == jnp.float32


def test_options_of_numpy_or_traced_in_float64_leave_a_float32_loss_in_float32():
    with enable_x64(True):
        pred = PRED.astype(jnp.float32)
        for number in (np.float64, jnp.float64):
            options = [number(2), number(0.25), number(0.125)]

            def loss(*options):
                return embedding_distance_loss(pred, TARGET, None, mean_loss, *options)

            expected = loss(2.0, 0.25, 0.125)
            for got in (loss(*options), jax.jit(loss)(*options)):
                assert got.dtype == jnp.float32
                np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_traced_options():
    def loss(neg_pos_ub, pos_margin, neg_margin):
        return embedding_distance_loss(
            PRED,
            TARGET,
            neg_pos_ub=neg_pos_ub,
            pos_margin=pos_margin,
            neg_margin=neg_margin,
        )

    step = jax.jit(loss)
    for options in [(3.0, 0.0, 0.3), (2.5, 0.25, 0.125), (-1.0, -0.5, -0.5), (np.inf, 0.1, 0.0)]:
        np.testing.assert_allclose(step(*options), loss(*options), rtol=1e-6)
    assert step._cache_size() == 1
    # Learned margins: the sum of 2 (x - t) / 4 over the pairs whose x is inside of (0, 1).
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))(3.0, 0.25, 0.25)
    np.testing.assert_allclose(
        gradient, [0, 0.5 * (1 - 0.65), -0.5 * (0.25 + 0.45 + 0.55)], rtol=1e-5
    )
    gradient = jax.grad(loss, (1, 2))(3.0, -0.25, 0.0)
    np.testing.assert_array_equal(gradient, 0)
    many = jax.vmap(loss, (0, None, None))(jnp.array([1.0, 3.0]), 0.0, 0.3)
    np.testing.assert_allclose(many, [loss(1.0, 0.0, 0.3), loss(3.0, 0.0, 0.3)], rtol=1e-6)


def test_a_traced_bound_counts_in_float64():
    pred, target = jnp.full((10, 20), 0.5), jnp.arange(200).reshape(10, 20) < 100

    @jax.jit
    def count(neg_pos_ub):
        loss = embedding_distance_loss(pred, target, neg_pos_ub=neg_pos_ub, neg_margin=0.5)
        return 25 / loss  # 100 positives with the loss 0.25, the kept negatives with 0

    # The float32 number next to 0.29 is below it, the one next to 0.28 above it.
    np.testing.assert_allclose(count(0.29), 100 + 28, rtol=1e-5)
    np.testing.assert_allclose(count(0.28), 100 + 28, rtol=1e-5)


def test_export_with_symbolic_shapes():
    n, m = export.symbolic_shape("n, m")
    arrays = jax.ShapeDtypeStruct((n, m), jnp.float32), jax.ShapeDtypeStruct((n, m), jnp.int32)
    exported = export.export(jax.jit(embedding_distance_loss))(*arrays)
    np.testing.assert_allclose(exported.call(PRED, TARGET), 0.115, rtol=1e-6)
    np.testing.assert_allclose(
        exported.call(PRED.reshape(2, 3), TARGET.reshape(2, 3)), 0.115, rtol=1e-6
    )
    step = export.export(jax.jit(jax.value_and_grad(embedding_distance_loss)))(*arrays)
    np.testing.assert_allclose(step.call(PRED, TARGET)[1], differentiate(PRED, TARGET)[1])


class Scaled(EmbeddingDistanceLoss):
    temperature: float = 2.0

    def __call__(self, pred, target, *args, **kwargs):
        return super().__call__(pred / self.temperature, target, *args, **kwargs)


def test_a_subclass_with_a_field_of_its_own():
    loss = Scaled(neg_pos_ub=2.0, temperature=4.0)
    expected = embedding_distance_loss(PRED / 4, TARGET, neg_pos_ub=2.0)
    np.testing.assert_allclose(loss(PRED, TARGET), expected)
    assert loss.update_weight(PRED, TARGET)[2] == 3
    assert Scaled() == Scaled()


def test_the_weight_of_update_weight_is_1_by_default():
    loss = EmbeddingDistanceLoss(neg_pos_ub=2.0)
    default = loss.update_weight(PRED, TARGET)
    explicit = loss.update_weight(PRED, TARGET, jnp.ones((1, 6)))
    jax.tree.map(np.testing.assert_array_equal, default, explicit)


@pytest.mark.parametrize("sign", [0, 1])
def test_a_similarity_of_minus_infinity_is_limited_to_0(sign):
    pred = PRED.at[0, 0 if sign else 4].set(-jnp.inf)
    expected, _ = differentiate(jnp.where(pred < 0, -1, pred), TARGET)
    value, gradient = differentiate(pred, TARGET)
    assert value == expected
    assert np.isfinite(gradient).all()
    assert gradient[0, 0 if sign else 4] == 0
    hessian = jax.jit(jax.hessian(lambda p: embedding_distance_loss(p, TARGET)))(pred)
    assert np.isfinite(hessian).all()
    value, gradient = differentiate(pred * jnp.inf * -1, TARGET, neg_pos_ub=1.0)
    assert not np.isnan(gradient).any()


@jax.jit
def checked(pred, target, weight, where):
    return checkify.checkify(embedding_distance_loss)(pred, target, weight, where=where)


def report(pred, target, weight, where=None):
    where = jnp.ones(pred.shape, bool) if where is None else where
    error, _ = checked(pred, target, weight, where)
    return error.get()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_reported(bad):
    first, second = (0, 0), (0, 3)  # a positive and a negative
    target, weight = TARGET.astype(jnp.float32), jnp.ones((1, 6))
    where, ignored = jnp.ones((1, 6), bool), target.at[second].set(-1)
    for place in (first, second):
        found = report(PRED.at[place].set(bad), target, weight)
        if bad == -np.inf:
            assert found is None
        else:
            assert "embedding_distance_loss: pred must be finite" in found
        found = report(PRED, target.at[place].set(bad), weight)
        assert "embedding_distance_loss: target must hold 1" in found
        found = report(PRED, target, weight.at[place].set(bad))
        assert "embedding_distance_loss: weight must be finite" in found
        # Padding is never reported.
        mask = where.at[place].set(False)
        padded = [x.at[place].set(bad) for x in (PRED, target, weight)]
        assert report(*padded, where=mask) is None
    assert report(PRED.at[second].set(bad), ignored, weight.at[second].set(bad)) is None


FLOATS = ["float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float32"]


MIXTURES = [  # of similarities, weights and targets
    *((dtype, None, "int32") for dtype in FLOATS),
    *((dtype, dtype, dtype) for dtype in FLOATS),
    ("float32", "bfloat16", "int8"),
    ("float16", "bfloat16", "float32"),
    ("bfloat16", "float32", "float8_e4m3fn"),
    ("float8_e4m3fn", "float8_e5m2", "bool"),
    ("float8_e5m2", "float32", "float16"),
    ("float32", "float8_e4m3fn", "uint8"),
    ("float16", "int32", "float8_e5m2"),
]


@pytest.mark.parametrize(("dtype", "weight_dtype", "target_dtype"), MIXTURES)
def test_every_dtype_and_mixture(dtype, weight_dtype, target_dtype):
    pred = jnp.array([[0.875, 0.5, 0.25, 0.375, -0.75, 0.125]], dtype)
    target = jnp.array([[1, 0, 0, 0, 0, 0]]).astype(target_dtype)
    weight = None if weight_dtype is None else jnp.array([[1, 2, 1, 0, 1, 1]], weight_dtype)
    value, gradient = differentiate(pred, target, weight, neg_pos_ub=2.0, neg_margin=0.125)
    kept = [2, 1] if weight_dtype is not None else [1, 1]
    other = 0.125 if weight_dtype is not None else 0.25
    expected = (0.125**2 + kept[0] * 0.375**2 + kept[1] * other**2) / 3
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert value.dtype == jnp.float32
    assert gradient.dtype == pred.dtype
    assert np.isfinite(gradient.astype(np.float32)).all()


def test_float64_and_mixtures_with_it():
    with enable_x64(True):
        pred, target = jnp.array([[0.9, 0.5, 0.2]], jnp.float64), jnp.array([[1, 0, 0]])
        for weight in (None, jnp.ones((1, 3), jnp.float32), jnp.ones((1, 3), jnp.float64)):
            value, gradient = differentiate(pred, target, weight)
            np.testing.assert_allclose(value, (0.1**2 + 0.2**2) / 3, rtol=1e-12)
            assert value.dtype == gradient.dtype == jnp.float64
        value, gradient = differentiate(
            pred.astype(jnp.float32), target, jnp.ones((1, 3), jnp.float64)
        )
        assert (value.dtype, gradient.dtype) == (jnp.float64, jnp.float32)


def test_strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        for target in (TARGET, TARGET.astype(bool), TARGET.astype(jnp.uint8)):
            value, _ = differentiate(PRED, target, jnp.ones((1, 6), jnp.float16))
            np.testing.assert_allclose(value, 0.115, rtol=1e-6)


def test_nothing_is_nan_on_the_way():
    with jax.debug_nans(True):
        for pred in (PRED, PRED.at[0, 1].set(-jnp.inf)):
            jax.block_until_ready(differentiate(pred, TARGET))
            embedding_distance_loss(pred, TARGET)


@pytest.mark.parametrize("name", ["neg_pos_ub", "pos_margin", "neg_margin"])
def test_options_never_broadcast(name):
    for several in (jnp.ones(6), np.ones((1, 6)), (0.1, 0.2)):
        with pytest.raises(ValueError, match=f"embedding_distance_loss: {name} must be a scalar, "):
            embedding_distance_loss(PRED, TARGET, **{name: several})
        with pytest.raises(ValueError, match=f"EmbeddingDistanceLoss: {name} must be a scalar, "):
            EmbeddingDistanceLoss(**{name: several})

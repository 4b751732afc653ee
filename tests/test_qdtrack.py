"""QDTrack's identities: pairs by hand, padding that would match, lengths of 0, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import (
    EmbeddingDistanceLoss,
    MultiPosCrossEntropyLoss,
    QDTrackInstanceSimilarityLoss,
    qdtrack_instance_similarity_loss,
)

# One pair of images. Key 5 has the products 4, 0, 3 with the references 5, 6, 7; key 8 has none.
KEYS = jnp.array([[[1.0, 0.0], [0.0, 2.0]]])
REFS = jnp.array([[[[4.0, 0.0], [0.0, 1.0], [3.0, 4.0]]]])
KEY_IDS, REF_IDS = jnp.array([[5, 8]]), jnp.array([[[5, 6, 7]]])
TRACK = 0.25 * np.log1p(np.exp(-4) + np.exp(-1)) / (1 + 1e-5)  # only key 5 has a positive
# Cosines 1, 0, 0.6 and 0, 1, 0.8. One positive keeps three negatives, and 0.3 is subtracted.
AUX = (0 + 0.3**2 + 0.7**2 + 0.5**2) / 4


def both(losses):
    return np.array([losses.track_loss, losses.track_loss_aux])


def random_images(views, images, keys, refs, length=4):
    rng = np.random.default_rng(0)
    embeddings = (
        rng.normal(size=(images, keys, length)),
        rng.normal(size=(views, images, refs, length)),
    )
    ids = rng.integers(0, 3, (images, keys)), rng.integers(0, 3, (views, images, refs))
    return [x.astype(np.float32) for x in embeddings] + list(ids)


def test_both_losses_by_hand():
    losses = qdtrack_instance_similarity_loss(KEYS, REFS, KEY_IDS, REF_IDS)
    np.testing.assert_allclose(both(losses), [TRACK, AUX], rtol=1e-6)


def test_they_are_the_losses_of_each_pair_of_images():
    keys, refs, key_ids, ref_ids = random_images(views=2, images=3, keys=4, refs=5)
    expected = []
    for ref, ref_id in zip(refs.reshape(6, 5, 4), ref_ids.reshape(6, 5), strict=True):
        key, key_id = keys[len(expected) % 3], key_ids[len(expected) % 3]
        same = (key_id[:, None] == ref_id).astype(int)
        weight = same.any(1).astype(np.float32)
        length = np.linalg.norm(key, axis=1)[:, None] * np.linalg.norm(ref, axis=1)
        products = key @ ref.T
        track = MultiPosCrossEntropyLoss()(products, same, weight, weight.sum() + 1e-5)
        expected.append([0.25 * track, EmbeddingDistanceLoss()(products / length, same)])
    losses = jax.jit(qdtrack_instance_similarity_loss)(keys, refs, key_ids, ref_ids)
    np.testing.assert_allclose(both(losses), np.mean(expected, 0), rtol=1e-5)


@pytest.mark.parametrize("where", [[[True, True], [False, False]], [True, False]])
def test_images_without_objects_count_in_the_mean(where):
    two = [jnp.concatenate([x, x], axis) for x, axis in ((KEYS, 0), (REFS, 1))]
    two += [jnp.concatenate([x, x], axis) for x, axis in ((KEY_IDS, 0), (REF_IDS, 1))]
    losses = qdtrack_instance_similarity_loss(*two, key_where=jnp.array(where))
    np.testing.assert_allclose(both(losses), [TRACK / 2, AUX / 2], rtol=1e-6)


def test_padding_that_would_match_changes_nothing():
    """One more key and two more references, with the identities of valid objects."""
    masks = jnp.array([[True, False, True]]), jnp.array([[[True] * 3 + [False] * 2]])
    ids = jnp.array([[5, 5, 8]]), jnp.array([[[5, 6, 7, 5, 8]]])

    @jax.jit
    def step(keys, refs):
        options = dict(zip(("key_where", "ref_where"), masks, strict=True))
        losses = qdtrack_instance_similarity_loss(keys, refs, *ids, **options)
        return sum(losses), jnp.stack(losses)

    for bad in (0.0, 1.0, 1e30, jnp.nan, jnp.inf, -jnp.inf):
        keys = jnp.insert(KEYS, 1, bad, axis=1)
        refs = jnp.pad(REFS, ((0, 0), (0, 0), (0, 2), (0, 0)), constant_values=bad)
        gradients, losses = jax.grad(step, argnums=(0, 1), has_aux=True)(keys, refs)
        np.testing.assert_allclose(losses, [TRACK, AUX], rtol=1e-6)
        for gradient, where in zip(gradients, masks, strict=True):
            assert np.all(gradient[~where] == 0)
            assert np.isfinite(gradient).all()


def test_debugging_does_not_stop_in_padding_outside_of_jit():
    keys = jnp.asarray(np.insert(KEYS, 1, np.nan, axis=1))
    ids = jnp.array([[5, 5, 8]]), jnp.array([[[5, 6, 7]]])
    where = jnp.array([[True, False, True]])
    jax.config.update("jax_debug_nans", True)
    try:
        gradient = jax.grad(
            lambda keys: sum(qdtrack_instance_similarity_loss(keys, REFS, *ids, key_where=where))
        )(keys)
    finally:
        jax.config.update("jax_debug_nans", False)
    assert np.all(gradient[0, 1] == 0)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("masked", ["key_where", "ref_where"])
def test_if_everything_is_masked_losses_and_gradients_are_0(masked):
    keys, refs, *ids = random_images(views=2, images=2, keys=3, refs=4)
    where = np.zeros((2, 3) if masked == "key_where" else (2, 2, 4), bool)

    def loss(keys, refs):
        return sum(qdtrack_instance_similarity_loss(keys, refs, *ids, **{masked: where}))

    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(keys, refs)
    assert value == 0
    assert all(np.all(gradient == 0) for gradient in gradients)


@pytest.mark.parametrize("images", [(0, 1, 2, 2), (1, 0, 2, 2), (1, 1, 0, 2), (1, 1, 2, 0)])
def test_without_objects_the_losses_are_0(images):
    losses = qdtrack_instance_similarity_loss(*random_images(*images))
    np.testing.assert_array_equal(both(losses), 0)


def test_an_embedding_of_length_0_has_cosine_0_and_gradient_0():
    """Two pairs: the positive with a key of length 0, and a negative at the cosine 0.6."""
    keys, refs = jnp.array([[[0.0, 0.0], [1.0, 0.0]]]), jnp.array([[[[3.0, 4.0], [0.0, 0.0]]]])
    ids = jnp.array([[5, 6]]), jnp.array([[[5, 7]]])

    def aux(keys, refs):
        return qdtrack_instance_similarity_loss(keys, refs, *ids).track_loss_aux

    value, gradients = jax.jit(jax.value_and_grad(aux, (0, 1)))(keys, refs)
    # Cosines 0 (the positive), 0, 0.6 and 0: all three negatives are kept.
    np.testing.assert_allclose(value, (1 + 0 + 0.3**2 + 0) / 4, rtol=1e-6)
    np.testing.assert_array_equal(gradients[0][0, 0], 0)
    np.testing.assert_array_equal(gradients[1][0, 0, 1], 0)
    assert np.abs(gradients[0][0, 1]).max() > 0.1
    second = jax.jit(jax.hessian(aux, (0, 1)))(keys, refs)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(second))


@pytest.mark.parametrize("length", [1e-9, 1.0, 1e15])
def test_cosines_do_not_depend_on_the_length(length):
    def aux(keys):
        return qdtrack_instance_similarity_loss(keys, REFS, KEY_IDS, REF_IDS).track_loss_aux

    value, gradient = jax.jit(jax.value_and_grad(aux))(length * KEYS)
    np.testing.assert_allclose(value, AUX, rtol=1e-5)
    # Cosines change only if a key turns. Key 8 points to y; its cosine 0.8 grows towards (3, 4).
    np.testing.assert_allclose(
        gradient[0, 1] * length, [2 * 0.5 / 4 * 0.6 / 2, 0], rtol=1e-4, atol=1e-6
    )


def test_unknown_identities_match_unless_they_are_masked():
    key_ids, ref_ids = jnp.array([[5, -1]]), jnp.array([[[5, -1, -1]]])
    matched = qdtrack_instance_similarity_loss(KEYS, REFS, key_ids, ref_ids)
    # Key 2 has products 0 (a negative), 2 and 8.
    second = np.log1p(np.exp(-2) + np.exp(-8))
    first = np.log1p(np.exp(-4) + np.exp(-1))
    np.testing.assert_allclose(matched.track_loss, 0.25 * (first + second) / 2.00001, rtol=1e-6)
    masked = qdtrack_instance_similarity_loss(KEYS, REFS, key_ids, ref_ids, key_where=key_ids >= 0)
    np.testing.assert_allclose(masked.track_loss, TRACK, rtol=1e-6)


@pytest.mark.parametrize(("temperature", "factor"), [(2.0, 0.5), (0.5, 2.0), (0.0, 1), (-3.0, 1)])
def test_the_temperature_divides_products_and_not_cosines(temperature, factor):
    expected = 0.25 * np.log1p(np.exp(-4 * factor) + np.exp(-1 * factor)) / (1 + 1e-5)
    inputs = KEYS, REFS, KEY_IDS, REF_IDS

    def loss(temperature):
        return qdtrack_instance_similarity_loss(*inputs, softmax_temp=temperature)

    for losses in (loss(temperature), jax.jit(loss)(temperature)):
        np.testing.assert_allclose(both(losses), [expected, AUX], rtol=1e-5)
    assert QDTrackInstanceSimilarityLoss(temperature)(*inputs) == loss(temperature)


@pytest.mark.parametrize(
    ("key_ids", "ref_ids"),
    [
        (np.array([[5, 8]], np.uint8), np.array([[[5, 6, 7]]], np.int32)),
        (np.array([[5.0, 8.0]], np.float32), np.array([[[5, 6, 7]]], np.int16)),
        (np.array([[2**40 + 5, 8]]), np.array([[[2**40 + 5, 6, 2**40 + 4]]])),
        (np.array([[2**24 + 1, 8]]), np.array([[[2**24 + 1, 2**24, 2**24 + 2]]])),
    ],
)
def test_identities_of_any_dtype(key_ids, ref_ids):
    with jax.numpy_dtype_promotion("strict"):
        losses = qdtrack_instance_similarity_loss(KEYS, REFS, key_ids, ref_ids)
    np.testing.assert_allclose(both(losses), [TRACK, AUX], rtol=1e-6)


def test_embeddings_are_multiplied_once():
    program = jax.make_jaxpr(qdtrack_instance_similarity_loss)(KEYS, REFS, KEY_IDS, REF_IDS)
    assert str(program).count("dot_general") == 1


def test_the_mesh_axis_covers_the_pairs_of_images():
    """Two shards that ``vmap`` simulates, of which the second one has no positive."""
    keys, refs, key_ids, ref_ids = random_images(views=2, images=4, keys=3, refs=5)
    key_ids[2:] = 9
    expected = qdtrack_instance_similarity_loss(keys, refs, key_ids, ref_ids)
    shards = [x.reshape(2, 2, *x.shape[1:]) for x in (keys, key_ids)]
    shards += [np.stack(np.split(x, 2, axis=1)) for x in (refs, ref_ids)]
    loss = QDTrackInstanceSimilarityLoss(axis_name="data")
    losses = jax.jit(jax.vmap(lambda k, i, r, j: loss(k, r, i, j), axis_name="data"))(*shards)
    np.testing.assert_allclose(both(losses), both(expected)[:, None].repeat(2, 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            {"key_embeddings": KEYS[0]},
            ValueError,
            "key_embeddings must be [B, N, D], got key_embeddings (2, 2). Axes of size 1 never broadcast.",
        ),
        (
            {"ref_embeddings": REFS[..., :1]},
            ValueError,
            "ref_embeddings must be [V, B, M, D] if key_embeddings is [B, N, D], got key_embeddings (1, 2, 2) and ref_embeddings (1, 1, 3, 1). Axes of size 1 never broadcast.",
        ),
        (
            {"ref_track_ids": REF_IDS[..., :1]},
            ValueError,
            "ref_track_ids must be [V, B, M] if key_embeddings is [B, N, D], got key_embeddings (1, 2, 2) and ref_track_ids (1, 1, 1). Axes of size 1 never broadcast.",
        ),
        (
            {"key_where": jnp.ones(2, bool)},
            ValueError,
            "key_where must cover the leading axes of the loss, got key_where (2,) and loss (1, 2). A mask is never matched to trailing axes.",
        ),
        (
            {"ref_where": jnp.ones((1, 1, 3))},
            TypeError,
            "ref_where must be boolean, got ref_where float32. True means valid, False means padding; weights belong in SumWeightedLoss.",
        ),
        (
            {"softmax_temp": None},
            TypeError,
            "softmax_temp must be a number, got softmax_temp None.",
        ),
    ],
)
def test_mistakes_are_errors(change, kind, message):
    inputs = {
        "key_embeddings": KEYS,
        "ref_embeddings": REFS,
        "key_track_ids": KEY_IDS,
        "ref_track_ids": REF_IDS,
    }
    with raises(kind, f"qdtrack_instance_similarity_loss: {message}"):
        qdtrack_instance_similarity_loss(**inputs | change)

"""Which labels are classes, which are ignored, and which are mistakes, for every dtype."""

import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises
from jax.experimental import checkify

from vis4d_jax_loss import (
    CrossEntropyLoss,
    MultiLevelSegLoss,
    SegCrossEntropyLoss,
    cross_entropy,
    multi_level_seg_loss,
    seg_cross_entropy_loss,
    sum_loss,
)
from vis4d_jax_loss._numerics import enable_x64
from vis4d_jax_loss.losses._labels import (
    FROM_MODULE,
    ignored_labels,
    labels_as_array,
    read_labels,
)


def read(target, ignore_index=None, num_classes=3, mask=None):
    """The labels of classes; -1 if skipped, and -2 if invalid."""
    target = labels_as_array(target)
    labels = read_labels("f", target, ignore_index, num_classes, mask)
    shown = jnp.where(labels.skipped, -1, labels.value)
    return jnp.where(labels.invalid, -2, shown).tolist()


CLASS, SKIPPED, INVALID = 1, -1, -2


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.uint32, np.float32])
def test_labels_by_hand(dtype):
    target = np.array([0, 1, 2, 3, 200], dtype)
    for labels in (target, jnp.asarray(target)):
        assert read(labels) == [0, 1, 2, INVALID, INVALID]
        assert read(labels, 200) == [0, 1, 2, INVALID, SKIPPED]
        assert read(labels, (0, 200)) == [SKIPPED, 1, 2, INVALID, SKIPPED]


def test_masked_labels_are_skipped_whatever_they_are():
    mask = jnp.array([True, False])
    assert read(np.array([1, 99]), mask=mask) == [CLASS, SKIPPED]
    assert read(np.array([[1, 2], [99, -7]]), mask=mask) == [[1, 2], [SKIPPED, SKIPPED]]


@pytest.mark.parametrize("ignore_index", [None, (), []])
def test_no_label_is_ignored(ignore_index):
    assert read(np.array([0, 255, -1]), ignore_index, 256) == [0, 255, INVALID]


@pytest.mark.parametrize(
    "ignore_index", [(0, 2), [0, 2], np.array([0, 2]), jnp.array([0, 2]), range(0, 3, 2)]
)
def test_several_labels_are_ignored(ignore_index):
    assert read(np.array([0, 1, 2, 3]), ignore_index) == [SKIPPED, 1, SKIPPED, INVALID]


@pytest.mark.parametrize("ignore_index", [2, (2,), (2, 0)])
def test_ignored_labels_may_be_traced(ignore_index):
    labels = jnp.array([0, 1, 2, 3])
    step = jax.jit(lambda ignored: read_labels("f", labels, ignored, 3, None).skipped)
    expected = [label in np.atleast_1d(ignore_index) for label in range(4)]
    assert step(ignore_index).tolist() == expected
    assert step(jax.tree.map(jnp.asarray, ignore_index)).tolist() == expected


def test_a_traced_array_of_labels_is_ignored():
    labels = jnp.array([0, 1, 2])
    step = jax.jit(lambda ignored: read_labels("f", labels, ignored, 3, None).skipped)
    assert step(jnp.array([0, 2])).tolist() == [True, False, True]


@pytest.mark.parametrize("label", [2**30, 2**31 - 1, -(2**30), -(2**31), 2**30 + 1])
def test_the_ignored_label_may_be_any_int32(label):
    assert read(np.array([1, label], np.int32), label) == [CLASS, SKIPPED]
    assert read(np.array([1, label], np.int32), label - 1 if label > 0 else label + 1) == [
        CLASS,
        INVALID,
    ]
    assert read(jnp.array([1, label], jnp.int32), label) == [CLASS, SKIPPED]
    assert read(np.array([1, label], np.int64), label) == [CLASS, SKIPPED]


@pytest.mark.parametrize("label", [2**32, 2**32 + 1, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63)])
def test_wide_labels_of_numpy_never_wrap_to_a_class(label):
    assert read(np.array([1, label])) == [CLASS, INVALID]
    assert read(np.array([1, label]), 0) == [CLASS, INVALID]
    assert np.isnan(cross_entropy(jnp.zeros((2, 3)), np.array([1, label]))[1])


@pytest.mark.parametrize("label", [2**32, 2**32 + 1, 2**31, -(2**31) - 1, 2**63 - 1])
def test_wide_labels_of_numpy_are_ignored_by_their_whole_value(label):
    assert read(np.array([1, label]), label) == [CLASS, SKIPPED]
    assert read(np.array([0, label]), label) == [0, SKIPPED]
    assert read(np.array([1, label]), (7, label)) == [CLASS, SKIPPED]


def test_unsigned_labels():
    largest = 2**32 - 1
    for target in (np.array([1, largest], np.uint32), jnp.array([1, largest], jnp.uint32)):
        assert read(target) == [CLASS, INVALID]
        assert read(target, -1) == [CLASS, INVALID]
        assert read(target, largest) == [CLASS, SKIPPED]
    assert read(np.array([1, 2**64 - 1], np.uint64)) == [CLASS, INVALID]
    assert read(np.array([1, 2**64 - 1], np.uint64), 2**64 - 1) == [CLASS, SKIPPED]


def test_a_wide_ignored_label_matches_no_narrow_label():
    for label in (2**32 + 1, 2**64 + 1):
        assert read(np.array([1, 2], np.int32), label) == [CLASS, 2]
        assert read(np.array([1, 2], np.uint8), label) == [CLASS, 2]


def test_wide_labels_if_64_bits_are_allowed():
    with enable_x64(True):
        target = jnp.array([1, 2**32 + 1])
        assert target.dtype == jnp.int64
        assert read(target) == [CLASS, INVALID]
        assert read(target, 2**32 + 1) == [CLASS, SKIPPED]


def test_float_labels():
    target = jnp.array(
        [0.0, 1.9, -0.9, 255.0, 3.0, -1.0, jnp.nan, jnp.inf, -jnp.inf, 1e30, 2.0**31]
    )
    expected = [0, 1, 0, SKIPPED, *[INVALID] * 7]
    assert read(target, 255) == expected
    assert read(target.astype(jnp.bfloat16), 255) == expected
    assert read(target, (255, -(2**31), 2**31 - 1)) == expected


def test_a_list_of_labels():
    assert read([0, 1, 5]) == [0, 1, INVALID]


def test_a_report_shows_the_whole_label():
    def step(target):
        return cross_entropy(jnp.zeros((2, 3)), target)

    error, _ = checkify.checkify(step)(jnp.array([1, 7]))
    assert "labels from 0 to 2, or ignore_index, got 7 at (1)." in error.get()
    error, _ = checkify.checkify(lambda: step(np.array([1, 2**32 + 2])))()
    assert "labels from 0 to 2, or ignore_index, got 4294967296.0 at (1)." in error.get()


@pytest.mark.parametrize(
    "bad", ["255", 255.0, True, {0, 255}, (0, 1.5), ((0, 1), 2), np.array([[0]]), jnp.array([0.0])]
)
def test_an_ignored_label_must_be_a_whole_number(bad):
    message = (
        "f: ignore_index must be a label, a tuple of labels, or None for no label, "
        f"got ignore_index {bad!r}."
    )
    with raises(TypeError, message):
        ignored_labels("f", bad)


MODULES = [CrossEntropyLoss, SegCrossEntropyLoss, MultiLevelSegLoss]


@pytest.mark.parametrize("kind", MODULES)
def test_a_module_checks_its_ignored_label_when_it_is_created(kind):
    message = (
        f"{kind.__name__}: ignore_index must be a label, a tuple of labels, or None for no label, "
        "got ignore_index 'void'."
    )
    with raises(TypeError, message):
        kind(ignore_index="void")


LOGITS = jnp.zeros((1, 2, 3, 4))
TARGET = jnp.array([[[0, 1, 2], [3, 255, 255]]])  # 4 classes, and two pixels without a label


def loss_of(kind, *arguments, **options):
    """The sum over pixels, in units of log 4: the number of pixels that are not ignored."""
    logits = [LOGITS] if kind is MultiLevelSegLoss else LOGITS
    losses = kind(sum_loss, **options)(logits, TARGET, *arguments)
    (loss,) = jax.tree.leaves(losses)
    return float(loss / jnp.log(4.0))


@pytest.mark.parametrize("kind", MODULES)
def test_the_ignored_label_is_an_option_of_the_module(kind):
    assert loss_of(kind) == pytest.approx(4)
    assert loss_of(kind, ignore_index=(0, 255)) == pytest.approx(3)
    assert loss_of(kind, ignore_index=[0, 1, 255]) == pytest.approx(2)
    assert np.isnan(loss_of(kind, ignore_index=0))
    assert np.isnan(loss_of(kind, ignore_index=None))


@pytest.mark.parametrize("kind", MODULES)
def test_the_ignored_label_of_a_call_replaces_that_of_the_module(kind):
    place = (None,) if kind is CrossEntropyLoss else ()  # the reducer comes first there
    assert loss_of(kind, *place, (0, 255), ignore_index=None) == pytest.approx(3)
    assert np.isnan(loss_of(kind, *place, None))  # None is a value, not "unset"
    assert loss_of(kind, *place, FROM_MODULE, ignore_index=(0, 255)) == pytest.approx(3)


@pytest.mark.parametrize("kind", MODULES)
def test_modules_with_the_same_ignored_labels_are_equal(kind):
    assert kind(ignore_index=[0, 255]) == kind(ignore_index=(0, 255))
    assert kind(ignore_index=0) == kind(ignore_index=0) != kind()
    assert hash(kind(ignore_index=0)) == hash(kind(ignore_index=0))
    module = kind(ignore_index=None)
    assert pickle.loads(pickle.dumps(module)) == module
    assert repr(module) == f"{kind.__name__}(ignore_index=None)"


def test_the_default_of_a_call_says_what_it_means():
    assert repr(FROM_MODULE) == "<the module's own>"


def message_for(classes):
    return (
        f"cross_entropy: class 255 of {classes} is never learned, because ignore_index contains "
        "255. Pass ignore_index=None to ignore no label, or the label to ignore."
    )


LOSSES = {
    "cross_entropy": cross_entropy,
    "seg_cross_entropy_loss": seg_cross_entropy_loss,
    "multi_level_seg_loss": lambda output, target, **options: multi_level_seg_loss(
        [output], target, **options
    )["loss_seg_level0"],
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_default_warns_if_255_is_a_class(name):
    loss, target = LOSSES[name], jnp.zeros((1, 1, 1), int)
    for classes in (256, 300):
        with pytest.warns(UserWarning, match="class 255") as caught:
            loss(jnp.zeros((1, 1, 1, classes)), target)
        assert [str(warning.message) for warning in caught] == [message_for(classes)]
    with pytest.warns(UserWarning, match="class 255 of 256 is never learned"):
        loss(jnp.zeros((1, 1, 1, 256)), target, ignore_index=(0, 255))


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_warns_if_255_is_not_a_class_or_not_ignored(name):
    loss, target = LOSSES[name], jnp.full((1, 1, 1), 255)
    loss(jnp.zeros((1, 1, 1, 255)), target)  # a warning is an error in these tests
    for ignore_index in (None, -1, (), (-1, 254)):
        value = loss(jnp.zeros((1, 1, 1, 300)), target, ignore_index=ignore_index, reducer=sum_loss)
        np.testing.assert_allclose(value, np.log(300), rtol=1e-6)


@pytest.mark.parametrize("ignore_index", [1, (1,), (1, 7)])
def test_a_traced_ignored_label_has_zero_loss_and_gradient(ignore_index):
    logits = jnp.array([[0.0, 0.0], [jnp.nan, 9.0]])

    def loss(logits, ignore_index):
        return cross_entropy(logits, jnp.array([0, 1]), ignore_index=ignore_index, reducer=sum_loss)

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits, ignore_index)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.5, 0.5], [0, 0]], rtol=1e-6)


def test_another_ignored_label_per_image_by_vmap():
    labels = jnp.array([[0, 1], [0, 1]])
    losses = jax.vmap(partial(cross_entropy, jnp.zeros((2, 2))))
    skipped = jax.vmap(
        lambda target, ignored: cross_entropy(jnp.zeros((2, 2)), target, ignore_index=ignored)
    )(labels, jnp.array([0, 1]))
    np.testing.assert_allclose(skipped, losses(labels) * (1 - np.eye(2)), rtol=1e-6)

"""What the compiler makes of each loss: memory, and passes over the data. Time is for benchmarks."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, HEADS, every_loss, total
from versions import needs_jax

import vis4d_jax_loss as vjl

MEAN = vjl.mean_loss
SLACK = 1.04  # partial sums of several threads
VECTOR, BOXES, PAIRS = (400_000,), (100_000, 4), (256, 512)


def array(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def compiled(function, *arrays):
    return jax.jit(function).lower(*arrays).compile()


def temporaries(loss, *arrays):
    """Bytes that value and gradient need in addition to inputs and results."""
    return compiled(jax.value_and_grad(loss), *arrays).memory_analysis().temp_size_in_bytes


def size(*arrays):
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in arrays)


def step(case):
    """Value and gradient of a row of ``cases.py``."""
    return jax.value_and_grad(lambda wrt, inputs: total(case(inputs | wrt)))


def shapes(case, times=1):
    """The inputs of a row, with ``times`` as many elements on the first axis."""

    def shape(x):
        dtype = jax.dtypes.canonicalize_dtype(x.dtype)
        return array(x.shape[0] * times, *x.shape[1:], dtype=dtype)

    inputs = jax.tree.map(shape, case.inputs)
    return {name: inputs[name] for name in case.wrt}, inputs


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@every_loss
def test_every_loss_lowers_for_accelerators(case, platform):
    lowered = jax.jit(step(case)).trace(*shapes(case)).lower(lowering_platforms=(platform,))
    assert "func.func public @main" in lowered.as_text()


# Losses that store more than their inputs, and how much more.
# These rows have 3 to 5 classes or columns, so that numbers per element or row weigh more than usual;
# test_benchmarks.py has the usual sizes.
LARGE = {
    "cross_entropy": 1.5,
    "cross_entropy_smoothed": 3.4,
    "cross_entropy_with_probabilities": 1.4,
    "softmax_focal_loss": 2.3,
    "dice_loss": 1.6,
    "multi_pos_cross_entropy": 1.5,
    "sigmoid_focal_loss": 1.5,  # its gamma of 0.5 is a power, which value and derivative share
}


# QDTrack compares all rows with all others; test_benchmarks.py has its usual size.
@pytest.mark.parametrize(
    "case",
    [c for c in [*CASES, *HEADS] if c.name != "qdtrack_instance_similarity_loss"],
    ids=repr,
)
def test_value_and_gradient_store_less_than_the_inputs(case):
    wrt, inputs = shapes(case, times=20_000)
    memory = compiled(step(case), wrt, inputs).memory_analysis()
    limit = LARGE.get(repr(case), 1) * SLACK * size(*jax.tree.leaves(inputs))
    assert memory.temp_size_in_bytes <= limit


def program(function, *arrays):
    """The compiled main computation, one instruction per line."""
    text = compiled(function, *arrays).as_text()
    return text[text.index("ENTRY") :]


def passes(loss, *arrays):
    """Instructions of the program whose result is as large as the gradient."""
    shape = ",".join(map(str, arrays[0].shape))
    instructions = re.findall(rf"= \w+\[{shape}\]\S* (\w[\w-]*)\(", program(loss, *arrays))
    # Before JAX 0.10, a fusion that uses several threads is a call.
    names = [name.replace("call", "fusion") for name in instructions]
    return [name for name in names if name not in ("parameter", "bitcast")]


SMOOTH = [vjl.SmoothL1Loss(MEAN, beta) for beta in (1.0, 0.5, 1 / 9, 2.0)]


@needs_jax("0.10", "before it, XLA stores one loss per element to add them up")
@pytest.mark.parametrize("loss", [vjl.L1Loss(MEAN), vjl.L2Loss(MEAN), *SMOOTH])
def test_regression_stores_only_the_gradient(loss):
    inputs = array(*VECTOR), array(*VECTOR)
    assert temporaries(loss, *inputs) < 1000
    # A difference stored for value and gradient would use the memory of the gradient, and not be
    # counted as temporary.
    assert passes(jax.value_and_grad(loss), *inputs) == ["fusion"]


BINARY = [
    vjl.BinaryCrossEntropyLoss(MEAN),
    vjl.BinaryCrossEntropyLoss(MEAN, pos_weight=3.0),
    vjl.SigmoidFocalLoss(MEAN),
    vjl.HeatmapFocalLoss(MEAN),
]


@needs_jax("0.10", "before it, XLA fuses these losses in another way")
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, bool])
@pytest.mark.parametrize("loss", BINARY)
def test_losses_of_binary_targets_store_no_more_than_their_inputs_in_float32(loss, dtype):
    kind = np.float32 if dtype is bool else dtype
    inputs = array(*BOXES, dtype=kind), array(*BOXES, dtype=dtype)
    limit = SLACK * 2 * size(array(*BOXES))
    assert temporaries(loss, *inputs) <= limit
    where = array(BOXES[0], dtype=bool)
    assert temporaries(lambda p, t, where: loss(p, t, where=where), *inputs, where) <= limit


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize("loss", [vjl.L1Loss(MEAN), vjl.L2Loss(MEAN), vjl.SmoothL1Loss(MEAN)])
def test_regression_in_half_precision_stores_no_more_than_its_inputs(loss, dtype):
    inputs = array(*VECTOR, dtype=dtype), array(*VECTOR, dtype=dtype)
    assert temporaries(loss, *inputs) <= SLACK * size(*inputs)


@pytest.mark.parametrize("loss", SMOOTH)
def test_smooth_l1_of_boxes_stores_its_losses_and_the_gradient(loss):
    inputs = array(*BOXES), array(*BOXES)
    assert temporaries(loss, *inputs) <= SLACK * size(inputs[0])
    assert passes(jax.grad(loss), *inputs) == ["fusion"]
    assert passes(jax.value_and_grad(loss), *inputs) == ["fusion"] * 2


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("mode", ["linear", "square", "log"])
def test_iou_stores_a_few_numbers_per_box_and_takes_one_pass_for_the_gradient(mode, masked):
    inputs, where = (array(*BOXES), array(*BOXES)), array(BOXES[0], dtype=bool)

    def loss(pred, target, where):
        return vjl.iou_loss(pred, target, MEAN, mode, where=where if masked else None)

    assert temporaries(loss, *inputs, where) <= SLACK * size(*inputs) / 2
    assert passes(jax.value_and_grad(loss), *inputs, where) == ["fusion"]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", [vjl.GIoULoss(MEAN), vjl.DIoULoss(MEAN), vjl.CIoULoss(MEAN)])
def test_giou_stores_no_more_than_its_inputs_and_takes_one_pass_for_the_gradient(loss, masked):
    inputs, where = (array(*BOXES), array(*BOXES)), array(BOXES[0], dtype=bool)

    def step(pred, target, where):
        return loss(pred, target, where=where if masked else None)

    assert temporaries(step, *inputs, where) <= size(*inputs)
    assert passes(jax.value_and_grad(step), *inputs, where) == ["fusion"]


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("loss", [vjl.L1Loss(MEAN), vjl.L2Loss(MEAN), vjl.SmoothL1Loss(MEAN)])
def test_masked_regression_stores_no_more_than_its_inputs_in_float32(loss, dtype):
    inputs = array(*BOXES, dtype=dtype), array(*BOXES, dtype=dtype)
    where = array(BOXES[0], dtype=bool)
    masked = compiled(
        jax.value_and_grad(lambda p, t, where: loss(p, t, where=where)), *inputs, where
    )
    limit = SLACK * 2 * size(array(*BOXES))
    assert masked.memory_analysis().temp_size_in_bytes <= limit


def test_rotation_stores_no_more_than_its_inputs():
    inputs = array(50_000, 6), array(50_000, 2), array(50_000, 2)
    assert temporaries(vjl.RotationLoss(MEAN), *inputs) <= size(*inputs)


@pytest.mark.parametrize("where", [False, True])
@pytest.mark.parametrize("axis", [1, -1])
def test_segmentation_stores_no_more_than_its_logits(axis, where):
    shape = (2, 19, 32, 64) if axis == 1 else (2, 32, 64, 19)
    logits, labels = array(*shape), array(2, 32, 64, dtype=np.int32)

    def loss(z, y):
        mask = y != 255 if where else None
        return vjl.seg_cross_entropy_loss(z, y, class_axis=axis, where=mask)

    assert temporaries(loss, logits, labels) <= size(logits)


OLD_STORES_TWO = needs_jax("0.10", "before it, XLA stores the logits without padding as well")
DICE_SHAPES = [
    pytest.param((2, 19, 32, 64), 1),
    pytest.param((2, 32, 64, 19), -1, marks=OLD_STORES_TWO),
]


@pytest.mark.parametrize(("shape", "axis"), DICE_SHAPES)
def test_dice_stores_one_array_of_probabilities(shape, axis):
    logits, labels = array(*shape), array(2, 32, 64, dtype=np.int32)

    def loss(z, y):
        return vjl.dice_loss(z, y, class_axis=axis)

    few_per_pixel = 3 * size(labels)
    assert temporaries(loss, logits, labels) <= size(logits) + few_per_pixel


def test_pair_losses_store_a_few_numbers_per_pair():
    inputs = array(*PAIRS), array(*PAIRS)
    for loss in (partial(vjl.multi_pos_cross_entropy, reducer=MEAN), vjl.embedding_distance_loss):
        assert temporaries(loss, *inputs) <= 3 * size(*inputs)


def test_orthogonal_stores_one_product_per_transform():
    transform = array(64, 64, 64)
    loss = vjl.orthogonal_transform_regularization_loss
    assert temporaries(lambda x: loss([x]), transform) <= 1.1 * size(transform)


def test_orthogonal_takes_two_products_of_matrices():
    def loss(x):
        return vjl.orthogonal_transform_regularization_loss([x])

    text = compiled(jax.value_and_grad(loss), array(64, 64, 64)).as_text()
    products = re.findall(r"\bdot\(", text)
    assert len(products) == 2


def test_mining_neither_sorts_nor_gathers():
    pairs = array(*PAIRS), array(*PAIRS)
    mined = jax.value_and_grad(vjl.embedding_distance_loss)
    selected = partial(vjl.top_k_mask, k=100)
    for text in (
        compiled(mined, *pairs).as_text(),
        compiled(selected, pairs[0]).as_text(),
    ):
        assert not re.search(r"(?i)\b(sort|gather|scatter|top-?k)\b", text.replace("_", " "))
    sorts = compiled(jnp.sort, pairs[0]).as_text()
    assert re.search(r"(?i)\bsort\b", sorts), "this test no longer finds a sort"


def test_the_hard_mean_neither_sorts_nor_gathers_and_stores_little():
    losses, where = array(*PAIRS), array(*PAIRS, dtype=bool)

    def hard_mean(losses, where):
        return vjl.HardMeanLoss(fraction=0.25)(losses, where=where)

    text = compiled(jax.value_and_grad(hard_mean), losses, where).as_text()
    assert not re.search(r"(?i)\b(sort|gather|scatter|top-?k)\b", text.replace("_", " "))
    # Two integers and a few masks per loss.
    assert temporaries(hard_mean, losses, where) <= 2.5 * size(losses)

"""Inputs for the benchmarks: their shapes, and how to draw their values.

A row describes its inputs once. ``run.py`` draws the values; ``targets.py`` compiles for the
shapes alone.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Input:
    """One array: its shape, its dtype, and a function that draws its values."""

    shape: tuple[int, ...]
    draw: Draw
    dtype: type = np.float32
    #: The axis that several chips share; None if each of them has all of the array.
    batch_axis: int | None = 0

    def values(self, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(self.draw(rng, self.shape), self.dtype)

    def spec(self, float_dtype=np.float32, sharding=None) -> jax.ShapeDtypeStruct:
        """Return shape and dtype; floats in ``float_dtype``. Scalars are not sharded."""
        dtype = float_dtype if self.dtype is np.float32 else self.dtype
        if not self.shape:
            sharding = None
        elif sharding is not None and sharding.spec:
            (name,) = sharding.spec
            axes = () if self.batch_axis is None else (*[None] * self.batch_axis, name)
            sharding = NamedSharding(sharding.mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(self.shape, dtype, sharding=sharding)


def normal(*shape: int) -> Input:
    return Input(shape, _normal)


def with_batch_axis(axis: int | None, *arrays: Input) -> tuple[Input, ...]:
    return tuple(dataclasses.replace(x, batch_axis=axis) for x in arrays)


def uniform(low: float, high: float, *shape: int) -> Input:
    return Input(shape, lambda rng, shape: rng.uniform(low, high, shape))


def flags(share: float, *shape: int) -> Input:
    """Floats of which the given share is 1 and the rest 0."""
    return Input(shape, lambda rng, shape: rng.random(shape, np.float32) < share)


def mask(share: float, *shape: int) -> Input:
    return Input(shape, lambda rng, shape: rng.random(shape) < share, np.bool_)


def boxes(count: int, *images: int) -> Input:
    return Input((*images, count, 4), _boxes)


def padding(count: int) -> Input:
    """The mask of images with 100 boxes each, of which the last 10 to 50 are padding."""
    return Input((count,), _padding, np.bool_)


def labels(classes: int, *shape: int, ignored: float = 0.0, ignore_index: int = 255) -> Input:
    draw = partial(_labels, classes=classes, ignored=ignored, ignore_index=ignore_index)
    return Input(shape, draw, np.int32)


def probabilities(*shape: int) -> Input:
    """Values from 0 to 1 whose sum along the last axis is 1."""
    return Input(shape, _probabilities)


def heatmap(*shape: int) -> Input:
    """Values from 0 to 1, of which 0.1 % are peaks of exactly 1."""
    return Input(shape, _heatmap)


def integer(value: int) -> Input:
    return Input((), lambda rng, shape: value, np.int32)


def near_identity(*shape: int) -> Input:
    return Input(shape, lambda rng, shape: np.eye(shape[-1]) + 0.1 * _normal(rng, shape))


def encoded_boxes(count: int) -> Input:
    """Encoded 3D boxes with 2 rotation bins; 10 % of the depths and dimensions are unknown."""
    return Input((count, 10), _encoded_boxes)


def classes_first(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Move the classes to axis 1, the only layout of the PyTorch reference."""
    logits, labels = arrays
    return [np.ascontiguousarray(np.moveaxis(logits, -1, 1)), labels]


def _normal(rng, shape):
    return rng.standard_normal(shape, np.float32)


def _boxes(rng, shape):
    corner = rng.uniform(0, 40, (*shape[:-1], 2))
    return np.concatenate([corner, corner + rng.uniform(20, 80, corner.shape)], axis=-1)


def _encoded_boxes(rng, shape):
    boxes = _normal(rng, shape)
    boxes[:, 2] = np.where(rng.random(shape[0]) < 0.1, -1, np.abs(boxes[:, 2]))
    boxes[:, 3:6][rng.random((shape[0], 3)) < 0.1] = 100
    boxes[:, 6:8] = rng.random((shape[0], 2)) < 0.6
    return boxes


def _padding(rng, shape):
    (count,) = shape
    valid_per_image = np.repeat(rng.integers(50, 91, -(-count // 100)), 100)[:count]
    return np.arange(count) % 100 < valid_per_image


def _labels(rng, shape, classes, ignored, ignore_index):
    labels = rng.integers(0, classes, shape)
    labels[rng.random(shape) < ignored] = ignore_index
    return labels


def _probabilities(rng, shape):
    values = rng.random(shape, np.float32)
    return values / values.sum(-1, keepdims=True)


def _heatmap(rng, shape):
    values = rng.random(shape, np.float32) ** 4
    return np.where(values > 0.996, 1, values)

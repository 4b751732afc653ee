"""Random inputs for the benchmarks.

Each function takes the shape of the first input and returns the inputs of a loss, as NumPy arrays.
"""

import numpy as np

_RNG = np.random.default_rng(0)


def normal(*shape):
    return [_normal(shape)]


def normal_pair(*shape):
    return [_normal(shape), _normal(shape)]


def box_pair(count, _coordinates):
    return [_boxes(count), _boxes(count)]


def padded_box_pair(count, _coordinates):
    """Images of 100 boxes each, of which the last 10 to 50 are padding, and the mask."""
    valid_per_image = np.repeat(_RNG.integers(50, 91, count // 100), 100)
    where = np.arange(count) % 100 < valid_per_image
    return [_boxes(count), _boxes(count), where]


def rotations(count, channels):
    """Predictions for two angle bins, the active bins, and the residual angles."""
    pred = _RNG.normal(size=(count, channels))
    target_bin = _RNG.random((count, 2)) < 0.6
    target_res = _RNG.uniform(-np.pi, np.pi, (count, 2))
    return [x.astype(np.float32) for x in (pred, target_bin, target_res)]


def images(count, height, width, classes):
    """Logits with the classes last, and labels of which 10 % are ignored."""
    logits = _normal((count, height, width, classes))
    labels = _RNG.integers(0, classes, (count, height, width))
    labels[_RNG.random(labels.shape) < 0.1] = 255
    return [logits, labels.astype(np.int32)]


def images_classes_first(count, classes, height, width):
    return classes_first(images(count, height, width, classes))


def classes_first(arrays):
    """The same images with the classes on axis 1, the only layout of the PyTorch reference."""
    logits, labels = arrays
    return [np.ascontiguousarray(np.moveaxis(logits, -1, 1)), labels]


def similarities(rows, columns, *, positive):
    """Similarities, and targets of which the share ``positive`` is 1 and the rest 0."""
    pred = _RNG.uniform(-0.2, 1, (rows, columns)).astype(np.float32)
    target = (_RNG.random((rows, columns)) < positive).astype(np.float32)
    return [pred, target]


def near_identity(*shape):
    return [np.eye(shape[-1], dtype=np.float32) + 0.1 * _normal(shape)]


def _normal(shape):
    return _RNG.normal(size=shape).astype(np.float32)


def _boxes(count):
    corner = _RNG.uniform(0, 40, (count, 2))
    sides = _RNG.uniform(20, 80, (count, 2))
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)

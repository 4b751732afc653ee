"""Scenes of moving handwritten digits: the data of `track_digits.py` and `train_detector.py`.

The digits come with scikit-learn: scans of handwriting, no download. A scene has two frames. Two to
six digits move, turn and change in brightness from one frame to the next, over scratches and noise.
Two digits of every scene have the same class: they can be told apart by their handwriting only.

The number of digits varies, so the rows of a frame are padded, and padded boxes are NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from sklearn import datasets

SIZE = 80  # side of a frame, in pixels
MAX_DIGITS = 6
IGNORED = 255  # label of the pixels at the edge of the ink


class Digits(NamedTuple):
    """Handwritten digits: ink from 0 to 1 ``[N, 40, 40]``, and classes ``[N]``."""

    ink: np.ndarray
    label: np.ndarray


def load_digits() -> tuple[Digits, Digits]:
    """Load training digits (the first 1,300 of 1,797) and test digits (the rest), enlarged 4x."""
    pixels, label = datasets.load_digits(return_X_y=True)
    ink = np.pad(pixels.reshape(-1, 8, 8) / 16, ((0, 0), (1, 1), (1, 1)))
    enlarge = np.asarray(ndimage.zoom(np.eye(10), (4, 1), mode="grid-constant", grid_mode=True))
    ink = np.clip(1.2 * enlarge @ ink @ enlarge.T, 0, 1).astype(np.float32)
    return Digits(ink[:1300], label[:1300]), Digits(ink[1300:], label[1300:])


def choose_digits(digits: Digits, rng: np.random.Generator) -> Digits:
    """Choose 2 to 6 digits, the first two from one class."""
    chosen = rng.choice(len(digits.label), rng.integers(2, MAX_DIGITS + 1), replace=False)
    same_class = np.flatnonzero(digits.label == digits.label[chosen[0]])
    chosen[1] = rng.choice(np.setdiff1d(same_class, chosen))
    return Digits(digits.ink[chosen], digits.label[chosen])


def place(low: np.ndarray, high: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Centres ``[N, 2]`` (y, x) between `low` and `high`: the least crowded of 200 attempts."""
    attempts = rng.uniform(low, high, (200, *low.shape))
    # Digits are taller than wide, so they need less room in x.
    distance = (np.abs(attempts[:, :, None] - attempts[:, None]) * (1.0, 1.3)).max(-1)
    distance += np.where(np.eye(len(low)), np.inf, 0.0)
    return attempts[distance.min((1, 2)).argmax()]


def render(ink: np.ndarray, centre: np.ndarray, height: float, angle: float) -> np.ndarray:
    """Draw one digit: how much of each pixel ``[SIZE, SIZE]`` it covers."""
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = rotation * 32 / height
    matrix = np.column_stack([scale, 19.5 - scale @ centre])
    return ndimage.affine_transform(ink, matrix, output_shape=(SIZE, SIZE), order=1)


def draw_background(rng: np.random.Generator) -> np.ndarray:
    """Draw a background ``[SIZE, SIZE]``: uneven light and four scratches."""
    light = np.asarray(ndimage.zoom(rng.uniform(0, 0.35, (4, 4)), SIZE / 4, order=1))
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    low, high = np.array([[0, -30, 0.3], [np.pi, 30, 0.7]])[..., None, None, None]
    angle, shift, shade = rng.uniform(low, high, (3, 4, 1, 1))
    distance = np.abs(x * np.cos(angle) + y * np.sin(angle) - shift)
    return np.maximum(light, (shade * np.clip(1.3 - distance, 0, 1)).max(0))


def make_frame(
    layers: np.ndarray, background: np.ndarray, rng: np.random.Generator, clicks: int
) -> dict[str, np.ndarray]:
    """Draw digits, each a layer ``[SIZE, SIZE]``, on a background, and write down the targets."""
    frame = background
    for layer in layers:
        frame = frame * (1 - layer) + layer * rng.uniform(0.65, 1.0)
    frame = frame + rng.normal(0, 0.05, frame.shape)
    ink = layers.max(0)
    # Shuffle the rows: with a fixed order, the row number would reveal the identity.
    order = rng.permutation(np.tile(np.arange(len(layers)), clicks))
    y, x = np.any(layers > 0.5, axis=2), np.any(layers > 0.5, axis=1)
    first, last = (x.argmax(1), y.argmax(1)), (x[:, ::-1].argmax(1), y[:, ::-1].argmax(1))
    box = np.stack([*first, *np.subtract(SIZE, last)], axis=-1)[order]
    point = box[:, :2] + (box[:, 2:] - box[:, :2]) * rng.uniform(0.3, 0.7, (len(order), 2))
    padding = ((0, MAX_DIGITS * clicks - len(order)), (0, 0))
    return {
        "frames": frame[..., None].astype(np.float32),
        # Pixels at the edge of the ink are neither digit nor background.
        "masks": np.select([ink > 0.6, ink < 0.25], [1, 0], IGNORED).astype(np.int32),
        "points": np.pad(point, padding).astype(np.float32),
        "boxes": np.pad(box.astype(np.float32), padding, constant_values=np.nan),
        "identity": np.pad(order.astype(np.int32), padding[0], constant_values=-1),
        "valid": np.arange(MAX_DIGITS * clicks) < len(order),
    }


def make_scene(digits: Digits, rng: np.random.Generator, clicks: int) -> dict[str, np.ndarray]:
    """Make two frames of one scene. Digits move, turn and change in brightness between them."""
    (ink, label), background = choose_digits(digits, rng), draw_background(rng)
    height, angle = rng.uniform((16, -0.25), (22, 0.25), (len(ink), 2)).T
    low = np.stack([height, height], axis=-1) / 2
    first = place(low, SIZE - low, rng)
    second = place(np.maximum(low, first - 25), np.minimum(SIZE - low, first + 25), rng)
    frames = []
    for centre in (first, second):
        layers = np.stack([*map(render, ink, centre, height, angle)])
        frame = make_frame(layers, background, rng, clicks)
        frame["label"] = np.where(frame["valid"], label[frame["identity"]], -1).astype(np.int32)
        frames.append(frame)
        height = height * rng.uniform(0.9, 1.1, height.shape)
        angle = angle + rng.uniform(-0.2, 0.2, angle.shape)
    return {key: np.stack([frame[key] for frame in frames]) for key in frames[0]}


def make_scenes(
    digits: Digits, rng: np.random.Generator, count: int, clicks: int = 2
) -> dict[str, np.ndarray]:
    """Make a batch of B = `count` scenes.

    A click is a point near the middle of a digit. Each digit is clicked `clicks` times per frame.
    The number of rows per frame is always R = 6 * `clicks`.

    Returns:
        frames: ``[B, 2, SIZE, SIZE, 1]``.
        masks: ``[B, 2, SIZE, SIZE]``: 1 digit, 0 background, 255 ignored.
        points: The clicks (x, y) ``[B, 2, R, 2]``.
        boxes: ``[B, 2, R, 4]``, NaN in padding.
        identity: Which digit of the scene a row is, ``[B, 2, R]``, -1 in padding.
        label: Class of the digit of a row, ``[B, 2, R]``, -1 in padding.
        valid: ``[B, 2, R]``, False in padding.
    """
    scenes = [make_scene(digits, rng, clicks) for _ in range(count)]
    return {key: np.stack([scene[key] for scene in scenes]) for key in scenes[0]}

"""Clouds of points from handwritten digits: the data of `pointnet.py`.

The digits come with scikit-learn: scans of handwriting, no download. Each digit becomes a cloud of
points. Their coordinates are across, up and the amount of ink. Every cloud is turned about a random
axis.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation
from sklearn import datasets

POINTS = 64  # per cloud in a batch, a different part of 512 in every step
CLOUDS = 32  # per step
MAX_TURN = 60.0  # degrees


class Clouds(NamedTuple):
    """Points (across, up, ink) ``[N, 512, 3]``, in tenths of the picture, and digits ``[N]``."""

    points: np.ndarray
    label: np.ndarray


def load_clouds() -> tuple[Clouds, Clouds]:
    """Load clouds for training (the first 1,300 of 1,797 digits) and for the test (the rest)."""
    pixels, label = datasets.load_digits(return_X_y=True)
    enlarge = np.asarray(ndimage.zoom(np.eye(8), (4, 1), mode="grid-constant", grid_mode=True))
    ink = np.clip(enlarge @ (pixels.reshape(-1, 8, 8) / 16) @ enlarge.T, 0, 1)
    rng = np.random.default_rng(0)
    points = np.stack([sample(picture, rng) for picture in ink]).astype(np.float32)
    return Clouds(points[:1300], label[:1300]), Clouds(points[1300:], label[1300:])


def sample(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw 512 points ``[512, 3]`` from the ink of a picture ``[H, W]``, and centre them."""
    probability = np.where(ink > 0.35, ink, 0).ravel()
    pixel = rng.choice(ink.size, 512, p=probability / probability.sum())
    y, x = np.divmod(pixel, ink.shape[1]) + rng.uniform(-0.5, 0.5, (2, 512))
    points = np.stack([x, -y, len(ink) / 4 * ink.ravel()[pixel]], axis=-1)
    return 10 / len(ink) * (points - points.mean(0))


def make_batch(clouds: Clouds, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Points ``[B, POINTS, 3]`` of B = `CLOUDS` turned clouds, and their labels ``[B]``."""
    chosen = rng.choice(len(clouds.label), CLOUDS, replace=False)
    first = rng.integers(clouds.points.shape[1] - POINTS + 1)
    points = clouds.points[chosen, first : first + POINTS] @ random_turns(rng, CLOUDS)
    return {"points": points, "label": clouds.label[chosen].astype(np.int32)}


# ----------------------------------------------------------------------------------- rotations


def random_turns(rng: np.random.Generator, count: int) -> np.ndarray:
    """Rotations ``[count, 3, 3]`` about random axes, by 0 to `MAX_TURN` degrees."""
    axis = rng.normal(size=(count, 3))
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.deg2rad(rng.uniform(0, MAX_TURN, (count, 1)))
    return Rotation.from_rotvec(angle * axis).as_matrix().astype(np.float32)


def turn_about_axes(cloud: np.ndarray) -> np.ndarray:
    """Turn a cloud by `MAX_TURN` about each of three axes, in both directions: ``[6, P, 3]``."""
    axes = np.stack([np.eye(3), -np.eye(3)], axis=1).reshape(6, 3)[::-1]
    return cloud @ Rotation.from_rotvec(np.deg2rad(MAX_TURN) * axes).as_matrix().astype(np.float32)

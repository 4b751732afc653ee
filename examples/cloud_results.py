"""Measurements of the networks of `pointnet.py`: accuracy, turns and transforms."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from digit_clouds import POINTS, Clouds, random_turns
from flax import nnx


@nnx.jit
def predict(model: nnx.Module, points: np.ndarray) -> dict:
    return model(points)


class Evaluation(NamedTuple):
    """Measurements of a trained network on clouds it was not trained on."""

    accuracy: float
    turned: float  # median angle between the turns and their mean, in degrees
    left: float  # the same after the first transform
    singular: list[np.ndarray]  # values ``[N, 3]`` and ``[N, 16]``, largest first
    distance: list[float]  # mean ||XX' - I||_F of both transforms


def evaluate(model: nnx.Module, clouds: Clouds) -> Evaluation:
    """Measure the network on every test cloud, each in a turn of its own."""
    turns = random_turns(np.random.default_rng(6), len(clouds.label))
    outputs = jax.device_get(predict(model, clouds.points[:, :POINTS] @ turns))
    transforms = outputs["transforms"]
    residuals = [x @ x.mT - np.eye(x.shape[-1]) for x in transforms]
    return Evaluation(
        float((outputs["logits"].argmax(-1) == clouds.label).mean()),
        spread(turns),
        spread(turns @ nearest_rotation(transforms[0])),
        [np.linalg.svd(x, compute_uv=False) for x in transforms],
        [float(np.linalg.norm(x, axis=(1, 2)).mean()) for x in residuals],
    )


def report(results: dict[str, Evaluation]) -> None:
    """Print the measurements of several networks side by side."""
    rows = {
        "accuracy": lambda f: f"{f.accuracy:.3f}",
        "median turn, degrees": lambda f: f"{f.turned:.1f}",
        "after the 3 x 3 transform": lambda f: f"{f.left:.1f}",
        "||XX' - I||, 3 x 3": lambda f: f"{f.distance[0]:.2f}",
        "||XX' - I||, 16 x 16": lambda f: f"{f.distance[1]:.2f}",
        "singular values, 3 x 3": lambda f: interval(f.singular[0]),
        "singular values, 16 x 16": lambda f: interval(f.singular[1]),
    }
    print(f"\n{'unseen digits; regulariser:':<32}" + "".join(f"{k:>14}" for k in results))
    for name, show in rows.items():
        print(f"{name:<32}" + "".join(f"{show(f):>14}" for f in results.values()))


def interval(values: np.ndarray) -> str:
    """The interval that contains the middle 90 % of the values."""
    return "{:.2f} to {:.2f}".format(*np.quantile(values, (0.05, 0.95)))


def nearest_rotation(x: np.ndarray) -> np.ndarray:
    """The orthogonal matrices ``[..., r, r]`` nearest to the given ones."""
    u, _, v = np.linalg.svd(x)
    return u @ v


def spread(turns: np.ndarray) -> float:
    """Median angle in degrees between rotations ``[N, 3, 3]`` and their mean."""
    rest = turns @ nearest_rotation(turns.mean(0)).T
    cosine = (np.trace(rest, axis1=1, axis2=2) - 1) / 2
    return float(np.median(np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))))

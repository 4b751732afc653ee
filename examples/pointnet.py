"""Turn handwritten digits upright in 3-D: a small PointNet, with and without its regulariser.

    python examples/pointnet.py --steps 1200 --seed 0 --out pointnet.png

The digits of scikit-learn (real handwriting, no download) become clouds of points: across, up, and
as the third coordinate how much ink there is. Every cloud is turned about an axis of its own, by up
to 60 degrees. PointNet learns to turn it back before it looks at it: a T-Net, a small network of
its own, predicts a 3 x 3 transform from the cloud, and a second one a 16 x 16 transform of the
features of the points.

Both start at the identity. `OrthogonalTransformRegularizationLoss` keeps them near rotations,
which lose nothing of a cloud. At the identity its value and its gradient are exactly 0, where that
of `jnp.linalg.norm` is NaN. The same network is trained with it and without, and compared. Do not
expect much of it for the accuracy: 0.82 to 0.85 over three seeds, and 0.81 to 0.82 without.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.style
import numpy as np
import optax
from flax import nnx
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from options import parse
from scipy import ndimage
from scipy.spatial.transform import Rotation
from sklearn import datasets
from tqdm import tqdm

from vis4d_jax_loss import (
    CrossEntropyLoss,
    LossModule,
    LossTerm,
    OrthogonalTransformRegularizationLoss,
    data_key,
    mean_loss,
    pred_key,
)

Arrays = dict[str, np.ndarray] | dict[str, jax.Array]
POINTS = 64  # of a cloud that the network sees; 512 are kept, and others are taken at every step
CLOUDS = 32  # a step
FEATURES = 16  # of a point, where the second transform acts
MAX_TURN = 60.0  # degrees
WEIGHT = 0.03  # of the regulariser; with 1, it holds the transforms near the identity

# -------------------------------------------------------------------------------------- clouds


class Clouds(NamedTuple):
    """Points (across, up, ink) ``[N, 512, 3]``, in tenths of the picture, and digits ``[N]``."""

    points: np.ndarray
    label: np.ndarray


def load_clouds() -> tuple[Clouds, Clouds]:
    """Clouds for training (the first 1,300 of 1,797 digits) and for the test (the rest)."""
    data, rng = datasets.load_digits(), np.random.default_rng(0)
    enlarge = ndimage.zoom(np.eye(8), (4, 1), order=3, mode="grid-constant", grid_mode=True)
    ink = np.clip(enlarge @ (data.images / 16) @ enlarge.T, 0, 1)
    points = np.stack([sample(picture, rng) for picture in ink]).astype(np.float32)
    return Clouds(points[:1300], data.target[:1300]), Clouds(points[1300:], data.target[1300:])


def sample(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """512 points ``[512, 3]`` of a picture ``[H, W]``, where the ink is, around their mean."""
    chance = np.where(ink > 0.35, ink, 0).ravel()
    pixel = rng.choice(ink.size, 512, p=chance / chance.sum())
    y, x = np.divmod(pixel, ink.shape[1]) + rng.uniform(-0.5, 0.5, (2, 512))
    points = np.stack([x, -y, len(ink) / 4 * ink.ravel()[pixel]], axis=-1)
    return 10 / len(ink) * (points - points.mean(0))


def random_turns(rng: np.random.Generator, count: int) -> np.ndarray:
    """Rotations ``[count, 3, 3]`` about random axes, by 0 to `MAX_TURN` degrees."""
    axis = rng.normal(size=(count, 3))
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.deg2rad(rng.uniform(0, MAX_TURN, (count, 1)))
    return Rotation.from_rotvec(angle * axis).as_matrix().astype(np.float32)


def make_batch(clouds: Clouds, rng: np.random.Generator) -> Arrays:
    """Points ``[B, POINTS, 3]`` of B = `CLOUDS` turned clouds, and their labels ``[B]``."""
    chosen = rng.choice(len(clouds.label), CLOUDS, replace=False)
    first = rng.integers(clouds.points.shape[1] - POINTS + 1)
    points = clouds.points[chosen, first : first + POINTS] @ random_turns(rng, CLOUDS)
    return {"points": points, "label": clouds.label[chosen].astype(np.int32)}


# ------------------------------------------------------------------------------------- network


class Summary(nnx.Module):
    """Features ``[B, 64]`` of clouds ``[B, P, inputs]``: their points are without order."""

    def __init__(self, inputs: int, rngs: nnx.Rngs, width: int = 128) -> None:
        self.first = nnx.Linear(inputs, 32, rngs=rngs)
        self.second = nnx.Linear(32, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.third = nnx.Linear(width, 64, rngs=rngs)

    def __call__(self, points: jax.Array) -> jax.Array:
        of_points = self.second(nnx.relu(self.first(points)))
        of_cloud = nnx.relu(self.norm(of_points.max(axis=-2)))
        return nnx.relu(self.third(of_cloud))


class TNet(nnx.Module):
    """A transform ``[B, size, size]`` for each cloud ``[B, P, size]``: at first the identity."""

    def __init__(self, size: int, rngs: nnx.Rngs) -> None:
        self.size = size
        self.summary = Summary(size, rngs)
        zeros = nnx.initializers.zeros_init()
        self.out = nnx.Linear(64, size * size, kernel_init=zeros, bias_init=zeros, rngs=rngs)

    def __call__(self, points: jax.Array) -> jax.Array:
        change = self.out(self.summary(points))
        return jnp.eye(self.size)[None] + change.reshape(-1, self.size, self.size)


class PointNet(nnx.Module):
    """Logits of ten digits, and the two transforms that the clouds went through."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.turn = TNet(3, rngs)
        self.lift = nnx.Linear(3, FEATURES, rngs=rngs)
        self.mix = TNet(FEATURES, rngs)
        self.summary = Summary(FEATURES, rngs, width=256)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, points: jax.Array) -> dict[str, jax.Array | list[jax.Array]]:
        turn = self.turn(points)
        features = nnx.relu(self.lift(points @ turn))
        mix = self.mix(features)
        logits = self.out(self.summary(features @ mix))
        return {"logits": logits, "transforms": [turn, mix]}


def make_model(seed: int) -> PointNet:
    """A new network."""
    # The default generator, threefry, takes twice as long to compile.
    return PointNet(nnx.Rngs(jax.random.key(seed, impl="rbg")))


predict = nnx.jit(PointNet.__call__)

# ---------------------------------------------------------------------------- losses, training

TERMS = {
    "class": LossTerm(
        CrossEntropyLoss(mean_loss),
        inputs={"output": pred_key("logits"), "target": data_key("label")},
    ),
    "orthogonal": LossTerm(
        OrthogonalTransformRegularizationLoss(),
        weight=WEIGHT,
        inputs={"transforms": pred_key("transforms")},
    ),
}
OBJECTIVES = {
    "with": LossModule(TERMS),
    # Out of the total and the gradient, but still measured.
    "without": LossModule(TERMS, exclude=("orthogonal",)),
}


class Trained(NamedTuple):
    """A network, its metrics at every step, and how often its step was traced."""

    model: PointNet
    metrics: list[dict[str, jax.Array]]
    traces: int


def train(objective: LossModule, clouds: Clouds, steps: int, seed: int, name: str = "") -> Trained:
    """Train a new network."""
    model, rng = make_model(seed), np.random.default_rng(seed)
    rate = optax.warmup_cosine_decay_schedule(0.0, 4e-3, steps // 10, steps)
    optimizer = nnx.Optimizer(model, optax.adamw(rate), wrt=nnx.Param)
    metrics, traces = [], 0

    @nnx.jit
    def step(model: PointNet, optimizer: nnx.Optimizer, batch: Arrays) -> dict[str, jax.Array]:
        nonlocal traces
        traces += 1  # Python runs this line only while JAX traces the step.

        def loss(model: PointNet):
            return objective(model(batch["points"]), batch)

        (_, metrics), grads = nnx.value_and_grad(loss, has_aux=True)(model)
        optimizer.update(model, grads)
        return metrics

    progress = tqdm(range(steps), name, unit="step", ncols=90, mininterval=0.5, disable=not name)
    for index in progress:
        metrics.append(step(model, optimizer, make_batch(clouds, rng)))
        # To read a number is to wait for it: not at every step.
        if index % 20 == 0 or index == steps - 1:
            progress.set_postfix_str(f"loss {metrics[-1]['loss']:.3f}", refresh=False)
    return Trained(model, jax.device_get(metrics), traces)


# --------------------------------------------------------------------------------- the identity


def norm_regularizer(transforms: list[jax.Array]) -> jax.Array:
    """The regulariser as one would write it: its gradient at the identity is NaN."""
    residuals = [x @ x.mT - jnp.eye(x.shape[-1])[None] for x in transforms]
    return sum(jnp.linalg.norm(residual, axis=(1, 2)).mean() for residual in residuals)


def at_start(regularizer: Callable, points: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Of a new network: the regulariser, the largest |gradient|, and the share that is NaN."""
    model = make_model(seed)
    loss = nnx.value_and_grad(lambda model: regularizer(model(points)["transforms"]))
    value, gradient = nnx.jit(loss)(model)
    flat = np.concatenate([np.ravel(g) for g in jax.tree.leaves(nnx.state(gradient))])
    return float(value), float(np.abs(flat).max()), float(np.isnan(flat).mean())


# ------------------------------------------------------------------------------------- figures


class Figures(NamedTuple):
    """What is known of a trained network, from clouds it has not seen."""

    accuracy: float
    turned: float  # median angle between a cloud and the mean of all, in degrees
    left: float  # the same, behind the first transform
    singular: list[np.ndarray]  # values ``[N, 3]`` and ``[N, FEATURES]``, largest first
    distance: list[float]  # mean ||XX' - I||_F of both transforms


def evaluate(model: PointNet, clouds: Clouds) -> Figures:
    """Look at every test cloud once, in a turn of its own."""
    turns = random_turns(np.random.default_rng(6), len(clouds.label))
    outputs = jax.device_get(predict(model, clouds.points[:, :POINTS] @ turns))
    transforms = outputs["transforms"]
    residuals = [x @ x.mT - np.eye(x.shape[-1]) for x in transforms]
    return Figures(
        float((outputs["logits"].argmax(-1) == clouds.label).mean()),
        spread(turns),
        spread(turns @ nearest_rotation(transforms[0])),
        [np.linalg.svd(x, compute_uv=False) for x in transforms],
        [float(np.linalg.norm(x, axis=(1, 2)).mean()) for x in residuals],
    )


def nearest_rotation(x: np.ndarray) -> np.ndarray:
    """The orthogonal matrices ``[..., r, r]`` nearest to any others."""
    u, _, v = np.linalg.svd(x)
    return u @ v


def spread(turns: np.ndarray) -> float:
    """Median angle in degrees between rotations ``[N, 3, 3]`` and their mean."""
    rest = turns @ nearest_rotation(turns.mean(0)).T
    cosine = (np.trace(rest, axis1=1, axis2=2) - 1) / 2
    return float(np.median(np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))))


def report(figures: dict[str, Figures]) -> None:
    """Print the figures of both networks."""
    rows = {
        "accuracy": lambda f: f"{f.accuracy:.3f}",
        "degrees turned (median)": lambda f: f"{f.turned:.1f}",
        "after the 3 x 3 transform": lambda f: f"{f.left:.1f}",
        "||XX' - I||, 3 x 3": lambda f: f"{f.distance[0]:.2f}",
        f"||XX' - I||, {FEATURES} x {FEATURES}": lambda f: f"{f.distance[1]:.2f}",
        "singular values, 3 x 3": lambda f: interval(f.singular[0]),
        f"singular values, {FEATURES} x {FEATURES}": lambda f: interval(f.singular[1]),
    }
    print(f"\n{'unseen digits; the regulariser:':<32}" + "".join(f"{k:>14}" for k in figures))
    for name, show in rows.items():
        print(f"{name:<32}" + "".join(f"{show(f):>14}" for f in figures.values()))


def interval(values: np.ndarray) -> str:
    """From where to where 90 % of the values are."""
    return "{:.2f} to {:.2f}".format(*np.quantile(values, (0.05, 0.95)))


# ------------------------------------------------------------------------------------- picture

SHOWN = 71  # the test digit that is drawn
ROOM = 19  # for a cloud, in the unit of its points


def draw(runs: dict[str, Trained], figures: dict[str, Figures], test: Clouds, out: Path) -> None:
    """One digit in six turns, before and after the 3 x 3 transform; and the transforms of all."""
    turned = turn_about_axes(test.points[SHOWN])
    rows = {"turned, as it comes in; all drawn to the same size": turned}
    for name, run in runs.items():
        moved = transform(run.model, turned)
        size = np.linalg.norm(moved) / np.linalg.norm(turned)
        rows[f"transformed, {name} regulariser: {size:.1f} times as large"] = moved / size
    with matplotlib.style.context(Path(__file__).with_name("plots.mplstyle")):
        figure = Figure((9.6, 6.4), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(3, 2))
        for axes, (title, clouds) in zip(above.subplots(3), rows.items(), strict=True):
            draw_clouds(axes, clouds, test.points[SHOWN, :, 2])
            axes.set_title(title)
        distance, *values = below.subplots(1, 3)
        for name, run in runs.items():
            raw = [step["orthogonal"] / WEIGHT for step in run.metrics]
            distance.semilogy(raw, lw=1.2, label=f"{name} regulariser")
        title = r"$\Vert XX^\top - I \Vert_F$, both transforms"
        distance.set(title=title, xlabel="step", ylim=(0.1, None))
        distance.legend()
        for axes, index, size in zip(values, (0, 1), (3, FEATURES), strict=True):
            draw_values(axes, {name: f.singular[index] for name, f in figures.items()})
            axes.set_title(f"singular values, {size} x {size}")
        figure.savefig(out, dpi=96)


def turn_about_axes(cloud: np.ndarray) -> np.ndarray:
    """A cloud turned by `MAX_TURN` about each of three axes, both ways: ``[6, P, 3]``."""
    axes = np.stack([np.eye(3), -np.eye(3)], axis=1).reshape(6, 3)[::-1]
    return cloud @ Rotation.from_rotvec(np.deg2rad(MAX_TURN) * axes).as_matrix().astype(np.float32)


def transform(model: PointNet, points: np.ndarray) -> np.ndarray:
    """Clouds behind the first transform, which the model predicts from some of their points."""
    return points @ jax.device_get(predict(model, points[:, :POINTS])["transforms"][0])


def draw_clouds(axes: Axes, clouds: np.ndarray, ink: np.ndarray) -> None:
    """Clouds in a row, seen from the front, darker where there is more ink."""
    for place, cloud in enumerate(clouds):
        order = np.argsort(cloud[:, 2])[::3]  # what is nearer is drawn later
        x, y, _ = cloud[order].T
        axes.scatter(x + place * ROOM, y, s=8, c=ink[order], cmap="cividis_r", lw=0)
    axes.set(xlim=(-ROOM / 2, (len(clouds) - 0.5) * ROOM), ylim=(-7.2, 7.2), aspect="equal")
    axes.axis("off")


def draw_values(axes: Axes, singular: dict[str, np.ndarray]) -> None:
    """Singular values, the largest first: median and 90 % of the clouds."""
    axes.axhline(1, color="black", lw=0.8)
    for colour, (name, values) in enumerate(singular.items()):
        low, middle, high = np.quantile(values, (0.05, 0.5, 0.95), axis=0)
        place = np.arange(1, values.shape[1] + 1)
        axes.fill_between(place, low, high, color=f"C{colour}", alpha=0.2, lw=0)
        axes.plot(place, middle, "o-", markersize=3, color=f"C{colour}", label=name)
    axes.set(xlabel="largest to smallest", ylim=(0, None), xticks=place[:: len(place) // 3])


# ---------------------------------------------------------------------------------------- main


def main(argv: list[str] | None = None) -> None:
    """Look at the gradient where training starts; train twice; print and draw what was learnt."""
    options = parse(__doc__, 1200, "pointnet.png", argv)
    start = time.perf_counter()
    training, test = load_clouds()
    print(f"{'gradient at the identity':<32}{'value':>14}{'largest':>14}{'NaN':>14}")
    ours = OrthogonalTransformRegularizationLoss()
    for name, regularizer in (("this library", ours), ("jnp.linalg.norm", norm_regularizer)):
        value, largest, share = at_start(regularizer, test.points[:CLOUDS, :POINTS], options.seed)
        print(f"{name:<32}{value:>14}{largest:>14}{share:>14.0%}")
    print(flush=True)
    runs = {
        name: train(objective, training, options.steps, options.seed, f"{name:<7} regulariser")
        for name, objective in OBJECTIVES.items()
    }
    figures = {name: evaluate(run.model, test) for name, run in runs.items()}
    report(figures)
    draw(runs, figures, test, options.out)
    traces = ", ".join(str(run.traces) for run in runs.values())
    print(f"\n{options.steps} steps of {CLOUDS} clouds for each, traced {traces} time(s)")
    print(f"{time.perf_counter() - start:.0f} s, picture in {options.out}")


if __name__ == "__main__":
    main()

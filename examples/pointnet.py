"""Train a small PointNet on turned handwritten digits, with and without its regulariser.

    python examples/pointnet.py --steps 1200 --seed 0 --out pointnet.png

The digits are clouds of points, turned in 3-D by up to 60 degrees. The network classifies them.
First it tries to turn each cloud back: a T-Net, a small network inside it, predicts a 3 x 3
transform from the cloud. A second T-Net predicts a 16 x 16 transform of the point features.

`OrthogonalTransformRegularizationLoss` keeps both transforms close to rotations, which preserve the
shape of a cloud. Both start at the identity, where `jnp.linalg.norm` has a NaN gradient. This loss
has value and gradient 0 there.

The same network is trained with the regulariser and without, and compared: about half a minute on
two CPU cores. The regulariser keeps the transforms well-conditioned. The accuracy changes little:
over seeds 0, 1 and 2 it is 0.81 to 0.83 with the regulariser and 0.79 to 0.82 without.

The clouds are made in `digit_clouds.py`, the networks are measured in `cloud_results.py`, and the
picture is drawn in `cloud_figure.py`.
"""

from __future__ import annotations

if __name__ == "__main__":
    print("loading JAX and the digits ...", flush=True)

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cloud_figure import SHOWN, draw
from cloud_results import evaluate, predict, report
from command_line import ProgressBar, parse, run, say
from digit_clouds import CLOUDS, POINTS, Clouds, load_clouds, make_batch, turn_about_axes
from flax import nnx
from jax.typing import ArrayLike

from vis4d_jax_loss import (
    CrossEntropyLoss,
    LossModule,
    LossTerm,
    OrthogonalTransformRegularizationLoss,
    data_key,
    mean_loss,
    pred_key,
)

FEATURES = 16  # per point, where the second transform acts
WEIGHT = 0.03  # of the regulariser; a weight of 1 would keep the transforms near the identity

# ------------------------------------------------------------------------------------- network


class Summary(nnx.Module):
    """Features ``[B, 64]`` of clouds ``[B, P, inputs]``, whatever the order of the points."""

    def __init__(self, inputs: int, rngs: nnx.Rngs, width: int = 128) -> None:
        self.first = nnx.Linear(inputs, 32, rngs=rngs)
        self.second = nnx.Linear(32, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.third = nnx.Linear(width, 64, rngs=rngs)

    def __call__(self, points: jax.Array) -> jax.Array:
        point_features = self.second(nnx.relu(self.first(points)))
        cloud_features = nnx.relu(self.norm(point_features.max(axis=-2)))
        return nnx.relu(self.third(cloud_features))


class TNet(nnx.Module):
    """Predicts a transform ``[B, size, size]`` per cloud ``[B, P, size]``: first the identity."""

    def __init__(self, size: int, rngs: nnx.Rngs) -> None:
        self.size = size
        self.summary = Summary(size, rngs)
        zeros = nnx.initializers.zeros_init()
        self.out = nnx.Linear(64, size * size, kernel_init=zeros, bias_init=zeros, rngs=rngs)

    def __call__(self, points: jax.Array) -> jax.Array:
        change = self.out(self.summary(points))
        return jnp.eye(self.size)[None] + change.reshape(-1, self.size, self.size)


class PointNet(nnx.Module):
    """Logits of ten digits, and the two transforms."""

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
    return PointNet(nnx.Rngs(seed))


def transform(model: PointNet, points: np.ndarray) -> np.ndarray:
    """Clouds after the first transform, which the model predicts from some of their points."""
    return points @ jax.device_get(predict(model, points[:, :POINTS])["transforms"][0])


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
    # Excluded from the total and the gradient, but still measured.
    "without": LossModule(TERMS, exclude=("orthogonal",)),
}


class Trained(NamedTuple):
    """A trained network, the metrics of every step, and how often JAX traced the step."""

    model: PointNet
    metrics: list[dict[str, jax.Array]]
    traces: int


def train(objective: LossModule, clouds: Clouds, steps: int, seed: int, name: str = "") -> Trained:
    """Train a new network. A progress bar is shown if it has a name."""
    model, rng = make_model(seed), np.random.default_rng(seed)
    graph, params = nnx.split(model, nnx.Param)
    rate = optax.warmup_cosine_decay_schedule(0.0, 4e-3, steps // 10, steps)
    optimizer = optax.adamw(rate)
    state, metrics, traces = optimizer.init(params), [], 0

    @jax.jit
    def train_step(params: nnx.State, state: optax.OptState, batch: dict[str, jax.Array]):
        nonlocal traces
        traces += 1  # Python runs this line only while JAX traces the step.

        def total(params: nnx.State):
            return objective(nnx.merge(graph, params)(batch["points"]), batch)

        (_, metrics), grads = jax.value_and_grad(total, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, metrics

    with ProgressBar(steps, name, disable=not name) as bar:
        for index in range(steps):
            batch = make_batch(clouds, rng)
            params, state, losses = train_step(params, state, batch)
            metrics.append(losses)
            # Reading a metric waits for the device, so read only every 20th step.
            if index % 20 == 0 or index == steps - 1:
                bar.set_postfix_str(f"loss {losses['loss']:.3f}", refresh=False)
            bar.update()
    nnx.update(model, params)
    return Trained(model, jax.device_get(metrics), traces)


# ------------------------------------------------------------------- gradient at the identity


def norm_regularizer(transforms: list[jax.Array]) -> ArrayLike:
    """The obvious regulariser with `jnp.linalg.norm`. Its gradient at the identity is NaN."""
    residuals = [x @ x.mT - jnp.eye(x.shape[-1])[None] for x in transforms]
    return sum(jnp.linalg.norm(residual, axis=(1, 2)).mean() for residual in residuals)


def at_start(regularizer: Callable, points: np.ndarray, seed: int) -> tuple[float, float, float]:
    """For a new network: the regulariser, its largest |gradient|, and the share that is NaN."""
    graph, params = nnx.split(make_model(seed), nnx.Param)

    def loss(params: nnx.State, points: jax.Array) -> jax.Array:
        return regularizer(nnx.merge(graph, params)(points)["transforms"])

    value, gradient = jax.jit(jax.value_and_grad(loss))(params, points)
    flat = np.concatenate([np.ravel(g) for g in jax.tree.leaves(gradient)])
    return float(value), float(np.abs(flat).max()), float(np.isnan(flat).mean())


# ---------------------------------------------------------------------------------------- main


def main(argv: list[str] | None = None) -> None:
    """Show the gradient at the identity, train twice, print and draw the results."""
    options = parse(__doc__, 1200, "pointnet.png", argv)
    training, test = load_clouds()
    say("computing the gradient of the regulariser at the identity ...")
    print(f"\n{'gradient at the identity':<32}{'value':>14}{'largest':>14}{'NaN':>14}")
    ours = OrthogonalTransformRegularizationLoss()
    for name, regularizer in (("this library", ours), ("jnp.linalg.norm", norm_regularizer)):
        value, largest, share = at_start(regularizer, test.points[:CLOUDS, :POINTS], options.seed)
        print(f"{name:<32}{value:>14}{largest:>14}{share:>14.0%}")

    say("\ntraining two networks; compiling takes about 5 s for each ...")
    start = time.perf_counter()
    runs = {
        name: train(objective, training, options.steps, options.seed, f"{name:<7} regulariser")
        for name, objective in OBJECTIVES.items()
    }
    seconds = time.perf_counter() - start
    results = {name: evaluate(run.model, test) for name, run in runs.items()}
    report(results)

    turned = turn_about_axes(test.points[SHOWN])
    moved = {name: transform(run.model, turned) for name, run in runs.items()}
    distance = {
        name: np.array([step["orthogonal"] for step in run.metrics]) / WEIGHT
        for name, run in runs.items()
    }
    singular = {name: result.singular for name, result in results.items()}
    draw(test.points[SHOWN], turned, moved, distance, singular, options.out)
    traces = " and ".join(str(run.traces) for run in runs.values())
    print(f"\n2 x {options.steps} steps in {seconds:.0f} s, traced {traces} time(s)")
    print(f"picture: {options.out}")


if __name__ == "__main__":
    run(main)

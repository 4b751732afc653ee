"""Segment, box and track handwritten digits with one network and one objective.

    python examples/track_digits.py --steps 500 --seed 0 --out track_digits.png

The network sees two frames of a scene with moving digits, and learns three tasks in one compiled
step:

* Masks: digit or background, at two resolutions, blurred edges ignored: `MultiLevelSegLoss`.
* Boxes: `IoULoss` and `SmoothL1Loss`.
* Identities: `QDTrackInstanceSimilarityLoss`, which also mines hard negatives.

Masks are predicted from the frames alone. A box and an identity are predicted for each click, a
point near the middle of a digit. The picture shows digits that the network was not trained on.

The step compiles once, no matter how many digits a scene has. The run takes about a minute on two
CPU cores. The scenes are made in `digit_scenes.py`, the picture is drawn in `digit_figure.py`.
"""

from __future__ import annotations

if __name__ == "__main__":
    print("loading JAX and the digits ...", flush=True)

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from command_line import ProgressBar, parse, run, say
from digit_figure import draw
from digit_scenes import SIZE, Digits, load_digits, make_scenes
from flax import nnx
from scipy.special import softmax

from vis4d_jax_loss import (
    IoULoss,
    LossModule,
    LossTerm,
    MultiLevelSegLoss,
    QDTrackInstanceSimilarityLoss,
    QDTrackInstanceSimilarityLosses,
    SmoothL1Loss,
    data_key,
    iou_loss,
    mean_loss,
    pred_key,
)

Arrays = dict[str, Any]  # JAX arrays inside a compiled step, NumPy arrays elsewhere
GRID = 4  # an identity is read from GRID x GRID points of a box
SCENES_PER_STEP, TEST_SCENES = 8, 150

# ------------------------------------------------------------------------------------- network


def conv_block(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> nnx.Sequential:
    """Convolution, layer norm, ReLU."""
    conv = nnx.Conv(inputs, outputs, (3, 3), strides=stride, rngs=rngs)
    return nnx.Sequential(conv, nnx.LayerNorm(outputs, rngs=rngs), nnx.relu)


def upsample(x: jax.Array, factor: int) -> jax.Array:
    """Enlarge maps ``[..., H, W, C]``."""
    *lead, height, width, channels = x.shape
    return jax.image.resize(x, (*lead, height * factor, width * factor, channels), "bilinear")


def interpolate(maps: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Read maps ``[..., H, W, C]`` on R grids, at columns x and rows y ``[..., R, G]``.

    Two matrix products instead of a gather: they work with any sharding of the leading axes.

    Returns:
        Values ``[..., R, G * G * C]``.
    """
    height, width, _ = maps.shape[-3:]
    x, y = (at[..., None] * (width / SIZE) - 0.5 for at in (x, y))
    x = jnp.maximum(1 - jnp.abs(x - jnp.arange(width)), 0)
    y = jnp.maximum(1 - jnp.abs(y - jnp.arange(height)), 0)
    values = jnp.einsum("...hwc,...rjw->...rhjc", maps, x)
    values = jnp.einsum("...rhjc,...rih->...rijc", values, y)
    return values.reshape(*values.shape[:-3], -1)


class Tracker(nnx.Module):
    """A small U-shaped network with four heads."""

    def __init__(self, rngs: nnx.Rngs, width: int = 48, features: int = 32) -> None:
        self.half = conv_block(1, 16, 2, rngs)
        self.quarter = nnx.Sequential(conv_block(16, 32, 2, rngs), conv_block(32, 32, 1, rngs))
        self.eighth = nnx.Sequential(conv_block(32, 64, 2, rngs), conv_block(64, width, 1, rngs))
        self.lateral = nnx.Conv(32, width, (1, 1), rngs=rngs)
        self.merge = conv_block(width, width, 1, rngs)
        self.fine = nnx.Conv(width, 16, (1, 1), rngs=rngs)
        self.refine = conv_block(16, 16, 1, rngs)
        self.mask = nnx.Conv(16, 2, (3, 3), rngs=rngs)
        self.coarse_mask = nnx.Conv(width, 2, (1, 1), rngs=rngs)
        self.sides = nnx.Conv(width, 4, (1, 1), rngs=rngs)
        self.look = nnx.Linear(GRID * GRID * 32, 128, rngs=rngs)
        self.embed = nnx.Linear(128, features, rngs=rngs)

    def __call__(self, frames: jax.Array, points: jax.Array) -> Arrays:
        """Outputs for frames ``[..., SIZE, SIZE, 1]`` clicked at points ``[..., R, 2]``."""
        half = self.half(frames)
        quarter = self.quarter(half)
        merged = self.merge(upsample(self.eighth(quarter), 2) + self.lateral(quarter))
        fine = self.refine(upsample(self.fine(merged), 2) + half)
        # Each cell predicts its distances to the four sides of the box. They change linearly
        # from cell to cell, so interpolation is exact.
        sides = interpolate(8 * nnx.softplus(self.sides(merged)), points[..., :1], points[..., 1:])
        boxes = jnp.concatenate([points - sides[..., :2], points + sides[..., 2:]], axis=-1)
        corner, side = boxes[..., :2, None], boxes[..., 2:, None] - boxes[..., :2, None]
        grid = jax.lax.stop_gradient(corner + side * (jnp.arange(GRID) + 0.5) / GRID)
        # These features see 15 pixels: enough for the handwriting, too few for the position.
        looks = nnx.relu(self.look(interpolate(quarter, grid[..., 0, :], grid[..., 1, :])))
        return {
            "levels": (upsample(self.mask(fine), 2), upsample(self.coarse_mask(merged), 4)),
            "boxes": boxes,
            "embeddings": self.embed(looks),
        }


def make_model(seed: int) -> Tracker:
    """A new network."""
    return Tracker(nnx.Rngs(seed))


predict = nnx.jit(Tracker.__call__)

# ---------------------------------------------------------------------------- losses, training


def identity_losses(embeddings: jax.Array, identity: jax.Array) -> QDTrackInstanceSimilarityLosses:
    """Compare the rows ``[B, 2, R]`` of each frame with those of the other frame."""
    keys, key_ids = (x.reshape(-1, *x.shape[2:]) for x in (embeddings, identity))
    refs, ref_ids = (x[:, ::-1].reshape(1, -1, *x.shape[2:]) for x in (embeddings, identity))
    valid = {"key_where": key_ids >= 0, "ref_where": ref_ids >= 0}
    return QDTrackInstanceSimilarityLoss()(keys, refs, key_ids, ref_ids, **valid)


MASKS = {"outputs": pred_key("levels"), "target": data_key("masks")}
BOXES = {"pred": pred_key("boxes"), "target": data_key("boxes"), "where": data_key("valid")}
ROWS = {"embeddings": pred_key("embeddings"), "identity": data_key("identity")}
objective = LossModule(
    {
        "mask": LossTerm(MultiLevelSegLoss(feature_idx=(0, 1), weights=(1.0, 0.5)), inputs=MASKS),
        "iou": LossTerm(IoULoss(mean_loss, mode="square"), weight=2.0, inputs=BOXES),
        "l1": LossTerm(SmoothL1Loss(mean_loss), weight=0.05, inputs=BOXES),
        "who": LossTerm(identity_losses, weight=4.0, inputs=ROWS),
    }
)


def update(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    params: nnx.State,
    state: optax.OptState,
    batch: Arrays,
) -> tuple[optax.Params, optax.OptState, Arrays]:
    """One training step. Returns new parameters, a new optimiser state and the metrics."""

    def total(params: nnx.State) -> tuple[jax.Array, Arrays]:
        model = nnx.merge(graph, params)
        return objective(model(batch["frames"], batch["points"]), batch)

    (_, metrics), grads = jax.value_and_grad(total, has_aux=True)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, metrics


def train(model: Tracker, digits: Digits, steps: int, rng: np.random.Generator) -> int:
    """Train a model in place, with new scenes in every step. Returns how often JAX traced it."""
    graph, params = nnx.split(model, nnx.Param)
    rate = optax.warmup_cosine_decay_schedule(0.0, 4e-3, steps // 10, steps)
    optimizer = optax.adamw(rate)
    state, traces = optimizer.init(params), 0

    @jax.jit
    def train_step(params: nnx.State, state: optax.OptState, batch: Arrays):
        nonlocal traces
        traces += 1  # Python runs this line only while JAX traces the step.
        return update(graph, optimizer, params, state, batch)

    with ProgressBar(steps) as bar:
        for index in range(steps):
            batch = make_scenes(digits, rng, SCENES_PER_STEP)
            params, state, metrics = train_step(params, state, batch)
            # Reading a metric waits for the device, so read only every tenth step.
            if index % 10 == 0 or index == steps - 1:
                parts = (f"{key} {value:.2f}" for key, value in metrics.items() if "." not in key)
                bar.set_postfix_str(" ".join(parts), refresh=False)
            bar.update()
    nnx.update(model, params)
    return traces


# ---------------------------------------------------------------------------------- evaluation


def match(embeddings: np.ndarray, identity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of frame 1: the most similar row ``[B, R]`` of frame 2, and whether it is right.

    As in quasi-dense tracking, the similarity is the mean of two softmaxes, one over the rows of
    each frame.
    """
    valid = identity >= 0
    dot = np.einsum("brc,bsc->brs", embeddings[:, 0], embeddings[:, 1])
    dot = np.where(valid[:, 0, :, None] & valid[:, 1, None, :], dot, -1e9)
    matched = (softmax(dot, axis=-1) + softmax(dot, axis=-2)).argmax(-1)
    return matched, np.take_along_axis(identity[:, 1], matched, axis=1) == identity[:, 0]


def evaluate(outputs: Arrays, scenes: Arrays) -> dict[str, float]:
    """Mean IoU of masks and of boxes, and the share of digits with a correct match."""
    mask, found = scenes["masks"], outputs["levels"][0].argmax(-1) == 1
    intersection = (found & (mask == 1)).sum((-2, -1))
    union = (found & (mask == 0) | (mask == 1)).sum((-2, -1))
    valid = scenes["valid"]
    box_loss = iou_loss(outputs["boxes"], scenes["boxes"], mean_loss, "linear", where=valid)
    _, right = match(outputs["embeddings"], scenes["identity"])
    return {
        "mean IoU of masks": float((intersection / union).mean()),
        "mean IoU of boxes": float(1 - box_loss),
        "correct matches": float(right[valid[:, 0]].mean()),
    }


def main(argv: list[str] | None = None) -> None:
    """Train, print the results and draw them."""
    options = parse(__doc__, 500, "track_digits.png", argv)
    training, test = load_digits()
    say(f"drawing {TEST_SCENES} test scenes and evaluating the untrained network ...")
    scenes = make_scenes(test, np.random.default_rng(6), TEST_SCENES, clicks=1)
    model = make_model(options.seed)
    inputs = jnp.asarray(scenes["frames"]), jnp.asarray(scenes["points"])
    outputs = jax.device_get(predict(model, *inputs))
    before = evaluate(outputs, scenes)

    say("compiling the training step, about 10 s ...")
    start = time.perf_counter()
    traces = train(model, training, options.steps, np.random.default_rng(options.seed))
    seconds = time.perf_counter() - start
    outputs = jax.device_get(predict(model, *inputs))
    after = evaluate(outputs, scenes)

    print(f"\n{'digits not seen in training':<30}{'before':>8}{'after':>8}")
    for name in after:
        print(f"{name:<30}{before[name]:>8.3f}{after[name]:>8.3f}")
    changes = [f"{name} {before[name]:.2f} \u2192 {after[name]:.2f}" for name in after]
    matched, right = match(outputs["embeddings"], scenes["identity"])
    draw(scenes, outputs, matched, right, changes, options.out)
    print(f"\n{options.steps} steps in {seconds:.0f} s, traced {traces} time(s)")
    print(f"picture: {options.out}")


if __name__ == "__main__":
    run(main)

"""Train a Faster R-CNN on handwritten digits, in one compiled step.

    python examples/train_detector.py --steps 1000 --seed 0 --out train_detector.png

A detector in two stages finds two to six digits in an image, among scratches and noise:

* The region proposal network tells objects from background at 800 anchors: `RPNLoss`.
* The second stage reads the 48 best proposals, and predicts class and box of each: `RCNNLoss`.

Matcher, sampler and suppression run inside the step, in plain JAX: `detection.py`. The step
compiles once, no matter how many digits an image has. Padded boxes are NaN.

The result is the average precision on digits that the network was not trained on. The run takes
about two minutes on two CPU cores. The picture is drawn in `detector_figure.py`.
"""

from __future__ import annotations

if __name__ == "__main__":
    print("loading JAX and the digits ...", flush=True)

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from command_line import ProgressBar, parse, run, say
from detection import Assigned, assign, average_precision, decode, make_anchors, suppress
from detector_figure import draw
from digit_scenes import SIZE, Digits, load_digits, make_scenes
from flax import nnx
from track_digits import conv_block, interpolate, upsample

from vis4d_jax_loss import (
    LossModule,
    LossTerm,
    RCNNLoss,
    RPNLoss,
    SmoothL1Loss,
    data_key,
    pred_key,
)

Arrays = dict[str, Any]  # JAX arrays inside a compiled step, NumPy arrays elsewhere
CLASSES = 10
STRIDE, SHAPES = 4, ((10, 20), (15, 20))  # of anchors: pixels per cell, (width, height)
ANCHORS = jnp.asarray(make_anchors(SIZE, STRIDE, SHAPES))
PROPOSALS = 48  # per image
GRID = 6  # a proposal is read at GRID x GRID points
SCENES_PER_STEP, TEST_SCENES = 8, 150  # with two images each

# ------------------------------------------------------------------------------------- network


class Detector(nnx.Module):
    """A small U-shaped network with the two stages of Faster R-CNN."""

    def __init__(self, rngs: nnx.Rngs, width: int = 48) -> None:
        self.half = conv_block(1, 16, 2, rngs)
        self.quarter = nnx.Sequential(conv_block(16, 32, 2, rngs), conv_block(32, 32, 1, rngs))
        self.eighth = nnx.Sequential(conv_block(32, 64, 2, rngs), conv_block(64, width, 1, rngs))
        self.lateral = nnx.Conv(32, width, (1, 1), rngs=rngs)
        self.merge = conv_block(width, width, 1, rngs)
        self.anchors = nnx.Conv(width, 5 * len(SHAPES), (1, 1), rngs=rngs)
        self.look = nnx.Linear(GRID * GRID * width, 128, rngs=rngs)
        self.norm = nnx.LayerNorm(128, rngs=rngs)
        self.classes = nnx.Linear(128, CLASSES + 1, rngs=rngs)
        self.deltas = nnx.Linear(128, 4, rngs=rngs)

    def propose(self, frames: jax.Array) -> Arrays:
        """The first stage: features, and outputs per anchor, of frames ``[B, SIZE, SIZE, 1]``."""
        quarter = self.quarter(self.half(frames))
        maps = self.merge(upsample(self.eighth(quarter), 2) + self.lateral(quarter))
        outs = self.anchors(maps).reshape(len(frames), -1, 5)
        return {"maps": maps, "objectness": outs[..., :1], "deltas": outs[..., 1:]}

    def refine(self, maps: jax.Array, boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The second stage: logits and deltas of boxes ``[B, P, 4]``."""
        points = (jnp.arange(GRID) + 0.5) / GRID
        corner, side = boxes[..., :2, None], boxes[..., 2:, None] - boxes[..., :2, None]
        grid = corner + side * points
        looks = self.look(interpolate(maps, grid[..., 0, :], grid[..., 1, :]))
        looks = nnx.relu(self.norm(looks))
        return self.classes(looks), self.deltas(looks)


def best_proposals(objectness: jax.Array, deltas: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The best proposals of an image ``[P, 4]``, and a mask of those without a better rival."""
    # The second stage must not move the boxes that it reads.
    objectness, deltas = jax.lax.stop_gradient((objectness, deltas))
    _, best = jax.lax.top_k(objectness[:, 0], PROPOSALS)
    proposals = jnp.clip(decode(deltas[best], ANCHORS[best]), 0, SIZE)
    return proposals, suppress(proposals, 0.7)


@nnx.jit
def detect(model: Detector, frames: jax.Array) -> Arrays:
    """Boxes, classes and scores of P detections per image, best first; suppressed ones score 0."""
    first = model.propose(frames)
    proposals, usable = jax.vmap(best_proposals)(first["objectness"], first["deltas"])
    logits, deltas = model.refine(first["maps"], proposals)
    chance = jax.nn.softmax(logits)[..., :CLASSES]
    score = jnp.where(usable, chance.max(-1), 0)
    order = jnp.argsort(-score, axis=-1)
    boxes = jnp.take_along_axis(decode(deltas, proposals), order[..., None], axis=1)
    score, label = (jnp.take_along_axis(x, order, axis=1) for x in (score, chance.argmax(-1)))
    score = jnp.where(jax.vmap(partial(suppress, overlap=0.5))(boxes), score, 0)
    return {"boxes": boxes, "label": label, "score": score}


# ---------------------------------------------------------------------------- losses, training

FIRST = {
    "cls_outs": pred_key("objectness"),
    "reg_outs": pred_key("deltas"),
    "labels": data_key("anchors.label"),
    "bbox_targets": data_key("anchors.deltas"),
    "label_where": data_key("anchors.sampled"),
}
SECOND = {
    "class_outs": pred_key("class_logits"),
    "regression_outs": pred_key("class_deltas"),
    "labels": data_key("proposals.label"),
    "bbox_targets": data_key("proposals.deltas"),
    "where": data_key("proposals.sampled"),
}
objective = LossModule(
    {
        "rpn": LossTerm(RPNLoss(loss_bbox=SmoothL1Loss()), inputs=FIRST),
        "rcnn": LossTerm(RCNNLoss(CLASSES, loss_bbox=SmoothL1Loss()), inputs=SECOND),
    }
)


def assign_anchors(keys: jax.Array, boxes: jax.Array, labels: jax.Array) -> Assigned:
    """What the first stage should predict at the anchors: class 1 for every digit."""
    rule = partial(assign, below=0.3, above=0.6, count=64, share=0.5)
    everywhere, is_digit = jnp.ones(len(ANCHORS), bool), jnp.where(labels >= 0, 1, -1)
    return jax.vmap(rule, (0, None, None, 0, 0))(keys, ANCHORS, everywhere, boxes, is_digit)


def assign_proposals(keys: jax.Array, *images: jax.Array) -> Assigned:
    """What the second stage should predict: the last class is the background."""
    rule = partial(assign, below=0.5, above=0.5, count=32, share=0.5)
    targets = jax.vmap(rule)(keys, *images)
    return targets._replace(label=jnp.where(targets.label >= 0, targets.label, CLASSES))


def run_stages(model: Detector, images: Arrays, key: jax.Array) -> tuple[Arrays, Arrays]:
    """Run both stages on a batch. Returns what they predict, and what they should predict."""
    boxes, labels = images["boxes"], images["label"]
    keys = jax.random.split(key, (2, len(boxes)))
    first = model.propose(images["frames"])
    anchors = assign_anchors(keys[0], boxes, labels)

    # The true boxes are proposals, too: at first there are no others on the digits.
    proposals, usable = jax.vmap(best_proposals)(first["objectness"], first["deltas"])
    valid = labels >= 0
    proposals = jnp.concatenate([proposals, jnp.where(valid[..., None], boxes, 0)], axis=1)
    usable = jnp.concatenate([usable, valid], axis=1)
    targets = assign_proposals(keys[1], proposals, usable, boxes, labels)
    second = model.refine(first["maps"], proposals)

    # The second loss takes the proposals of all images in one row.
    second, targets = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (second, targets))
    outputs = first | dict(zip(("class_logits", "class_deltas"), second, strict=True))
    return outputs, {"anchors": anchors, "proposals": targets}


def make_images(digits: Digits, rng: np.random.Generator, scenes: int) -> Arrays:
    """Frames, boxes and labels of scenes. First come the first frames of all scenes."""
    made = make_scenes(digits, rng, scenes, clicks=1)
    return {
        key: np.concatenate([*made[key].swapaxes(0, 1)]) for key in ("frames", "boxes", "label")
    }


def train(model: Detector, digits: Digits, steps: int, seed: int) -> tuple[list[Arrays], int]:
    """Train a model in place. Returns the metrics of each step, and how often JAX traced it."""
    graph, params = nnx.split(model, nnx.Param)
    rate = optax.warmup_cosine_decay_schedule(0.0, 4e-3, steps // 10, steps)
    optimizer = optax.adamw(rate)
    state, history, traces = optimizer.init(params), [], 0
    rng, key = np.random.default_rng(seed), jax.random.key(seed)

    @jax.jit
    def train_step(params: nnx.State, state: optax.OptState, images: Arrays, key: jax.Array):
        nonlocal traces
        traces += 1  # Python runs this line only while JAX traces the step.

        def total(params: nnx.State):
            return objective(*run_stages(nnx.merge(graph, params), images, key))

        (_, metrics), grads = jax.value_and_grad(total, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, metrics

    with ProgressBar(steps) as bar:
        for index in range(steps):
            images = make_images(digits, rng, SCENES_PER_STEP)
            key, step_key = jax.random.split(key)
            params, state, metrics = train_step(params, state, images, step_key)
            history.append(metrics)
            # Reading a metric waits for the device, so read only every tenth step.
            if index % 10 == 0 or index == steps - 1:
                bar.set_postfix_str(f"loss {metrics['loss']:.3f}", refresh=False)
            bar.update()
    nnx.update(model, params)
    return jax.device_get(history), traces


# ---------------------------------------------------------------------------------------- main


def evaluate(found: Arrays, images: Arrays) -> dict[str, float]:
    """Average precision, where boxes must overlap by a half and by three quarters."""
    one_class = found | {"label": np.zeros_like(found["label"])}
    boxes, labels = images["boxes"], images["label"]
    return {
        "AP at IoU 0.5": average_precision(found, boxes, labels, 0.5),
        "AP at IoU 0.75": average_precision(found, boxes, labels, 0.75),
        "AP at IoU 0.5, any class": average_precision(one_class, boxes, labels.clip(max=0), 0.5),
    }


def main(argv: list[str] | None = None) -> None:
    """Train, print the results and draw them."""
    options = parse(__doc__, 1000, "train_detector.png", argv)
    training, test = load_digits()
    say(f"drawing {2 * TEST_SCENES} test images and evaluating the untrained network ...")
    images = make_images(test, np.random.default_rng(6), TEST_SCENES)
    model = Detector(nnx.Rngs(options.seed))
    before = evaluate(jax.device_get(detect(model, images["frames"])), images)

    say("compiling the training step, about 10 s ...")
    start = time.perf_counter()
    history, traces = train(model, training, options.steps, options.seed)
    seconds = time.perf_counter() - start
    found = jax.device_get(detect(model, images["frames"]))
    after = evaluate(found, images)

    print(f"\n{'digits not seen in training':<30}{'before':>8}{'after':>8}")
    for name in after:
        print(f"{name:<30}{before[name]:>8.3f}{after[name]:>8.3f}")
    draw(images, found, history, options.out)
    print(f"\n{options.steps} steps in {seconds:.0f} s, traced {traces} time(s)")
    print(f"picture: {options.out}")


if __name__ == "__main__":
    run(main)

"""Segment, box and track real handwritten digits: these losses at work, in about two minutes.

Two to six digits of scikit-learn's `load_digits` (real handwriting, no download) move between two
frames, among scratches and noise. Two of them are always of one class: it is an individual that
must be found again. One small network learns four things at once, in one compiled step:

* digit or background, with an auxiliary level, blurred borders ignored: `MultiLevelSegLoss`;
* the box of a digit: `IoULoss` and `SmoothL1Loss`;
* who is who: `MultiPosCrossEntropyLoss`, and `EmbeddingDistanceLoss` with its hard negatives.

The number of digits varies, so their rows are padded, the boxes there with NaN: `where` keeps the
padding out of every value and gradient, and nothing is ever compiled again.

    python examples/track_digits.py --steps 500 --seed 0 --out track_digits.png

Masks are predicted from the frames alone. A box and an identity are asked for by a click near the
middle of a digit, in training and in the figures, which are of digits it was not trained on.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib import patches, path
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from options import parse
from scipy import ndimage
from scipy.special import softmax
from sklearn import datasets
from tqdm import tqdm

from vis4d_jax_loss import (
    EmbeddingDistanceLoss,
    IoULoss,
    LossModule,
    LossTerm,
    MultiLevelSegLoss,
    MultiPosCrossEntropyLoss,
    SmoothL1Loss,
    data_key,
    iou_loss,
    mean_loss,
    pred_key,
)

Arrays = dict[str, np.ndarray] | dict[str, jax.Array]
SIZE = 80  # of a frame, in pixels
MAX_DIGITS = 6
IGNORED = 255
GRID = 4  # a box is looked at in GRID x GRID points, to tell who it is
SCENES_PER_STEP, TEST_SCENES = 8, 150

# ------------------------------------------------------------------------------------- scenes


class Digits(NamedTuple):
    """Handwritten digits: their ink in 0..1, ``[N, 40, 40]``, and their classes ``[N]``."""

    ink: np.ndarray
    label: np.ndarray


def load_digits() -> tuple[Digits, Digits]:
    """Training digits (the first 1,300 of 1,797) and test digits (the rest), 4x enlarged."""
    data = datasets.load_digits()
    ink = np.pad(data.images / 16, ((0, 0), (1, 1), (1, 1)))
    enlarge = ndimage.zoom(np.eye(10), (4, 1), order=3, mode="grid-constant", grid_mode=True)
    ink = np.clip(1.2 * enlarge @ ink @ enlarge.T, 0, 1).astype(np.float32)
    return Digits(ink[:1300], data.target[:1300]), Digits(ink[1300:], data.target[1300:])


def pick(digits: Digits, rng: np.random.Generator) -> np.ndarray:
    """Ink of 2 to 6 digits, the first two different digits of one class."""
    chosen = rng.choice(len(digits.label), rng.integers(2, MAX_DIGITS + 1), replace=False)
    same_class = np.flatnonzero(digits.label == digits.label[chosen[0]])
    chosen[1] = rng.choice(np.setdiff1d(same_class, chosen))
    return digits.ink[chosen]


def place(low: np.ndarray, high: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Centres ``[N, 2]`` (y, x) between `low` and `high`: the least crowded of 200 placings."""
    placings = rng.uniform(low, high, (200, *low.shape))
    # Digits are taller than wide: they need less room in x.
    apart = (np.abs(placings[:, :, None] - placings[:, None]) * (1.0, 1.3)).max(-1)
    apart += np.where(np.eye(len(low)), np.inf, 0.0)
    return placings[apart.min((1, 2)).argmax()]


def render(ink: np.ndarray, centre: np.ndarray, height: float, angle: float) -> np.ndarray:
    """How much of each pixel ``[SIZE, SIZE]`` a digit covers."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn * 32 / height
    offset = 19.5 - matrix @ centre
    return ndimage.affine_transform(ink, matrix, offset, (SIZE, SIZE), order=1)


def clutter(rng: np.random.Generator) -> np.ndarray:
    """A background ``[SIZE, SIZE]``: uneven light and four scratches."""
    light = ndimage.zoom(rng.uniform(0, 0.35, (4, 4)), SIZE / 4, order=1)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    low, high = np.array([[0, -30, 0.3], [np.pi, 30, 0.7]])[..., None, None, None]
    angle, shift, shade = rng.uniform(low, high, (3, 4, 1, 1))
    across = np.abs(x * np.cos(angle) + y * np.sin(angle) - shift)
    return np.maximum(light, (shade * np.clip(1.3 - across, 0, 1)).max(0))


def observe(cover: np.ndarray, frame: np.ndarray, rng: np.random.Generator, clicks: int) -> Arrays:
    """A frame with digits that cover pixels ``[N, SIZE, SIZE]``, and what is known of it."""
    for layer in cover:
        frame = frame * (1 - layer) + layer * rng.uniform(0.65, 1.0)
    frame = frame + rng.normal(0, 0.05, frame.shape)
    ink = cover.max(0)
    # In an order of its own, or the place in the list would give the identity away.
    order = rng.permutation(np.tile(np.arange(len(cover)), clicks))
    y, x = (cover > 0.5).any(2), (cover > 0.5).any(1)
    first, last = (x.argmax(1), y.argmax(1)), (x[:, ::-1].argmax(1), y[:, ::-1].argmax(1))
    box = np.stack([*first, *np.subtract(SIZE, last)], axis=-1)[order]
    point = box[:, :2] + (box[:, 2:] - box[:, :2]) * rng.uniform(0.3, 0.7, (len(order), 2))
    padding = ((0, MAX_DIGITS * clicks - len(order)), (0, 0))
    return {
        "frames": frame[..., None].astype(np.float32),
        # Between ink and paper, a pixel is neither.
        "masks": np.select([ink > 0.6, ink < 0.25], [1, 0], IGNORED).astype(np.int32),
        "points": np.pad(point, padding).astype(np.float32),
        "boxes": np.pad(box.astype(np.float32), padding, constant_values=np.nan),
        "identity": np.pad(order.astype(np.int32), padding[0], constant_values=-1),
        "real": np.arange(MAX_DIGITS * clicks) < len(order),
    }


def make_scene(digits: Digits, rng: np.random.Generator, clicks: int) -> Arrays:
    """Two frames of one scene, between which its digits move, turn and change in brightness."""
    ink, background = pick(digits, rng), clutter(rng)
    height, angle = rng.uniform((16, -0.25), (22, 0.25), (len(ink), 2)).T
    low = np.stack([height, height], axis=-1) / 2
    first = place(low, SIZE - low, rng)
    second = place(np.maximum(low, first - 25), np.minimum(SIZE - low, first + 25), rng)
    frames = []
    for centre in (first, second):
        cover = np.stack([*map(render, ink, centre, height, angle)])
        frames.append(observe(cover, background, rng, clicks))
        height = height * rng.uniform(0.9, 1.1, height.shape)
        angle = angle + rng.uniform(-0.2, 0.2, angle.shape)
    return {key: np.stack([frame[key] for frame in frames]) for key in frames[0]}


def make_scenes(digits: Digits, rng: np.random.Generator, count: int, clicks: int = 2) -> Arrays:
    """A batch of B = `count` scenes, its shapes always the same: R = 6 * `clicks` rows a frame.

    Returns:
        frames ``[B, 2, SIZE, SIZE, 1]``; masks ``[B, 2, SIZE, SIZE]`` (1 digit, 0 background, 255
        neither); points ``[B, 2, R, 2]``; boxes ``[B, 2, R, 4]``, NaN in the padding; identity
        ``[B, 2, R]``, -1 in the padding; real ``[B, 2, R]``, False in the padding.
    """
    scenes = [make_scene(digits, rng, clicks) for _ in range(count)]
    return {key: np.stack([scene[key] for scene in scenes]) for key in scenes[0]}


# ------------------------------------------------------------------------------------- network


def block(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> nnx.Sequential:
    """Convolution, layer norm, ReLU."""
    conv = nnx.Conv(inputs, outputs, (3, 3), strides=stride, rngs=rngs)
    return nnx.Sequential(conv, nnx.LayerNorm(outputs, rngs=rngs), nnx.relu)


def upsample(x: jax.Array, factor: int) -> jax.Array:
    """Enlarge maps ``[..., H, W, C]``."""
    *lead, height, width, channels = x.shape
    return jax.image.resize(x, (*lead, height * factor, width * factor, channels), "bilinear")


def read(maps: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Interpolate maps ``[..., H, W, C]`` on R grids, of columns x and rows y ``[..., R, G]``.

    Two matrix products and no gather: any sharding of the leading axes will do.

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
        self.half = block(1, 16, 2, rngs)
        self.quarter = nnx.Sequential(block(16, 32, 2, rngs), block(32, 32, 1, rngs))
        self.eighth = nnx.Sequential(block(32, 64, 2, rngs), block(64, width, 1, rngs))
        self.lateral = nnx.Conv(32, width, (1, 1), rngs=rngs)
        self.merge = block(width, width, 1, rngs)
        self.fine = nnx.Conv(width, 16, (1, 1), rngs=rngs)
        self.refine = block(16, 16, 1, rngs)
        self.mask = nnx.Conv(16, 2, (3, 3), rngs=rngs)
        self.coarse_mask = nnx.Conv(width, 2, (1, 1), rngs=rngs)
        self.sides = nnx.Conv(width, 4, (1, 1), rngs=rngs)
        self.look = nnx.Linear(GRID * GRID * 32, 128, rngs=rngs)
        self.embed = nnx.Linear(128, features, rngs=rngs)

    def __call__(self, frames: jax.Array, points: jax.Array) -> Arrays:
        """The outputs for frames ``[..., SIZE, SIZE, 1]``, clicked at points ``[..., R, 2]``."""
        half = self.half(frames)
        quarter = self.quarter(half)
        merged = self.merge(upsample(self.eighth(quarter), 2) + self.lateral(quarter))
        fine = self.refine(upsample(self.fine(merged), 2) + half)
        # How far it is to the four sides, from every cell: linear in the place, so that
        # interpolating it is exact.
        sides = read(8 * nnx.softplus(self.sides(merged)), points[..., :1], points[..., 1:])
        boxes = jnp.concatenate([points - sides[..., :2], points + sides[..., 2:]], axis=-1)
        corner, side = boxes[..., :2, None], boxes[..., 2:, None] - boxes[..., :2, None]
        grid = jax.lax.stop_gradient(corner + side * (jnp.arange(GRID) + 0.5) / GRID)
        # From features that see 15 pixels: who it is, not where it is.
        looks = nnx.relu(self.look(read(quarter, grid[..., 0, :], grid[..., 1, :])))
        return {
            "levels": (upsample(self.mask(fine), 2), upsample(self.coarse_mask(merged), 4)),
            "boxes": boxes,
            "embeddings": self.embed(looks),
        }


def make_model(seed: int) -> Tracker:
    """A new network."""
    # The default generator, threefry, takes twice as long to compile.
    return Tracker(nnx.Rngs(jax.random.key(seed, impl="rbg")))


predict = nnx.jit(Tracker.__call__)

# ---------------------------------------------------------------------------- losses, training


def identity_losses(embeddings: jax.Array, identity: jax.Array) -> Arrays:
    """How well the rows ``[2, R]`` of a scene tell its digits apart, in and across its frames."""
    embeddings, identity = embeddings.reshape(-1, embeddings.shape[-1]), identity.reshape(-1)
    real = identity >= 0
    pair = real[:, None] & real[None, :]
    same = (identity[:, None] == identity[None, :]).astype(jnp.int32)
    # That a row is like itself is no news: -1, a pair to ignore.
    same = jnp.where(jnp.eye(len(real), dtype=bool), -1, same)
    weight = real.astype(embeddings.dtype)
    unit = embeddings * jax.lax.rsqrt((embeddings**2).sum(-1, keepdims=True) + 1e-6)
    dot, cosine = embeddings @ embeddings.T, unit @ unit.T
    return {
        "track": MultiPosCrossEntropyLoss()(dot, same, weight, weight.sum(), where=pair),
        "dist": EmbeddingDistanceLoss()(cosine, same, where=pair),
    }


MASKS = {"outputs": pred_key("levels"), "target": data_key("masks")}
BOXES = {"pred": pred_key("boxes"), "target": data_key("boxes"), "where": data_key("real")}
ROWS = {"embeddings": pred_key("embeddings"), "identity": data_key("identity")}
objective = LossModule(
    {
        "mask": LossTerm(MultiLevelSegLoss(feature_idx=(0, 1), weights=(1.0, 0.5)), inputs=MASKS),
        "iou": LossTerm(IoULoss(mean_loss, mode="square"), weight=2.0, inputs=BOXES),
        "l1": LossTerm(SmoothL1Loss(mean_loss), weight=0.05, inputs=BOXES),
        "who": LossTerm(
            lambda **rows: jax.tree.map(jnp.mean, jax.vmap(identity_losses)(**rows)), inputs=ROWS
        ),
    }
)


def losses(model: Tracker, batch: Arrays) -> tuple[jax.Array, Arrays]:
    """The total, and the weighted losses it is the sum of."""
    return objective(model(batch["frames"], batch["points"]), batch)


def train(model: Tracker, digits: Digits, steps: int, rng: np.random.Generator) -> int:
    """Train in place, on new scenes at every step; returns how often the step was traced."""
    rate = optax.warmup_cosine_decay_schedule(0.0, 4e-3, steps // 10, steps)
    optimizer = nnx.Optimizer(model, optax.adamw(rate), wrt=nnx.Param)
    traces = 0

    @nnx.jit
    def step(model: Tracker, optimizer: nnx.Optimizer, batch: Arrays):
        nonlocal traces
        traces += 1  # Python runs this line only while JAX traces the step.
        (_, metrics), grads = nnx.value_and_grad(losses, has_aux=True)(model, batch)
        optimizer.update(model, grads)
        return metrics

    progress = tqdm(range(steps), unit="step", ncols=110, mininterval=0.5)
    for index in progress:
        metrics = step(model, optimizer, make_scenes(digits, rng, SCENES_PER_STEP))
        # To read a number is to wait for it: not at every step.
        if index % 10 == 0 or index == steps - 1:
            parts = (f"{key} {value:.2f}" for key, value in metrics.items() if "." not in key)
            progress.set_postfix_str(" ".join(parts), refresh=False)
    return traces


# ------------------------------------------------------------------------------------- figures

FIGURES = ("mean IoU of masks", "mean IoU of boxes", "matched to itself")


def match(embeddings: np.ndarray, identity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row now, the row ``[B, R]`` of the next frame most like it, and if that is right.

    As in quasi-dense tracking: the mean of two softmaxes, over the rows now and those later.
    """
    real = identity >= 0
    dot = np.einsum("brc,bsc->brs", embeddings[:, 0], embeddings[:, 1])
    dot = np.where(real[:, 0, :, None] & real[:, 1, None, :], dot, -1e9)
    matched = (softmax(dot, axis=-1) + softmax(dot, axis=-2)).argmax(-1)
    return matched, np.take_along_axis(identity[:, 1], matched, axis=1) == identity[:, 0]


def evaluate(model: Tracker, scenes: Arrays) -> dict[str, float]:
    """Mean IoU of masks and of boxes, and the rate at which a digit is matched to itself."""
    outputs = jax.device_get(predict(model, scenes["frames"], scenes["points"]))
    mask, found = scenes["masks"], outputs["levels"][0].argmax(-1) == 1
    inside = (found & (mask == 1)).sum((-2, -1))
    either = (found & (mask == 0) | (mask == 1)).sum((-2, -1))
    real = scenes["real"]
    miss = iou_loss(outputs["boxes"], scenes["boxes"], mean_loss, "linear", where=real)
    _, right = match(outputs["embeddings"], scenes["identity"])
    values = (inside / either).mean(), 1 - miss, right[real[:, 0]].mean()
    return dict(zip(FIGURES, map(float, values), strict=True))


# ------------------------------------------------------------------------------------- picture

COLOURS = ("#ffd166", "#4cc9f0", "#ff6b9d", "#80ed99", "#b79cff", "#ff9f5a")
PAPER, TEXT, QUIET, WRONG = "#14161c", "#e8e9ee", "#8b8f9c", "#ff4d4d"
STEP = SIZE + 14  # from one tile to the next
TITLES = ("now", "next frame, coloured by match", "masks now", "masks in the next frame")


def draw(model: Tracker, scenes: Arrays, caption: str, out: Path) -> None:
    """Write a picture of the first two scenes, and of the one with the most wrong matches."""
    outputs = jax.device_get(predict(model, scenes["frames"], scenes["points"]))
    found = {"boxes": outputs["boxes"], "found": outputs["levels"][0].argmax(-1) == 1}
    matched, right = match(outputs["embeddings"], scenes["identity"])
    wrong = (scenes["identity"][:, 0] >= 0) & ~right
    shown = [0, 1, 2 + wrong[2:].sum(1).argmax()]
    width, height = 4 * STEP - 14, len(shown) * STEP - 14
    figure = Figure((10, 10 * (height + 48) / (width + 16)), dpi=96, facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    for row, index in enumerate(shown):
        scene = {key: value[index] for key, value in (scenes | found).items()}
        draw_scene(axes, scene, matched[index], right[index], row * STEP)
    for column, title in enumerate(TITLES):
        axes.text(column * STEP, -4, title, color=TEXT, fontsize=10)
    axes.text(0, -17, "Handwritten digits it has never seen", color=TEXT, fontsize=14)
    note = "last row: the scene with the most wrong matches"
    axes.text(width, -17, note, color=QUIET, fontsize=10, ha="right")
    axes.text(0, height + 13, caption, color=QUIET, fontsize=10)
    axes.axis("off")
    axes.set(xlim=(-8, width + 8), ylim=(height + 20, -28))
    figure.savefig(out)


def draw_scene(axes: Axes, scene: Arrays, matched: np.ndarray, right: np.ndarray, top: int) -> None:
    """One scene as a row of four tiles: both frames with boxes and matches, and their masks."""
    now = scene["identity"][0]
    colours = [COLOURS[i] for i in now[now >= 0]]
    claimed = dict(zip(matched, colours, strict=False))
    tints = (colours, [claimed.get(row, QUIET) for row in range(len(colours))])
    corners = scene["boxes"] + np.array([[0, top] * 2, [STEP, top] * 2])[:, None]
    for moment in range(2):
        frame = np.clip(scene["frames"][moment], 0, 1).repeat(3, axis=-1)
        found = scene["found"][moment]
        masks = np.where(found[..., None], to_rgb(QUIET), 0.35 * frame)
        boxes = scene["boxes"][moment].round().clip(0).astype(int)
        for row, colour in enumerate(tints[moment]):
            # Pixels found to be of a digit get the colour of the box that they are in.
            x1, y1, x2, y2 = boxes[row]
            masks[y1:y2, x1:x2][found[y1:y2, x1:x2]] = to_rgb(colour)
            (x1, y1), (x2, y2) = corners[moment, row].reshape(2, 2)
            box = patches.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.6)
            axes.add_patch(box)
        for column, image in ((moment, frame), (moment + 2, masks)):
            extent = (column * STEP, column * STEP + SIZE, top + SIZE, top)
            axes.imshow(image, extent=extent, interpolation="bicubic")
        x, y = np.arange(SIZE) + (moment + 2) * STEP + 0.5, np.arange(SIZE) + top + 0.5
        axes.contour(x, y, scene["masks"][moment] == 1, [0.5], colors="white", linewidths=0.5)
    for row, colour in enumerate(colours):
        draw_link(axes, corners[0, row], corners[1, matched[row]], colour, right[row])


def draw_link(axes: Axes, a: np.ndarray, b: np.ndarray, colour: str, right: bool) -> None:
    """A curve from a box to the box matched to it: dashed and crossed out if it is not the same."""
    start, end = np.array([a[2], a[1::2].mean()]), np.array([b[0], b[1::2].mean()])
    bend = np.array([(end[0] - start[0]) / 2, 0])
    curve = path.Path([start, start + bend, end - bend, end], [1, 4, 4, 4])
    style = "-" if right else (0, (3, 3))
    axes.add_patch(patches.PathPatch(curve, fill=False, ec=colour, lw=1.2, ls=style, alpha=0.75))
    if not right:
        axes.plot(*((start + end) / 2), "x", color=WRONG, markersize=9, markeredgewidth=2.4)


# ---------------------------------------------------------------------------------------- main


def main(argv: list[str] | None = None) -> None:
    """Train; print and draw what was learnt."""
    options = parse(__doc__, 500, "track_digits.png", argv)
    start = time.perf_counter()
    training, test = load_digits()
    scenes = make_scenes(test, np.random.default_rng(6), TEST_SCENES, clicks=1)
    model = make_model(options.seed)
    before = evaluate(model, scenes)
    traces = train(model, training, options.steps, np.random.default_rng(options.seed))
    after = evaluate(model, scenes)
    print(f"\n{'unseen digits':<20}{'before':>8}{'after':>8}")
    for name in FIGURES:
        print(f"{name:<20}{before[name]:>8.3f}{after[name]:>8.3f}")
    changes = (f"{name} {before[name]:.2f} \u2192 {after[name]:.2f}" for name in FIGURES)
    draw(model, scenes, "      ".join(["before \u2192 after training:", *changes]), options.out)
    print(f"\n{options.steps} steps of 2 to 6 digits a scene, traced {traces} time(s)")
    print(f"{time.perf_counter() - start:.0f} s, picture in {options.out}")


if __name__ == "__main__":
    main()

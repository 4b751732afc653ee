"""What `train_nnx.py` and `train_linen.py` share: all that knows nothing of NNX or Linen.

The photograph is scikit-image's `coins` (no download). The target is its classical segmentation by
a watershed, whose markers were chosen for this photograph by hand; what a network can show is that
it finds the coins of the upper half from crops of the lower half alone, in a light it has not seen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib.style
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy import ndimage
from skimage import data, filters, segmentation
from tqdm import tqdm

from vis4d_jax_loss import LossModule, LossTerm, MultiLevelSegLoss, data_key, pred_key

BACKGROUND, COIN, IGNORED = 0, 1, 255
BORDER = 2  # pixels on either side of an edge where the target is not to be trusted
CUT = 150  # rows above are for the test, rows below for training; no coin lies on the cut
CROP, CROPS = 96, 8  # side of a crop in pixels, and crops a step
SCORE_EVERY = 10  # steps

# ---------------------------------------------------------------------------------- objective


def make_objective(steps: int) -> LossModule:
    """Cross-entropy of the fine level, and of the coarse one as an aid that fades out."""
    aid = optax.cosine_decay_schedule(0.4, steps)
    return LossModule(
        {
            "seg": LossTerm(
                MultiLevelSegLoss(feature_idx=(0, 1)),
                weight={"loss_seg_level1": aid},  # level 0 has weight 1
                inputs={
                    "outputs": pred_key("levels"),
                    "target": data_key("target"),
                    "where": data_key("valid"),
                },
            )
        }
    )


# --------------------------------------------------------------------------------------- data


class Part(NamedTuple):
    """A part of the photograph: grey values in 0..1 ``[H, W, 1]``, and labels ``[H, W]``."""

    image: np.ndarray
    target: np.ndarray


def segment(photo: np.ndarray) -> np.ndarray:
    """Labels by a watershed: the edges are flooded from sure background and from sure coin."""
    markers = np.select([photo < 30, photo > 150], [1, 2], 0)
    coin = ndimage.binary_fill_holes(segmentation.watershed(filters.sobel(photo), markers) == 2)
    inside = ndimage.binary_erosion(coin, iterations=BORDER)
    outside = ~ndimage.binary_dilation(coin, iterations=BORDER)
    return np.select([inside, outside], [COIN, BACKGROUND], IGNORED).astype(np.int32)


def load() -> tuple[Part, Part]:
    """The lower half for training; the upper half, in a more uneven light, for the test."""
    photo = data.coins()
    image, target = (photo[..., None] / 255).astype(np.float32), segment(photo)
    return Part(image[CUT:], target[CUT:]), Part(image[:CUT], target[:CUT])


def otsu(image: np.ndarray) -> np.ndarray:
    """The best a single threshold on brightness knows to do, by Otsu's criterion."""
    image = image[..., 0]
    return np.where(image > filters.threshold_otsu(image), COIN, BACKGROUND)


def batches(part: Part, rng: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
    """Random crops without end, each mirrored at random and in a light of its own."""
    slope = np.linspace(-0.5, 0.5, CROP)[:, None, None]
    room = np.subtract(part.target.shape, CROP) + 1
    while True:
        images, targets = [], []
        for y, x in rng.integers(room, size=(CROPS, 2)):
            mirror = np.s_[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
            image, target = (array[y : y + CROP, x : x + CROP][mirror] for array in part)
            light, down, across = rng.uniform(-1, 1, 3) * (0.3, 0.6, 0.6)
            images.append(image + light + down * slope + across * slope.swapaxes(0, 1))
            targets.append(target)
        image, target = np.stack(images).astype(np.float32), np.stack(targets)
        yield {"image": image, "target": target, "valid": target != IGNORED}


def miou(predicted: np.ndarray, target: np.ndarray) -> float:
    """Intersection over union of the valid pixels, averaged over coin and background."""
    valid = target != IGNORED
    both = [(predicted == label) & (target == label) for label in (BACKGROUND, COIN)]
    either = [((predicted == label) | (target == label)) & valid for label in (BACKGROUND, COIN)]
    return float(np.mean(np.sum(both, axis=(1, 2)) / np.sum(either, axis=(1, 2))))


# ------------------------------------------------------------------------------------- report


class Run:
    """A training run as it is reported: progress bar, mIoU on the test part, lines and figure."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.start = options, time.perf_counter()
        self.training, self.test = load()
        self.metrics: list[dict[str, jax.Array]] = []
        self.scores: dict[int, float] = {}
        self.found = np.zeros_like(self.test.target)

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """One batch a step, with a progress bar."""
        source = batches(self.training, np.random.default_rng(self.options.seed))
        with tqdm(total=self.options.steps, unit="step", ncols=90, mininterval=0.5) as self.bar:
            for _ in range(self.options.steps):
                yield next(source)
                self.bar.update()

    def record(self, metrics: dict[str, jax.Array], predict: Callable) -> None:
        """Keep the metrics of a step; now and then, find the coins of the test part."""
        self.metrics.append(metrics)  # they stay on the device: to read one is to wait for it
        steps = len(self.metrics)
        if steps % SCORE_EVERY == 0 or steps == self.options.steps:
            logits = predict(self.test.image[None])["levels"][0][0]
            height, width = self.test.target.shape
            self.found = np.asarray(logits[:height, :width].argmax(-1))
            self.scores[steps] = miou(self.found, self.test.target)
            state = f"loss {metrics['loss']:.3f}, test mIoU {self.scores[steps]:.3f}"
            self.bar.set_postfix_str(state, refresh=False)

    def finish(self, traces: int) -> None:
        """Print what was reached, and draw it."""
        steps, out = self.options.steps, self.options.out
        print("\nmIoU on the upper half")
        print(f"Otsu threshold  {miou(otsu(self.test.image), self.test.target):.4f}")
        print(f"network         {self.scores[steps]:.4f}")
        draw(self, out)
        print(f"\n{steps} steps of {CROPS} crops of the lower half, traced {traces} time(s)")
        print(f"{time.perf_counter() - self.start:.0f} s, picture in {out}")


def show(axes: Axes, image: np.ndarray, found: np.ndarray, target: np.ndarray) -> None:
    """A photograph with the coins found in it, and the mistakes."""
    picture = np.clip(0.9 * image, 0, 1).repeat(3, axis=-1)
    picture[found == COIN] = 0.55 * picture[found == COIN] + 0.45 * np.array(to_rgb("C0"))
    picture[(found != target) & (target != IGNORED)] = to_rgb("C1")
    axes.imshow(picture, interpolation="nearest")
    axes.axis("off")


def draw(run: Run, out: Path) -> None:
    """The test part by threshold and by network, and how the network got there."""
    metrics = jax.device_get(run.metrics)
    steps = np.arange(1, len(metrics) + 1)
    with matplotlib.style.context(Path(__file__).with_name("plots.mplstyle")):
        figure = Figure((9.6, 5.4), layout="constrained")
        axes = figure.subplot_mosaic([["otsu", "network"], ["loss", "score"]])
        pictures = {"otsu": otsu(run.test.image), "network": run.found}
        names = {"otsu": "Otsu threshold", "network": "network trained on the lower half"}
        for name, found in pictures.items():
            show(axes[name], run.test.image, found, run.test.target)
            score = miou(found, run.test.target)
            axes[name].set_title(f"{names[name]}: mIoU {score:.4f}")
        kinds = [
            Patch(color="C0", alpha=0.6, label="found to be coin"),
            Patch(color="C1", label="wrong"),
        ]
        axes["otsu"].legend(handles=kinds, loc="upper left", bbox_to_anchor=(0, 0), ncols=2)

        for level, name in enumerate(("fine level", "coarse level, weight fading to 0")):
            values = [step[f"seg.loss_seg_level{level}"] for step in metrics]
            axes["loss"].plot(steps, values, label=name, color=f"C{2 * level}")
        axes["loss"].set(title="weighted losses", xlabel="step", ylabel="cross-entropy (nats)")
        axes["loss"].legend()
        axes["score"].plot(*zip(*run.scores.items(), strict=True), "o-", markersize=3)
        level = miou(pictures["otsu"], run.test.target)
        axes["score"].axhline(level, color="C1", linestyle="--", label="Otsu threshold")
        axes["score"].set(title="mIoU on the upper half", xlabel="step", ylabel="mIoU")
        axes["score"].legend(loc="lower right")
        figure.savefig(out)  # within the style, whose colours are looked up only now

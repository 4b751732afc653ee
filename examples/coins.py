"""What `train_nnx.py` and `train_linen.py` share: data, objective, progress report and picture.

The photograph is scikit-image's `coins` (no download). The targets come from a classical method, a
watershed, with markers chosen by hand for this photograph. The network is trained on crops of the
lower half. It must find the coins of the upper half, in a light that it has not seen.
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
from command_line import ProgressBar, say
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy import ndimage
from skimage import data, filters, segmentation

from vis4d_jax_loss import LossModule, LossTerm, MultiLevelSegLoss, data_key, pred_key

BACKGROUND, COIN, IGNORED = 0, 1, 255
BORDER = 2  # pixels on either side of an edge that are ignored
CUT = 150  # rows above are for the test, rows below for training; no coin lies on the cut
CROP, CROPS = 96, 8  # side of a crop in pixels, and crops per step
SCORE_EVERY = 10  # steps

# ---------------------------------------------------------------------------------- objective


def make_objective(steps: int) -> LossModule:
    """Cross-entropy of two levels. The weight of the coarse level fades from 0.4 to 0."""
    coarse_weight = optax.cosine_decay_schedule(0.4, steps)
    return LossModule(
        {
            "seg": LossTerm(
                MultiLevelSegLoss(feature_idx=(0, 1)),
                weight={"loss_seg_level1": coarse_weight},  # level 0 has weight 1
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
    """A part of the photograph: grey values from 0 to 1 ``[H, W, 1]``, and labels ``[H, W]``."""

    image: np.ndarray
    target: np.ndarray


def segment(photo: np.ndarray) -> np.ndarray:
    """Label pixels by a watershed that starts from certain background and certain coin."""
    markers = np.select([photo < 30, photo > 150], [1, 2], 0)
    coin = ndimage.binary_fill_holes(segmentation.watershed(filters.sobel(photo), markers) == 2)
    inside = ndimage.binary_erosion(coin, iterations=BORDER)
    near = ndimage.binary_dilation(coin, iterations=BORDER)
    return np.where(inside, COIN, np.where(near, IGNORED, BACKGROUND)).astype(np.int32)


def load() -> tuple[Part, Part]:
    """Load the lower half for training, and the upper half, with more uneven light, as the test."""
    photo = data.coins()
    image, target = (photo[..., None] / 255).astype(np.float32), segment(photo)
    return Part(image[CUT:], target[CUT:]), Part(image[:CUT], target[:CUT])


def otsu(image: np.ndarray) -> np.ndarray:
    """Label pixels by one brightness threshold, chosen by Otsu's method."""
    image = image[..., 0]
    return np.where(image > filters.threshold_otsu(image), COIN, BACKGROUND)


def batches(part: Part, rng: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
    """Yield random crops, each mirrored at random and with its own random light."""
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
    """Reports one training run: progress bar, mIoU on the test part, printed results, picture."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.start = options, time.perf_counter()
        self.training, self.test = load()
        self.metrics: list[dict[str, jax.Array]] = []
        self.scores: dict[int, float] = {}
        self.found = np.zeros_like(self.test.target)
        say("compiling the training step, about 10 s ...")
        self.bar = ProgressBar(options.steps)

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield one batch per step."""
        source = batches(self.training, np.random.default_rng(self.options.seed))
        for _ in range(self.options.steps):
            yield next(source)

    def record(self, metrics: dict[str, jax.Array], predict: Callable) -> None:
        """Keep the metrics of a step. Every tenth step, find the coins of the test part."""
        self.metrics.append(metrics)  # still on the device: reading them would wait for the step
        steps = len(self.metrics)
        if steps % SCORE_EVERY == 0 or steps == self.options.steps:
            logits = predict(self.test.image[None])["levels"][0][0]
            height, width = self.test.target.shape
            self.found = np.asarray(logits[:height, :width].argmax(-1))
            self.scores[steps] = miou(self.found, self.test.target)
            state = f"loss {metrics['loss']:.3f}, test mIoU {self.scores[steps]:.3f}"
            self.bar.set_postfix_str(state, refresh=False)
        self.bar.update()

    def finish(self, traces: int) -> None:
        """Print the results and draw them."""
        steps, out = self.options.steps, self.options.out
        seconds = time.perf_counter() - self.start
        print("\nmIoU on the upper half")
        print(f"Otsu threshold  {miou(otsu(self.test.image), self.test.target):.4f}")
        print(f"network         {self.scores[steps]:.4f}")
        draw(self, out)
        print(f"\n{steps} steps of {CROPS} crops in {seconds:.0f} s, traced {traces} time(s)")
        print(f"picture: {out}")


def show(axes: Axes, image: np.ndarray, found: np.ndarray, target: np.ndarray) -> None:
    """Draw a photograph with the predicted coins and the wrong pixels."""
    picture = np.clip(0.9 * image, 0, 1).repeat(3, axis=-1)
    picture[found == COIN] = 0.55 * picture[found == COIN] + 0.45 * np.array(to_rgb("C0"))
    picture[(found != target) & (target != IGNORED)] = to_rgb("C1")
    axes.imshow(picture, interpolation="nearest")
    axes.axis("off")


def draw(run: Run, out: Path) -> None:
    """Draw the test part as seen by threshold and network, and the curves of training."""
    metrics = jax.device_get(run.metrics)
    steps = np.arange(1, len(metrics) + 1)
    with matplotlib.style.context(Path(__file__).with_name("plots.mplstyle")):
        figure = Figure((9.6, 5.6), layout="constrained")
        axes = figure.subplot_mosaic([["otsu", "network"], ["loss", "score"]])
        pictures = {"otsu": otsu(run.test.image), "network": run.found}
        names = {"otsu": "Otsu threshold", "network": "Network trained on the lower half"}
        for name, found in pictures.items():
            show(axes[name], run.test.image, found, run.test.target)
            score = miou(found, run.test.target)
            axes[name].set_title(f"{names[name]}: mIoU {score:.4f}")
        kinds = [
            Patch(color="C0", alpha=0.6, label="predicted as coin"),
            Patch(color="C1", label="wrong label"),
        ]
        axes["otsu"].legend(handles=kinds, loc="upper left", bbox_to_anchor=(0, 0), ncols=2)

        for level, name in enumerate(("fine level, weight 1", "coarse level, weight 0.4 to 0")):
            values = [step[f"seg.loss_seg_level{level}"] for step in metrics]
            axes["loss"].semilogy(steps, values, label=name, color=f"C{2 * level}", lw=1.4)
        axes["loss"].set(title="Weighted losses in training", xlabel="training step")
        axes["loss"].set(ylabel="cross-entropy", ylim=(1e-3, None))
        axes["loss"].legend(loc="upper right")
        axes["score"].plot(*zip(*run.scores.items(), strict=True), "o-", ms=3, label="network")
        threshold = miou(pictures["otsu"], run.test.target)
        axes["score"].axhline(threshold, color="C1", linestyle="--", label="Otsu threshold")
        axes["score"].set(title="mIoU on the upper half", xlabel="training step", ylabel="mIoU")
        axes["score"].legend(loc="lower right")
        figure.savefig(out)  # inside the style, because colours are resolved on saving

"""The picture that `train_detector.py` draws: detections in unseen images, losses, precision."""

from __future__ import annotations

from pathlib import Path

import matplotlib.style
import numpy as np
from detection import find_boxes, precision_curve
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

RIGHT, WRONG, MISSED = "C5", "C4", "white"
DOTS = (0, (2, 2))
SURE = 0.5  # detections with a lower score are not drawn
FIRST, WORST = 6, 2  # the first images, and the images with the most mistakes


def draw(
    images: dict[str, np.ndarray],
    found: dict[str, np.ndarray],
    history: list[dict[str, np.ndarray]],
    out: Path,
) -> None:
    """Draw eight images with detections, the losses, and precision over recall."""
    matched = find_boxes(found, images["boxes"], images["label"], 0.5)
    sure = found["score"] >= SURE
    mistakes = count_mistakes(images["label"], sure, matched)
    worst = FIRST + np.argsort(-mistakes[FIRST:], kind="stable")[:WORST]
    with matplotlib.style.context(Path(__file__).with_name("plots.mplstyle")):
        figure = Figure((9.6, 8.6), layout="constrained")
        rows = figure.add_gridspec(2, 1, height_ratios=(2.1, 1))
        above, below = figure.add_subfigure(rows[0]), figure.add_subfigure(rows[1])
        tiles = above.subplots(2, 4).ravel()
        for axes, index in zip(tiles, [*range(FIRST), *worst], strict=True):
            image = {key: value[index] for key, value in images.items()}
            detections = {key: value[index, sure[index]] for key, value in found.items()}
            draw_image(axes, image, detections, matched[index, sure[index]])
        tiles[0].set_title("Digits not seen in training")
        tiles[FIRST].set_title("The two images with the most mistakes")
        draw_legend(above)
        left, right = below.subplots(1, 2)
        draw_losses(left, history)
        draw_curves(right, images, found)
        figure.savefig(out)  # inside the style, because colours are resolved on saving


def count_mistakes(labels: np.ndarray, sure: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """How many sure detections of each image are wrong, plus how many true boxes are missed."""
    right = (sure & (matched >= 0)).sum(1)
    return (sure.sum(1) - right) + ((labels >= 0).sum(1) - right)


def draw_image(
    axes: Axes, image: dict[str, np.ndarray], found: dict[str, np.ndarray], matched: np.ndarray
) -> None:
    """Draw an image, its detections with their classes, and the true boxes that they miss."""
    axes.imshow(image["frames"][..., 0], cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
    axes.axis("off")
    for row in np.setdiff1d(np.flatnonzero(image["label"] >= 0), matched):
        draw_box(axes, image["boxes"][row], image["label"][row], MISSED, DOTS)
    for box, label, row in zip(found["boxes"], found["label"], matched, strict=True):
        draw_box(axes, box, label, RIGHT if row >= 0 else WRONG, "-")


def draw_box(
    axes: Axes, box: np.ndarray, label: np.ndarray, colour: str, line: str | tuple
) -> None:
    """Draw a box and its class: on the left for a detection, on the right for a missed box."""
    (x1, y1), (width, height) = box[:2], box[2:] - box[:2]
    axes.add_patch(Rectangle((x1, y1), width, height, fill=False, ec=colour, lw=1.6, ls=line))
    x, side = (x1 + width, "right") if colour == MISSED else (x1, "left")
    # Above the box, or below it at the upper border of the image.
    y, edge = (y1 - 1, "bottom") if y1 > 9 else (y1 + height + 1, "top")
    text = axes.text(x, y, str(label), color=colour, weight="bold", ha=side, va=edge)
    text.set_in_layout(False)  # digits at a border must not shrink the image


def draw_legend(figure: SubFigure) -> None:
    """Explain the boxes, above the images."""
    lines = [
        Line2D([], [], color=RIGHT, label="box and class are right"),
        Line2D([], [], color=WRONG, label="wrong box or class"),
        Line2D([], [], color="0.4", ls=DOTS, label="missed, with the true class (white)"),
    ]
    figure.legend(handles=lines, loc="outside upper left", ncols=3)


def draw_losses(axes: Axes, history: list[dict[str, np.ndarray]]) -> None:
    """Draw the four losses in training: means of up to 20 steps, which sample other candidates."""
    names = {
        "rpn.rpn_loss_cls": "first stage, object or not",
        "rpn.rpn_loss_bbox": "first stage, boxes",
        "rcnn.rcnn_loss_cls": "second stage, classes",
        "rcnn.rcnn_loss_bbox": "second stage, boxes",
    }
    width = min(20, len(history))
    steps = np.arange(width, len(history) + 1)
    for key, name in names.items():
        values = np.array([step[key] for step in history])
        mean = np.convolve(values, np.full(width, 1 / width), "valid")
        axes.semilogy(steps, mean, label=name, lw=1.4)
    axes.set(title="Losses in training", xlabel="training step")
    axes.legend(loc="upper right", ncols=2, fontsize=9)
    axes.set_ylim(top=20)  # room for the legend


def draw_curves(axes: Axes, images: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
    """Draw precision over recall of all classes together, for two demands on the overlap."""
    boxes, labels = images["boxes"], images["label"]
    for overlap in (0.5, 0.75):
        hit = find_boxes(found, boxes, labels, overlap) >= 0
        kept = found["score"] > 0
        curve = precision_curve(found["score"][kept], hit[kept], (labels >= 0).sum())
        axes.plot(*curve, label=f"IoU at least {overlap}")
    axes.set(title="Digits not seen in training, all classes", xlabel="recall", ylabel="precision")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02))
    axes.legend(loc="lower left")

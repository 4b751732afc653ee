"""The picture that `track_digits.py` draws: three scenes with boxes, masks and matches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from digit_scenes import SIZE
from matplotlib import patches, path
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D

IDENTITY = ("#ffd166", "#4cc9f0", "#ff6b9d", "#80ed99", "#b79cff", "#ff9f5a")  # one per digit
PAPER, TEXT, QUIET, WRONG = "#14161c", "#e8e9ee", "#8b8f9c", "#ff4d4d"
STEP = SIZE + 14  # from one tile to the next
TITLES = ("boxes in frame 1", "boxes in frame 2", "masks in frame 1", "masks in frame 2")
DASHES = (0, (3, 3))


def draw(
    scenes: dict[str, np.ndarray],
    outputs: dict[str, np.ndarray],
    matched: np.ndarray,
    right: np.ndarray,
    changes: list[str],
    out: Path,
) -> None:
    """Draw the first two scenes and the one with the most wrong matches, and write the picture."""
    predicted = {"boxes": outputs["boxes"], "found": outputs["levels"][0].argmax(-1) == 1}
    wrong = scenes["valid"][:, 0] & ~right
    shown = [0, 1, 2 + wrong[2:].sum(1).argmax()]
    width, height = 4 * STEP - 14, len(shown) * STEP - 14
    figure = Figure((10, 10 * (height + 60) / (width + 16)), dpi=96, facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    for row, index in enumerate(shown):
        scene = {key: value[index] for key, value in (scenes | predicted).items()}
        draw_scene(axes, scene, matched[index], right[index], row * STEP)
    for column, title in enumerate(TITLES):
        axes.text(column * STEP, -4, title, color=TEXT, fontsize=10)
    axes.text(0, -17, "Predictions for unseen handwritten digits", color=TEXT, fontsize=14)
    note = "last row: the scene with the most wrong matches"
    axes.text(width, -17, note, color=QUIET, fontsize=10, ha="right")
    caption = "      ".join(["before \u2192 after training:", *changes])
    axes.text(0, height + 27, caption, color=TEXT, fontsize=10)
    draw_legend(axes, height)
    axes.axis("off")
    axes.set(xlim=(-8, width + 8), ylim=(height + 32, -28))
    figure.savefig(out)


def draw_scene(
    axes: Axes, scene: dict[str, np.ndarray], matched: np.ndarray, right: np.ndarray, top: int
) -> None:
    """Draw one scene as a row of four tiles: both frames with boxes, and both with masks."""
    identity = scene["identity"][0]
    first_colours = [IDENTITY[i] for i in identity[identity >= 0]]
    # A box of frame 2 takes the colour of the box of frame 1 that is matched to it.
    claimed = dict(zip(matched, first_colours, strict=False))
    second_colours = [claimed.get(row, QUIET) for row in range(len(first_colours))]
    corners = scene["boxes"] + np.array([[0, top] * 2, [STEP, top] * 2])[:, None]
    for moment, colours in enumerate((first_colours, second_colours)):
        frame = np.clip(scene["frames"][moment], 0, 1).repeat(3, axis=-1)
        found = scene["found"][moment]
        masks = np.where(found[..., None], to_rgb(QUIET), 0.35 * frame)
        boxes = scene["boxes"][moment].round().clip(0).astype(int)
        for row, colour in enumerate(colours):
            # A pixel predicted as digit takes the colour of the box around it.
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
    for row, colour in enumerate(first_colours):
        draw_match(axes, corners[0, row], corners[1, matched[row]], colour, right[row])


def draw_match(axes: Axes, a: np.ndarray, b: np.ndarray, colour: str, right: bool) -> None:
    """Draw a curve from a box to its match: dashed and crossed out if the match is wrong."""
    start, end = np.array([a[2], a[1::2].mean()]), np.array([b[0], b[1::2].mean()])
    bend = np.array([(end[0] - start[0]) / 2, 0])
    curve = path.Path([start, start + bend, end - bend, end], [1, 4, 4, 4])
    style = "-" if right else DASHES
    axes.add_patch(patches.PathPatch(curve, fill=False, ec=colour, lw=1.2, ls=style, alpha=0.75))
    if not right:
        axes.plot(*((start + end) / 2), "x", color=WRONG, markersize=9, markeredgewidth=2.4)


def draw_legend(axes: Axes, height: int) -> None:
    """Explain colours and lines below the scenes."""

    def square(colour: str, **style) -> Line2D:
        return Line2D([], [], ls="", marker="s", markersize=9, color=colour, **style)

    hollow = dict(markerfacecolor="none")
    digits = tuple(square(colour) for colour in IDENTITY[:4])
    wrong = (
        Line2D([], [], color=IDENTITY[0], lw=1.4, ls=DASHES),
        Line2D([], [], ls="", marker="x", color=WRONG, markersize=8, markeredgewidth=2.4),
    )
    entries: dict[str, Line2D | tuple[Line2D, ...]] = {
        "one colour per digit": digits,
        "match": Line2D([], [], color=IDENTITY[1], lw=1.4),
        "wrong match": wrong,
        "not matched": square(QUIET, markeredgewidth=1.6, **hollow),
        "outline of the true mask": square("white", markeredgewidth=0.8, **hollow),
    }
    axes.legend(
        entries.values(),
        entries.keys(),
        # Side by side for the digits; on top of each other for line and cross.
        handler_map={digits: HandlerTuple(ndivide=None, pad=0.3), wrong: HandlerTuple(ndivide=1)},
        loc="upper left",
        bbox_to_anchor=(2, height + 6),
        bbox_transform=axes.transData,
        ncols=len(entries),
        frameon=False,
        labelcolor=TEXT,
        fontsize=10,
        borderaxespad=0,
        borderpad=0,
        columnspacing=2.4,
    )

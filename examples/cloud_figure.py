"""The picture that `pointnet.py` draws: one digit in six turns, and all transforms."""

from __future__ import annotations

from pathlib import Path

import matplotlib.style
import numpy as np
from digit_clouds import MAX_TURN
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

SHOWN = 71  # the test digit that is drawn
ROOM = 19  # width per cloud, in the unit of its points
INK = "cividis_r"  # dark where there is more ink


def draw(
    cloud: np.ndarray,
    turned: np.ndarray,
    moved: dict[str, np.ndarray],
    distance: dict[str, np.ndarray],
    singular: dict[str, list[np.ndarray]],
    out: Path,
) -> None:
    """Write the picture.

    Args:
        cloud: The upright digit ``[P, 3]``.
        turned: The same digit in six turns ``[6, P, 3]``.
        moved: The turned digits after the 3 x 3 transform of each network.
        distance: ||XX' - I||_F in every training step of each network.
        singular: Singular values of the 3 x 3 and of the other transforms of each network.
        out: The file to write.
    """
    rows = {f"Input: one digit, turned by {MAX_TURN:.0f}° about three axes, both ways": turned}
    for name, clouds in moved.items():
        size = np.linalg.norm(clouds) / np.linalg.norm(turned)
        scale = f"{size:.1f} times as large as drawn"
        rows[f"After the 3 x 3 transform, {name} regulariser ({scale})"] = clouds / size
    with matplotlib.style.context(Path(__file__).with_name("plots.mplstyle")):
        figure = Figure((9.6, 7.2), layout="constrained")
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2.4)).flat
        panels = above.subplots(3)
        for axes, (title, clouds) in zip(panels, rows.items(), strict=True):
            draw_clouds(axes, clouds, cloud[:, 2])
            axes.set_title(title)
        ink = ScalarMappable(cmap=INK)
        bar = above.colorbar(ink, ax=panels, ticks=(0, 1), shrink=0.5, label="ink at the point")
        bar.set_ticklabels(["little", "much"])
        draw_transforms(below, distance, singular)
        figure.savefig(out, dpi=96)


def draw_clouds(axes: Axes, clouds: np.ndarray, ink: np.ndarray) -> None:
    """Draw clouds in a row, seen from the front, darker where there is more ink."""
    for place, cloud in enumerate(clouds):
        order = np.argsort(cloud[:, 2])[::3]  # near points are drawn last
        x, y, _ = cloud[order].T
        axes.scatter(x + place * ROOM, y, s=8, c=ink[order], cmap=INK, lw=0)
    axes.set(xlim=(-ROOM / 2, (len(clouds) - 0.5) * ROOM), ylim=(-7.2, 7.2), aspect="equal")
    axes.axis("off")


def draw_transforms(
    figure: SubFigure, distance: dict[str, np.ndarray], singular: dict[str, list[np.ndarray]]
) -> None:
    """Draw how far the transforms are from rotations: in training, and for all test digits."""
    training, *panels = figure.subplots(1, 3)
    for values in distance.values():
        training.semilogy(np.arange(1, len(values) + 1), values, lw=1.2)
    training.set(title="Distance from rotations", xlabel="training step", ylim=(0.1, None))
    training.set_ylabel(r"$\Vert XX^\top - I \Vert_F$, both transforms")
    for index, axes in enumerate(panels):
        draw_values(axes, {name: values[index] for name, values in singular.items()})
        size = next(iter(singular.values()))[index].shape[1]
        axes.set(title=f"Singular values, {size} x {size}", ylabel="singular value")
    lines = [
        Line2D([], [], color=f"C{colour}", label=f"{name} regulariser")
        for colour, name in enumerate(distance)
    ]
    handles = [
        *lines,
        Line2D([], [], color="gray", marker="o", markersize=3, label="median"),
        Patch(color="gray", alpha=0.3, lw=0, label="90 % of the digits"),
        Line2D([], [], color="black", lw=0.8, label="rotation"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def draw_values(axes: Axes, singular: dict[str, np.ndarray]) -> None:
    """Draw singular values, largest first: the median and the middle 90 % of the clouds."""
    axes.axhline(1, color="black", lw=0.8)
    for colour, (name, values) in enumerate(singular.items()):
        low, middle, high = np.quantile(values, (0.05, 0.5, 0.95), axis=0)
        place = np.arange(1, values.shape[1] + 1)
        axes.fill_between(place, low, high, color=f"C{colour}", alpha=0.2, lw=0)
        axes.plot(place, middle, "o-", markersize=3, color=f"C{colour}", label=name)
        axes.set_xticks(place[:: len(place) // 3])
    axes.set(xlabel="index, largest first", ylim=(0, None))

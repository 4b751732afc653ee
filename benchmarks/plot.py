"""Draws what each loss costs on three targets, beside the best alternative: ``performance.png``."""

from pathlib import Path

import results
import targets

COLORS = dict(ours="#0072B2", best="#E69F00", limit="#444444")  # of the Okabe-Ito palette

# Per row: its name, our cost and that of the best alternative, in passes over the data.
Panel = list[tuple[str, float, float | None]]


def bars(measured: dict[str, dict]) -> dict[str, Panel]:
    """Return what was measured on each target, at the largest size."""
    panels: dict[str, Panel] = {}
    if "cpu" in measured:
        largest = {r["row"]: r for r in measured["cpu"]["results"] if r["dtype"] == "float32"}
        panels["time on a CPU"] = [
            (name, results.passes(r), results.passes(r) * results.best_alternative(r)[1])
            for name, r in largest.items()
        ]
    for target, title in (("h100", "bytes on an H100"), ("v5e", "cycles on a v5e")):
        if target in measured:
            unit = targets.MEASURE[target]
            panels[title] = [
                (
                    r["row"],
                    targets.multiple(r, "ours", unit),
                    best and targets.multiple(r, best, unit),
                )
                for r in measured[target]["results"]
                for best in [targets.best_alternative(r, unit)]
            ]
    return panels


def one_row_per_function(names: list[str]) -> list[str]:
    """Keep the first row of each function; the tables have the others, such as masked ones."""
    from rows import ROWS

    functions = {row.name: row.function for row in ROWS}
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(functions.get(name, name), name)
    return list(first.values())


def draw(measured: dict[str, dict], path: Path) -> None:
    """Draw one panel per target. The letters are those of a page of 770 pixels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = bars(measured)
    names = one_row_per_function([name for panel in panels.values() for name, *_ in panel])
    position = {name: i for i, name in enumerate(names)}
    plt.rcParams["font.size"] = 9
    size = (7.4, 1 + 0.3 * len(names))
    figure, axes = plt.subplots(
        1, len(panels), figsize=size, layout="constrained", sharey=True, squeeze=False
    )
    for axis, (title, panel) in zip(axes.flat, panels.items(), strict=True):
        _draw_panel(axis, title, [row for row in panel if row[0] in position], position)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.supxlabel("multiples of a single pass over the data, on a logarithmic axis", fontsize=9)
    figure.savefig(path, dpi=200)
    plt.close(figure)


def _draw_panel(axis, title: str, panel: Panel, position: dict[str, int]) -> None:
    for offset, column, label, color in (
        (-0.19, 1, "ours", COLORS["ours"]),
        (0.19, 2, "best alternative", COLORS["best"]),
    ):
        drawn = [(position[row[0]] + offset, row[column]) for row in panel if row[column]]
        axis.barh(*zip(*drawn, strict=True), height=0.36, color=color, label=label)
    axis.axvline(1, color=COLORS["limit"], linestyle="--", label="limit: a single pass")
    axis.set(xscale="log", xlim=(0.4, None))
    axis.set_title(title, fontsize=9.5)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)

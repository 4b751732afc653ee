"""Makes the table and the plot from the results of ``run.py --json``.

python benchmarks/report.py RESULTS.json [--plot docs/performance.png] [--write PAGE.md ...]

Prints the table in Markdown. ``--write`` also inserts it between the two marks of each page.
"""

import argparse
import json
from pathlib import Path
from textwrap import wrap

START, END = "<!-- measured: begin -->", "<!-- measured: end -->"
OTHERS = ("literal", "optax", "reference")


def milliseconds(result: dict) -> str:
    median, low, high = (1e3 * result[key] for key in ("median", "low", "high"))
    return f"{median:.3g} [{low:.3g}, {high:.3g}]"


def ratio(columns: dict, name: str) -> str:
    if name not in columns:
        return ""
    speedup = columns[name]["of_ours"]["median"]
    return f"**{speedup:.2g}**" if speedup < 1 else f"{speedup:.3g}"


def required(result: dict) -> str:
    """Format the required speed-up over the reference, and whether it was reached."""
    if result["required_speedup"] is None or "reference" not in result["results"]:
        return ""
    speedup = result["results"]["reference"]["of_ours"]["median"]
    reached = speedup >= result["required_speedup"]
    return f"{result['required_speedup']:g} {'reached' if reached else '**not reached**'}"


def growth(result: dict, before: dict | None) -> str:
    """Format how time and elements grew from the size before, e.g. ``9 for 10``."""
    if before is None or before["row"] != result["row"] or before["dtype"] != result["dtype"]:
        return ""
    time, time_before = (r["results"]["ours"]["median"] for r in (result, before))
    return f"{time / time_before:.2g} for {result['elements'] / before['elements']:.2g}"


def table(results: list[dict]) -> str:
    heads = ["loss", "size", "ours, ms [quartiles]", *OTHERS, "required"]
    heads += ["copies", "GB/s", "temporary / inputs", "compile, s", "growth"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    previous: dict[str, dict] = {}
    for result in results:
        columns, ours = result["results"], result["results"]["ours"]
        half = "" if result["dtype"] == "float32" else f" {result['dtype']}"
        cells = [
            result["row"],
            " x ".join(f"{n:,}" for n in result["size"]) + half,
            milliseconds(ours),
            *(ratio(columns, name) for name in OTHERS),
            required(result),
            f"{1 / columns['copy']['of_ours']['median']:.3g}",
            f"{result['bytes'] / ours['median'] / 1e9:.3g}",
            f"{ours['temp_bytes'] / result['input_bytes']:.2g}",
            f"{ours['compile_seconds']:.2f}",
            growth(result, previous.get(result["dtype"])),
        ]
        lines.append("| " + " | ".join(cells) + " |")
        previous[result["dtype"]] = result
    return "\n".join(lines)


def plot(results: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    # Colours of the Okabe-Ito palette, which colour-blind readers can tell apart. Markers and line
    # styles differ as well.
    styles = dict(
        ours=dict(color="#0072B2", marker="o", linestyle="-", label="ours"),
        reference=dict(color="#D55E00", marker="s", linestyle="--", label="PyTorch reference"),
        copy=dict(color="#999999", marker="", linestyle=":", label="one copy"),
    )
    results = [r for r in results if r["dtype"] == "float32"]
    names = list(dict.fromkeys(r["row"] for r in results))
    columns = 4
    figure, axes = plt.subplots(
        -(-len(names) // columns), columns, figsize=(13, 11), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes.flat, names, strict=False):
        rows = [r for r in results if r["row"] == name]
        sizes = [r["elements"] for r in rows]
        for implementation, style in styles.items():
            measured = [r["results"].get(implementation) for r in rows]
            if None in measured:
                continue
            low, median, high = (
                [1e3 * times[key] for times in measured] for key in ("low", "median", "high")
            )
            axis.loglog(sizes, median, **style)
            axis.fill_between(sizes, low, high, color=style["color"], alpha=0.2, linewidth=0)
        axis.set_title("\n".join(wrap(name, 41)), fontsize=9)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xticks(sizes, [_short(n) for n in sizes])
        axis.grid(which="major", color="#dddddd", linewidth=0.6)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    figure.supxlabel("elements of the first input")
    figure.supylabel("time of value and gradient, ms (top_k_mask: time of the mask)")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)


def _short(count: int) -> str:
    for unit, name in ((1_000_000, " M"), (1_000, " k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return str(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--write", type=Path, nargs="*", default=[])
    options = parser.parse_args()

    measured = json.loads(options.results.read_text())
    about = "; ".join(f"{name} {value}" for name, value in measured["about"].items())
    text = f"{table(measured['results'])}\n\nMeasured with {about}."
    print(text)
    for page in options.write:
        before, _, rest = page.read_text().partition(START)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}")
    if options.plot:
        plot(measured["results"], options.plot)


if __name__ == "__main__":
    main()

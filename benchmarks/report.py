"""Writes the tables and the plot of the documentation from the measurements in a folder.

    python benchmarks/report.py FOLDER

The folder holds what ``run.py --json cpu.json`` and ``targets.py --json`` wrote: ``h100.json``,
``v5e.json``, and ``chips.json`` of ``--chips 8``. What is missing stays as it is in the pages.
"""

import argparse
import json
from pathlib import Path

import plot
import results
import targets

DOCS = Path(__file__).parent.parent / "docs"
NAMES = dict(plain="plain JAX", optax="optax", reference="PyTorch")

Measured = dict[str, dict]


def load(folder: Path) -> Measured:
    """Read the measurements of each target that has any."""
    files = {name: folder / f"{name}.json" for name in ("cpu", "h100", "v5e", "chips")}
    return {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}


def insert(page: Path, block: str, text: str) -> None:
    """Replace what is between the marks of a block."""
    start, end = f"<!-- {block}: begin -->", f"<!-- {block}: end -->"
    before, _, rest = page.read_text().partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{page.name} has no marks for {block}")
    page.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}")


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def by_row(measured: list[dict]) -> dict[str, list[dict]]:
    rows: dict[str, list[dict]] = {}
    for result in measured:
        rows.setdefault(result["row"], []).append(result)
    return rows


def summary(measured: Measured) -> str:
    """Say where another implementation is faster; first of all."""
    parts = []
    if "cpu" in measured:
        slower = [r for r in measured["cpu"]["results"] if results.is_slower(r)]
        slower.sort(key=lambda r: results.best_alternative(r)[1])
        parts.append(_list("**CPU**, in time:", [_slower(r) for r in slower]))
    for target, name, unit in (("h100", "H100", "bytes"), ("v5e", "TPU v5e", "cycles")):
        if target in measured:
            costly = [r for r in measured[target]["results"] if targets.is_costlier(r, unit)]
            costly.sort(key=lambda r: targets.of_ours(r, unit))
            lines = [f"{r['row']}: {targets.of_ours(r, unit):.2f}" for r in costly]
            parts.append(_list(f"**{name}**, in {unit} of the compiled program:", lines))
    return "\n\n".join(parts)


def headline(content: dict) -> str:
    """Return the sentence of the start page."""
    measured = content["results"]
    median = sorted(results.best_alternative(r)[1] for r in measured)[len(measured) // 2]
    fast = sum(not results.is_slower(r) for r in measured)
    return (
        f"- **Fast.** In {fast} of {len(measured)} measurements on a CPU, neither plain JAX nor "
        "optax is faster, and in the median\n"
        f"  the better of them takes {_digits(median)} times as long. "
        "[Performance](performance.md) begins with the losses that\n  are slower."
    )


def _list(head: str, lines: list[str]) -> str:
    return "\n".join([f"{head}\n", *(f"- {line}" for line in lines or ["no loss"])])


def _slower(result: dict) -> str:
    other, ratio = results.best_alternative(result)
    return f"{result['row']}, {results.size(result)}: {ratio:.2f} ({NAMES[other]})"


def cpu_tables(content: dict) -> str:
    """One table per family of losses."""
    measured = content["results"]
    growing = results.grows(measured, content["about"]["cache_bytes"])
    families = dict.fromkeys(r["family"] for r in measured)
    parts = []
    for family in families:
        rows = by_row([r for r in measured if r["family"] == family])
        parts.append(f"### {family.capitalize()}\n\n{_cpu_table(rows, growing)}")
    about = "; ".join(f"{k} {v}" for k, v in content["about"].items() if isinstance(v, str))
    return "\n\n".join([*parts, f"Measured with {about}."])


def _cpu_table(rows: dict[str, list[dict]], growing: dict[str, float]) -> str:
    others = [o for o in results.OTHERS if any(o in r["results"] for m in rows.values() for r in m)]
    short = ["torch" if other == "reference" else other for other in others]
    heads = ["loss", "size", "ours, ms", "spread", *short, "passes", "ns", "temporary"]
    lines = []
    for name, sizes in rows.items():
        for result in sizes:
            last = result is sizes[-1]
            growth = f" **(x {growing[name]:.1f})**" if last and name in growing else ""
            lines.append(
                [
                    name,
                    _short_size(result),
                    _digits(1e3 * result["results"]["ours"]["best"]),
                    f"{100 * results.spread(result):.0f} %",
                    *(_ratio(result, other) for other in others),
                    _digits(results.passes(result)),
                    _digits(results.nanoseconds_per_element(result)) + growth,
                    f"{results.temporaries(result):.2f}",
                ]
            )
    return markdown(heads, lines)


def _ratio(result: dict, other: str) -> str:
    ratio = results.ratio(result, other)
    if ratio is None:
        return ""
    return f"**{_digits(ratio)}**" if ratio * results.NOISE < 1 else _digits(ratio)


def _digits(number: float) -> str:
    """Format with two or three digits, without an exponent."""
    return (
        f"{number:,.0f}" if number >= 100 else f"{number:.3g}" if number >= 1 else f"{number:.2g}"
    )


def _short_size(result: dict) -> str:
    half = "" if result["dtype"] == "float32" else f" {result['dtype']}"
    return " x ".join(_count(n) for n in result["size"]) + half


def _count(number: int) -> str:
    for unit, name in ((10**6, " M"), (10**3, " k")):
        if number % unit == 0 and number != 1000:
            return f"{number // unit}{name}"
    return str(number)


def allocators(content: dict) -> str:
    """Say what the allocator does to a large step on this CPU."""
    times = content["about"]["allocators"]
    system, keeps = times["system"], times["tcmalloc"]
    return (
        "Here a smooth L1 step over 20 million elements (80 MB per array) takes "
        f"{system['step']:.0f} ms with\nthe allocator of the C library and {keeps['step']:.0f} ms "
        f"with tcmalloc. A single pass takes {system['copy']:.0f} ms and {keeps['copy']:.0f} ms."
    )


def compiled_tables(measured: Measured) -> str:
    """One line per loss with what the compilers for an H100 and a TPU v5e make of it."""
    units = {t: unit for t, unit in (("h100", "bytes"), ("v5e", "cycles")) if t in measured}
    rows = {t: {r["row"]: r for r in measured[t]["results"]} for t in units}
    heads = ["loss", "size"]
    for target, unit in units.items():
        name = dict(h100="H100", v5e="v5e")[target]
        heads += [f"{name}: kernels", unit, "best other"]
    tables: dict[str, list[list[str]]] = {}
    for name, first in next(iter(rows.values())).items():
        cells = [name, _short_size(first)]
        for target, unit in units.items():
            cells += _compiled_cells(rows[target].get(name), unit)
        tables.setdefault(first["family"], []).append(cells)
    parts = [f"### Compiled: {name}\n\n{markdown(heads, lines)}" for name, lines in tables.items()]
    versions = " and ".join(dict.fromkeys(measured[t]["about"]["jax"] for t in units))
    return "\n\n".join([*parts, f"Compiled with jax {versions}."])


def _compiled_cells(result: dict | None, unit: str) -> list[str]:
    if result is None:
        return ["", "", ""]
    best, ours = targets.best_alternative(result, unit), result["results"]["ours"]
    other = _digits(targets.multiple(result, best, unit)) if best else "sorts"
    mine = _digits(targets.multiple(result, "ours", unit))
    unknown = " (unknown loop)" if None in ours["loops"] else ""
    return [
        f"{ours['kernels']}{unknown}",
        f"**{mine}**" if targets.is_costlier(result, unit) else mine,
        other,
    ]


def messages_table(content: dict) -> str:
    """What 8 chips send each other for each loss."""
    lines = []
    for result in content["results"]:
        ours = result["ours"]
        size = " x ".join(f"{n:,}" for n in result["size"])
        shard = f"{ours['input_bytes'] / 2**20:,.1f} MiB"
        messages = f"{'about ' * (None in ours['loops'])}{ours['messages']}"
        cells = [result["row"], size, shard, messages, f"{ours['largest']:,}", f"{ours['sent']:,}"]
        lines.append(cells)
    heads = ["loss", "size", "inputs per chip", "all-reduces", "largest, bytes", "all, bytes"]
    return f"{markdown(heads, lines)}\n\nCompiled with jax {content['about']['jax']}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    measured = load(parser.parse_args().folder)
    page = DOCS / "performance.md"
    compiled = {t: content for t, content in measured.items() if t in ("h100", "v5e")}
    if "cpu" in measured:
        insert(page, "cpu", cpu_tables(measured["cpu"]))
        insert(DOCS / "index.md", "headline", headline(measured["cpu"]))
        if measured["cpu"]["about"].get("allocators"):
            insert(page, "allocators", allocators(measured["cpu"]))
    if compiled:
        insert(page, "compiled", compiled_tables(compiled))
    if compiled or "cpu" in measured:
        insert(page, "slower", summary(measured))
        plot.draw(measured, DOCS / "performance.png")
    if "chips" in measured:
        insert(DOCS / "many_devices.md", "sent", messages_table(measured["chips"]))


if __name__ == "__main__":
    main()

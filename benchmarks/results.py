"""What the measurements of ``run.py`` mean: ratios, growth and slow rows."""

# Differences below this are noise.
NOISE = 1.05
# Time per element may grow this much from a size that fits a cache to the largest one.
GROWTH = 3
OTHERS = ("plain", "optax", "reference")


def size(result: dict) -> str:
    half = "" if result["dtype"] == "float32" else f" {result['dtype']}"
    return " x ".join(f"{n:,}" for n in result["size"]) + half


def ratio(result: dict, other: str) -> float | None:
    """Time of another implementation relative to ours; None where it was not measured."""
    columns = result["results"]
    return columns[other]["best"] / columns["ours"]["best"] if other in columns else None


def best_alternative(result: dict) -> tuple[str, float]:
    """Name and relative time of the fastest other implementation."""
    times = {other: ratio(result, other) for other in OTHERS}
    return min(((k, v) for k, v in times.items() if v is not None), key=lambda item: item[1])


def is_slower(result: dict) -> bool:
    return best_alternative(result)[1] * NOISE < 1


def nanoseconds_per_element(result: dict) -> float:
    return 1e9 * result["results"]["ours"]["best"] / result["elements"]


def passes(result: dict) -> float:
    return 1 / ratio(result, "pass")


def temporaries(result: dict) -> float:
    """Temporary memory as a fraction of the inputs."""
    return result["results"]["ours"]["temp_bytes"] / result["input_bytes"]


def spread(result: dict) -> float:
    """How far the upper quartile is above the fastest sample."""
    ours = result["results"]["ours"]
    return ours["high"] / ours["best"] - 1


def grows(results: list[dict], cache_bytes: int) -> dict[str, float]:
    """Return the rows whose time per element grows too much, and by which factor.

    The largest size is compared with the fastest of the sizes that fit half of the cache.
    """
    factors = {}
    for row in dict.fromkeys(r["row"] for r in results):
        sizes = [r for r in results if r["row"] == row and r["dtype"] == "float32"]
        cached = [nanoseconds_per_element(r) for r in sizes if r["bytes"] <= cache_bytes / 2]
        if cached:
            factor = nanoseconds_per_element(sizes[-1]) / min(cached)
            if factor > GROWTH:
                factors[row] = factor
    return factors


def text(results: list[dict], cache_bytes: int) -> str:
    """A table for a terminal. Rows where ours is slower come first."""
    head = ("loss", "size", "ours, ms", "spread", "plain", "optax", "torch", "passes", "ns/element")
    lines = [_in_columns((*head, "temporaries"))]
    slower = sorted((r for r in results if is_slower(r)), key=lambda r: best_alternative(r)[1])
    if slower:
        lines += ["-- slower than the best alternative"] + [_line(r) for r in slower]
    lines += ["-- all others"] + [_line(r) for r in results if not is_slower(r)]
    for row, factor in grows(results, cache_bytes).items():
        lines.append(f"-- time per element grows {factor:.1f} times: {row}")
    return "\n".join(lines)


def _line(result: dict) -> str:
    cells = [result["row"], size(result), f"{1e3 * result['results']['ours']['best']:.3f}"]
    cells.append(f"{100 * spread(result):.0f} %")
    ratios = [ratio(result, other) for other in OTHERS]
    cells += ["-" if r is None else f"{r:.2f}x" for r in ratios]
    cells += [f"{passes(result):.2f}", f"{nanoseconds_per_element(result):.3g}"]
    return _in_columns((*cells, f"{temporaries(result):.2f}"))


def _in_columns(cells) -> str:
    widths = (39, 22, 11, 8, 9, 9, 9, 8, 12, 0)
    return "".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))

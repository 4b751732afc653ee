"""Compiles every loss for an H100 or a TPU v5e, without the hardware, and accounts for the program.

    python benchmarks/targets.py --target h100|v5e [--only NAME] [--json FILE]
    python benchmarks/targets.py --target v5e --chips 8

The first command prints what value and gradient cost as multiples of one pass that reads the
inputs and writes the gradient. The second one prints what 8 chips send each other if the first
axis of every input is sharded. README.md in this folder explains the numbers.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from pathlib import Path

import compilers
import hlo

OTHERS = ("plain", "optax")
# What a target is compared by: the TPU compiler estimates cycles, the other one does not.
MEASURE = {"h100": "bytes", "v5e": "cycles"}


def compile_text(function, specs) -> str:
    import jax

    return jax.jit(function).lower(*specs).compile().as_text()


def account_row(row, size, dtype, sharding) -> dict:
    """Account for all implementations of a row at one size."""
    from rows import implementations

    specs = [x.spec(dtype, sharding) for x in row.inputs(*size)]
    functions = implementations(row, dtype) | {"pass": row.one_pass}
    results = {
        name: dataclasses.asdict(hlo.account(compile_text(function, specs)))
        for name, function in functions.items()
    }
    return dict(row=row.name, family=row.family, size=list(size), dtype=dtype.name, results=results)


def messages_of_row(row, size, sharding, chips: int) -> dict:
    """Account for the messages of our loss, with the batch axis of every input sharded."""
    from rows import implementations

    first, *rest = size
    size = (-(-first // chips) * chips, *rest)
    specs = [x.spec(sharding=sharding) for x in row.inputs(*size)]
    text = compile_text(implementations(row)["ours"], specs)
    cost = dataclasses.asdict(hlo.account(text))
    inputs = sum(x.size * x.dtype.itemsize for x in specs) // chips
    cost.update(largest=hlo.largest_message(text), input_bytes=inputs)
    return dict(row=row.name, family=row.family, size=list(size), ours=cost)


def multiple(result: dict, name: str, measure: str) -> float:
    """Return a cost as a multiple of one pass."""
    return result["results"][name][measure] / max(1, result["results"]["pass"][measure])


def best_alternative(result: dict, measure: str) -> str | None:
    """Return the cheapest other implementation.

    One that sorts is not counted: neither the bytes nor the cycles of a sort are known.
    """
    others = {o: result["results"][o] for o in OTHERS if o in result["results"]}
    known = {name: cost[measure] for name, cost in others.items() if not cost["sorts"]}
    return min(known, key=known.get) if known else None


def of_ours(result: dict, measure: str) -> float:
    """Return the cost of the best alternative as a multiple of ours."""
    best = best_alternative(result, measure)
    costs = result["results"]
    return costs[best][measure] / max(1, costs["ours"][measure]) if best else math.inf


def is_costlier(result: dict, measure: str) -> bool:
    return of_ours(result, measure) < 1 / 1.05


def table(results: list[dict], target: str) -> str:
    """A table for a terminal. Rows where another implementation costs less come first."""
    measure = MEASURE[target]
    costlier = [r for r in results if is_costlier(r, measure)]
    costlier.sort(key=lambda r: of_ours(r, measure))
    lines = [_in_columns(("loss", "size", *_cells_head(target)))]
    if costlier:
        lines += [f"-- more {measure} than the best alternative"]
        lines += [_line(r, target) for r in costlier]
    lines += ["-- all others"] + [_line(r, target) for r in results if r not in costlier]
    return "\n".join(lines)


def _cells_head(target: str) -> list[str]:
    names = ["ours", *OTHERS]
    heads = ["kernels", *(f"bytes {name}" for name in names)]
    return heads + [f"cycles {name}" for name in names] * (target == "v5e") + ["loops, sorts"]


def _line(result: dict, target: str) -> str:
    ours = result["results"]["ours"]
    cells = [result["row"], "x".join(map(str, result["size"])), str(ours["kernels"])]
    for measure in ("bytes", "cycles")[: 1 + (target == "v5e")]:
        for name in ("ours", *OTHERS):
            exists = name in result["results"]
            cells.append(f"{multiple(result, name, measure):.2f}" if exists else "-")
    trips = ["unknown" if n is None else str(n) for n in ours["loops"]]
    sorting = [name for name, cost in result["results"].items() if cost["sorts"]]
    cells.append(" ".join([*trips, *(f"({name} sorts)" for name in sorting)]))
    return _in_columns(cells)


def _in_columns(cells) -> str:
    return "".join(
        f"{cell:<{39 if i == 0 else 18 if i == 1 else 14}}" for i, cell in enumerate(cells)
    )


def messages_table(results: list[dict]) -> str:
    heads = ("loss", "size", "collectives", "bytes sent", "largest", "loops")
    lines = [_in_columns(heads)]
    for result in results:
        ours = result["ours"]
        trips = " ".join("unknown" if n is None else str(n) for n in ours["loops"])
        cells = (ours["messages"], ours["sent"], ours["largest"], trips)
        lines.append(_in_columns((result["row"], "x".join(map(str, result["size"])), *cells)))
    return "\n".join(lines)


def measure(options: argparse.Namespace, say) -> list[dict]:
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from rows import ROWS

    rows = [row for row in ROWS if options.only in row.name]
    devices = np.array(compilers.devices(options.target, options.chips))
    spec = PartitionSpec("data") if options.chips > 1 else PartitionSpec()
    sharding = NamedSharding(Mesh(devices, ("data",)), spec)
    results = []
    start = time.perf_counter()
    for row in rows:
        size = row.sizes[1] if options.middle else row.compiled_size or row.sizes[-1]
        if options.chips > 1:
            results.append(messages_of_row(row, size, sharding, options.chips))
        else:
            results.append(account_row(row, size, jnp.dtype(options.dtype), sharding))
        say(f"compiled {row.name} ({time.perf_counter() - start:.0f} s)")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", choices=sorted(MEASURE), required=True)
    parser.add_argument("--chips", type=int, choices=(1, 8), default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--middle", action="store_true", help="compile the middle sizes: faster")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    if options.chips > 1 and options.target != "v5e":
        parser.error("--chips needs --target v5e")
    if names := compilers.missing(options.target):
        sys.exit(f"Not installed: {', '.join(names)}. {compilers.INSTALL}")

    compilers.choose(options.target)
    with compilers.quiet() as say:
        results = measure(options, say)
        import jax
    about = dict(target=options.target, chips=options.chips, jax=jax.__version__)
    print(messages_table(results) if options.chips > 1 else table(results, options.target))
    if options.json:
        options.json.write_text(json.dumps(dict(about=about, results=results), indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Times value and gradient of every loss, of other implementations, and of one copy of the data.

    python benchmarks/run.py [--only NAME] [--json FILE]

README.md in this folder describes the method, and how to install the PyTorch reference.
"""

import argparse
import json
import os
import platform
import re
import sys
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import jaxlib
import measure
import numpy as np
import optax
import reference
from rows import ROWS, Row, implementations, step

HEADER = ("row", "size", "dtype", "ours", "literal", "optax", "reference", "copy", "copies")


def describe() -> dict:
    device = jax.devices()[0]
    facts = dict(
        device=f"{device.platform}: {device.device_kind}",
        devices=jax.device_count(),
        cpu=f"{os.cpu_count()} cores, {_cpu()}",
        python=platform.python_version(),
        jax=jax.__version__,
        jaxlib=jaxlib.__version__,
        flax=flax.__version__,
        optax=optax.__version__,
    )
    return facts | dict(reference=reference.describe())


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.machine()


def measure_one(row: Row, index: int, dtype: jnp.dtype, options: argparse.Namespace) -> dict:
    """Measure all implementations of a row at one size, in turns."""
    host = row.inputs(*row.sizes[index])
    arrays = [jnp.asarray(x, dtype if x.dtype == np.float32 else None) for x in host]
    functions = {name: step(row, loss) for name, loss in implementations(row).items()}
    functions["copy"] = row.copy
    calls, facts = {}, {}
    for name, function in functions.items():
        calls[name], facts[name] = measure.compile_call(function, arrays)
    if reference.available and row.reference is not None and dtype == jnp.float32:
        convert = row.inputs_for_reference
        calls["reference"] = reference.value_and_grad(
            row.reference, convert(host) if convert else host
        )
    times = measure.time_in_turns(calls, options.seconds)

    results = {name: measure.quartiles(t) | facts.get(name, {}) for name, t in times.items()}
    for name, result in results.items():
        # One ratio per round, so that a slow round slows both sides of it.
        pairs = zip(times[name], times["ours"], strict=True)
        result["of_ours"] = measure.quartiles([other / ours for other, ours in pairs])
    return dict(
        row=row.name,
        size=list(row.sizes[index]),
        elements=int(np.prod(row.sizes[index])),
        dtype=jnp.dtype(dtype).name,
        # The least traffic possible: read every input, write the gradient (or the mask).
        bytes=sum(x.nbytes for x in arrays)
        + (arrays[0].nbytes if row.gradient else arrays[0].size),
        input_bytes=sum(x.nbytes for x in arrays),
        required_speedup=row.required_speedup[index],
        max_copies=row.max_copies,
        results=results,
    )


def line(result: dict) -> str:
    """Format one line: our milliseconds, and the other times as multiples of ours."""
    columns = result["results"]
    cells = [result["row"][:34], "x".join(map(str, result["size"])), result["dtype"]]
    cells.append(f"{1e3 * columns['ours']['median']:.3f}")
    for name in ("literal", "optax", "reference"):
        ratio = columns.get(name, {}).get("of_ours", {}).get("median")
        cells.append("-" if ratio is None else f"{ratio:.2f}x")
    cells.append(f"{1e3 * columns['copy']['median']:.3f}")
    cells.append(f"{1 / columns['copy']['of_ours']['median']:.2f}")
    if result["required_speedup"] and "reference" in columns:
        reached = columns["reference"]["of_ours"]["median"] >= result["required_speedup"]
        outcome = "reached" if reached else "NOT REACHED"
        cells.append(f"required {result['required_speedup']}x: {outcome}")
    return in_columns(cells)


def in_columns(cells) -> str:
    return "".join(f"{c:<{w}}" for c, w in zip(cells, (36, 17, 10, *[11] * 6, 0), strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--seconds", type=float, default=4.0, help="time per row and size")
    options = parser.parse_args()

    about = describe()
    print("\n".join(f"{name}: {value}" for name, value in about.items()), file=sys.stderr)
    dtypes = [jnp.float32] + [jnp.bfloat16] * (jax.default_backend() != "cpu")
    print(in_columns(HEADER), flush=True)
    results = []
    for row in ROWS:
        if options.only not in row.name:
            continue
        for index in range(len(row.sizes)):
            for dtype in dtypes:
                results.append(measure_one(row, index, dtype, options))
                print(line(results[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(dict(about=about, results=results), indent=1) + "\n")


if __name__ == "__main__":
    main()

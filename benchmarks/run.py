"""Value and gradient of every loss against its peers and against the cost of one copy.

    python benchmarks/run.py [--only NAME] [--json FILE]

See README.md beside this file for the method, and for how to have the reference among them.
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
from rows import ROWS, Row, contestants, step

HEADER = ("row", "size", "dtype", "ours", "literal", "optax", "reference", "copy", "of copy")


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
    """All contestants of a row at one size, in turns."""
    host = row.make(*row.sizes[index])
    arrays = [jnp.asarray(x, dtype if x.dtype == np.float32 else None) for x in host]
    functions = {name: step(row, loss) for name, loss in contestants(row).items()}
    runs, facts = {}, {}
    for name, function in (functions | {"copy": row.limit}).items():
        runs[name], facts[name] = measure.compiled(function, arrays)
    if row.reference is not None and dtype == jnp.float32:
        theirs = row.for_reference(host) if row.for_reference else host
        runs["reference"] = reference.step(row.reference, theirs)
    times = measure.in_turns(runs, options.seconds)

    results = {name: measure.summary(t) | facts.get(name, {}) for name, t in times.items()}
    for name, result in results.items():
        pairs = zip(times[name], times["ours"], strict=True)
        result["of_ours"] = measure.summary([other / ours for other, ours in pairs])
    return dict(
        row=row.name,
        size=list(row.sizes[index]),
        elements=int(np.prod(row.sizes[index])),
        dtype=jnp.dtype(dtype).name,
        # What must be moved at least: every input read, the gradient (or the mask) written.
        bytes=sum(x.nbytes for x in arrays)
        + (arrays[0].nbytes if row.gradient else arrays[0].size),
        input_bytes=sum(x.nbytes for x in arrays),
        floor=row.floors[index],
        passes=row.passes,
        results=results,
    )


def line(result: dict) -> str:
    """One line of the running report: milliseconds, and each as a multiple of ours."""
    columns = result["results"]
    cells = [result["row"][:34], "x".join(map(str, result["size"])), result["dtype"]]
    cells.append(f"{1e3 * columns['ours']['median']:.3f}")
    for name in ("literal", "optax", "reference"):
        ratio = columns.get(name, {}).get("of_ours", {}).get("median")
        cells.append("-" if ratio is None else f"{ratio:.2f}x")
    cells.append(f"{1e3 * columns['copy']['median']:.3f}")
    cells.append(f"{1 / columns['copy']['of_ours']['median']:.2f}")
    if result["floor"] and "reference" in columns:
        met = columns["reference"]["of_ours"]["median"] >= result["floor"]
        cells.append(f"floor {result['floor']} {'met' if met else 'MISSED'}")
    return columnwise(cells)


def columnwise(cells) -> str:
    return "".join(f"{c:<{w}}" for c, w in zip(cells, (36, 17, 10, *[11] * 6, 0), strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--seconds", type=float, default=4.0, help="time for a row and size")
    options = parser.parse_args()

    about = describe()
    print("\n".join(f"{name}: {value}" for name, value in about.items()), file=sys.stderr)
    dtypes = [jnp.float32] + [jnp.bfloat16] * (jax.default_backend() != "cpu")
    print(columnwise(HEADER), flush=True)
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

"""Times value and gradient of every loss, of other implementations, and of one pass over the data.

    python benchmarks/run.py [--only NAME] [--json FILE]

README.md in this folder describes the method, and how to install the PyTorch reference.
"""

import argparse
import json
import os
import platform
import re
import sys
import zlib
from pathlib import Path

import allocator

if __name__ == "__main__":  # before the imports, which take a second
    if "--system-allocator" not in sys.argv:
        allocator.restart_with_tcmalloc()

import flax
import jax
import jax.numpy as jnp
import jaxlib
import measure
import numpy as np
import optax
import reference
import results
from rows import ROWS, Row, implementations


def describe() -> dict:
    device = jax.devices()[0]
    return dict(
        device=f"{device.platform}: {device.device_kind}",
        cpu=f"{os.cpu_count()} cores, {_cpu()}",
        cache_bytes=_cache_bytes(),
        allocator=allocator.name(),
        python=platform.python_version(),
        jax=jax.__version__,
        jaxlib=jaxlib.__version__,
        flax=flax.__version__,
        optax=optax.__version__,
        reference=reference.describe(),
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.machine()


def _cache_bytes() -> int:
    """Return the size of the largest cache of the CPU; 32 MiB if the system does not tell."""
    sizes = [
        int(path.read_text().strip().removesuffix("K")) * 1024
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max(sizes, default=32 * 2**20)


def measure_one(row: Row, size: tuple[int, ...], dtype, seconds: float) -> dict:
    """Measure all implementations of a row at one size, in turns."""
    rng = np.random.default_rng(zlib.crc32(row.name.encode()))
    host = [x.values(rng) for x in row.inputs(*size)]
    arrays = [jnp.asarray(x, dtype if x.dtype == np.float32 else None) for x in host]
    calls, facts = {}, {}
    for name, function in (implementations(row, dtype) | {"pass": row.one_pass}).items():
        calls[name], facts[name] = measure.compile_call(function, arrays)
    if _reference_runs(row, size, dtype):
        convert = row.inputs_for_reference or (lambda arrays: arrays)
        calls["reference"] = reference.value_and_grad(row.reference, convert(host), row.gradients)
    times = measure.time_in_turns(calls, seconds)
    return dict(
        row=row.name,
        family=row.family,
        size=list(size),
        elements=int(np.prod(size)),
        dtype=jnp.dtype(dtype).name,
        # What one pass moves: it reads every input and writes the gradients (or the mask).
        bytes=sum(x.nbytes for x in (*arrays, *arrays[: row.gradients]))
        + (0 if row.gradients else arrays[0].size),
        input_bytes=sum(x.nbytes for x in arrays),
        results={name: measure.summary(t) | facts.get(name, {}) for name, t in times.items()},
    )


def _reference_runs(row: Row, size: tuple[int, ...], dtype) -> bool:
    exists = reference.available and row.reference is not None
    return exists and dtype == np.float32 and np.prod(size) <= row.reference_up_to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--seconds", type=float, default=1.0, help="time per row and size")
    parser.add_argument(
        "--system-allocator", action="store_true", help="do not start again with tcmalloc"
    )
    options = parser.parse_args()

    about = describe()
    print("\n".join(f"{name}: {value}" for name, value in about.items()), file=sys.stderr)
    dtypes = [np.float32] + [jnp.bfloat16] * (jax.default_backend() != "cpu")
    rows = [row for row in ROWS if options.only in row.name]
    measured = []
    for row in rows:
        for size in row.sizes:
            for dtype in dtypes:
                measured.append(measure_one(row, size, dtype, options.seconds))
                print(f"measured {row.name} {results.size(measured[-1])}", file=sys.stderr)
    print(results.text(measured, about["cache_bytes"]))
    if options.json:
        if jax.default_backend() == "cpu" and not options.only:
            about["allocators"] = allocator.compare()
        content = json.dumps(dict(about=about, results=measured), indent=1)
        options.json.write_text(content + "\n")


if __name__ == "__main__":
    main()

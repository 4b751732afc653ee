"""Starts a benchmark again with tcmalloc, an allocator that keeps the memory of freed arrays.

The allocator of the C library returns large arrays to the operating system. Every call of a
benchmark then gets new pages, and a CPU takes longer to clear them than most losses need to
compute.

    python benchmarks/allocator.py

shows what that costs: it times the same step with both allocators.
"""

import ctypes.util
import glob
import json
import os
import subprocess
import sys

LIBRARY = "libtcmalloc_minimal.so.4"
INSTALL = (
    f"{LIBRARY} was not found, so the times of large arrays include the time for clearing new "
    "pages. On Debian and Ubuntu: apt install libtcmalloc-minimal4"
)


def find() -> str | None:
    found = sorted(glob.glob(f"/usr/lib/*/{LIBRARY}") + glob.glob(f"/usr/*/lib*/{LIBRARY}"))
    return found[0] if found else ctypes.util.find_library("tcmalloc_minimal")


def name() -> str:
    """The allocator of this process."""
    return "tcmalloc" if "tcmalloc" in os.environ.get("LD_PRELOAD", "") else "system"


def environment(library: str) -> dict[str, str]:
    # With a rate of 0, tcmalloc never returns memory to the operating system.
    return os.environ | {"LD_PRELOAD": library, "TCMALLOC_RELEASE_RATE": "0"}


def restart_with_tcmalloc() -> None:
    """Start this program again with tcmalloc, unless it runs with it or cannot find it."""
    if name() == "tcmalloc" or sys.platform != "linux":
        return
    library = find()
    if library is None:
        print(f"Warning: {INSTALL}", file=sys.stderr)
    else:
        os.execve(sys.executable, [sys.executable, *sys.argv], environment(library))


def compare() -> dict[str, dict[str, float]] | None:
    """Return the milliseconds of a large step with each allocator; None without tcmalloc."""
    library = find()
    if library is None:
        return None
    without = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    environments = {"system": without, "tcmalloc": environment(library)}
    return {
        allocator: json.loads(
            subprocess.run(
                [sys.executable, __file__, "--step"],
                env=variables,
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
        )
        for allocator, variables in environments.items()
    }


def time_steps() -> dict[str, float]:
    """Return the milliseconds of the smooth L1 loss of 20 million elements, gradient included."""
    import jax
    import jax.numpy as jnp
    import measure
    import ours

    arrays = jnp.zeros(20_000_000), jnp.ones(20_000_000)
    call, _ = measure.compile_call(jax.value_and_grad(ours.smooth_l1_loss), arrays)
    copy, _ = measure.compile_call(jnp.subtract, arrays)
    times = measure.time_in_turns({"step": call, "copy": copy}, seconds=3)
    return {key: 1e3 * measure.summary(samples)["median"] for key, samples in times.items()}


if __name__ == "__main__":
    if "--step" in sys.argv:
        print(json.dumps(time_steps()))
    else:
        print(json.dumps(compare(), indent=1))

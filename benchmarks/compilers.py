"""The compilers for an H100 and for TPU v5e chips, which work without such hardware.

``choose`` must be called before anything imports JAX.
"""

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

NEEDED = {
    "h100": ("jax_plugins.xla_cuda12", "nvidia.cuda_nvcc", "nvidia.cuda_runtime"),
    "v5e": ("libtpu",),
}
INSTALL = "Install the compilers in a virtual environment of their own: pip install -e '.[targets]'"

_ENVIRONMENT = {
    "h100": {
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # do not look for cuDNN
        # Without a GPU, no kernel can be timed in order to choose the fastest.
        "XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false",
    },
    "v5e": {
        "TPU_SKIP_MDS_QUERY": "1",  # do not ask the cloud which TPU this machine has
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_ID": "0",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several compilations at once
    },
}


def missing(target: str) -> list[str]:
    """Return the packages that the compiler for a target needs and that are not installed."""
    return [name for name in NEEDED[target] if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package around it is not installed
        return False


def choose(target: str) -> None:
    """Set the environment variables for a target."""
    if "jax" in sys.modules:
        raise RuntimeError("The target must be chosen before JAX is imported.")
    # Arrays of the host stay on the CPU.
    os.environ.update(_ENVIRONMENT[target], JAX_PLATFORMS="cpu", TF_CPP_MIN_LOG_LEVEL="3")


def devices(target: str, chips: int = 1) -> list:
    """Return devices for which programs can be compiled but not run."""
    from jax.experimental import topologies

    if target == "h100":
        _accept_the_name_gpu()
        config = (Path(__file__).parent / "h100.textproto").read_text()
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=config, topology="1x1x1"
        )
    else:
        name = "v5e:2x4" if chips > 4 else "v5e:2x2"
        topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
    return list(topology.devices[:chips])


def _accept_the_name_gpu() -> None:
    """Let JAX translate the name "gpu" to "cuda": without a GPU it refuses to."""
    from jax._src import xla_bridge

    original = xla_bridge.canonicalize_platform
    xla_bridge.canonicalize_platform = lambda name: "cuda" if name == "gpu" else original(name)


@contextlib.contextmanager
def quiet() -> Iterator[Callable[[str], None]]:
    """Hide what the compilers write to the standard error, unless an exception is raised.

    They miss hardware and libraries that compiling does not need. Yields a function that still
    writes there.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield lambda text: os.write(saved, f"{text}\n".encode())
        except BaseException:
            hidden.seek(0)
            os.write(saved, hidden.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)

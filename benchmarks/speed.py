"""Value and gradient against the PyTorch original and against plain JAX, in one process.

    pip install -e . torch && pip install --no-deps vis4d==1.0.0 ml_collections
    pip install absl-py PyYAML termcolor
    python benchmarks/speed.py

Without torch and vis4d, the rows against plain JAX are measured alone. Both sides are warm, take
turns, and are waited for inside the timed region; a row shows medians and their ratio, and what the
library claims of it. The exit status is 1 if a claim does not hold.
"""

import importlib.machinery
import statistics
import sys
import time
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import vis4d_jax_loss as vjl
from vis4d_jax_loss._numerics import absolute

REPEATS = 15
RNG = np.random.default_rng(0)
# What vis4d imports along the way and its losses never touch.
UNTOUCHED = {
    "appdirs",
    "cloudpickle",
    "cv2",
    "devtools",
    "h5py",
    "jsonargparse",
    "lightning",
    "nuscenes",
    "pandas",
    "PIL",
    "plyfile",
    "pycocotools",
    "pydantic",
    "scalabel",
    "scipy",
    "tensorboard",
    "terminaltables",
    "timm",
    "torchvision",
    "tqdm",
    "utm",
}


class Untouched:
    """Imports an empty stand-in for packages that the reference does not need for its losses."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in UNTOUCHED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = mock.MagicMock(name=spec.name)
        module.__path__, module.__spec__, module.__name__ = [], spec, spec.name
        return module

    def exec_module(self, module):
        """Nothing to run."""


def timed(run: Callable[[], object]) -> float:
    jax.block_until_ready(run())  # the other side has just had the caches to itself
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def compare(name: str, ours: Callable, theirs: Callable, claim: float, repeats=REPEATS) -> bool:
    """Time both in turns, and print their medians and how many times faster ours is."""
    for run in (ours, theirs):
        timed(run)
    pairs = [(timed(ours), timed(theirs)) for _ in range(repeats)]
    fast, slow = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
    spread = statistics.quantiles((b / a for a, b in pairs), n=4)
    holds = slow / fast >= claim
    print(
        f"{name:<52}{fast:>9.2f}{slow:>11.2f}{slow / fast:>10.1f}"
        f"   [{spread[0]:.1f}, {spread[2]:.1f}]{claim:>9.1f}  {'yes' if holds else 'NO'}",
        flush=True,
    )
    return holds


def step(loss: Callable, *arrays: np.ndarray) -> Callable:
    """Value and gradient of a JAX loss with respect to its first input, jitted."""
    compiled = jax.jit(jax.value_and_grad(loss))
    on_device = [jnp.asarray(x) for x in arrays]
    return lambda: compiled(*on_device)


def torch_step(loss: Callable, *arrays: np.ndarray) -> Callable:
    """The same of a PyTorch loss; inputs are cloned, since one loss edits them in place."""
    import torch

    def run():
        pred, *rest = (torch.from_numpy(x) for x in arrays)
        pred = pred.clone().requires_grad_()
        value = loss(pred * 1, *(x.clone() for x in rest))
        value.backward()
        return np.asarray(pred.grad)

    return run


def pairs(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Similarities, and targets with about four positives a row."""
    pred = RNG.uniform(-0.2, 1, (rows, columns)).astype(np.float32)
    return pred, (RNG.random((rows, columns)) < 4 / columns).astype(np.float32)


def against_jax() -> list[bool]:
    x = RNG.normal(size=(512, 1024)).astype(np.float32)
    device, k = jnp.asarray(x), jnp.int32(1500)
    top, sort = jax.jit(vjl.top_k_mask), jax.jit(jnp.sort)
    logits = RNG.normal(size=(8, 64, 64, 19)).astype(np.float32)
    first, labels = np.moveaxis(logits, -1, 1).copy(), RNG.integers(0, 19, (8, 64, 64))

    def cross_entropy(axis):
        def loss(z, y):
            return vjl.cross_entropy(z, y, class_axis=axis, reducer=vjl.mean_loss)

        return loss

    return [
        compare(
            "top_k_mask 512 x 1024, of jnp.sort", lambda: top(device, k), lambda: sort(device), 10
        ),
        compare(
            "absolute 512 x 1024, of jnp.abs",
            step(lambda x: jnp.sum(absolute(x)), x),
            step(lambda x: jnp.sum(jnp.abs(x)), x),
            0.8,
        ),
        compare(
            "cross_entropy class_axis=1, of class_axis=-1",
            step(cross_entropy(1), first, labels),
            step(cross_entropy(-1), logits, labels),
            0.8,
        ),
    ]


def against_vis4d() -> list[bool]:
    sys.meta_path.append(Untouched())
    try:
        import torch
        import vis4d.op.loss as reference
        from vis4d.op.loss.multi_pos_cross_entropy import multi_pos_cross_entropy
        from vis4d.op.loss.reducer import mean_loss
    except ImportError as error:
        print(f"(no rows against vis4d: {error})")
        return []

    print(f"(torch {torch.__version__}, {torch.get_num_threads()} threads)")
    pred, target = pairs(256, 512)
    results = [
        compare(
            "multi_pos_cross_entropy 256 x 512, of vis4d",
            step(lambda p, t: vjl.multi_pos_cross_entropy(p, t, vjl.mean_loss), pred, target),
            torch_step(lambda p, t: multi_pos_cross_entropy(p, t, mean_loss), pred, target),
            800,
            repeats=3,
        )
    ]
    pred, target = pairs(512, 1024)
    results.append(
        compare(
            "EmbeddingDistanceLoss 512 x 1024, mined, of vis4d",
            step(vjl.EmbeddingDistanceLoss(), pred, target),
            torch_step(reference.EmbeddingDistanceLoss(), pred, target),
            3,
        )
    )
    return results


def main() -> None:
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    print(f"{'':<52}{'ours ms':>9}{'theirs ms':>11}{'ratio':>10}   [quartiles]    claim  holds")
    results = against_jax() + against_vis4d()
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()

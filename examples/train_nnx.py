"""Find coins in a photograph: an NNX training loop with one objective.

    python examples/train_nnx.py --steps 200 --seed 0 --out train_nnx.png

A small U-shaped network is trained on crops of one half of a photograph and tested on the other
half. It computes in bfloat16. Its coarsest level has an auxiliary loss, whose weight follows an
optax schedule and fades to 0. The run takes about a minute on two CPU cores.

`train_linen.py` does the same in Linen. Data, objective and report are in `coins.py`.
"""

from __future__ import annotations

if __name__ == "__main__":
    print("loading JAX and the photograph ...", flush=True)

from functools import partial

import coins
import jax
import jax.numpy as jnp
import optax
from command_line import parse, run
from flax import nnx

WIDTHS = (8, 16, 32, 48)  # channels at 1, 1/2, 1/4 and 1/8 of the resolution


class Block(nnx.Module):
    """Two convolutions. Group norms ignore the batch, so training and test are the same."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs) -> None:
        half = dict(dtype=jnp.bfloat16, rngs=rngs)  # for activations; parameters are float32
        self.layers = nnx.Sequential(
            nnx.Conv(inputs, outputs, (3, 3), **half),
            nnx.GroupNorm(outputs, num_groups=4, **half),
            nnx.relu,
            nnx.Conv(outputs, outputs, (3, 3), **half),
            nnx.GroupNorm(outputs, num_groups=4, **half),
            nnx.relu,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layers(x)


def upsample(x: jax.Array, factor: int) -> jax.Array:
    batch, height, width, channels = x.shape
    return jax.image.resize(x, (batch, height * factor, width * factor, channels), "bilinear")


class UNet(nnx.Module):
    """Logits of two levels, at least as large as the images ``[B, H, W, 1]``."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        downward = zip((1, *WIDTHS), WIDTHS, strict=False)
        upward = zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True)
        self.down = nnx.Sequential(*(Block(i, o, rngs) for i, o in downward))
        self.up = nnx.Sequential(*(Block(i + o, o, rngs) for i, o in upward))
        self.fine = nnx.Conv(WIDTHS[0], 2, (1, 1), dtype=jnp.bfloat16, rngs=rngs)
        self.coarse = nnx.Conv(WIDTHS[-1], 2, (1, 1), dtype=jnp.bfloat16, rngs=rngs)

    def __call__(self, images: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
        # Pad sizes to multiples of 8. The loss ignores the extra margin of the logits.
        height, width = images.shape[1:3]
        x = jnp.pad(images, ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
        first, *down = self.down.layers
        x = first(x)
        skips = []
        for block in down:
            skips.append(x)
            x = block(nnx.max_pool(x, (2, 2), (2, 2)))
        coarse = upsample(self.coarse(x), 8)
        for block in self.up.layers:
            x = block(jnp.concatenate([upsample(x, 2), skips.pop()], axis=-1))
        return {"levels": (self.fine(x), coarse)}


predict = nnx.jit(UNet.__call__)


def main(argv: list[str] | None = None) -> None:
    options = parse(__doc__, 200, "train_nnx.png", argv)
    objective = coins.make_objective(options.steps)
    graph, params = nnx.split(UNet(nnx.Rngs(options.seed)), nnx.Param)
    optimizer = optax.adamw(optax.cosine_decay_schedule(4e-3, options.steps))
    state, traces = optimizer.init(params), 0

    @jax.jit
    def train_step(params: nnx.State, state: optax.OptState, batch: dict[str, jax.Array], step):
        nonlocal traces
        traces += 1  # Python runs this line only while JAX traces the step.

        def total(params: nnx.State):
            outputs = nnx.merge(graph, params)(batch["image"])
            return objective(outputs, batch, step=step)

        (_, metrics), grads = jax.value_and_grad(total, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, metrics

    report = coins.Run(options)
    with report.bar:
        for step, batch in enumerate(report.batches()):
            params, state, metrics = train_step(params, state, batch, step)
            report.record(metrics, partial(predict, nnx.merge(graph, params)))
    report.finish(traces)


if __name__ == "__main__":
    run(main)

"""Find coins in a photograph: an NNX training loop with one objective, in about a minute.

    python examples/train_nnx.py --steps 200 --seed 0 --out train_nnx.png

A small U-shaped network computes in bfloat16 and is trained on crops of one half of a photograph;
the other half is the test. Its deepest level has an auxiliary head, whose loss has a weight that
fades out by a schedule of optax. `train_linen.py` does the same in Linen; data, objective and
report are in `coins.py`.
"""

from __future__ import annotations

from functools import partial

import coins
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from options import parse

WIDTHS = (8, 16, 32, 48)  # channels at 1, 1/2, 1/4 and 1/8 of the resolution


class Block(nnx.Module):
    """Two convolutions. The norms know no batch, so training and test are the same."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs) -> None:
        half = dict(dtype=jnp.bfloat16, rngs=rngs)  # of the activations; parameters are float32
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
        self.down = nnx.List(Block(i, o, rngs) for i, o in downward)
        self.up = nnx.List(Block(i + o, o, rngs) for i, o in upward)
        self.fine = nnx.Conv(WIDTHS[0], 2, (1, 1), dtype=jnp.bfloat16, rngs=rngs)
        self.coarse = nnx.Conv(WIDTHS[-1], 2, (1, 1), dtype=jnp.bfloat16, rngs=rngs)

    def __call__(self, images: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
        # Sizes are padded to multiples of 8. The loss leaves the margin of the logits out.
        height, width = images.shape[1:3]
        x = jnp.pad(images, ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
        x = self.down[0](x)
        skips = []
        for block in self.down[1:]:
            skips.append(x)
            x = block(nnx.max_pool(x, (2, 2), (2, 2)))
        coarse = upsample(self.coarse(x), 8)
        for block in self.up:
            x = block(jnp.concatenate([upsample(x, 2), skips.pop()], axis=-1))
        return {"levels": (self.fine(x), coarse)}


predict = nnx.jit(UNet.__call__)


def main(argv: list[str] | None = None) -> None:
    options = parse(__doc__, 200, "train_nnx.png", argv)
    objective = coins.make_objective(options.steps)
    model = UNet(nnx.Rngs(options.seed))
    rate = optax.cosine_decay_schedule(4e-3, options.steps)
    optimizer = nnx.Optimizer(model, optax.adamw(rate), wrt=nnx.Param)
    traces = 0

    @nnx.jit
    def train_step(model: UNet, optimizer: nnx.Optimizer, batch: dict[str, jax.Array]):
        nonlocal traces
        traces += 1  # Python runs this line only while JAX traces the step.

        def loss(model: UNet):
            return objective(model(batch["image"]), batch, step=optimizer.step[...])

        (_, metrics), grads = nnx.value_and_grad(loss, has_aux=True)(model)
        optimizer.update(model, grads)
        return metrics

    run = coins.Run(options)
    for batch in run.batches():
        metrics = train_step(model, optimizer, batch)
        run.record(metrics, partial(predict, model))
    run.finish(traces)


if __name__ == "__main__":
    main()

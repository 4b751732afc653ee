"""Find coins in a photograph: a Linen training loop with one objective, in about a minute.

    python examples/train_linen.py --steps 200 --seed 0 --out train_linen.png

A small U-shaped network computes in bfloat16 and is trained on crops of one half of a photograph;
the other half is the test. Its deepest level has an auxiliary head, whose loss has a weight that
fades out by a schedule of optax. `train_nnx.py` does the same in NNX; data, objective and report
are in `coins.py`.
"""

from __future__ import annotations

from functools import partial

import coins
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from options import parse

WIDTHS = (8, 16, 32, 48)  # channels at 1, 1/2, 1/4 and 1/8 of the resolution

# Activations are bfloat16, parameters float32.
Conv = partial(nn.Conv, dtype=jnp.bfloat16)


class Block(nn.Module):
    """Two convolutions. The norms know no batch, so training and test are the same."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(2):
            x = Conv(self.features, (3, 3))(x)
            x = nn.relu(nn.GroupNorm(num_groups=4, dtype=jnp.bfloat16)(x))
        return x


def upsample(x: jax.Array, factor: int) -> jax.Array:
    batch, height, width, channels = x.shape
    return jax.image.resize(x, (batch, height * factor, width * factor, channels), "bilinear")


class UNet(nn.Module):
    """Logits of two levels, at least as large as the images ``[B, H, W, 1]``."""

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
        # Sizes are padded to multiples of 8. The loss leaves the margin of the logits out.
        height, width = images.shape[1:3]
        x = jnp.pad(images, ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
        x = Block(WIDTHS[0])(x)
        skips = []
        for features in WIDTHS[1:]:
            skips.append(x)
            x = Block(features)(nn.max_pool(x, (2, 2), (2, 2)))
        coarse = upsample(Conv(2, (1, 1), name="coarse")(x), 8)
        for features in WIDTHS[-2::-1]:
            x = Block(features)(jnp.concatenate([upsample(x, 2), skips.pop()], axis=-1))
        return {"levels": (Conv(2, (1, 1), name="fine")(x), coarse)}


@jax.jit
def predict(state: TrainState, images: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    return state.apply_fn({"params": state.params}, images)


def main(argv: list[str] | None = None) -> None:
    options = parse(__doc__, 200, "train_linen.png", argv)
    objective = coins.make_objective(options.steps)
    model = UNet()
    shape = (1, coins.CROP, coins.CROP, 1)
    variables = jax.jit(model.init)(jax.random.key(options.seed), jnp.zeros(shape))
    rate = optax.cosine_decay_schedule(4e-3, options.steps)
    state = TrainState.create(
        apply_fn=model.apply, params=variables["params"], tx=optax.adamw(rate)
    )
    traces = 0

    @jax.jit
    def train_step(state: TrainState, batch: dict[str, jax.Array]):
        nonlocal traces
        traces += 1  # Python runs this line only while JAX traces the step.

        def loss(params):
            outputs = state.apply_fn({"params": params}, batch["image"])
            return objective(outputs, batch, step=state.step)

        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads), metrics

    run = coins.Run(options)
    for batch in run.batches():
        state, metrics = train_step(state, batch)
        run.record(metrics, partial(predict, state))
    run.finish(traces)


if __name__ == "__main__":
    main()

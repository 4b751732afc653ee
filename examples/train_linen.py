"""Find coins in a photograph: a Linen training loop with one objective.

    python examples/train_linen.py --steps 200 --seed 0 --out train_linen.png

A small U-shaped network is trained on crops of one half of a photograph and tested on the other
half. It computes in bfloat16. Its coarsest level has an auxiliary loss, whose weight follows an
optax schedule and fades to 0. The run takes about a minute on two CPU cores.

`train_nnx.py` does the same in NNX. Data, objective and report are in `coins.py`.
"""

from __future__ import annotations

if __name__ == "__main__":
    print("loading JAX and the photograph ...", flush=True)

from functools import partial

import coins
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from command_line import parse, run
from flax.training.train_state import TrainState

WIDTHS = (8, 16, 32, 48)  # channels at 1, 1/2, 1/4 and 1/8 of the resolution

# Activations are bfloat16, parameters float32.
Conv = partial(nn.Conv, dtype=jnp.bfloat16)


class Block(nn.Module):
    """Two convolutions. Group norms ignore the batch, so training and test are the same."""

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
        # Pad sizes to multiples of 8. The loss ignores the extra margin of the logits.
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

        def total(params):
            outputs = state.apply_fn({"params": params}, batch["image"])
            return objective(outputs, batch, step=state.step)

        (_, metrics), grads = jax.value_and_grad(total, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads), metrics

    report = coins.Run(options)
    with report.bar:
        for batch in report.batches():
            state, metrics = train_step(state, batch)
            report.record(metrics, partial(predict, state))
    report.finish(traces)


if __name__ == "__main__":
    run(main)

"""A complete training loop: padded boxes, one model, one optimiser, two losses.

python examples/minimal.py
"""

import jax
import numpy as np
import optax
from flax import nnx

from vis4d_jax_loss import IoULoss, SmoothL1Loss, mean_loss

# 8 images with 1 to 5 objects each. The model turns centre and size into the corners of a box.
rng = np.random.default_rng(0)
valid = np.arange(5) < rng.integers(1, 6, (8, 1))  # [8, 5], False for padding
centre, size = rng.uniform(0, 4, (8, 5, 2)), rng.uniform(1, 3, (8, 5, 2))
boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=-1)  # [8, 5, 4]
boxes[~valid] = np.nan  # padding may contain anything
batch = {"inputs": np.concatenate([centre, size], axis=-1), "boxes": boxes, "valid": valid}

iou_loss, l1_loss = IoULoss(mean_loss, mode="linear"), SmoothL1Loss(mean_loss)
graph, params = nnx.split(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), nnx.Param)
optimizer = optax.adam(0.02)
state = optimizer.init(params)


@jax.jit
def train_step(params, state, batch):
    def objective(params):
        pred = nnx.merge(graph, params)(batch["inputs"])
        iou = iou_loss(pred, batch["boxes"], where=batch["valid"])
        return iou + l1_loss(pred, batch["boxes"], where=batch["valid"])

    loss, grads = jax.value_and_grad(objective)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


for step in range(201):
    params, state, loss = train_step(params, state, batch)
    if step % 50 == 0:
        print(f"step {step:3}  loss {loss:.3f}")
print("Done: the model predicts the corners of the valid boxes.")

"""The losses that optax has too, averaged."""

import jax.numpy as jnp
import optax


def l2_loss(pred, target):
    # optax halves the square.
    return 2 * optax.l2_loss(pred, target).mean()


def smooth_l1_loss(pred, target):
    return optax.huber_loss(pred, target).mean()


def seg_cross_entropy_loss(output, target, class_axis):
    labels = jnp.where(target == 255, 0, target)
    losses = optax.softmax_cross_entropy_with_integer_labels(output, labels, axis=class_axis)
    return jnp.mean(losses, where=target != 255)

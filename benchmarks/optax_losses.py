"""The losses that optax has too, averaged."""

import jax
import jax.numpy as jnp
import optax


def l2_loss(pred, target):
    # optax halves the square.
    return 2 * optax.l2_loss(pred, target).mean()


def smooth_l1_loss(pred, target):
    return optax.huber_loss(pred, target).mean()


def cross_entropy(output, target):
    return optax.softmax_cross_entropy_with_integer_labels(output, target).mean()


def smoothed_cross_entropy(output, target):
    targets = optax.smooth_labels(jax.nn.one_hot(target, output.shape[-1]), 0.1)
    return optax.softmax_cross_entropy(output, targets).mean()


def soft_cross_entropy(output, target):
    return optax.softmax_cross_entropy(output, target).mean()


def seg_cross_entropy_loss(output, target, *, class_axis):
    labels = jnp.where(target == 255, 0, target)
    losses = optax.softmax_cross_entropy_with_integer_labels(output, labels, axis=class_axis)
    return jnp.where(target == 255, 0, losses).mean()


def binary_cross_entropy(output, target):
    return optax.sigmoid_binary_cross_entropy(output, target).mean()


def sigmoid_focal_loss(output, target):
    return optax.sigmoid_focal_loss(output, target, alpha=0.25, gamma=2.0).mean()

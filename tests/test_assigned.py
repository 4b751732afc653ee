"""What heads share: checks of their inner losses, and the outputs of each row's class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

import vis4d_jax_loss as vjl
from vis4d_jax_loss.heads._assigned import (
    average,
    check_inner_losses,
    check_num_classes,
    of_class,
)

NAN = np.nan


def test_of_class_picks_one_class_per_row():
    outputs = jnp.arange(12.0).reshape(2, 3, 2)
    chosen = of_class(outputs, jnp.array([2, 0]), jnp.array([True, True]))
    np.testing.assert_array_equal(chosen, [[4, 5], [6, 7]])


@pytest.mark.parametrize("bad", [-1, 3, 2**31 - 1, -(2**31)])
def test_of_class_is_0_where_masked_whatever_the_class_is(bad):
    outputs = jnp.full((2, 3), NAN).at[1].set(jnp.array([1.0, 2.0, NAN]))
    classes, where = jnp.array([bad, 1]), jnp.array([False, True])
    chosen, pull = jax.vjp(lambda x: of_class(x, classes, where), outputs)
    np.testing.assert_array_equal(chosen, [0, 2])
    np.testing.assert_array_equal(pull(jnp.array([3.0, 5.0]))[0], [[0, 0, 0], [0, 5, 0]])


def test_of_class_keeps_infinity_and_nan_of_the_class():
    outputs = jnp.array([[1.0, -jnp.inf], [NAN, 1.0]])
    chosen = of_class(outputs, jnp.array([1, 0]), jnp.array([True, True]))
    np.testing.assert_array_equal(chosen, [-np.inf, NAN])


def test_an_average_divides_the_sum_and_is_0_if_the_divisor_is_0():
    pred, target, where = jnp.array([3.0, NAN]), jnp.zeros(2), jnp.array([True, False])
    for divisor, expected in ((2, 1.5), (0, 0)):
        arguments = target, where, jnp.uint32(divisor), None
        step = jax.value_and_grad(lambda x, rest=arguments: average(vjl.l1_loss, x, *rest))
        value, gradient = step(pred)
        assert value == expected
        np.testing.assert_array_equal(gradient, [expected / 3, 0])


def test_an_average_has_no_gradient_of_its_target():
    where = jnp.array([True, False])

    def step(target):
        return average(vjl.l2_loss, jnp.ones(2), target, where, jnp.uint32(1), None)

    value, gradient = jax.value_and_grad(step)(jnp.array([3.0, NAN]))
    assert value == 4
    np.testing.assert_array_equal(gradient, [0, 0])


@pytest.mark.parametrize(
    ("loss", "got"),
    [(vjl.L1Loss, "the class L1Loss"), ("l1", "'l1'"), (None, "None")],
)
def test_an_inner_loss_must_be_callable_and_no_class(loss, got):
    message = (
        f"RPNLoss: loss_bbox must be a loss, such as l1_loss or SmoothL1Loss(beta=0.5), got "
        f"loss_bbox {got}. It is called as loss(pred, target, reducer=..., where=...)."
    )
    check_inner_losses("RPNLoss", loss_cls=vjl.l1_loss)
    with raises(TypeError, message):
        check_inner_losses("RPNLoss", loss_cls=vjl.l1_loss, loss_bbox=loss)


def test_the_number_of_classes_is_checked_if_it_is_given():
    check_num_classes("rcnn_loss", None, 5, "class_outs")
    check_num_classes("rcnn_loss", 5, 5, "class_outs")
    message = "rcnn_loss: class_outs must have num_classes classes, got class_outs with 5 classes and num_classes 4."
    with raises(ValueError, message):
        check_num_classes("rcnn_loss", 4, 5, "class_outs")

"""RetinaNet's head: a focal loss of every anchor and class."""

import numpy as np

import vis4d_jax_loss as vjl

LOG2 = np.log(2.0)
CLS, REG = np.zeros((2, 3, 4), np.float32), np.full((2, 3, 4), 0.5, np.float32)
LABELS = np.array([[3, 4, 0], [-1, 4, 4]])
TARGETS = np.zeros((2, 3, 4), np.float32)
# At the logit 0 a mistake has the probability 1 / 2: each loss is log(2) / 4, times .25 or .75.
PRESENT, ABSENT = 0.25 * LOG2 / 4, 0.75 * LOG2 / 4


def test_each_class_has_a_focal_loss_and_boxes_have_an_l1_loss():
    losses = vjl.retinanet_head_loss(CLS, REG, LABELS, TARGETS)
    assert losses._fields == ("loss_cls", "loss_bbox")
    np.testing.assert_allclose(losses, ((2 * PRESENT + 22 * ABSENT) / 6, 2 * 2 / 6), rtol=1e-6)


def test_a_masked_anchor_is_masked_in_all_its_classes():
    where = np.array([[True, False, False], [True, False, False]])
    losses = vjl.RetinaNetHeadLoss()(CLS, REG, LABELS, TARGETS, label_where=where)
    np.testing.assert_allclose(losses, ((PRESENT + 7 * ABSENT) / 2, 2 / 2), rtol=1e-6)


def test_the_paper_divides_by_the_number_of_objects():
    number = np.sum((LABELS >= 0) & (LABELS < 4))
    losses = vjl.RetinaNetHeadLoss()(CLS, REG, LABELS, TARGETS, avg_factor=number)
    np.testing.assert_allclose(losses, ((2 * PRESENT + 22 * ABSENT) / 2, 2), rtol=1e-6)

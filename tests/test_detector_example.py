"""The detector example: box deltas, matcher, sampler, suppression, precision, and a short run."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

EXAMPLES = Path(__file__).parents[1] / "examples"
NAN = [np.nan] * 4


@pytest.fixture(scope="module")
def modules():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        names = "detection", "train_detector", "digit_scenes"
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def detection(modules):
    return modules["detection"]


def test_anchors_are_centred_in_their_cells(detection):
    anchors = detection.make_anchors(8, 4, ((2, 4), (4, 2)))
    assert anchors.tolist() == [
        *([1, 0, 3, 4], [0, 1, 4, 3]),
        *([5, 0, 7, 4], [4, 1, 8, 3]),
        *([1, 4, 3, 8], [0, 5, 4, 7]),
        *([5, 4, 7, 8], [4, 5, 8, 7]),
    ]


def test_deltas_are_relative_to_the_anchor_and_can_be_undone(detection):
    anchor, box = jnp.array([[0.0, 0.0, 10.0, 20.0]]), jnp.array([[-4.0, 2.0, 16.0, 22.0]])
    # The centre moves by 1 in x and by 2 in y. The width doubles.
    deltas = detection.encode(box, anchor) / detection.DELTA_SCALE
    np.testing.assert_allclose(deltas, [[0.1, 0.1, np.log(2.0), 0]], atol=1e-6)
    np.testing.assert_allclose(detection.decode(5 * deltas, anchor), box, rtol=1e-6)
    assert np.isfinite(detection.decode(jnp.full((1, 4), 1e4), anchor)).all()


def assign(detection, candidates, boxes, labels, usable=True, **options):
    options = dict(below=0.3, above=0.6, count=100, share=0.5) | options
    arrays = (jnp.array(x, float) for x in (candidates, boxes))
    usable = jnp.broadcast_to(jnp.array(usable), len(candidates))
    key, (candidates, boxes) = jax.random.key(0), arrays
    return detection.assign(key, candidates, usable, boxes, jnp.array(labels), **options)


def test_matcher_tells_objects_background_and_those_between(detection):
    # IoU with the first box: 1, 0.7, 0.5, 0.2 and 0. The padding is never matched.
    candidates = [[0, 0, 10, width] for width in (10, 7, 5, 2)] + [[50, 50, 60, 60]]
    found = assign(detection, candidates, [[0, 0, 10, 10], NAN], [7, -1])
    assert found.label.tolist() == [7, 7, -1, -1, -1]
    assert found.sampled.tolist() == [True, True, False, True, True]
    np.testing.assert_allclose(found.deltas[0], 0)
    np.testing.assert_allclose(found.deltas[1, 1], 5 * 1.5 / 7, rtol=1e-6)


def test_closest_candidate_of_a_box_is_positive_with_any_overlap(detection):
    candidates = [[0, 0, 10, 4], [0, 0, 10, 2], [20, 0, 30, 1]]
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [70, 70, 80, 80]]  # IoU 0.4 and 0.2; 0.1; 0
    found = assign(detection, candidates, boxes, [3, 4, 5])
    assert found.label.tolist() == [3, -1, 4]
    assert found.sampled.all()


def test_image_without_boxes_is_background(detection):
    found = assign(detection, [[0, 0, 1, 1], [0, 0, 2, 2]], [NAN, NAN], [-1, -1])
    assert found.label.tolist() == [-1, -1]
    assert found.sampled.all()


def test_unusable_candidates_are_neither_positive_nor_negative(detection):
    candidates = [[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [60, 50, 70, 60]]
    usable = [False, True, False, True]
    found = assign(detection, candidates, [[0, 0, 10, 10]], [2], usable)
    assert found.label.tolist() == [-1, 2, -1, -1]
    assert found.sampled.tolist() == usable


@pytest.mark.parametrize(("positives", "drawn"), [(20, 3), (2, 2), (0, 0)])
def test_sampler_draws_a_share_of_positives_and_fills_up_with_negatives(
    detection, positives, drawn
):
    positive, negative = jnp.arange(40) < positives, jnp.arange(40) >= 25
    mask = detection.sample(jax.random.key(1), positive, negative, 10, 0.3)
    assert (mask & positive).sum() == drawn
    assert (mask & negative).sum() == 10 - drawn
    assert mask.sum() == 10


def test_suppressed_boxes_do_not_suppress_others(detection):
    # Each box overlaps its neighbour only, with IoU 0.6 / 1.4.
    boxes = jnp.array([[0.0, 0, 1, 1], [0.4, 0, 1.4, 1], [0.8, 0, 1.8, 1]])
    assert detection.suppress(boxes, 0.4).tolist() == [True, False, True]
    assert detection.suppress(boxes, 0.5).tolist() == [True, True, True]


BOXES = np.array([[[0, 0, 10, 10], [20, 0, 30, 10], NAN]], np.float32)


def detections(boxes, label, score):
    return {
        "boxes": np.array([boxes], np.float32),
        "label": np.array([label]),
        "score": np.array([score]),
    }


def test_each_true_box_is_found_once(detection):
    first, second, _ = BOXES[0]
    found = detections([first, first, second, second], [1, 1, 1, 2], [0.9, 0.8, 0.7, 0.6])
    matched = detection.find_boxes(found, BOXES, np.array([[1, 2, -1]]), 0.5)
    # A second detection of the same box and a wrong class are mistakes.
    assert matched.tolist() == [[0, -1, -1, 1]]


def test_detections_of_score_0_and_with_little_overlap_find_nothing(detection):
    half = [0, 0, 10, 5]
    found = detections([half, BOXES[0, 1]], [1, 1], [0.9, 0.0])
    labels = np.array([[1, 1, -1]])
    assert detection.find_boxes(found, BOXES, labels, 0.5).tolist() == [[0, -1]]
    assert detection.find_boxes(found, BOXES, labels, 0.51).tolist() == [[-1, -1]]


def test_average_precision_matches_a_hand_count(detection):
    first, second, _ = BOXES[0]
    wrong = [50, 50, 60, 60]
    found = detections([first, wrong, second], [1, 1, 1], [0.9, 0.8, 0.7])
    # Recall 0.5, 0.5, 1; precision 1, 1/2, 2/3.
    one_class = detection.average_precision(found, BOXES, np.array([[1, 1, -1]]), 0.5)
    assert one_class == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # Recall 0, 0.5, 1; precision 0, 1/2, 2/3. The best precision at this recall or more counts.
    late = detections([wrong, first, second], [1, 1, 1], [0.9, 0.8, 0.7])
    late_ones = detection.average_precision(late, BOXES, np.array([[1, 1, -1]]), 0.5)
    assert late_ones == pytest.approx(2 / 3)
    # Class 1 has one box, which is found first. Class 2 has one box, which no detection finds.
    two_classes = detection.average_precision(found, BOXES, np.array([[1, 2, -1]]), 0.5)
    assert two_classes == pytest.approx((1 + 0) / 2)


@pytest.mark.slow
def test_losses_of_the_detector_ignore_the_padding(modules):
    example, scenes = modules["train_detector"], modules["digit_scenes"]
    images = example.make_images(scenes.load_digits()[1], np.random.default_rng(0), 2)
    padding = images["label"] < 0
    assert np.isnan(images["boxes"][padding]).all()
    assert padding.any()
    graph, params = nnx.split(example.Detector(nnx.Rngs(0)), nnx.Param)

    @jax.jit
    @jax.value_and_grad
    def total(params, images):
        outputs, targets = example.run_stages(nnx.merge(graph, params), images, jax.random.key(0))
        return example.objective(outputs, targets)[0]

    changed = images | {"boxes": np.where(padding[..., None], 30, images["boxes"])}
    with jax.numpy_rank_promotion("allow"):
        (loss, grads), (other, other_grads) = total(params, images), total(params, changed)
    assert loss == other > 0
    for grad, other_grad in zip(*map(jax.tree.leaves, (grads, other_grads)), strict=True):
        assert np.isfinite(grad).all()
        np.testing.assert_array_equal(grad, other_grad)


@pytest.mark.slow
def test_detector_trains_prints_results_and_draws(tmp_path):
    picture = tmp_path / "detector.png"
    command = [sys.executable, str(EXAMPLES / "train_detector.py")]
    command += ["--steps", "2", "--out", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr
    for result in ("AP at IoU 0.5", "AP at IoU 0.75", "AP at IoU 0.5, any class"):
        assert re.search(rf"^{result} +0\.\d+ +0\.\d+$", done.stdout, re.MULTILINE)
    for message in ("loading", "compiling", "traced 1 time"):
        assert message in done.stdout
    assert "2/2" in done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")

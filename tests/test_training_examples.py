"""The two training loops on coins: printed results, picture, data and objective."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def coins():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("coins")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train_nnx.py", "train_linen.py"])
def test_coins_example_trains_prints_results_and_draws(script, tmp_path):
    picture = tmp_path / "coins.png"
    command = [sys.executable, str(EXAMPLES / script), "--steps", "2", "--out", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr
    for name in ("Otsu threshold", "network"):
        assert re.search(rf"^{name} +[01]\.\d{{4}}$", done.stdout, re.MULTILINE)
    assert re.search(r"2 steps of 8 crops in \d+ s, traced 1 time\(s\)", done.stdout)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_training_and_test_parts_do_not_overlap(coins):
    training, test = coins.load()
    photo = coins.data.coins()
    assert training.image.shape == (153, 384, 1)
    assert test.image.shape == (150, 384, 1)
    together = np.concatenate([test.image, training.image])[..., 0]
    np.testing.assert_allclose(together * 255, photo, atol=1e-4)
    # No coin lies on the cut.
    assert (test.target[-1] == coins.BACKGROUND).all()
    assert (training.target[0] == coins.BACKGROUND).all()


def test_labels_are_background_coin_or_ignored(coins):
    for part in coins.load():
        assert part.image.dtype == np.float32
        assert part.target.dtype == np.int32
        assert set(np.unique(part.target)) == {0, 1, 255}
        assert coins.ndimage.label(part.target == coins.COIN)[1] == 12
        assert 0.05 < np.mean(part.target == coins.IGNORED) < 0.15


def test_borders_of_a_disc_are_ignored(coins):
    y, x = np.mgrid[:60, :60] - 30
    target = coins.segment(np.where(y**2 + x**2 < 400, 200, 10).astype(np.uint8))
    # The middle row: a disc of radius 20, 2 pixels on either side of its edge ignored.
    assert target[30].tolist() == [0] * 9 + [255] * 4 + [1] * 35 + [255] * 4 + [0] * 8


def test_crops_are_training_pixels_plus_a_plane_of_light(coins):
    training, _ = coins.load()
    batch = next(coins.batches(training, np.random.default_rng(0)))
    assert {name: array.shape for name, array in batch.items()} == {
        "image": (8, 96, 96, 1),
        "target": (8, 96, 96),
        "valid": (8, 96, 96),
    }
    assert batch["image"].dtype == np.float32
    np.testing.assert_array_equal(batch["valid"], batch["target"] != 255)
    windows = np.lib.stride_tricks.sliding_window_view(training.target, (96, 96))
    pictures = np.lib.stride_tricks.sliding_window_view(training.image[..., 0], (96, 96))
    for image, target in zip(batch["image"], batch["target"], strict=True):
        mirrors = [np.s_[::a, ::b] for a in (-1, 1) for b in (-1, 1)]
        (mirror, place) = next(
            (mirror, np.argwhere(same)[0])
            for mirror in mirrors
            if (same := (windows[:, :, ::7, ::7] == target[mirror][::7, ::7]).all((2, 3))).any()
        )
        glow = image[mirror][..., 0] - pictures[tuple(place)]
        # A plane has no second differences.
        np.testing.assert_allclose(np.diff(glow, 2, axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(np.diff(glow, 2, axis=1), 0, atol=1e-6)
        assert abs(glow.mean()) <= 0.3


def test_crops_depend_on_the_seed_only(coins):
    training, _ = coins.load()
    first, again, other = (
        next(coins.batches(training, np.random.default_rng(seed)))["image"] for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_miou_matches_a_hand_count_and_skips_ignored_pixels(coins):
    target = np.array([[0, 0, 1, 1], [0, 255, 255, 1]])
    found = np.array([[0, 1, 1, 1], [0, 0, 1, 0]])
    # Background: intersection 2, union 4. Coin: the same.
    assert coins.miou(found, target) == 0.5
    assert coins.miou(np.where(target == 255, 1 - found, found), target) == 0.5
    assert coins.miou(np.where(target == 255, 0, target), target) == 1.0
    # Everything predicted as coin: background 0, coin 3 of 6.
    assert coins.miou(np.ones_like(target), target) == 0.25


def test_weight_of_the_coarse_level_fades_to_zero(coins):
    objective = coins.make_objective(100)
    target = np.zeros((1, 2, 2), np.int32)
    batch = {"target": target, "valid": target == 0}
    outputs = {"levels": (np.zeros((1, 2, 2, 2)), np.zeros((1, 2, 2, 2)))}
    log2 = np.log(2.0)
    for step, weight in ((0, 0.4), (50, 0.2), (100, 0.0)):
        total, metrics = objective(outputs, batch, step=step)
        assert metrics["seg.loss_seg_level0"] == pytest.approx(log2)
        assert metrics["seg.loss_seg_level1"] == pytest.approx(weight * log2, abs=1e-7)
        assert total == pytest.approx((1 + weight) * log2)

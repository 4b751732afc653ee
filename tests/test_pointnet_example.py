"""The PointNet example: gradient at the identity, data, measurements, and a short run."""

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
from scipy.spatial.transform import Rotation

import vis4d_jax_loss as vjl

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def modules():
    names = "pointnet", "digit_clouds", "cloud_results"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def pointnet(modules):
    return modules["pointnet"]


@pytest.fixture(scope="module")
def digit_clouds(modules):
    return modules["digit_clouds"]


@pytest.fixture(scope="module")
def cloud_results(modules):
    return modules["cloud_results"]


def test_new_t_net_returns_exactly_the_identity(pointnet):
    net = pointnet.TNet(5, nnx.Rngs(0))
    transforms = net(np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32))
    np.testing.assert_array_equal(transforms, np.stack([np.eye(5)] * 2))


def test_gradient_at_the_identity_is_zero_here_and_nan_with_jnp_norm(pointnet):
    points = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
    ours = vjl.OrthogonalTransformRegularizationLoss()
    assert pointnet.at_start(ours, points, seed=0) == (0, 0, 0)
    value, _, share = pointnet.at_start(pointnet.norm_regularizer, points, seed=0)
    assert value == 0
    assert share > 0.5


def test_both_regularizers_agree_away_from_the_identity(pointnet):
    transforms = [
        jnp.asarray(np.random.default_rng(size).normal(size=(4, size, size)), jnp.float32)
        for size in (3, 5)
    ]
    ours = jax.value_and_grad(vjl.orthogonal_transform_regularization_loss)(transforms)
    naive = jax.value_and_grad(pointnet.norm_regularizer)(transforms)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, naive)


def test_turns_are_rotations_of_the_expected_size(digit_clouds, cloud_results):
    turns = digit_clouds.random_turns(np.random.default_rng(0), 5000)
    np.testing.assert_allclose(
        turns @ turns.swapaxes(1, 2), np.stack([np.eye(3)] * 5000), atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.det(turns), 1, rtol=1e-5)
    # Uniform from 0 to 60 degrees: the median is 30.
    assert cloud_results.spread(turns) == pytest.approx(digit_clouds.MAX_TURN / 2, abs=1)
    undone = turns @ (2 * turns.swapaxes(1, 2))  # turned back, and twice as large
    assert cloud_results.spread(cloud_results.nearest_rotation(undone)) == pytest.approx(0, abs=0.1)
    tilted = Rotation.from_rotvec(np.outer([-10, 0, 10], [1, 0, 0]), degrees=True).as_matrix()
    assert cloud_results.spread(tilted) == pytest.approx(10)


def test_points_are_drawn_from_the_ink(digit_clouds):
    ink = np.zeros((8, 8))
    ink[1, 6] = 1.0  # up, on the right
    ink[6, 1] = 0.5
    points = digit_clouds.sample(ink, np.random.default_rng(0))
    assert points.shape == (512, 3)
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-12)
    right = points[:, 0] > 0
    assert right.mean() == pytest.approx(2 / 3, abs=0.06)
    assert (points[right, 1] > 0).all()
    assert (points[right, 2] > points[~right, 2].max()).all()


@pytest.mark.slow
def test_pointnet_trains_twice_prints_results_and_draws(tmp_path):
    picture = tmp_path / "pointnet.png"
    command = [sys.executable, str(EXAMPLES / "pointnet.py"), "--steps", "2", "--out", picture]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"this library +0\.0 +0\.0 +0%", done.stdout)
    assert re.search(r"jnp\.linalg\.norm +0\.0 +nan +\d\d%", done.stdout)
    assert re.search(r"accuracy +0\.\d+ +0\.\d+", done.stdout)
    assert "traced 1 and 1 time(s)" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")

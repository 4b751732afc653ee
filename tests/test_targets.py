"""The programs for an H100 and a TPU v5e, compiled without the hardware.

These tests need the compilers: ``pip install -e '.[targets]'``. The target must be chosen before
JAX is imported, so other processes compile.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import compilers
import pytest
import targets
from rows import ROWS

RUN = Path(compilers.__file__).parent / "targets.py"

pytestmark = pytest.mark.slow
every_row = pytest.mark.parametrize("row", [row.name for row in ROWS])

# Kernels and bytes on an H100, and cycles on a TPU v5e; the last two as multiples of one pass.
# A row without an entry has the limits of DEFAULT.
DEFAULT = (12, 4.0, 8.0)
LIMITS = {
    "L1": (4, 1.05, 1.0),
    "L2": (4, 1.05, 1.0),
    "smooth L1": (4, 1.05, 1.0),
    "L1, HardMeanLoss of 25 %": (50, 8.0, 40.0),
    "rotation, 2 bins": (10, 2.9, 2.5),
    "smooth L1 of boxes": (4, 1.05, 1.0),
    "smooth L1 of boxes, masked": (6, 1.1, 1.4),
    "IoU log": (5, 2.2, 4.8),
    "IoU log, masked": (7, 2.3, 9.2),
    "IoU square": (5, 2.2, 4.8),
    "GIoU": (5, 2.6, 6.2),
    "GIoU, masked": (7, 3.2, 10.4),
    "DIoU": (5, 2.7, 6.0),
    "DIoU, masked": (7, 3.4, 10.1),
    "CIoU": (5, 3.2, 8.4),
    "CIoU, masked": (7, 3.9, 13.8),
    "paired_iou": (5, 2.9, 4.8),
    "pairwise_iou": (4, 1.05, 1.7),
    "segmentation NHWC, 19 classes": (7, 1.9, 2.3),
    "segmentation NHWC, 19 classes, masked": (8, 1.9, 2.3),
    "segmentation NCHW, 19 classes": (7, 1.9, 2.3),
    "segmentation NHWC, 150 classes": (8, 2.2, 3.6),
    "segmentation NCHW, 150 classes": (8, 2.2, 3.6),
    "cross-entropy": (8, 2.2, 3.6),
    "dice, 19 classes": (16, 4.0, 8.0),
    "dice, 19 classes, masked": (16, 4.0, 8.0),
    "dice, 150 classes": (16, 4.0, 8.0),
    "multi-positive cross-entropy": (9, 2.5, 4.5),
    "embedding distance, mined": (50, 8.0, 36.0),
    "top_k_mask, k = 1500": (45, 12.0, 44.0),
    "top_k_mask, traced k": (45, 12.0, 44.0),
    "hard_negative_mask": (50, 12.5, 44.0),
    "orthogonal transform": (7, 9.0, 4.7),
    "RPN head": (9, 1.2, 1.4),
    "RetinaNet head, 80 classes": (7, 1.2, 2.5),
    "dense anchor head, smooth L1": (7, 1.3, 1.4),
    "R-CNN head, 80 classes": (14, 1.4, 2.3),
    "YOLOX head, 80 classes": (12, 1.2, 2.1),
    "mask head, 80 classes": (8, 1.2, 1.9),
    "QDTrack, x 4 references": (60, 30.0, 30.0),  # it mines in each pair of images
    "QD-3DT boxes, 10 classes": (26, 2.0, 6.2),
}
# Rows that cost more than the best alternative, and how many times as much, on (H100, TPU v5e).
COSTLIER = {
    "binary cross-entropy, masked": (1.75, 1.1),
    "sigmoid focal": (1.1, 2.2),
    "heatmap focal": (1.1, 2.1),
    "heatmap focal, masked": (1.1, 2.1),
    "multi-positive cross-entropy": (1.3, 1.1),
    "RPN head": (1.15, 1.2),
    "RetinaNet head, 80 classes": (1.1, 2.0),
    "dense anchor head, smooth L1": (1.2, 1.1),
}
# Rows with a loop of unknown length.
UNKNOWN_LOOPS: set[str] = set()


def compiled(tmp_path_factory, target, *options):
    """Run the command and return its results by the name of the row."""
    if names := compilers.missing(target):
        pytest.skip(f"needs {', '.join(names)}: pip install -e '.[targets]'")
    path = tmp_path_factory.mktemp(target) / "results.json"
    command = [sys.executable, str(RUN), "--target", target, *options, "--json", str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-4000:]
    noise = [line for line in done.stderr.splitlines() if not line.startswith("compiled ")]
    assert noise == []
    return {result["row"]: result for result in json.loads(path.read_text())["results"]}


@pytest.fixture(scope="module")
def h100(tmp_path_factory):
    return compiled(tmp_path_factory, "h100", "--middle")


@pytest.fixture(scope="module")
def v5e(tmp_path_factory):
    return compiled(tmp_path_factory, "v5e", "--middle")


@pytest.fixture(scope="module")
def eight_chips(tmp_path_factory):
    return compiled(tmp_path_factory, "v5e", "--chips", "8", "--middle")


@every_row
def test_h100_runs_few_kernels_that_move_few_bytes(h100, row):
    kernels, passes, _ = LIMITS.get(row, DEFAULT)
    assert h100[row]["results"]["ours"]["kernels"] <= kernels
    assert targets.multiple(h100[row], "ours", "bytes") <= passes


@every_row
def test_v5e_takes_few_cycles(v5e, row):
    *_, passes = LIMITS.get(row, DEFAULT)
    assert targets.multiple(v5e[row], "ours", "cycles") <= passes


@every_row
def test_h100_moves_no_more_bytes_than_for_plain_jax(h100, row):
    most, _ = COSTLIER.get(row, (1.1, 1.1))
    assert 1 / targets.of_ours(h100[row], "bytes") <= most


@every_row
def test_v5e_takes_no_more_cycles_than_for_plain_jax(v5e, row):
    _, most = COSTLIER.get(row, (1.1, 1.1))
    assert 1 / targets.of_ours(v5e[row], "cycles") <= most


@every_row
@pytest.mark.parametrize("target", ["h100", "v5e"])
def test_every_loop_has_a_known_length(target, row, request):
    loops = request.getfixturevalue(target)[row]["results"]["ours"]["loops"]
    assert (None in loops) == (row in UNKNOWN_LOOPS)


@every_row
def test_no_loss_sorts(h100, v5e, row):
    assert h100[row]["results"]["ours"]["sorts"] == 0
    assert v5e[row]["results"]["ours"]["sorts"] == 0


@every_row
def test_eight_chips_send_scalars_and_short_vectors(eight_chips, row):
    ours = eight_chips[row]["ours"]
    if row == "pairwise_iou":  # nothing is added up
        assert ours["messages"] == 0
        return
    assert ours["messages"] > 0
    assert ours["largest"] <= 64  # e.g. the sums and counts of a few levels or bins
    assert ours["sent"] <= 1024 < ours["input_bytes"]


def test_the_compilers_do_not_change_where_jax_computes():
    code = "import jax; print(jax.devices()[0].platform)"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.decode().strip() == "cpu"


def test_an_alternative_that_sorts_is_not_compared():
    cost = dict(bytes=10, cycles=10, sorts=0)
    results = {"ours": cost, "plain": cost | {"bytes": 1, "sorts": 1}}
    assert targets.of_ours({"results": results}, "bytes") == math.inf
    results["optax"] = cost | {"bytes": 5}
    assert targets.of_ours({"results": results}, "bytes") == 0.5
    assert targets.is_costlier({"results": results}, "bytes")

"""The examples as a user runs them: what they print, what they refuse, how they end."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, *options, timeout=300):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, options)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.slow
def test_track_digits_trains_prints_its_figures_and_draws(tmp_path):
    picture = tmp_path / "digits.png"
    done = run("track_digits.py", "--steps", 2, "--out", picture)
    assert done.returncode == 0, done.stderr[-3000:]
    for figure in ("mean IoU of masks", "mean IoU of boxes", "matched to itself"):
        assert re.search(rf"{figure} +\d\.\d+ +\d\.\d+", done.stdout)
    assert "traced 1 time" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--seed", "-1"], "--seed must be from 0 to"),
        (["--out", "picture.txt"], "--out must end in .png, .pdf or .svg, got picture.txt"),
        (["--out", "no/such/folder/picture.png"], "there is no folder no/such/folder"),
    ],
)
def test_wrong_options_are_refused_before_any_work(options, message, capsys, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    parse = importlib.import_module("options").parse
    with pytest.raises(SystemExit, match="2"):
        parse("An example.", 500, "digits.png", options)
    assert message in capsys.readouterr().err


def test_options_have_defaults(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    options = importlib.import_module("options").parse("An example.", 500, "digits.png", [])
    assert (options.steps, options.seed, options.out) == (500, 0, Path("digits.png"))


@pytest.mark.slow
def test_two_processes_train_one_model():
    done = run("data_parallel.py", "--processes", 2, "--steps", 2, "--batch", 2)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "all losses of all 2 steps are equal" in done.stdout
    assert "scenes a second on 2 devices" in done.stdout


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run():
    command = [sys.executable, str(EXAMPLES / "data_parallel.py"), "--processes", "2"]
    command += ["--steps", "100000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        pids = [int(parent.stdout.readline().rpartition(" ")[2]) for _ in range(2)]
        time.sleep(5)
        os.kill(pids[1], signal.SIGKILL)
        start = time.monotonic()
        _, errors = parent.communicate(timeout=60)
    assert time.monotonic() - start < 30
    assert parent.returncode == 1
    assert "error: process 1 died (SIGKILL), so the run was ended" in errors
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_data_parallel_refuses_a_batch_that_does_not_divide():
    done = run("data_parallel.py", "--cpu-devices", 3, timeout=60)
    assert done.returncode == 2
    assert "--batch must be a multiple of the 3 devices, got 8" in done.stderr

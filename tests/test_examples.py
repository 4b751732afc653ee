"""Run the examples as a user does: results, wrong options, Ctrl-C, several processes."""

import argparse
import importlib
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, *options, timeout=300):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, options)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture
def example(monkeypatch):
    """Import a module of the examples by name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


def test_minimal_example_lowers_the_loss():
    done = run("minimal.py", timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [float(loss) for loss in re.findall(r"step +\d+  loss (\S+)", done.stdout)]
    assert len(losses) == 5
    assert losses[-1] < 0.1 * losses[0]
    assert done.stdout.splitlines()[-1].startswith("Done")


def test_minimal_example_needs_the_core_packages_only():
    blocked = "matplotlib", "skimage", "sklearn", "tqdm"
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
    code += f"exec(compile(open({str(EXAMPLES / 'minimal.py')!r}).read(), 'minimal.py', 'exec'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


def test_scenes_are_padded_and_two_digits_have_one_class(example):
    scenes_module = example("digit_scenes")
    _, digits = scenes_module.load_digits()
    scenes = scenes_module.make_scenes(digits, np.random.default_rng(0), 5)
    valid = scenes["valid"]
    assert scenes["frames"].shape == (5, 2, 80, 80, 1)
    assert valid.shape == (5, 2, 12)
    assert np.isnan(scenes["boxes"][~valid]).all()
    assert np.isfinite(scenes["boxes"][valid]).all()
    assert (scenes["identity"][~valid] == -1).all()
    for row in scenes["identity"].reshape(10, 12):
        # Every digit of the scene is clicked twice.
        count = row.max() + 1
        assert sorted(row[row >= 0]) == sorted([*range(count)] * 2)
    chosen = scenes_module.choose_digits(digits, np.random.default_rng(0))
    labels = [digits.label[(digits.ink == ink).all((1, 2))][0] for ink in chosen.ink]
    assert labels == chosen.label.tolist()
    assert labels[0] == labels[1]
    # Both frames of a scene show the same digits, and the first two are of one class.
    assert (scenes["label"][~valid] == -1).all()
    for identity, label in zip(scenes["identity"], scenes["label"], strict=True):
        classes = {one: set(label[identity == one]) for one in identity[identity >= 0]}
        assert all(len(seen) == 1 for seen in classes.values())
        assert classes[0] == classes[1]


@pytest.mark.slow
def test_track_digits_trains_prints_results_and_draws(tmp_path):
    picture = tmp_path / "digits.png"
    done = run("track_digits.py", "--steps", 2, "--out", picture)
    assert done.returncode == 0, done.stderr[-3000:]
    for result in ("mean IoU of masks", "mean IoU of boxes", "correct matches"):
        assert re.search(rf"{result} +\d\.\d+ +\d\.\d+", done.stdout)
    for message in ("loading", "compiling", "traced 1 time"):
        assert message in done.stdout
    assert "2/2" in done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--seed", "-1"], "--seed must be from 0 to"),
        (["--out", "picture.txt"], "--out must end in .png, .pdf or .svg, got picture.txt"),
        (["--out", "no/such/folder/picture.png"], "there is no folder no/such/folder"),
        (["--out", "folder.png"], "--out: folder.png cannot be written"),
    ],
)
def test_wrong_options_end_the_program_before_any_work(
    options, message, capsys, example, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    with pytest.raises(SystemExit, match="2"):
        example("command_line").parse("An example.", 500, "digits.png", options)
    assert message in capsys.readouterr().err


def test_options_have_defaults(monkeypatch, tmp_path, example):
    monkeypatch.chdir(tmp_path)
    options = example("command_line").parse("An example.", 500, "digits.png", [])
    assert (options.steps, options.seed, options.out) == (500, 0, Path("digits.png"))


def test_checking_the_picture_leaves_no_file_and_keeps_an_old_one(tmp_path, example):
    parse = example("command_line").parse
    new, old = tmp_path / "new.png", tmp_path / "old.png"
    old.write_text("old")
    for picture in (new, old):
        parse("An example.", 500, "digits.png", ["--out", str(picture)])
    assert not new.exists()
    assert old.read_text() == "old"


def test_ctrl_c_ends_with_one_line_and_status_130(capsys, example):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        example("command_line").run(main)
    assert capsys.readouterr().err.strip() == "Stopped by Ctrl-C."


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train_nnx.py", "track_digits.py"])
def test_ctrl_c_during_training_prints_no_traceback(script, tmp_path):
    command = [sys.executable, str(EXAMPLES / script), "--steps", "100000"]
    command += ["--out", str(tmp_path / "picture.png")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        shown = ""
        while not re.search(r"\b[1-9]\d*/100000", shown):  # until the first step is done
            shown += (character := process.stderr.read(1))
            assert character, shown
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "Stopped by Ctrl-C."


@pytest.mark.slow
def test_two_processes_train_one_model():
    done = run("data_parallel.py", "--processes", 2, "--steps", 2, "--batch", 2)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "losses of all 2 steps agree up to float rounding" in done.stdout
    assert "on 2 devices (scenes per step on each: 1) and on 1 device" in done.stdout
    assert "share the CPU cores of one machine, so no speed-up is expected" in done.stdout
    assert re.search(r"2 processes: 100%.* 2/2", done.stderr)


@pytest.mark.slow
def test_process_that_dies_ends_the_run(example, monkeypatch):
    data_parallel, local_processes = example("data_parallel"), example("local_processes")
    workers = []

    def start_worker(*arguments, start=local_processes.start_worker):
        workers.append(start(*arguments))
        return workers[-1]

    monkeypatch.setattr(local_processes, "start_worker", start_worker)
    kill = threading.Timer(5, lambda: workers[1].kill())
    kill.start()
    options = argparse.Namespace(processes=2, steps=100000, seed=0, batch=2, cpu_devices=0)
    start = time.monotonic()
    with pytest.raises(
        SystemExit, match=r"error: process 1 died \(SIGKILL\), so the run was ended"
    ):
        data_parallel.launch(options)
    assert time.monotonic() - start < 35
    kill.join()
    assert [worker.poll() for worker in workers] == [-signal.SIGKILL] * 2


def test_batch_must_be_a_multiple_of_the_devices():
    done = run("data_parallel.py", "--cpu-devices", 3, timeout=60)
    assert done.returncode == 2
    assert "--batch must be a multiple of the 3 devices, got 8" in done.stderr

"""Train the network of track_digits.py on many devices, and compare with one device loss by loss.

The scenes of a step are spread over all devices that JAX finds; the losses are those of the whole
batch, to the last rounding, because each sums and counts over all devices before it divides. Not a
line of the training step knows of it.

    python examples/data_parallel.py                    # all devices of this machine
    python examples/data_parallel.py --cpu-devices 4    # four, simulated on the CPU
    python examples/data_parallel.py --processes 2      # two processes, one model, over loopback
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from track_digits import (
    SCENES_PER_STEP,
    Tracker,
    load_digits,
    losses,
    make_model,
    make_scenes,
)

TOLERANCE = 1e-3  # of each loss, relative: rounding differs from step to step and adds up
TIME_LIMIT = 600  # seconds for a run of several processes


class Run(NamedTuple):
    """What a training run leaves behind."""

    devices: int
    history: list[dict[str, float]]
    scenes_per_second: float


# ------------------------------------------------------------------------------------ training


@nnx.jit
def train_step(
    model: Tracker, optimizer: nnx.Optimizer, batch: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """One step; all it knows of devices is where its arguments lie."""
    (_, metrics), grads = nnx.value_and_grad(losses, has_aux=True)(model, batch)
    optimizer.update(model, grads)
    return metrics


def train(mesh: Mesh, steps: int, seed: int, batch_size: int) -> Run:
    """Train on the mesh's devices, scenes spread over its only axis, the model on every one."""
    digits, _ = load_digits()
    rng = np.random.default_rng(seed)
    model = make_model(seed)
    optimizer = nnx.Optimizer(model, optax.adamw(1e-3), wrt=nnx.Param)
    for module in (model, optimizer):
        place(module, NamedSharding(mesh, PartitionSpec()))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    history, start = [], time.perf_counter()
    for index in range(steps):
        scenes = make_scenes(digits, rng, batch_size)
        # Each process makes the same scenes and puts its own share of them on its devices.
        batch = {
            key: jax.make_array_from_callback(x.shape, spread, x.__getitem__)
            for key, x in scenes.items()
        }
        metrics = train_step(model, optimizer, batch)
        history.append({key: float(value) for key, value in metrics.items()})
        if index == 0:  # the first step compiles
            start = time.perf_counter()
    rate = batch_size * (steps - 1) / (time.perf_counter() - start)
    return Run(mesh.size, history, rate)


def place(module: nnx.Module, sharding: NamedSharding) -> None:
    """Copy what a module holds to every device of a sharding, in place."""
    state = nnx.state(module)
    nnx.update(module, jax.tree.map(lambda x: jax.device_put(np.asarray(x), sharding), state))


def mesh_of(devices: list[jax.Device]) -> Mesh:
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


# ----------------------------------------------------------------------------------- processes


def launch(options: argparse.Namespace) -> Run:
    """Start the processes that train one model together; the first of them reports."""
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"process{i}.log" for i in range(options.processes)]
        report = Path(folder) / "report.json"
        workers = [
            start_worker(index, address, log, report, options) for index, log in enumerate(logs)
        ]
        try:
            wait(workers, logs)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        return Run(**json.loads(report.read_text()))


def start_worker(
    index: int, address: str, log: Path, report: Path, options: argparse.Namespace
) -> subprocess.Popen:
    command = [sys.executable, __file__, "--worker", str(index), "--coordinator", address]
    command += ["--report", str(report)]
    for name in ("processes", "steps", "seed", "batch", "cpu_devices"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    with log.open("w") as file:
        worker = subprocess.Popen(
            command, stdout=file, stderr=file, env=os.environ | {"JAX_PLATFORMS": "cpu"}
        )
    print(f"process {index} is pid {worker.pid}", flush=True)
    return worker


def wait(workers: list[subprocess.Popen], logs: list[Path]) -> None:
    """Until all processes are done; one that fails, or too long a wait, ends the run."""
    deadline = time.monotonic() + TIME_LIMIT
    while any(worker.poll() is None for worker in workers):
        failed = [i for i, worker in enumerate(workers) if worker.poll() not in (None, 0)]
        if failed or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    failed = [i for i, worker in enumerate(workers) if worker.poll() not in (None, 0)]
    for index in failed[:1]:
        code = workers[index].returncode
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        words = logs[index].read_text().strip()[-2000:]
        sys.exit(f"error: process {index} died ({how}), so the run was ended. It said:\n{words}")
    if any(worker.poll() is None for worker in workers):
        sys.exit(f"error: the processes were not done after {TIME_LIMIT} seconds")


def work(options: argparse.Namespace) -> None:
    """Be one of the processes."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        options.coordinator, options.processes, options.worker, initialization_timeout=60
    )
    run = train(mesh_of(jax.devices()), options.steps, options.seed, options.batch)
    if options.worker == 0:
        options.report.write_text(json.dumps(run._asdict()))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# ---------------------------------------------------------------------------------------- main


def compare(many: Run, one: Run) -> bool:
    """Print each loss of both runs; True if all are equal but for rounding."""
    columns = (f"{many.devices} devices", "1 device", "difference")
    print(f"\n{'loss':<22}{'step':>6}" + "".join(f"{column:>14}" for column in columns))
    worst = 0.0
    for key in one.history[0]:
        for step in sorted({0, len(one.history) - 1}):
            a, b = many.history[step][key], one.history[step][key]
            print(f"{key:<22}{step + 1:>6}{a:>14.6f}{b:>14.6f}{abs(a - b):>14.1e}")
        pairs = zip(many.history, one.history, strict=True)
        worst = max(worst, *(abs(a[key] - b[key]) / max(abs(b[key]), 1e-3) for a, b in pairs))
    equal = math.isfinite(worst) and worst <= TOLERANCE
    print(
        f"\nall losses of all {len(one.history)} steps are {'equal' if equal else 'NOT EQUAL'}:",
        end=" ",
    )
    print(f"the largest relative difference is {worst:.1e}")
    print(f"{many.scenes_per_second:.1f} scenes a second on {many.devices} devices,", end=" ")
    print(f"{one.scenes_per_second:.1f} on one")
    return equal


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options, checked before any work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, help="training steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of scenes and weights (%(default)s)")
    parser.add_argument(
        "--batch", type=int, default=SCENES_PER_STEP, help="scenes a step (%(default)s)"
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="on CPU, over loopback (%(default)s)"
    )
    parser.add_argument("--cpu-devices", type=int, default=0, help="simulate so many a process")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--coordinator", help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    for name, least in {
        "steps": 2,
        "batch": 1,
        "processes": 1,
        "cpu-devices": 0,
        "seed": 0,
    }.items():
        value = getattr(options, name.replace("-", "_"))
        if value < least:
            parser.error(f"--{name} must be at least {least}, got {value}")
    if options.processes > 1 or options.cpu_devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", max(options.cpu_devices, 1))
    if options.worker is None:
        devices = options.processes * len(jax.devices())
        if options.batch % devices:
            parser.error(
                f"--batch must be a multiple of the {devices} devices, got {options.batch}"
            )
    return options


def main(argv: list[str] | None = None) -> None:
    """Train on many devices and on one, and compare."""
    options = parse(argv)
    if options.worker is not None:
        work(options)
        return
    settings = options.steps, options.seed, options.batch
    everywhere = jax.devices()
    many = launch(options) if options.processes > 1 else train(mesh_of(everywhere), *settings)
    one = train(mesh_of(jax.devices()[:1]), *settings)
    if not compare(many, one):
        sys.exit(1)


if __name__ == "__main__":
    main()

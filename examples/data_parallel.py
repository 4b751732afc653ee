"""Train the network of track_digits.py on many devices, and compare every loss with one device.

The scenes of a batch are spread over all devices that JAX finds. Each loss adds its sums and counts
over all devices before it divides, so it is the loss of the whole batch. The training step is that
of `track_digits.py`, unchanged: no line of it mentions devices.

    python examples/data_parallel.py                    # all devices of this machine
    python examples/data_parallel.py --cpu-devices 4    # four devices, simulated on the CPU
    python examples/data_parallel.py --processes 2      # two processes that train one model
"""

from __future__ import annotations

if __name__ == "__main__":
    print("loading JAX ...", flush=True)

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from command_line import ProgressBar, run, say
from digit_scenes import load_digits, make_scenes
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from local_processes import count_step, run_together
from track_digits import SCENES_PER_STEP, make_model, update

TOLERANCE = 1e-3  # relative, per loss: rounding errors add up from step to step


class Run(NamedTuple):
    """The result of a training run."""

    devices: int
    history: list[dict[str, float]]  # the losses of every step
    scenes_per_second: float


# ------------------------------------------------------------------------------------ training


def train(
    mesh: Mesh, steps: int, seed: int, batch_size: int, after_step: Callable[[], object]
) -> Run:
    """Train with the scenes spread over the devices of a mesh, and the model copied to each."""
    digits, _ = load_digits()
    rng = np.random.default_rng(seed)
    graph, params = nnx.split(make_model(seed), nnx.Param)
    optimizer = optax.adamw(1e-3)
    copied, spread = (
        NamedSharding(mesh, PartitionSpec()),
        NamedSharding(mesh, PartitionSpec("data")),
    )
    params, state = jax.tree.map(
        lambda x: jax.device_put(np.asarray(x), copied), (params, optimizer.init(params))
    )
    train_step = jax.jit(partial(update, graph, optimizer))
    history, start = [], time.perf_counter()
    for index in range(steps):
        scenes = make_scenes(digits, rng, batch_size)
        # Every process makes the same scenes and puts its share of them on its own devices.
        batch = {
            key: jax.make_array_from_callback(x.shape, spread, x.__getitem__)
            for key, x in scenes.items()
        }
        params, state, metrics = train_step(params, state, batch)
        history.append({key: float(value) for key, value in metrics.items()})
        after_step()
        if index == 0:  # the first step compiles
            start = time.perf_counter()
    rate = batch_size * (steps - 1) / (time.perf_counter() - start)
    return Run(mesh.size, history, rate)


def train_with_bar(devices: int, options: argparse.Namespace) -> Run:
    """Train on devices of this process, and show the progress."""
    with ProgressBar(options.steps, count_of(devices)) as bar:
        settings = options.steps, options.seed, options.batch
        return train(mesh_of(devices), *settings, after_step=bar.update)


def mesh_of(count: int) -> Mesh:
    """The first devices that JAX finds."""
    devices = jax.devices()[:count]
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def count_of(devices: int) -> str:
    return f"{devices} device" if devices == 1 else f"{devices} devices"


# ----------------------------------------------------------------------------------- processes


def launch(options: argparse.Namespace) -> Run:
    """Start processes that train one model together, and return the result of the first."""
    arguments = []
    for name in ("processes", "steps", "seed", "batch", "cpu_devices"):
        arguments += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    report = run_together(__file__, arguments, options.processes, options.steps)
    return Run(**json.loads(report))


def work(options: argparse.Namespace) -> None:
    """Run as one of the processes."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        options.coordinator, options.processes, options.worker, initialization_timeout=60
    )

    def after_step() -> None:
        if options.worker == 0:
            count_step(options.report)

    settings = options.steps, options.seed, options.batch
    result = train(mesh_of(jax.device_count()), *settings, after_step)
    if options.worker == 0:
        options.report.write_text(json.dumps(result._asdict()))


# ---------------------------------------------------------------------------------------- main


def compare(many: Run, one: Run) -> float:
    """Print the losses of both runs. Returns the largest relative difference."""
    columns = (count_of(many.devices), "1 device", "difference")
    print(f"\n{'loss':<22}{'step':>6}" + "".join(f"{column:>14}" for column in columns))
    worst = 0.0
    for key in one.history[0]:
        for step in (0, len(one.history) - 1):
            a, b = many.history[step][key], one.history[step][key]
            print(f"{key:<22}{step + 1:>6}{a:>14.6f}{b:>14.6f}{abs(a - b):>14.1e}")
        for found, right in zip(many.history, one.history, strict=True):
            difference = abs(found[key] - right[key]) / max(abs(right[key]), 1e-3)
            worst = max(worst, difference) if math.isfinite(difference) else math.inf
    return worst


def summarise(many: Run, one: Run, worst: float, batch: int) -> None:
    """Print what was compared, whether it agrees, and what the speed means."""
    devices, steps = count_of(many.devices), len(one.history)
    print(f"\nThe same {steps} steps, with the same weights and scenes, were run twice:")
    print(f"on {devices} (scenes per step on each: {batch // many.devices}) and on 1 device.")
    if worst <= TOLERANCE:
        print(f"All {len(one.history[0])} losses of all {steps} steps agree up to float rounding:")
    else:
        print(f"The losses DIFFER by more than the tolerance of {TOLERANCE:.0e}:")
    print(f"the largest relative difference is {worst:.1e}.")
    print("The training step is that of track_digits.py. No line of it mentions devices.")
    print(f"\nSpeed: {many.scenes_per_second:.0f} scenes per second on {devices},", end=" ")
    print(f"{one.scenes_per_second:.0f} on 1 device.")
    if many.devices > 1 and jax.devices()[0].platform == "cpu":
        print(f"The {devices} share the CPU cores of one machine, so no speed-up is expected here.")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the options, and check them before any work."""
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    add = partial(parser.add_argument, type=int)
    add("--steps", default=10, help="number of training steps (default: %(default)s)")
    add("--seed", default=0, help="seed of scenes and weights (default: %(default)s)")
    add("--batch", default=SCENES_PER_STEP, help="scenes per step (default: %(default)s)")
    add("--processes", default=1, help="number of CPU processes (default: %(default)s)")
    add("--cpu-devices", default=0, help="number of simulated CPU devices per process")
    add("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--coordinator", help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    smallest = {"steps": 2, "batch": 1, "processes": 1, "cpu-devices": 0, "seed": 0}
    for name, least in smallest.items():
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
    if options.processes > 1:
        say(f"starting {options.processes} processes; loading and compiling take about 20 s ...")
        many = launch(options)
    else:
        say("compiling the training step for all devices, about 10 s ...")
        many = train_with_bar(jax.device_count(), options)
    say("training again on one device; compiling takes about 10 s ...")
    one = train_with_bar(1, options)
    worst = compare(many, one)
    summarise(many, one, worst, options.batch)
    if worst > TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    run(main)

"""Run `data_parallel.py` in several processes on this machine, with one progress bar."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from command_line import ProgressBar

TIME_LIMIT = 600  # seconds for the whole run


def run_together(script: str, arguments: list[str], count: int, steps: int) -> str:
    """Start `count` processes of a script, and return the report of the first.

    Each process gets ``--worker`` (its number), ``--coordinator`` (the address where they meet) and
    ``--report`` (the file that the first process writes), and the other arguments.
    """
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"process{index}.log" for index in range(count)]
        report = Path(folder) / "report.json"
        command = [sys.executable, script, *arguments]
        command += ["--coordinator", f"127.0.0.1:{free_port()}", "--report", str(report)]
        workers = [start_worker(index, command, log) for index, log in enumerate(logs)]
        try:
            with ProgressBar(steps, f"{count} processes") as bar:
                wait(workers, report, bar)
            check(workers, logs)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        return report.read_text()


def start_worker(index: int, command: list[str], log: Path) -> subprocess.Popen:
    with log.open("w") as file:
        return subprocess.Popen(
            [*command, "--worker", str(index)],
            stdout=file,
            stderr=file,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )


def wait(workers: list[subprocess.Popen], report: Path, bar: ProgressBar) -> None:
    """Wait until all processes are done, one has failed, or the time limit is over."""
    deadline = time.monotonic() + TIME_LIMIT
    while any(worker.poll() is None for worker in workers):
        if any(worker.poll() for worker in workers) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
        show_progress(bar, report)
    show_progress(bar, report)


def check(workers: list[subprocess.Popen], logs: list[Path]) -> None:
    """End the program if a process has failed or is still running."""
    for index, worker in enumerate(workers):
        code = worker.poll()
        if code:
            reason = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            output = logs[index].read_text().strip()[-2000:]
            message = f"process {index} died ({reason}), so the run was ended. Output:\n{output}"
            sys.exit(f"error: {message}")
    if any(worker.poll() is None for worker in workers):
        sys.exit(f"error: the processes were not done after {TIME_LIMIT} seconds")


def count_step(report: Path) -> None:
    """Note in the first process that one more step is done: one byte in a file."""
    with steps_file(report).open("ab") as file:
        file.write(b".")


def show_progress(bar: ProgressBar, report: Path) -> None:
    """Advance the bar to the number of steps that the first process has noted."""
    done = steps_file(report)
    new = done.stat().st_size - bar.n if done.exists() else 0
    if new:
        bar.update(new)


def steps_file(report: Path) -> Path:
    return report.with_name("steps_done")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]

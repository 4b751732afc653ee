"""Time in turns, and what the compiler says of memory."""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

SAMPLE = 0.004  # seconds a sample lasts at least, so that the clock costs nothing
ROUNDS = 25


def compiled(function: Callable, arrays: Sequence[jax.Array]) -> tuple[Callable, dict[str, Any]]:
    """A compiled call of no arguments, what compiling took, and its temporary memory."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arrays).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    facts = dict(compile_seconds=seconds, temp_bytes=memory.temp_size_in_bytes if memory else None)
    return lambda: program(*arrays), facts


def in_turns(runs: dict[str, Callable], seconds: float) -> dict[str, list[float]]:
    """Times of each, one sample a round: what disturbs the machine meets them all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    calls = {name: max(1, int(SAMPLE / _fastest(run))) for name, run in runs.items()}
    end = time.perf_counter() + seconds
    for i in range(ROUNDS):
        if i >= 3 and time.perf_counter() > end:
            break
        # In another order each time: whose threads still spin must not always meet the same one.
        for name in random.sample(list(runs), len(runs)):
            _time(runs[name], 1)  # the others have just had the caches to themselves
            times[name].append(_time(runs[name], calls[name]))
    return times


def _fastest(run: Callable) -> float:
    """Of up to three calls that warm it up; of a slow one, a single call."""
    first = _time(run, 1)
    return first if first > 1 else min(_time(run, 1) for _ in range(2))


def _time(run: Callable, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(run())
    return (time.perf_counter() - start) / calls


def summary(times: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return dict(median=median, low=low, high=high)

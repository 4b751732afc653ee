"""Measures times in turns, compile time and temporary memory."""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

# A sample repeats a call until this many seconds have passed, so that reading the clock costs
# nothing in comparison.
SAMPLE_SECONDS = 0.004
# Calls of at least this many seconds need no warm-up.
LONG = 0.3
MAX_ROUNDS, MIN_ROUNDS = 30, 3


def compile_call(function: Callable, arrays: Sequence[jax.Array]) -> tuple[Callable, dict]:
    """Return a compiled call without arguments, and its compile time and temporary memory."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arrays).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    facts: dict[str, Any] = dict(
        compile_seconds=seconds, temp_bytes=memory.temp_size_in_bytes if memory else None
    )
    return lambda: program(*arrays), facts


def time_in_turns(calls: dict[str, Callable], seconds: float) -> dict[str, list[float]]:
    """Return the seconds per call, with one sample per call and round.

    All calls take part in every round, so whatever else the machine does slows all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    estimates = {name: _estimate(call) for name, call in calls.items()}
    end = time.perf_counter() + seconds
    for i in range(MAX_ROUNDS):
        if i >= MIN_ROUNDS and time.perf_counter() > end:
            break
        # A library's threads may still spin after its call and slow the next one. In a random
        # order this is not always the same one.
        for name in random.sample(list(calls), len(calls)):
            if estimates[name] < LONG:  # the caches still hold the data of another call
                _seconds_per_call(calls[name], 1)
            repeats = max(1, int(SAMPLE_SECONDS / estimates[name]))
            times[name].append(_seconds_per_call(calls[name], repeats))
    return times


def _estimate(call: Callable) -> float:
    """Estimate the seconds per call, after a warm-up unless it takes long."""
    first = _seconds_per_call(call, 1)
    return first if first > LONG else min(_seconds_per_call(call, 1) for _ in range(2))


def _seconds_per_call(call: Callable, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return (time.perf_counter() - start) / repeats


def summary(times: list[float]) -> dict[str, float]:
    """The fastest sample, which other load disturbs least, and the spread of all samples."""
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return dict(best=min(times), low=low, median=median, high=high, samples=len(times))

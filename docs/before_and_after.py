"""Measure the examples of before_and_after.md: ``python docs/before_and_after.py``.

The functions are taken from the page, so that the code that is shown is the code that is measured.
"""

import doctest
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->"
RNG = np.random.default_rng(0)


def images(*shape, classes, ignored):
    labels = RNG.integers(0, classes, shape)
    labels[RNG.random(shape) < ignored] = 255
    return RNG.normal(size=(*shape, classes)).astype(np.float32), labels.astype(np.int32)


def anchors(count, size, classes):
    labels = np.where(RNG.random((count, size)) < 0.01, RNG.integers(1, classes, (count, size)), 0)
    return RNG.normal(size=(count, size, classes)).astype(np.float32), labels.astype(np.int32)


def boxes(count):
    low = RNG.uniform(0, 500, (2, count, 2))
    pred, target = np.concatenate([low, low + RNG.uniform(5, 90, (2, count, 2))], -1)
    return pred.astype(np.float32), target.astype(np.float32), RNG.random(count) < 0.7


ROWS = [
    ("Hard pixels", "ohem", "2 x 256 x 512 x 19", images(2, 256, 512, classes=19, ignored=0.1)),
    ("Hard negatives", "ssd", "8 x 8,732 x 21", anchors(8, 8_732, 21)),
    ("IoU of padded boxes", "iou", "4,000 x 4", boxes(4_000)),
    ("Dice", "dice", "2 x 256 x 512 x 19", images(2, 256, 512, classes=19, ignored=0)),
]


def functions_of_the_page() -> dict:
    names: dict = {}
    for example in doctest.DocTestParser().get_examples(PAGE.read_text()):
        if example.source.startswith(("import", "from", "def")):
            exec(example.source, names)
    return names


def measure(loss, arguments, seconds=3.0) -> tuple[float, int]:
    """Milliseconds of the fastest call, and bytes of temporary memory."""
    arguments = [jnp.asarray(x) for x in arguments]
    step = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
    jax.block_until_ready(step(*arguments))
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(step(*arguments))
        times.append(time.perf_counter() - start)
    return min(times) * 1e3, step.memory_analysis().temp_size_in_bytes


def table() -> str:
    functions = functions_of_the_page()
    lines = [
        "| situation | size | before, ms | after, ms | before, MB | after, MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, function, size, arguments in ROWS:
        before, after = (
            measure(functions[f"{function}_{when}"], arguments) for when in ("before", "after")
        )
        times, memory = zip(before, after, strict=True)
        numbers = [f"{x:.3g}" for x in (*times, *(m / 1e6 for m in memory))]
        lines.append(f"| {' | '.join([name, size, *numbers])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = re.sub(
        f"{BEGIN}.*?{END}",
        lambda _: f"{BEGIN}\n{table()}\n{END}",
        PAGE.read_text(),
        flags=re.DOTALL,
    )
    PAGE.write_text(text)

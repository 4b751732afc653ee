"""The options that the examples share, checked before any work."""

import argparse
import os
from pathlib import Path


def parse(description: str, steps: int, out: str, argv: list[str] | None) -> argparse.Namespace:
    """Options ``--steps``, ``--seed`` and ``--out``, the picture to write."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--steps", type=int, default=steps, help="training steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of data and weights (%(default)s)")
    parser.add_argument("--out", type=Path, default=out, help="the picture (%(default)s)")
    options = parser.parse_args(argv)
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}")
    if not 0 <= options.seed < 2**31:
        parser.error(f"--seed must be from 0 to 2147483647, got {options.seed}")
    picture = options.out
    if picture.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"--out must end in .png, .pdf or .svg, got {picture}")
    if not picture.parent.is_dir():
        parser.error(f"--out: there is no folder {picture.parent}")
    if picture.is_dir() or not os.access(picture if picture.exists() else picture.parent, os.W_OK):
        parser.error(f"--out: {picture} cannot be written")
    return options

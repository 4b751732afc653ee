"""What the examples share on the command line: options, progress bars and a clean end on Ctrl-C."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm


def parse(
    description: str | None, steps: int, out: str, argv: list[str] | None
) -> argparse.Namespace:
    """Read the options ``--steps``, ``--seed`` and ``--out``, and check them before any work."""
    parser = argparse.ArgumentParser(description=description and description.splitlines()[0])
    parser.add_argument(
        "--steps", type=int, default=steps, help="number of training steps (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of data and weights (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=out, help="picture to write (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}")
    if not 0 <= options.seed < 2**31:
        parser.error(f"--seed must be from 0 to 2147483647, got {options.seed}")
    check_picture(parser, options.out)
    return options


def check_picture(parser: argparse.ArgumentParser, picture: Path) -> None:
    """End the program unless the picture can be written."""
    if picture.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"--out must end in .png, .pdf or .svg, got {picture}")
    if not picture.parent.is_dir():
        parser.error(f"--out: there is no folder {picture.parent}")
    is_new = not picture.exists()
    try:
        # Open it: permissions alone do not tell, for example of a folder.
        picture.open("ab").close()
    except OSError as error:
        parser.error(f"--out: {picture} cannot be written ({error.strerror})")
    if is_new:
        picture.unlink()


def say(message: str) -> None:
    """Print a line at once, also into a pipe."""
    print(message, flush=True)


class ProgressBar(tqdm):
    """A progress bar for training. The first step compiles, so the rate leaves it out."""

    def __init__(self, steps: int, name: str = "training", disable: bool = False) -> None:
        super().__init__(
            total=steps, desc=name, unit="step", ncols=110, mininterval=0.5, disable=disable
        )

    def update(self, n: float | None = 1) -> bool | None:
        if self.n == 0 and not self.disable:
            self.unpause()
        return super().update(n)


def run(main: Callable[[], None]) -> None:
    """Run an example. Ctrl-C ends it with one line and exit status 130."""
    try:
        main()
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C.", file=sys.stderr)
        sys.exit(130)

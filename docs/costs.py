"""``{cost} iou_loss``: what a loss costs, from the tables of the page on performance."""

import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
sys.path.insert(0, str(ROOT / "benchmarks"))

import rows  # noqa: E402

HEADS = ["", "size", "time on a CPU", "plain JAX", "temporary memory", "H100, bytes", "v5e, cycles"]
TEXT = """
Value and gradient with `mean_loss`, at the largest size that was measured. *plain JAX* is the time
of about ten lines of good plain JAX relative to ours: above 1, ours is faster. Temporary memory is
relative to the inputs. Bytes and cycles of the compiled programs are relative to a single pass over
the data, and in brackets those of the best alternative. [Performance](../performance.md) has all
sizes, and explains the numbers.
"""


class Cost(SphinxDirective):
    """A table with one row per benchmark of the functions; a link if none was measured yet."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(PAGE))
        functions = self.arguments[0].split()
        names = [row.name for row in rows.ROWS if row.function in functions]
        if not names:
            raise self.error(f"benchmarks/rows.py has no row of {functions}.")
        found = [cells for name in names for cells in [costs(name, PAGE.read_text())] if cells]
        if not found:
            return self.parse_text_to_nodes("[Performance](../performance.md) compares the losses.")
        lines = [HEADS, ["---"] * len(HEADS), *found]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return self.parse_text_to_nodes(f"{table}\n{TEXT}")


def costs(name: str, page: str) -> list[str] | None:
    """Return the cells of a benchmark, or None if the page has no time of it."""
    measured = _rows(name, page, "cpu")
    if not measured:
        return None
    last = measured[-1]
    for target in _rows(name, page, "compiled") or [{}]:
        chips = [_of_chip(target, unit) for unit in ("bytes", "cycles")]
    plain = last.get("plain", "").strip("*")
    time = f"{last['ours, ms']} ms"
    return [name, last["size"], time, plain, last["temporary"], *chips]


def _of_chip(target: dict[str, str], unit: str) -> str:
    if not target.get(unit):
        return ""
    other = target[f"other {unit}"]
    return target[unit].strip("*") + (f" (it {other})" if other == "sorts" else f" ({other})")


def _rows(name: str, page: str, block: str) -> list[dict[str, str]]:
    """Return the lines of a benchmark in the tables of a block, as dicts by column."""
    text = page.partition(f"<!-- {block}: begin -->")[2].partition(f"<!-- {block}: end -->")[0]
    heads, found = [], []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" |")]
        if line.startswith("| loss "):
            heads = [
                f"other {cells[i - 1]}" if h == "best other" else h for i, h in enumerate(cells)
            ]
        elif line.startswith("| ") and re.sub(r"\*", "", cells[0]) == name:
            found.append(dict(zip(heads, cells, strict=False)))
    return found

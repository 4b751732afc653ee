"""Accounts for a compiled program: kernels, bytes, loops, cycles, and messages between chips.

The account is read from the text of the program, ``compiled.as_text()``:

- A kernel is an instruction that runs. Parameters, tuples, bitcasts, constants, iotas and the ends
  of asynchronous instructions are not counted.
- The bytes of a kernel are its operands and results in device memory. Arrays that a TPU keeps on
  the chip are not counted.
- Cycles are the estimates of the TPU compiler. Other compilers give none.
- A loop counts once per trip. Where the compiler does not know the number of trips,
  ``UNKNOWN_TRIPS`` is used. Of a conditional, the branch that moves the most bytes counts.
- What is sent are the operands of collectives, per device.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache

UNKNOWN_TRIPS = 20

_BITS = dict(pred=8, token=0, opaque=0, c64=64, c128=128)
_ARRAY = re.compile(r"\b(pred|token|opaque|[a-z]+\d+\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_ON_CHIP = re.compile(r"S\([1-9]\d*\)")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_NAME = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = ")
_COLLECTIVES = (
    *("all-reduce", "all-gather", "all-to-all", "ragged-all-to-all", "reduce-scatter"),
    *("collective-permute", "collective-broadcast"),
)
_FREE = {
    *("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "iota", "after-all"),
    *("opt-barrier", "partition-id", "replica-id"),
}


@dataclass(frozen=True)
class Cost:
    """What one run of a program, or of a part of it, does."""

    kernels: int = 0
    bytes: int = 0
    cycles: int = 0
    #: Kernels that sort. They read their operands several times, but are counted once.
    sorts: int = 0
    #: Collectives, and the bytes that each device sends.
    messages: int = 0
    sent: int = 0
    #: The number of trips of every loop, inner loops included; None if it is not known.
    loops: tuple[int | None, ...] = ()

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))

    def times(self, trips: int) -> "Cost":
        numbers = (getattr(self, f.name) * trips for f in fields(Cost) if f.name != "loops")
        return Cost(*numbers, loops=self.loops)


@dataclass(frozen=True)
class Instruction:
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    def called(self, *names: str) -> list[str]:
        """Return the computations that an attribute of one of these names refers to."""
        found = []
        for name in names:
            match = re.search(rf"\b{name}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes)
            found += re.findall(r"[\w.\-]+", match.group(1)) if match else []
        return found


def array_bytes(type_text: str, *, on_chip: bool = True) -> int:
    """Bytes of the arrays of a type; with ``on_chip=False``, only of those in device memory."""
    total = 0
    for dtype, shape, layout in _ARRAY.findall(type_text):
        if on_chip or not _ON_CHIP.search(layout):
            elements = math.prod(int(n) for n in re.findall(r"\d+", shape))
            total += -(-elements * _bits(dtype) // 8)
    return total


def _bits(dtype: str) -> int:
    # The first number of a name is its size: f32, s4, bf16, f8e4m3.
    return _BITS[dtype] if dtype in _BITS else int(re.search(r"\d+", dtype).group())


def parse(text: str) -> dict[str, list[Instruction]]:
    """Return the instructions of each computation; that of the main one is called ENTRY."""
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] | None = None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = computations["ENTRY" if head.group(1) else head.group(2)] = []
        elif line.startswith("}"):
            current = None
        elif current is not None and (instruction := _parse_line(line)):
            current.append(instruction)
    return computations


def _parse_line(line: str) -> Instruction | None:
    match = _NAME.match(line)
    if not match:
        return None
    rest = line[match.end() :]
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    opcode, _, rest_of_call = rest[end:].lstrip().partition("(")
    close = _closing("(" + rest_of_call) - 1
    operands = re.findall(r"%([\w.\-]+)", rest_of_call[:close])
    return Instruction(match.group(1), rest[:end], opcode, tuple(operands), rest_of_call[close:])


def _closing(text: str) -> int:
    """Return the position after the parenthesis that closes the first one."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return i + 1
    raise ValueError(f"no closing parenthesis: {text[:80]}")


def account(text: str) -> Cost:
    """Account for one run of a compiled program."""
    computations = parse(text)

    @cache
    def cost_of(name: str) -> Cost:
        instructions = computations[name]
        types = {i.name: i.type for i in instructions}
        return _sum(_cost(i, types, cost_of) for i in instructions)

    return cost_of("ENTRY")


def largest_message(text: str) -> int:
    """Return the bytes that a device sends in the largest collective of a program."""
    sizes = [0]
    for instructions in parse(text).values():
        types = {i.name: i.type for i in instructions}
        sizes += [_kernel(i, types, lambda _: Cost()).sent for i in instructions]
    return max(sizes)


def _sum(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())


def _cost(instruction: Instruction, types: dict[str, str], cost_of) -> Cost:
    opcode = instruction.opcode
    if opcode == "while":
        return _loop(instruction, cost_of)
    if opcode == "conditional":
        branches = ("branch_computations", "true_computation", "false_computation")
        costs = map(cost_of, instruction.called(*branches))
        return max(costs, key=lambda cost: (cost.bytes, cost.kernels))
    if opcode == "call" or opcode == "async-start":
        return _sum(map(cost_of, instruction.called("to_apply", "calls")))
    if opcode in _FREE or opcode.endswith(("-done", "-update")):
        return Cost()
    return _kernel(instruction, types, cost_of)


def _loop(instruction: Instruction, cost_of) -> Cost:
    known = re.search(r'known_trip_count"?:\{"n":"(\d+)"', instruction.attributes)
    trips = int(known.group(1)) if known else None
    once = _sum(map(cost_of, instruction.called("body", "condition")))
    count = UNKNOWN_TRIPS if trips is None else trips
    return Cost(loops=(trips,)) + once.times(count)


def _kernel(instruction: Instruction, types: dict[str, str], cost_of) -> Cost:
    opcode = instruction.opcode.removesuffix("-start")
    operands = [types.get(name, "") for name in instruction.operands]
    # The start of an asynchronous instruction returns its operands again, and counters.
    asynchronous = opcode != instruction.opcode
    result = _results(instruction.type)[:1] if asynchronous else [instruction.type]
    cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
    sorts = re.search(r"(?i)sort|top-?k", opcode + _target(instruction)) is not None
    cost = Cost(
        kernels=1,
        bytes=sum(array_bytes(x, on_chip=False) for x in operands + result),
        cycles=int(cycles.group(1)) if cycles else 0,
        sorts=int(sorts),
    )
    if opcode in _COLLECTIVES:
        cost += Cost(messages=1, sent=sum(map(array_bytes, operands)))
    if opcode == "fusion":  # a GPU may sort in a fusion, and a TPU may send from one
        inside = _sum(map(cost_of, instruction.called("calls")))
        sorting = min(inside.sorts, 1)
        cost += Cost(sorts=sorting, messages=inside.messages, sent=inside.sent)
    return cost


def _target(instruction: Instruction) -> str:
    match = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return match.group(1) if match else ""


def _results(type_text: str) -> list[str]:
    """Split the type of a tuple at its outermost commas."""
    if not type_text.startswith("("):
        return [type_text]
    depth, parts = 0, [""]
    for character in type_text[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts

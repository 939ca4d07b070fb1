"""The text of a compiled program: its computations, their instructions, and how often a loop turns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_SHAPE = re.compile(r"\b(pred|bf16|f[48]e\w+|[fsuc]\d+)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.*?[\]})]) ([a-z][a-z\d-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?(\S+) \(.*\{\s*$")


class Array(NamedTuple):
    """An array on one device."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How much memory they take."""
        bits = re.search(r"\d+", self.dtype)  # pred, without a number, is a byte
        return self.size * (8 if bits is None else int(bits.group())) // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    op: str
    given: tuple[Array, ...]
    rest: str  # operands and attributes

    @property
    def operands(self) -> list[str]:
        """Names of what it takes."""
        return re.findall(r"%([\w.-]+)", self.rest.split(")")[0])

    def called(self, *attributes: str) -> Iterator[str]:
        """Name the computations that stand behind these attributes, such as ``body`` or ``calls``."""
        for attribute in attributes:
            for several, one in re.findall(rf"\b{attribute}=(?:\{{([^}}]*)\}}|%?([^\s,)]+))", self.rest):
                yield from (name.strip().removeprefix("%") for name in (several or one).split(","))


def computations_of(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Read a program's computations by name, and which of them is the entry.

    Raises:
        ValueError: there is no entry, so this is the text of something else.
    """
    found: dict[str, list[Instruction]] = {}
    entry, here = "", ""
    for line in text.splitlines():
        opened = _COMPUTATION.match(line)
        if opened:
            here = opened.group(2)
            found[here] = []
            entry = here if opened.group(1) else entry
            continue
        said = _INSTRUCTION.match(line)
        if said and here:
            name, result, op, rest = said.groups()
            found[here].append(Instruction(name, op, _given(op, result), rest))
    if not entry:
        raise ValueError("expected the text of a compiled program (jax.stages.Compiled.as_text), found no ENTRY in it")
    return found, entry


def _given(op: str, result: str) -> tuple[Array, ...]:
    """Read the arrays of a result; the start of an asynchronous exchange gives its operands as well."""
    shapes = [Array(kind, tuple(int(n) for n in sizes.split(",") if n)) for kind, sizes in _SHAPE.findall(result)]
    if op in ("all-gather-start", "collective-permute-start") and len(shapes) > 1:
        shapes = [x for x in shapes if x.shape]  # without the numbers that a permutation counts with
        shapes = shapes[len(shapes) // 2 :]
    return tuple(shapes)


def group_size(rest: str, devices: int) -> int:
    """How many devices exchange with one another: the groups are listed, counted, or named by axes of a mesh."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return listed.group(1).count(",") + 1
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(counted.group(1))
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", named.group(1)))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named.group(2))
        return math.prod(int(part or sizes[name]) for name, part in axes)
    return devices


def loop_turns(loop: Instruction, computations: dict[str, list[Instruction]]) -> int | None:
    """How often a loop's body runs: as the compiler notes it, or as its counter goes up to what it is compared with."""
    if noted := re.search(r"known_trip_count\\?\"?:\{\\?\"n\\?\":\\?\"(\d+)", loop.rest):
        return int(noted.group(1))
    for condition in loop.called("condition"):
        inside = computations[condition]
        less = [x for x in inside if x.op == "compare" and "direction=LT" in x.rest]
        numbers = [x for x in inside if x.op == "constant"]
        counters = [x for x in inside if x.op == "get-tuple-element" and x.name in (less[0].operands if less else ())]
        if len(less) == len(numbers) == 1 and len([x for x in inside if x.op != "parameter"]) <= 3:
            return -(-_number(numbers[0]) // _step(loop, counters, computations))
    return None


def _step(loop: Instruction, counters: list[Instruction], computations: dict[str, list[Instruction]]) -> int:
    """How much a loop's counter goes up in a turn: more than 1 where the compiler has made one turn of several."""
    found = re.search(r"index=(\d+)", counters[0].rest) if counters else None
    if found is None:
        return 1
    element = int(found.group(1))
    for body in loop.called("body"):
        named = {x.name: x for x in computations[body]}
        last, step = computations[body][-1], 0
        if last.op != "tuple" or len(last.operands) <= element:
            return 1
        at = named.get(last.operands[element])
        while at is not None and at.op in ("add", "copy"):
            constants = [named[x] for x in at.operands if x in named and named[x].op == "constant"]
            others = [x for x in at.operands if x not in {y.name for y in constants}]
            if len(others) != 1:
                return 1
            step += sum(map(_number, constants))
            at = named.get(others[0])
        return max(step, 1)
    return 1


def _number(constant: Instruction) -> int:
    return int(constant.rest.split(")")[0])

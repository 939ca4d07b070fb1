"""What a compiled program does on each device: its collectives with their bytes, the arrays it makes, its memory.

The text of a compiled program (``jax.stages.Compiled.as_text``) is that of one device: every shape in it is a device's
own. Sharding gives the same numbers whatever the compiler makes of it, so whether work, memory and traffic are divided
can only be seen here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import jax

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f8e4m3fn": 8, "f8e5m2": 8}
_SHAPE = re.compile(r"\b(pred|bf16|f8e4m3fn|f8e5m2|[fsu]\d+)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.*?[\]})]) ([a-z][a-z\d-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?(\S+) \(.*\{\s*$")
# What these give is another name for arrays that are there already.
_NAMES_ONLY = (
    "parameter",
    "get-tuple-element",
    "tuple",
    "while",
    "conditional",
    "call",
    "bitcast",
    "optimization-barrier",
)


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
        return self.size * _BITS.get(self.dtype, int(re.sub(r"\D", "", self.dtype) or 8)) // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Collective(NamedTuple):
    """An exchange between devices."""

    kind: str  # one of KINDS
    arrays: tuple[Array, ...]  # what it gives a device
    group: int  # devices that take part
    turns: int  # how often it runs, by the loops around it; a loop of unknown length counts as one turn
    depth: int  # loops around it
    counted: bool  # whether the length of all of these loops is known

    @property
    def bytes(self) -> int:
        """What a device holds of it afterwards, of one turn."""
        return sum(array.bytes for array in self.arrays)

    @property
    def sent(self) -> int:
        """What a device sends in all turns, in a ring: the least that any network has to carry."""
        others, whole = self.group - 1, self.bytes
        if self.kind == "reduce-scatter":
            one = whole * others
        elif self.kind == "collective-permute":
            one = whole
        else:
            one = (2 if self.kind == "all-reduce" else 1) * whole * others // max(self.group, 1)
        return one * self.turns


class Program(NamedTuple):
    """What was read from a program's text."""

    collectives: tuple[Collective, ...]
    arrays: Counter[Array]  # results of instructions outside fusions, and how often each shape appears
    deepest: int  # loops inside one another

    def kinds(self) -> dict[str, tuple[int, int]]:
        """Sum up the collectives by kind: how often one runs, and the bytes that a device sends."""
        found: dict[str, tuple[int, int]] = {}
        for one in self.collectives:
            turns, sent = found.get(one.kind, (0, 0))
            found[one.kind] = (turns + one.turns, sent + one.sent)
        return dict(sorted(found.items()))

    def as_large_as(self, size: int) -> Counter[Array]:
        """Find the arrays of floating-point numbers that hold at least ``size`` of them."""
        return Counter({x: n for x, n in self.arrays.items() if "f" in x.dtype and x.size >= size})


class Memory(NamedTuple):
    """Bytes on one device while a program runs."""

    arguments: int
    outputs: int  # those that do not take the place of an argument
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """All of them together."""
        return sum(self)


def memory(compiled: jax.stages.Compiled) -> Memory:
    """Ask the compiler what a program takes on each device.

    Example:
        >>> import jax.numpy as jnp
        >>> memory(jax.jit(lambda x: x + 1, donate_argnums=0).lower(jnp.ones(256)).compile())[:2]
        (1024, 0)
    """
    said = compiled.memory_analysis()
    if said is None:
        raise ValueError("this compiler does not say what memory a program takes")
    outputs = said.output_size_in_bytes - said.alias_size_in_bytes
    return Memory(said.argument_size_in_bytes, outputs, said.temp_size_in_bytes, said.generated_code_size_in_bytes)


def read(text: str) -> Program:
    """Read what a compiled program does from its text.

    Args:
        text: from ``jax.stages.Compiled.as_text()``.

    Returns:
        Its collectives and arrays. Both branches of a condition count.

    Example:
        >>> import jax.numpy as jnp
        >>> program = read(jax.jit(lambda x: x @ x).lower(jnp.ones((8, 8))).compile().as_text())
        >>> program.collectives, str(next(iter(program.as_large_as(64))))
        ((), 'f32[8,8]')
    """
    computations, entry = _computations(text)
    found = re.search(r"num_partitions=(\d+)", text)
    devices = int(found.group(1)) if found else 1
    collectives: list[Collective] = []
    arrays: Counter[Array] = Counter()
    deepest = 0
    met: set[tuple[str, str, str]] = set()
    started = {key for inside in computations.values() if _starts(inside) for key in map(_channel, inside) if key}

    def walk(name: str, turns: int, depth: int, counted: bool, inside: str, loop: str = "") -> None:
        nonlocal deepest
        deepest = max(deepest, depth)
        for instruction in computations[name]:
            kind = instruction.op.removesuffix("-start")
            further = _channel(instruction) in started and not _starts(computations[name])
            if kind in KINDS and not further and not _again(met, loop, _channel(instruction)):
                scattered = inside.startswith("all-reduce-scatter")  # how a TPU's program holds a reduce-scatter
                given, group = instruction.given, _group(instruction.rest, devices)
                if scattered and kind == "all-reduce":
                    kind, given = "reduce-scatter", tuple(_divided(x, group) for x in given)
                collectives.append(Collective(kind, given, group, turns, depth, counted))
            if not inside and instruction.op not in _NAMES_ONLY:
                arrays.update(instruction.given)
            if instruction.op == "while":
                length = _turns(instruction, computations)
                for part in instruction.called("body", "condition"):
                    walk(part, turns * (length or 1), depth + 1, counted and length is not None, inside, name + part)
            elif instruction.op in ("call", "conditional"):
                for part in instruction.called(
                    "to_apply", "calls", "branch_computations", "true_computation", "false_computation"
                ):
                    walk(part, turns, depth, counted, inside, loop)
            elif instruction.op in ("fusion", "async-start"):
                for part in instruction.called("calls"):
                    walk(part, turns, depth, counted, part, loop)

    walk(entry, 1, 0, True, "")
    return Program(tuple(collectives), arrays, deepest)


class _Instruction(NamedTuple):
    name: str
    op: str
    given: tuple[Array, ...]
    rest: str  # operands and attributes

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.-]+)", self.rest.split(")")[0])

    def called(self, *attributes: str) -> Iterator[str]:
        for attribute in attributes:
            for several, one in re.findall(rf"\b{attribute}=(?:\{{([^}}]*)\}}|%?([^\s,)]+))", self.rest):
                yield from (name.strip().removeprefix("%") for name in (several or one).split(","))


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    found: dict[str, list[_Instruction]] = {}
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
            found[here].append(_Instruction(name, op, _given(op, result), rest))
    if not entry:
        raise ValueError("expected the text of a compiled program (jax.stages.Compiled.as_text), found no ENTRY in it")
    return found, entry


def _channel(instruction: _Instruction) -> tuple[str, str] | None:
    """Name an exchange by its kind and number, which all of its parts bear; None where it has no number."""
    kind = instruction.op.removesuffix("-start")
    found = re.search(r"channel_id=(\d+)", instruction.rest) if kind in KINDS else None
    return None if found is None else (kind, found.group(1))


def _starts(computation: list[_Instruction]) -> bool:
    """Whether an exchange in several parts begins here: a TPU's program cuts one to hide it behind work."""
    return any('"AsyncCollectiveStart"' in instruction.rest for instruction in computation)


def _again(met: set[tuple[str, str, str]], loop: str, channel: tuple[str, str] | None) -> bool:
    """Whether an exchange is a further part of one that was met in this loop."""
    if channel is None:
        return False
    key = (loop, *channel)
    if key in met:
        return True
    met.add(key)
    return False


def _given(op: str, result: str) -> tuple[Array, ...]:
    """Read the arrays of a result; the start of an asynchronous exchange gives its operands as well."""
    shapes = [Array(kind, tuple(int(n) for n in sizes.split(",") if n)) for kind, sizes in _SHAPE.findall(result)]
    if op in ("all-gather-start", "collective-permute-start") and len(shapes) > 1:
        shapes = [x for x in shapes if x.shape]  # without the numbers that a permutation counts with
        shapes = shapes[len(shapes) // 2 :]
    return tuple(shapes)


def _divided(array: Array, group: int) -> Array:
    return Array(array.dtype, (array.size // max(group, 1),))


def _group(rest: str, devices: int) -> int:
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


def _turns(loop: _Instruction, computations: dict[str, list[_Instruction]]) -> int | None:
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


def _step(loop: _Instruction, counters: list[_Instruction], computations: dict[str, list[_Instruction]]) -> int:
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


def _number(constant: _Instruction) -> int:
    return int(constant.rest.split(")")[0])

"""What a compiled program does on each device: its collectives with their bytes, the arrays it makes, its memory.

The text of a compiled program (``jax.stages.Compiled.as_text``) is that of one device: every shape in it is a device's
own. Sharding gives the same numbers whatever the compiler makes of it, so whether work, memory and traffic are divided
can only be seen here.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

import jax

from rlhf_jax.parallel.hlo import Array, Instruction, computations_of, group_size, loop_turns

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
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
    computations, entry = computations_of(text)
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
                given, group = instruction.given, group_size(instruction.rest, devices)
                if scattered and kind == "all-reduce":
                    kind, given = "reduce-scatter", tuple(_divided(x, group) for x in given)
                collectives.append(Collective(kind, given, group, turns, depth, counted))
            if not inside and instruction.op not in _NAMES_ONLY:
                arrays.update(instruction.given)
            if instruction.op == "while":
                length = loop_turns(instruction, computations)
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


def _channel(instruction: Instruction) -> tuple[str, str] | None:
    """Name an exchange by its kind and number, which all of its parts bear; None where it has no number."""
    kind = instruction.op.removesuffix("-start")
    found = re.search(r"channel_id=(\d+)", instruction.rest) if kind in KINDS else None
    return None if found is None else (kind, found.group(1))


def _starts(computation: list[Instruction]) -> bool:
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


def _divided(array: Array, group: int) -> Array:
    return Array(array.dtype, (array.size // max(group, 1),))

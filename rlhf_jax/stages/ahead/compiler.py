"""Compiling the programs of a stage one after another, each from the shapes that the one before it gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from rlhf_jax import parallel
from rlhf_jax.parallel import compiled
from rlhf_jax.parallel.limits import Limits
from rlhf_jax.stages.ahead.figures import Compiled, Work


class Compiler:
    """Compiler of programs for a mesh, which notes what each of them takes.

    Args:
        mesh: devices; they need not be there.
        limits: what one of them can do.
        links: bytes a second that one sends; 0: not known.
        held: models and optimisers that lie on the devices all the time; those that a program does not take as
            arguments lie beside it.
        hlo: a folder for the programs' texts; None writes none.
        tell: told of each program before it is compiled.
    """

    def __init__(
        self,
        mesh: Mesh,
        limits: Limits,
        *,
        links: float = 0.0,
        held: Any = (),
        hlo: Path | None = None,
        tell: Callable[[str], None] = lambda name: None,
    ):
        self.mesh, self.limits, self.links, self.hlo, self.tell = mesh, limits, links, hlo, tell
        self.held = {id(leaf): leaf for leaf in jax.tree.leaves(held)}
        self.programs: list[Compiled] = []
        self.texts: dict[str, str] = {}

    def __call__(
        self, name: str, program: Any, arguments: Any, work: Work, *, static: Mapping[str, Any] | None = None
    ) -> Any:
        """Compile a program, and return the shapes of what it gives, with the shardings that the compiler chose.

        Args:
            name: the program's.
            program: what ``jax.jit`` gave.
            arguments: by position, shapes with their shardings.
            work: what it has to do.
            static: arguments by name, which are compiled in.
        """
        self.tell(name)
        start = time.perf_counter()
        lowered = program.lower(*arguments, **(static or {}))
        made = lowered.compile()
        seconds = time.perf_counter() - start
        text = self.texts[name] = _text(made)
        if self.hlo is not None:
            self.hlo.mkdir(parents=True, exist_ok=True)
            (self.hlo / f"{name.replace(' ', '_')}.hlo.txt").write_text(text, encoding="utf-8")
        taken = {id(leaf) for leaf in jax.tree.leaves(arguments)}
        self.programs.append(
            Compiled(
                name=name,
                memory=compiled.memory(made),
                beside=parallel.device_bytes([x for key, x in self.held.items() if key not in taken]),
                program=compiled.read(text) if text else None,
                work=work,
                compile_seconds=seconds,
                devices=self.mesh.size,
                limits=self.limits,
                links=self.links,
            )
        )
        return parallel.shaped(lowered.out_info, made.output_shardings)


def _text(made: jax.stages.Compiled) -> str:
    """Get a program's text; empty where this jax cannot read what libtpu wrote, as happens with fused collectives."""
    try:
        return made.as_text() or ""
    except jax.errors.JaxRuntimeError:
        return ""

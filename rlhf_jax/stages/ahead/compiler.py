"""Compiling the programs of a stage one after another, each from the shapes that the one before it gives."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from rlhf_jax import parallel
from rlhf_jax.parallel import compiled
from rlhf_jax.parallel.limits import Limits
from rlhf_jax.stages.ahead.figures import Compiled, Refused, Work


class DoesNotFit(Exception):
    """The compiler refuses a program because a device has not the memory for it."""


class Compiler:
    """Compiler of programs for a mesh, which notes what each of them takes.

    Args:
        mesh: devices; they need not be there.
        limits: what one of them can do; None: not known.
        links: bytes a second that one sends; 0: not known.
        held: models and optimisers that lie on the devices all the time; those that a program does not take as
            arguments lie beside it.
        hlo: a folder for the programs' texts; None writes none.
        tell: told of each program before it is compiled.
    """

    def __init__(
        self,
        mesh: Mesh,
        limits: Limits | None,
        *,
        links: float = 0.0,
        held: Any = (),
        hlo: Path | None = None,
        tell: Callable[[str], None] = lambda name: None,
    ):
        self.mesh, self.limits, self.links, self.hlo, self.tell = mesh, limits, links, hlo, tell
        self.held = {id(leaf): leaf for leaf in jax.tree.leaves(held)}
        self.programs: list[Compiled] = []
        self.refused: Refused | None = None
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

        Raises:
            DoesNotFit: the compiler refuses the program, since a device has not the memory for it.
        """
        self.tell(name)
        start = time.perf_counter()
        lowered = program.lower(*arguments, **(static or {}))
        try:
            made, text = _compiled(lowered, self.mesh.devices.flat[0].platform)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            self.refused = _refused(name, str(error))
            raise DoesNotFit(f"{name}: {self.refused.said}") from error
        seconds = time.perf_counter() - start
        self.texts[name] = text
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


def _refused(name: str, said: str) -> Refused:
    """Read how much a program would need, as in "HLO temporaries (40.00G) exceeds available HBM (15.75G)"."""
    found = re.search(r"\((\d+(?:\.\d+)?)([KMGT])\) exceeds", said)
    needed = 0 if found is None else int(float(found.group(1)) * 2 ** (10 * " KMGT".index(found.group(2))))
    return Refused(name, needed, said.splitlines()[0])


def _compiled(lowered: jax.stages.Lowered, platform: str) -> tuple[jax.stages.Compiled, str]:
    """Compile a program, and get its text.

    That of a TPU's program is what libtpu writes down itself: jax cannot read some of what it makes, such as exchanges
    in several parts that run beside the work (``as_text`` raises).
    """
    if platform != "tpu":
        made = lowered.compile()
        return made, made.as_text() or ""
    with tempfile.TemporaryDirectory(prefix="rlhf-aot-") as folder:
        made = lowered.compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        # The program is there once; a constant that was folded while compiling may have left a smaller one.
        written = [path.read_text(encoding="utf-8") for path in Path(folder).glob("*.after_optimizations.txt")]
    return made, max(written, key=len, default="")

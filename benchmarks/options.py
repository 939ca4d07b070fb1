"""What every script is asked for on the command line."""

from __future__ import annotations

import argparse
import dataclasses

import jax

from benchmarks.shapes import SHAPES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is to be measured."""

    shapes: tuple[str, ...] = ()
    """Shapes by name; empty: those of the script that this device can hold."""
    fast: bool = False
    """One repetition of a miniature, to see that it runs; its figures mean nothing."""
    peers: bool = True
    """Other libraries beside ours, where they are installed."""
    repeats: int = 5
    """How often everything is run after the first time."""

    def chosen(self, cases: tuple[str, ...]) -> tuple[str, ...]:
        """Choose among a script's shapes: those asked for, or all that suit the device."""
        if self.fast:
            return ("fast",)
        suit = ("1b",) if jax.default_backend() != "cpu" else ("tiny", "smol")
        return tuple(name for name in cases if name in (self.shapes or suit))

    @property
    def turns(self) -> int:
        """Repetitions of this run."""
        return 1 if self.fast else self.repeats


def parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that all scripts share."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--shape", nargs="+", default=[], choices=sorted(SHAPES), help="models to measure")
    made.add_argument("--fast", action="store_true", help="a miniature, to see that it runs")
    made.add_argument("--no-peers", action="store_true", help="ours alone")
    made.add_argument("--repeats", type=int, default=5, help="runs after the first one; the fastest is the figure")
    return made


def options(asked: argparse.Namespace) -> Options:
    """Read the shared options from what was parsed; the programs of a miniature are compiled in a hurry."""
    if asked.fast:
        jax.config.update("jax_disable_most_optimizations", True)
    return Options(shapes=tuple(asked.shape), fast=asked.fast, peers=not asked.no_peers, repeats=asked.repeats)

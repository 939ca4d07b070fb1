"""Ours and others on one piece of work, in turns: the lines of a comparison."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from benchmarks.machine import Limits, Machine
from benchmarks.measure import Work, line, take_turns
from benchmarks.options import Options
from benchmarks.ours import Step
from benchmarks.peers import has, version
from rlhf_jax.models import ModelConfig

PEERS = {  # by file in benchmarks/peers: the packages whose versions are named, and the module that must be there
    "torch_steps": (("torch",), "torch"),
    "hugging_face": (("transformers", "torch"), "transformers"),
    "trl_reward": (("trl", "torch"), "trl"),
    "trl_ppo": (("trl", "torch"), "trl.experimental.ppo"),
    "tunix_rollout": (("google-tunix",), "tunix"),
}


def peers(options: Options, asked: Mapping[str, Callable[[Any], Work]]) -> dict[str, Work]:
    """Make the works of those peers that are installed.

    Args:
        options: whether peers are wanted.
        asked: by file in ``benchmarks/peers``: ``(module) -> work``.

    Returns:
        Works by the peer's packages with their versions.
    """
    made = {}
    for file, make in asked.items():
        packages, module = PEERS[file]
        versions = {package: version(package) for package in packages}
        there = None not in versions.values() and has(module)
        if options.peers and not there:
            print(f"{file}: left out, as {module} is not installed", file=sys.stderr)
        elif options.peers:
            name = " ".join(f"{package} {found}" for package, found in versions.items())
            made[name] = make(importlib.import_module(f"benchmarks.peers.{file}"))
    return made


def compare(
    benchmark: str,
    shape: str,
    ours: Work,
    others: Mapping[str, Work],
    *,
    dtype: str,
    limit: Callable[[Limits], float],
    units: float,
    unit: str,
    options: Options,
    beside: Mapping[str, Any],
    only_ours: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Time works in turns and give a line for each.

    Args:
        benchmark: the script.
        shape: the model.
        ours: the library's work.
        others: those of peers, by name.
        dtype: what matrix products are computed in.
        limit: the least seconds that this machine allows.
        units: how many units (tokens, pairs) one run is.
        unit: their name.
        options: how often.
        beside: what describes the work, for every line.
        only_ours: what else is known of ours.

    Yields:
        The machine's speed where it was measured, and seconds and units a second of every work; ours says how many
        times faster it is than the fastest peer.
    """
    machine = Machine(dtype, fast=options.fast)
    works = {**machine.probes(), f"rlhf_jax, jax {jax.__version__}": ours, **others}
    timings = take_turns(works, turns=options.turns)
    limits = machine.limits(timings)
    about = {**beside, "device": machine.device, "dtype": dtype}
    if machine.probes():
        yield line(benchmark, "matmul", limits.flops, "FLOP/s", system="jax", shape=shape, beside=about)
        yield line(benchmark, "memory", limits.bytes, "B/s", system="jax", shape=shape, beside=about)
    fastest = min(others, key=lambda name: timings[name].best, default=None)
    for name in list(works)[-1 - len(others) :]:
        took = timings[name]
        also = {**about, "median_s": took.median, "first_s": took.first, "turns": options.turns}
        if works[name] is ours:
            also |= only_ours
            if fastest is not None:
                peer = timings[fastest]
                also |= {"times_faster": peer.best / took.best, "times_faster_median": peer.median / took.median}
        least = limit(limits)
        also["s"] = took.best
        yield line(
            benchmark, unit, units / took.best, f"{unit}/s", system=name, shape=shape, limit=units / least, beside=also
        )


def compare_updates(
    benchmark: str,
    shape: str,
    ours: Step,
    others: Mapping[str, Work],
    *,
    config: ModelConfig,
    flops: float,
    units: float,
    unit: str,
    options: Options,
    beside: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Compare updates of a model, which are bound by the FLOPs of their matrix products; see ``compare``.

    Args:
        benchmark: the script.
        shape: the model's name.
        ours: the library's compiled step.
        others: those of peers, by name.
        config: the model's.
        flops: of one update.
        units: how many units (tokens, pairs) one update is.
        unit: their name.
        options: how often.
        beside: what describes the work, for every line.

    Yields:
        The lines of ``compare``; ours says what bytes the compiled program needs.
    """
    yield from compare(
        benchmark,
        shape,
        ours,
        others,
        dtype=config.compute_dtype,
        limit=lambda machine: machine.seconds(flops),
        units=units,
        unit=unit,
        options=options,
        beside={**beside, "flops": flops},
        only_ours={"program_bytes": ours.bytes},
    )

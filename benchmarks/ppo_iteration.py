"""One PPO iteration by phases: all weights with a critic of their own, with a value head on the policy, and adapters.

    python -m benchmarks.ppo_iteration [--shape tiny] [--fast] [--repeats 3]

*collect* samples, *prepare* runs reward model, reference, policy and critic without gradients, *update* is all epochs
and minibatches. Every response is written to its full length. The limits are the FLOPs of the matrix products (and in
*collect* the bytes of weights and cache) at this machine's speed, were nothing computed twice. The peer is TRL's
PPOTrainer, all weights and a critic of its own; TRL has had none since 1.6, so it takes an older one
(benchmarks/peers/trl_ppo.py).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.compare import peers
from benchmarks.machine import Limits, Machine
from benchmarks.measure import Timing, Work, line, print_lines, take_turns
from benchmarks.options import Options, options, parser
from benchmarks.shapes import SHAPES
from rlhf_jax import models, parallel, training
from rlhf_jax.models import LoRAConfig, ModelConfig, costs
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import EncodedPrompt, LoadedModel, OnlineTrainer, PPOConfig

PHASES = ("collect", "prepare", "update")


class Case(NamedTuple):
    """Sizes of an iteration."""

    prompts: int
    prompt: int  # tokens
    new: int  # tokens
    epochs: int
    minibatches: int


CASES = {
    "fast": Case(4, 8, 8, 1, 2),
    "tiny": Case(32, 32, 64, 4, 4),
    "1b": Case(128, 128, 256, 1, 16),
}
KINDS = ("own critic", "value head", "adapters", "adapters, value head")


class NoText:
    """The part of a tokenizer that sampling asks for; no response is ever read as text."""

    pad_id, bos_id = 0, None

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size
        self.eos_id, self.end_ids, self.stops = vocab_size + 1, (vocab_size + 1,), ()  # nothing ends a response early

    def decode_response(self, ids: list[int], stop: tuple[str, ...] = ()) -> str:
        """Give an empty text."""
        return ""


def make_trainer(config: ModelConfig, case: Case, kind: str, rank: int) -> OnlineTrainer:
    """Make the trainer of one kind."""
    lora = LoRAConfig(rank=rank if "adapters" in kind else 0)
    params = jax.jit(models.build(config).init)(jax.random.key(0))
    policy = reward = (config, params)
    if lora.rank:
        params = jax.tree.map(lambda x: x.astype(config.compute_dtype), params)
        policy, reward = (models.add_adapters(config, params, lora, jax.random.key(seed)) for seed in (0, 1))
    scored = dataclasses.replace(reward[0], scalar_head=True)
    rule = training.OptimizerConfig(learning_rate=1e-6)
    return OnlineTrainer(
        PPOConfig(
            out="unused",
            prompts=case.prompts,
            epochs=case.epochs,
            minibatches=case.minibatches,
            lora=lora,
            sampling=SamplingConfig(max_new_tokens=case.new),
            policy_optimizer=rule,
            critic_optimizer=rule,
            max_logprob_gap=10.0,  # random weights in bfloat16: what is timed is not to stop
            critic="head" if "head" in kind else "own",
        ),
        policy=LoadedModel(*policy),
        reward=LoadedModel(scored, models.with_scalar_head(reward[1], scored, jax.random.key(1))),
        tokenizer=NoText(config.vocab_size),  # type: ignore[arg-type]
        prompt_columns=case.prompt,
        mesh=parallel.make_mesh(parallel.MeshConfig(), devices=jax.devices()[:1]),
    )


class Iteration:
    """One iteration after the other; what each phase took is kept.

    Args:
        trainer: from ``make_trainer``.
        config: the model's.
        case: sizes.
    """

    def __init__(self, trainer: OnlineTrainer, config: ModelConfig, case: Case):
        self._prompts = [EncodedPrompt("", row, i) for i, row in enumerate(_prompts(config, case))]
        self._trainer, self._state = trainer, trainer.init()
        self.taken: list[list[float]] = []

    def __call__(self) -> None:
        """Run an iteration."""
        clock, step = [time.perf_counter()], len(self.taken)

        def lap(x: Any) -> Any:
            jax.block_until_ready(x)
            clock.append(time.perf_counter())
            return x

        sampled = lap(self._trainer.collect(self._state, self._prompts, step))
        batch, _ = lap(self._trainer.prepare(self._state, sampled, self._prompts))
        self._state, _ = lap(self._trainer.update(self._state, batch, step))
        self.taken.append([after - before for before, after in itertools.pairwise(clock)])

    def fastest(self) -> list[float]:
        """Find the seconds of each phase in the iteration that was fastest, the first one aside."""
        return min(self.taken[1:], key=sum)


def least_seconds(config: ModelConfig, case: Case, kind: str, rank: int, limits: Limits) -> list[float]:
    """Compute the least seconds of each phase on a machine of these limits."""
    length, targets = case.prompt + case.new, case.prompts * case.new
    tokens = case.prompts * length
    trained = dataclasses.replace(config, lora=LoRAConfig(rank=rank if "adapters" in kind else 0))
    scalar = dataclasses.replace(trained, scalar_head=True)
    prefill = costs.forward_flops(config, case.prompts * case.prompt, case.prompt, logits=case.prompts)
    write = prefill + costs.decode_flops(config, case.prompts, case.prompt, case.new - 1)
    collect = limits.seconds(write, costs.decode_bytes(config, case.prompts, case.prompt, case.new))
    # The policy's old log-probabilities, the reference's and the reward; a critic of its own is one more pass.
    passes = 2 * costs.forward_flops(trained, tokens, length, logits=targets)
    passes += costs.forward_flops(scalar, tokens, length)
    update = costs.train_flops(trained, tokens, length, logits=targets)
    if "head" not in kind:
        passes += costs.forward_flops(scalar, tokens, length)
        update += costs.train_flops(scalar, tokens, length)
    return [collect, limits.seconds(passes), limits.seconds(case.epochs * update)]


def lines(asked: Options) -> Iterator[dict[str, Any]]:
    """Measure every kind of iteration, of every shape that was asked for."""
    for shape in asked.chosen(tuple(CASES)):
        kinds = KINDS[:2] if asked.fast else KINDS  # compiling all of them takes a minute
        # They take turns on a CPU; an accelerator has room for one at a time.
        for together in [kinds] if jax.default_backend() == "cpu" else [(kind,) for kind in kinds]:
            yield from _turns(asked, shape, together)


def _turns(asked: Options, shape: str, kinds: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    case, rank = CASES[shape], 4 if asked.fast else 16
    config = SHAPES[shape]
    trainers = {kind: make_trainer(config, case, kind, rank) for kind in kinds}
    works = {kind: Iteration(trainer, config, case) for kind, trainer in trainers.items()}
    others = peers(asked, {"trl_ppo": functools.partial(_trl, config, case)} if KINDS[0] in kinds else {})
    machine = Machine(config.compute_dtype, fast=asked.fast)
    timings = take_turns({**machine.probes(), **works, **others}, turns=asked.turns)
    limits = machine.limits(timings)

    def say(phase: str, value: float, limit: float, kind: str, system: str, timing: Timing) -> dict[str, Any]:
        about = {"kind": kind, "device": machine.device, "dtype": config.compute_dtype, **case._asdict()}
        about |= {"first_s": timing.first, "median_s": timing.median, "turns": asked.turns}
        figure = f"{kind}: {phase}"
        return line("ppo_iteration", figure, value, "s", system=system, shape=shape, limit=limit, beside=about)

    for kind, work in works.items():
        took, least = work.fastest(), least_seconds(config, case, kind, rank, limits)
        for phase, *seconds in [("iteration", sum(took), sum(least)), *zip(PHASES, took, least, strict=True)]:
            yield say(phase, *seconds, kind, f"rlhf_jax, jax {jax.__version__}", timings[kind])
    for name in others:
        least = least_seconds(config, case, KINDS[0], rank, limits)
        yield say("iteration", timings[name].best, sum(least), KINDS[0], name, timings[name])


def _prompts(config: ModelConfig, case: Case) -> np.ndarray:
    drawn = np.random.default_rng(0).integers(1, config.vocab_size, (case.prompts, case.prompt))
    return drawn.astype(np.int32)


def _trl(config: ModelConfig, case: Case, peer: Any) -> Work:
    return peer.iteration(config, _prompts(config, case), case.new, case.epochs, case.minibatches)


def main() -> None:
    print_lines(lines(options(parser(__doc__).parse_args())))


if __name__ == "__main__":
    main()

"""Sampling beside training on 4 + 4 simulated devices: the same curve, and both at work at once.

    python -m benchmarks.rollout_beside [--seeds 8] [--rate 3e-3] [--trace FOLDER] [--fast]

RLOO on a small policy that is rewarded for the letter a; one JSON line a figure. One arm trains and samples on 4
devices, the other trains on 4 and samples one update behind on 4 others. After every update both policies answer the
same prompts with the same keys; *difference* is what the second one's mean reward has more, with a 95% bootstrap
interval over seeds. *Overlap* is read from a trace of two iterations: for which part of the time in which programs of
the training devices ran, programs of the rollout devices ran as well. The devices share this machine's cores, so no
time is saved here.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.measure import line, print_lines
from benchmarks.options import Options, options, parser
from rlhf_jax import evaluation, models, parallel, training
from rlhf_jax.data import train_tokenizer
from rlhf_jax.models import ModelConfig
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import EncodedPrompt, GroupConfig, LoadedModel, OnlineTrainer
from rlhf_jax.stages.online.sample_ahead import SampleAhead

WORDS = (
    "cat",
    "dog",
    "hen",
    "fox",
    "owl",
    "cow",
    "bee",
    "ant",
    "elk",
    "yak",
    "pig",
    "rat",
    "sat",
    "ran",
    "rose",
    "fell",
)
TEXTS = [f"The {one} and the {other}" for one in WORDS for other in WORDS]
SIZES = ModelConfig(vocab_size=300, d_model=32, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=8, d_ff=64)
EVALUATED = 10_000  # a step that no iteration has, so that evaluations have keys of their own
Intervals = Sequence[tuple[float, float]]


class Arm:
    """One way to train, from weights and on prompts that the seed draws.

    Args:
        seed: draws the weights, and everything that is sampled.
        iterations: how many updates there are.
        beside: sample on 4 other devices, one update behind.
        rate: the learning rate, and so how far an update takes the policy from its successor's samples.
    """

    def __init__(self, seed: int, iterations: int, *, beside: bool, rate: float = 3e-3):
        tokenizer = train_tokenizer(TEXTS * 4, 300)
        config = GroupConfig(
            seed=seed,
            iterations=iterations,
            prompts=32,
            samples=4,
            sampling=SamplingConfig(max_new_tokens=16, window=8),
            policy_optimizer=training.OptimizerConfig(learning_rate=rate, weight_decay=0.0),
            **({"rollout_mesh": "data=4", "staleness": 1} if beside else {}),
        )
        sizes = dataclasses.replace(SIZES, vocab_size=tokenizer.vocab_size)
        order = np.random.default_rng(seed).permutation(len(TEXTS))
        self.prompts = [EncodedPrompt(TEXTS[i], tokenizer.encode_prompt(TEXTS[i]), int(i)) for i in order]
        self.trainer = OnlineTrainer(
            config,
            policy=LoadedModel(sizes, jax.jit(models.build(sizes).init)(jax.random.key(seed))),
            tokenizer=tokenizer,
            reward=lambda prompts, responses: [float(text.count("a")) for text in responses],
            prompt_columns=max(len(p.tokens) for p in self.prompts),
            mesh=parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:4]),
        )
        self.ahead = SampleAhead(self.trainer, self.of) if beside else None
        self.state = (self.ahead or self.trainer).init()

    def of(self, step: int) -> list[EncodedPrompt]:
        """Take the prompts of an iteration."""
        at = step * 32 % (len(self.prompts) - 31)
        return self.prompts[at : at + 32]

    def iterate(self, step: int) -> dict[str, float]:
        """Run one iteration, and return what it logs before its update."""
        chosen = self.of(step)
        if self.ahead is None:
            sampled = self.trainer.collect(self.state, chosen, step)
        else:
            sampled, _ = self.ahead.collect(self.state, step)
        batch, info = self.trainer.prepare(self.state, sampled, chosen)
        self.state, _ = (self.ahead or self.trainer).update(self.state, batch, step)
        return training.fetch(info)

    def reward(self) -> float:
        """Compute the policy's mean reward on 64 prompts, four responses to each."""
        sampled = self.trainer.sampler(self.state.train.params["policy"], self.prompts[-64:], EVALUATED, samples=4)
        return float(np.mean([text.count("a") for text in self.trainer.sampler.texts(sampled)]))


def curves(seeds: int, iterations: int, rate: float) -> Iterator[dict[str, Any]]:
    """Train both arms from every seed, and compare their policies after every update."""
    rewards, sizes = np.zeros((2, seeds, iterations)), []
    for seed in range(seeds):
        for i in (0, 1):
            arm = Arm(seed, iterations, beside=bool(i), rate=rate)
            for step in range(iterations):
                info = arm.iterate(step)
                rewards[i, seed, step] = arm.reward()
                sizes += [info["effective_sample_size"]] if i and step else []
    apart = rewards[1] - rewards[0]
    shown = sorted({0, iterations // 2, iterations - 1})
    for name, x in (*((f"after update {i + 1}", apart[:, i]) for i in shown), ("mean of the curve", apart.mean(1))):
        low, high = evaluation.bootstrap_mean(x, seed=0)
        at = slice(None) if name.startswith("mean") else slice(int(name.split()[-1]) - 1, int(name.split()[-1]))
        plain, beside = (float(rewards[i, :, at].mean()) for i in (0, 1))
        more = {"difference": float(x.mean()), "low": low, "high": high, "seeds": seeds, "rate": rate}
        yield line("rollout_beside", f"reward, {name}", beside, "letters", beside={"on_4": plain, **more})
    yield line("rollout_beside", "effective sample size", float(np.mean(sizes)), "share", beside={"least": min(sizes)})


def overlap(folder: Path) -> dict[str, Any]:
    """Trace two iterations of the second arm, and read for how long both meshes ran programs at once."""
    arm = Arm(0, 6, beside=True)
    for step in range(3):
        arm.iterate(step)
    jax.block_until_ready(arm.state)
    with jax.profiler.trace(str(folder), create_perfetto_trace=True):
        for step in (3, 4):
            arm.iterate(step)
        jax.block_until_ready(arm.state)
    (file,) = sorted(folder.glob("plugins/profile/*/*.trace.json.gz"))[-1:]
    with gzip.open(file) as opened:
        events = json.load(opened)["traceEvents"]
    trains, samples = (busy(events, range(first, first + 4)) for first in (0, 4))
    both = common(trains, samples)
    total = sum(end - begin for begin, end in trains)
    more = {"both_ms": both / 1e3, "training_ms": total / 1e3}
    return line("rollout_beside", "overlap", both / total, "share", beside=more)


def busy(events: Sequence[dict[str, Any]], devices: Sequence[int]) -> Intervals:
    """Find when programs ran on these devices: intervals in microseconds that do not touch, in order.

    Args:
        events: of a trace; those that name a device and a run are looked at.
        devices: their numbers.

    Example:
        >>> def event(begin, long, device):
        ...     return {"ts": begin, "dur": long, "args": {"run_id": str(begin), "device_ordinal": str(device)}}
        >>> busy([event(0, 2, 4), event(1, 3, 5), event(9, 1, 4), event(0, 50, 0)], range(4, 8))
        [(0, 4), (9, 10)]
    """
    runs = defaultdict(list)
    for event in events:
        named = event.get("args", {})
        if "run_id" in named and int(named.get("device_ordinal", -1)) in devices:
            runs[named["run_id"]].append((event["ts"], event["ts"] + event["dur"]))
    found: list[tuple[float, float]] = []
    for begin, end in sorted((min(b for b, _ in run), max(e for _, e in run)) for run in runs.values()):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def common(one: Intervals, other: Intervals) -> float:
    """Add up for how long both are within an interval.

    Example:
        >>> common([(0, 4), (9, 10)], [(3, 9.5)])
        1.5
    """
    return sum(max(0.0, min(e, end) - max(b, begin)) for b, e in one for begin, end in other)


def lines(asked: Options, seeds: int = 8, rate: float = 3e-3, trace: Path | None = None) -> Iterator[dict[str, Any]]:
    """Compare the curves, then read the overlap from a trace."""
    yield from curves(1, 2, rate) if asked.fast else curves(seeds, 16, rate)
    with tempfile.TemporaryDirectory() as folder:
        yield overlap(trace or Path(folder))


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--seeds", type=int, default=8, help="how often both arms are trained")
    asked.add_argument("--rate", type=float, default=3e-3, help="learning rate")
    asked.add_argument("--trace", type=Path, help="keep the trace in this folder, for ui.perfetto.dev")
    given = asked.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    with tempfile.TemporaryDirectory() as folder:  # both arms and all seeds run the same programs
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
        print_lines(lines(options(given), given.seeds, given.rate, given.trace))


if __name__ == "__main__":
    main()

"""Every objective from the same SFT weights, data and budget: which of them buys the most gold win rate for its KL?

Command:  python experiments/objective_sweep.py            (--fast for a miniature)
Hardware: 2 CPU cores, float32
Time:     53 min beside other work (SFT and reward model 7 of them); --fast 4 min 32 s
Result:   gold win rate over SFT on 512 prompts, mean of 3 seeds (95% interval over prompts), KL in nats a response

    PPO              70.0% (67.7 to 72.3)   4.8        expert iteration 65.4% (63.1 to 67.7)  11.9
    DPO              68.1% (65.9 to 70.3)   2.9        IPO              65.0% (62.5 to 67.4)  11.8
    best-of-16       67.3% (64.8 to 69.6)   1.8        A2C              61.1% (58.8 to 63.3)   5.4
    GRPO             67.2% (64.9 to 69.4)   8.1        RLOO             60.9% (58.5 to 63.4)   4.3
    KTO              66.3% (63.9 to 68.6)   7.2        ORPO             55.5% (53.2 to 57.8)   0.5
    SimPO            51.2% (48.4 to 53.7)   7.7        online DPO       55.3% (52.7 to 57.7)   4.7
    SFT on chosen    55.1% (53.0 to 57.2)   0.5

The size: 418,272 parameters, 8,000 sentences, one pass over their pairs or 1,920 samples. Learning rates were set after
one or two trial runs each and are not tuned. SimPO gains nothing for its KL, expert iteration differs by 34 points
between seeds; docs/objectives/comparison.md says the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax import evaluation, objectives, stages
from rlhf_jax.data import write_jsonl
from rlhf_jax.models import ModelConfig
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import DataConfig, GroupConfig, PPOConfig, PreferenceConfig, RewardConfig, SFTConfig
from rlhf_jax.stages.titles import POLICIES
from rlhf_jax.training import OptimizerConfig

BEST_OF = 16


def sft_on_chosen(outputs, batch):
    """More supervised fine-tuning, on the responses that people preferred: what every other method has to beat."""
    return objectives.sft(outputs, batch._replace(mask=batch.mask.at[:, 1:].set(False)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How large the sweep is; every method sees as many pairs, or draws as many responses, as every other."""

    seeds: tuple[int, ...] = (0, 1, 2)
    model: ModelConfig = ModelConfig(d_model=96, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=48, d_ff=256)
    vocab_size: int = 2048
    limit: int = 8000  # training sentences
    sft_epochs: int = 2
    reward_epochs: int = 2
    iterations: int = 30  # of 64 responses
    test_prompts: int = 512
    eval_every: int = 60


FAST = Size(
    seeds=(0,),
    model=ModelConfig(d_model=48, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=24, d_ff=128),
    vocab_size=512,
    limit=800,
    sft_epochs=1,
    reward_epochs=1,
    iterations=2,
    test_prompts=64,
    eval_every=100,
)


class Sweep:
    """The base stages, and one function a method: ``method(out, seed)`` fills a run folder."""

    def __init__(self, out: Path, size: Size):
        self.out, self.size, self.base = out, size, str(out / "base")
        self.data = DataConfig(limit=size.limit)
        self.judged: dict[str, Any] = {
            "policy": self.base,
            "reward_model": self.base,
            "max_prompt_length": 24,
            "sampling": SamplingConfig(max_new_tokens=32),
            "test_prompts": size.test_prompts,
            "eval_prompts": 64,
        }

    def prepare(self) -> None:
        """The SFT policy every method starts from, and the reward model of those that need one."""
        place: dict[str, Any] = {"out": self.base, "data": self.data, "eval_every": 100}
        size = self.size
        stages.sft(SFTConfig(**place, model=size.model, vocab_size=size.vocab_size, epochs=size.sft_epochs))
        stages.reward_model(RewardConfig(**place, init=self.base, epochs=size.reward_epochs))

    def preference(self, out: str, seed: int, objective: Any, rate: float = 3e-4) -> None:
        """One pass over all pairs."""
        config = PreferenceConfig(
            out=out,
            seed=seed,
            data=self.data,
            epochs=1,
            eval_every=self.size.eval_every,
            optimizer=OptimizerConfig(learning_rate=rate),
            **self.judged,
        )
        stages.preference(config, objective=objective)

    def ppo(self, out: str, seed: int, objective: Any = None, passes: int = 4, rate: float = 2e-4) -> None:
        """A critic: 64 prompts of one response an iteration; four passes of four updates, or a single update."""
        config = PPOConfig(
            out=out,
            seed=seed,
            data=self.data,
            iterations=self.size.iterations,
            epochs=passes,
            minibatches=4 if passes > 1 else 1,
            policy_optimizer=OptimizerConfig(learning_rate=rate),
            eval_every=10,
            **self.judged,
        )
        stages.ppo(config, objective=objective)

    def group(self, out: str, seed: int, objective: Any, rate: float = 5e-4) -> None:
        """No critic: 16 prompts of four responses an iteration."""
        config = GroupConfig(
            out=out,
            seed=seed,
            data=self.data,
            iterations=self.size.iterations,
            prompts=16,
            samples=4,
            epochs=2,
            minibatches=2,
            policy_optimizer=OptimizerConfig(learning_rate=rate),
            eval_every=10,
            **self.judged,
        )
        stages.group(config, objective=objective)

    def best_of_n(self, out: str, seed: int) -> None:
        """No training: the SFT policy draws 16 responses and the reward model keeps one."""
        folder, began = Path(out), time.monotonic()
        if (folder / "summary.json").exists():
            return
        settings = {k: v for k, v in self.judged.items() if k != "eval_prompts"}
        summary, samples = stages.best_of_n(**settings, n=BEST_OF, data=self.data, seed=seed)
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / "samples.jsonl", samples)
        found = {"best_of_n": summary, "seconds": {"best_of_n": time.monotonic() - began}}
        (folder / "summary.json").write_text(json.dumps(found))

    def methods(self) -> dict[str, Callable[[str, int], None]]:
        """By the name the table gives them."""
        o, preference, group = objectives, self.preference, self.group
        return {
            "SFT on chosen": functools.partial(preference, objective=sft_on_chosen),
            "best-of-16": self.best_of_n,
            "expert iteration": functools.partial(group, objective=o.expert_iteration, rate=3e-4),
            "PPO": self.ppo,
            "A2C": functools.partial(self.ppo, objective=o.a2c, passes=1, rate=1e-3),
            "RLOO": functools.partial(group, objective=o.rloo),
            "GRPO": functools.partial(group, objective=o.grpo),
            "DPO": functools.partial(preference, objective=o.dpo),
            "IPO": functools.partial(preference, objective=o.ipo),
            "KTO": functools.partial(preference, objective=o.kto),
            "ORPO": functools.partial(preference, objective=o.orpo),
            "SimPO": functools.partial(preference, objective=o.simpo, rate=1e-4),
            "online DPO": functools.partial(group, objective=o.online_dpo, rate=2e-4),
        }


class Row(NamedTuple):
    """A method over its seeds."""

    name: str
    win_rate: float
    interval: tuple[float, float]
    each: list[float]  # win rate of each seed
    kl: float
    distinct_2: float
    length: float
    seconds: float  # of one seed


def collect(name: str, folders: list[Path]) -> Row:
    """Mean over the seeds; the interval resamples the test prompts, each with all its seeds."""
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    stage = next(key for key in POLICIES if key in summaries[0])
    wins = []
    for folder in folders:
        rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        compared = [row for row in rows if "before" in row]  # the others are of evaluations
        wins.append([(np.sign(row["gold_after"] - row["gold_before"]) + 1) / 2 for row in compared])
    per_prompt = np.mean(wins, axis=0)

    def mean(field: str) -> float:
        return float(np.mean([summary[stage][field] for summary in summaries]))

    return Row(
        name,
        float(per_prompt.mean()),
        evaluation.bootstrap_mean(per_prompt, seed=0),
        [float(np.mean(w)) for w in wins],
        mean("kl"),
        mean("distinct_2"),
        mean("length"),
        float(np.mean([summary["seconds"][stage] for summary in summaries])),
    )


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| method | gold win rate over SFT | 95% interval | each seed | KL, nats | distinct-2 | length | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        low, high = r.interval
        seeds = " ".join(f"{x:.1%}" for x in r.each)
        lines.append(
            f"| {r.name} | {r.win_rate:.1%} | {low:.1%} to {high:.1%} | {seeds} | {r.kl:.2f} | {r.distinct_2:.3f} "
            f"| {r.length:.1f} | {r.seconds:.0f} |"
        )
    return "\n".join(lines)


def figure(rows: list[Row], path: Path) -> None:
    """Win rate against KL, with intervals: up is better, left is closer to the SFT policy."""
    from matplotlib.figure import Figure

    page = Figure(figsize=(8, 5), layout="constrained")
    axes = page.subplots()
    axes.axhline(0.5, color="0.7", linewidth=1)
    # Neighbours are labelled above and below in turn, and the last ones to their left, so that names do not overlap.
    for i, r in enumerate(sorted(rows, key=lambda row: row.kl)):
        low, high = r.interval
        error = [[r.win_rate - low], [high - r.win_rate]]
        axes.errorbar(r.kl, r.win_rate, yerr=error, fmt="os^D"[i % 4], color=f"C{i % 10}", capsize=3)
        left = r.kl > 0.9 * max(row.kl for row in rows)
        axes.annotate(
            r.name,
            (r.kl, r.win_rate),
            textcoords="offset points",
            xytext=(-6 if left else 6, 5 if i % 2 else -12),
            ha="right" if left else "left",
            fontsize=9,
        )
    axes.set(xlabel="KL to the SFT policy, nats a response", ylabel="gold win rate over the SFT policy")
    axes.yaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axes.set_title("Every objective from the same SFT weights")
    page.savefig(path, dpi=150)


def main() -> None:
    """Run what is not done yet, then write table.md, sweep.json and figure.png."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of all runs; runs/objective-sweep by default")
    parser.add_argument("--fast", action="store_true", help="a miniature of every run, to see that everything works")
    parser.add_argument("--only", nargs="*", help="names of methods, as the table has them; all by default")
    options = parser.parse_args()
    out = options.out or Path("runs/objective-sweep-fast" if options.fast else "runs/objective-sweep")
    size = FAST if options.fast else Size()
    # Three seeds run the same programs: they are compiled once.
    jax.config.update("jax_compilation_cache_dir", str(out / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

    sweep = Sweep(out, size)
    methods = sweep.methods()
    unknown = [name for name in options.only or () if name not in methods]
    if unknown:
        parser.error(f"--only: there is no method {unknown[0]!r}; there are {', '.join(methods)}")
    methods = {name: method for name, method in methods.items() if not options.only or name in options.only}
    sweep.prepare()
    rows = []
    for name, method in methods.items():
        folders = [out / f"{name.replace(' ', '-').lower()}-seed{seed}" for seed in size.seeds]
        for folder, seed in zip(folders, size.seeds, strict=True):
            method(str(folder), seed)
        rows.append(collect(name, folders))
        # Written after every method: whoever stops early keeps what is done.
        (out / "table.md").write_text(table(rows) + "\n")
        (out / "sweep.json").write_text(json.dumps([row._asdict() for row in rows], indent=2) + "\n")
        figure(rows, out / "figure.png")
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()

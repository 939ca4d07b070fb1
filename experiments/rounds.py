"""Rounds: does a reward model that is retrained on the policy's own samples move the peak of over-optimisation?

Command:  python experiments/rounds.py --start runs/quickstart-seed0     (--fast for a miniature, which trains its own)
Hardware: 2 CPU cores, float32, shared with a dozen other programs
Time:     42 min for the first round of all arms beside that work, after a quickstart; the second round was not run to
          its end
Result:   gold above SFT and KL to SFT (nats a response) on 384 test prompts, 95% intervals; all arms start at a gold of
          0.80 (0.73 to 0.88) and a KL of 5.9 (5.5 to 6.2). Accuracy is that of the reward model on pairs of the 256
          samples of the policy that the round sampled from, against gold, before and after retraining

    no retraining      gold 1.93 (1.86 to 2.00)  KL 18.3 (17.4 to 19.2)
    old sentences      gold 1.85 (1.76 to 1.93)  KL 17.9 (17.0 to 19.0)  73.6% -> 73.8%, gain  0.2 (-0.7 to 1.2)
    random samples     gold 1.87 (1.80 to 1.94)  KL 17.6 (16.8 to 18.5)  73.6% -> 74.5%, gain  0.9 (-0.3 to 2.2)
    disputed and hard  gold 2.19 (2.12 to 2.26)  KL 22.8 (21.8 to 23.9)  73.6% -> 73.9%, gain  0.3 (-0.8 to 1.5)

Retraining moved no peak, because there was none: up to a KL of 23 gold rises with every reward model, the first one
too, and no fit has a peak. About 240 labels gain the reward model nothing that can be told from nothing, wherever they
are spent; docs/rounds.md says the rest. One seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlhf_jax import evaluation, stages
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import ChooseConfig, KLConfig, PPOConfig, RewardConfig, RoundsConfig
from rlhf_jax.training import OptimizerConfig

ROUNDS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much is labelled and trained."""

    old: int = 200  # people's comparisons of sentences, which all reward models see
    pairs: int = 300  # labelled by gold in a round
    prompts: int = 300  # answered in a round
    samples: int = 3
    members: int = 3
    iterations: int = 10  # PPO iterations of a round
    heldout: int = 192  # prompts of an evaluation during PPO
    test: int = 384


FAST = Size(old=64, pairs=24, prompts=32, members=2, iterations=2, heldout=16, test=32)
# By arm: where the candidates are from, and how the labels are spent: shares of a round's pairs.
ARMS: dict[str, tuple[Literal["samples", "data"], dict[str, float]]] = {
    "old sentences": ("data", {"random": 1.0}),
    "random samples": ("samples", {"random": 1.0}),
    "disputed and hard": ("samples", {"disputed": 0.5, "hard": 0.5}),
}
NONE = "no retraining"


class Experiment:
    """A quickstart's SFT policy, reward model and PPO policy, and the arms that go on from them."""

    def __init__(self, out: Path, start: str, size: Size):
        self.out, self.size, self.first, self.sft = out, size, start, f"{start}:sft"
        # Every reward model goes on from the quickstart's, so it takes one pass and a lower rate than a fresh one.
        self.reward = RewardConfig(
            members=size.members,
            epochs=1,
            rows=8,
            eval_every=10_000,
            optimizer=OptimizerConfig(learning_rate=2e-4, weight_decay=0.1),
        )

    def ppo(self, iterations: int, **fields: Any) -> PPOConfig:
        """PPO with so little of a KL penalty that it goes too far."""
        settings: dict[str, Any] = {
            "kl": KLConfig(kind="fixed", coef=0.01),
            "stop_kl": 0.0,
            "max_kl": 1000.0,
            "iterations": iterations,
            "eval_every": 5,
            "eval_prompts": self.size.heldout,
            "test_prompts": self.size.test,
            "max_prompt_length": 24,
            "policy_optimizer": OptimizerConfig(learning_rate=4e-4, weight_decay=0.0),
        }
        return PPOConfig(**{**settings, **fields})

    def config(self, arm: str, rounds: int) -> RoundsConfig:
        """The rounds of an arm: the same labels, spent in another way."""
        candidates, shares = ARMS[arm]
        counts = {
            "random": 0,
            "disputed": 0,
            **{name: round(share * self.size.pairs) for name, share in shares.items()},
        }
        return RoundsConfig(
            out=str(self.out / arm.replace(" ", "_")),
            rounds=rounds,
            policy=f"{self.first}:ppo",
            reference=self.sft,
            reward_model=self.first,
            reward_init=f"{self.first}:reward",
            candidates=candidates,
            prompts=self.size.prompts,
            samples=self.size.samples,
            choose=ChooseConfig(**counts, judge="vader" if counts.get("hard") else "", per_prompt=2),
            label="gold",
            heldout=0.2,
            old_pairs=self.size.old,
            old_heldout=min(300, self.size.old),
            sampling=SamplingConfig(),
            reward=self.reward,
            ppo=self.ppo(self.size.iterations),
        )

    def run(self, number: int) -> None:
        """Run a round of every arm; each folder goes on where it stopped."""
        self.go_on(number)
        for arm in ARMS:
            stages.rounds(self.config(arm, number))

    def go_on(self, number: int) -> None:
        """Train on against the first reward model, with the seeds of the rounds."""
        before = self.folder(NONE, number - 1)
        config = self.ppo(
            self.size.iterations,
            out=str(self.folder(NONE, number)),
            policy=f"{before}:ppo",
            reference=self.sft,
            reward_model=self.first,
            seed=number,
        )
        stages.ppo(config)

    def folder(self, arm: str, number: int) -> Path:
        """The run folder of a round; before the first the quickstart."""
        return self.out / arm.replace(" ", "_") / f"round{number}" if number else Path(self.first)

    def reward_model(self, arm: str, number: int) -> Path:
        """Whose reward model a round of an arm trains against."""
        return Path(self.first) if arm == NONE else self.folder(arm, number)


def samples(folder: Path) -> list[dict[str, Any]]:
    """The responses of a PPO run's policy to the test prompts, with gold's scores and the proxy's."""
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return [row for row in rows if "gold_after" in row and row.get("stage", "ppo") == "ppo"]


def alike(proxy: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether a proxy orders each pair of samples as gold does, [m], and which samples they are, [m, 2]."""
    i, j = np.triu_indices(len(gold), 1)
    told = gold[i] != gold[j]
    i, j = i[told], j[told]
    return 0.5 + 0.5 * np.sign((proxy[i] - proxy[j]) * np.sign(gold[i] - gold[j])), np.stack([i, j], 1)


def measured(experiment: Experiment, last: int = ROUNDS) -> dict[str, Any]:
    """Every figure of the experiment, by arm and round, up to the last that all arms have."""
    found: dict[str, Any] = {}
    each = {experiment.folder(arm, number) for arm in (NONE, *ARMS) for number in range(last + 1)}
    # Every run's comparison has samples of the SFT policy, drawn anew.
    start = float(np.mean([row["gold_before"] for folder in each for row in samples(folder)]))
    for arm in (NONE, *ARMS):
        rounds = []
        for number in range(last + 1):
            rows, summary = samples(experiment.folder(arm, number)), read(experiment.folder(arm, number))
            gold = np.array([row["gold_after"] for row in rows]) - start
            one = {
                "round": number,
                "kl": summary["ppo"]["kl"],
                "kl_ci": summary["ppo"]["kl_ci"],
                "gold": float(gold.mean()),
                "gold_ci": list(evaluation.bootstrap_mean(gold, seed=0)),
                "gold_win_rate": summary["ppo"]["gold_win_rate"],
                "gold_win_rate_ci": summary["ppo"]["gold_win_rate_ci"],
                "curve": summary["ppo"]["curve"],
                "seconds": summary["seconds"],
            }
            if number and arm != NONE:
                one |= accuracy(experiment, arm, number)
            rounds.append(one)
        found[arm] = {"rounds": rounds, "peak": peak(rounds, start)}
    return found


def accuracy(experiment: Experiment, arm: str, number: int) -> dict[str, Any]:
    """How often the reward model is right on samples of the policy that the round sampled from, before and after."""
    rows = samples(experiment.folder(arm, number - 1))[:256]
    asked, texts = [row["prompt"] for row in rows], [row["after"] for row in rows]
    gold = np.array([row["gold_after"] for row in rows])
    each = {}
    for when, which in (("before", number - 1), ("after", number)):
        scorer = stages.Scorer.load(experiment.reward_model(arm, which))
        each[when], pairs = alike(scorer(asked, texts), gold)
    figures: dict[str, Any] = {}
    for name, values in (*each.items(), ("gain", each["after"] - each["before"])):
        figures |= {name: float(values.mean()), f"{name}_ci": list(evaluation.bootstrap_pairs(values, pairs, seed=0))}
    return {"accuracy": figures}


def peak(rounds: list[dict[str, Any]], start: float) -> dict[str, Any]:
    """Fit gold over sqrt(KL) through all evaluations of an arm, and find its highest point among them."""
    points = [(row["kl"], row["gold"] - start) for one in rounds for row in one["curve"] if row["step"] or one["round"]]
    kl, gold = np.array(points).T
    best = int(np.argmax(gold))
    fitted = evaluation.fit_over_optimisation(np.maximum(kl, 0), gold, kind="rl")
    return {
        "kl": kl.tolist(),
        "gold": gold.tolist(),
        "best_kl": float(kl[best]),
        "best_gold": float(gold[best]),
        "fitted": {name: getattr(fitted, name) for name in ("a", "b", "peak_d", "peak_kl", "peak_gold", "r2")},
    }


def read(folder: Path) -> dict[str, Any]:
    """What a run folder's stages came to."""
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def table(found: dict[str, Any]) -> str:
    """The figures of every arm and round as a table."""
    lines = [
        "| arm | round | KL | gold above SFT | gold win rate | accuracy before | after | gain |",
        "|---|" + "---|" * 7,
    ]
    for arm, one in found.items():
        for row in one["rounds"]:
            told = row.get("accuracy", {})
            right = [_figure(told, name, 100) if told else "" for name in ("before", "after", "gain")]
            gold = [_figure(row, "kl", 1), _figure(row, "gold", 1), _figure(row, "gold_win_rate", 100)]
            lines.append(f"| {arm} | {row['round']} | " + " | ".join([*gold, *right]) + " |")
    return "\n".join(lines)


def _figure(row: dict[str, Any], name: str, factor: float) -> str:
    low, high = (factor * x for x in row[f"{name}_ci"])
    places = 2 if factor == 1 else 1
    return f"{factor * row[name]:.{places}f} ({low:.{places}f} to {high:.{places}f})"


def plot(found: dict[str, Any], to: Path) -> None:
    """Gold above the SFT policy over sqrt(KL), an arm a line, and the reward model's accuracy by round."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    for place, (arm, one) in enumerate(found.items()):
        colour = f"C{place}"
        order = np.argsort(one["peak"]["kl"], kind="stable")
        d = np.sqrt(np.maximum(np.array(one["peak"]["kl"])[order], 0))
        left.plot(d, np.array(one["peak"]["gold"])[order], ".-", color=colour, alpha=0.35)
        ends = one["rounds"]
        gold = np.array([row["gold"] for row in ends])
        bars = abs(np.array([row["gold_ci"] for row in ends]).T - gold)
        left.errorbar(np.sqrt([row["kl"] for row in ends]), gold, bars, fmt="o", color=colour, label=arm, capsize=3)
        told = [row["accuracy"] | {"round": row["round"]} for row in ends if "accuracy" in row]
        for when, shift, form in (("before", -0.12, "o"), ("after", 0.12, "s")):
            if told:
                mean = np.array([row[when] for row in told])
                error = abs(np.array([row[f"{when}_ci"] for row in told]).T - mean)
                x = np.array([row["round"] for row in told]) + shift + 0.04 * (place - 2)
                right.errorbar(x, 100 * mean, 100 * error, fmt=form, color=colour, capsize=3, label=f"{arm}, {when}")
    left.set(xlabel="sqrt(KL to SFT), nats", ylabel="gold above SFT", title="Gold over distance")
    right.set(xlabel="round", ylabel="pairs ordered as gold does, %", title="Reward model on samples of the policy")
    right.set_xticks(range(1, max(len(one["rounds"]) for one in found.values())))
    left.legend(fontsize=8)
    right.legend(fontsize=7)
    figure.savefig(to, dpi=110)


def main() -> None:
    """Run all arms, and write result.json, table.md and figure.png."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", default="runs/rounds_experiment")
    parser.add_argument("--start", default="", help="run folder of a quickstart; one is trained if empty")
    parser.add_argument("--fast", action="store_true", help="a miniature, to see that everything works")
    options = parser.parse_args()
    out, began = Path(options.out), time.monotonic()
    start = options.start or str(out / "start")
    if not options.start:
        stages.quickstart(stages.quickstart_config(out=start, fast=options.fast))
    experiment = Experiment(out, start, FAST if options.fast else Size())
    for number in range(1, ROUNDS + 1):
        experiment.run(number)
        write(measured(experiment, number), out)
    print(f"{(time.monotonic() - began) / 60:.0f} min in this process")


def write(found: dict[str, Any], out: Path) -> None:
    """Write result.json, table.md and figure.png, and print the table."""
    (out / "result.json").write_text(json.dumps(found, indent=2) + "\n")
    (out / "table.md").write_text(table(found) + "\n")
    plot(found, out / "figure.png")
    print(table(found))
    for arm, one in found.items():
        best = one["peak"]
        print(
            f"{arm}: gold is highest, {best['best_gold']:.2f}, at a KL of {best['best_kl']:.1f}; fit {best['fitted']}"
        )


if __name__ == "__main__":
    main()

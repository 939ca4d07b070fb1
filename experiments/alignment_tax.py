"""What alignment costs: how much of its language a policy pays for reward, and what pretraining text beside PPO saves.

Command:  python experiments/alignment_tax.py --start runs/quickstart-seed0    (--fast for a miniature of its own)
Hardware: 2 CPU cores, float32, shared with a dozen other programs
Time:     59 min beside that work (34, 18, 3 and 4 an arm), after a quickstart
Result:   the first four of eight arms, which is where it was stopped; the same command goes on. KL to SFT (nats a
          response), gold win rate over SFT (%), and the changes of bits a byte of text and of word order right, with
          95% intervals, 384 test prompts and 500 rows a task. One seed

    beta 0.02 ptx 0   KL 5.6 (5.2 to 6.1)  gold 73.8 (69.2 to 78.0)
                      +0.142 (+0.136 to +0.148) bits a byte, -1.4 (-2.8 to -0.2) points
    beta 0.02 ptx 0.5 KL 1.3 (1.1 to 1.5)  gold 65.5 (60.6 to 70.1)
                      +0.028 (+0.026 to +0.031) bits a byte, -0.4 (-1.4 to +0.6) points
    beta 0.1  ptx 0   KL 2.9 (2.7 to 3.2)  gold 68.6 (63.8 to 73.1)
                      +0.085 (+0.080 to +0.089) bits a byte, -1.0 (-2.4 to +0.2) points
    beta 0.05 ptx 0   KL 5.2 (4.8 to 5.6)  gold 77.3 (72.9 to 81.2)
                      +0.118 (+0.112 to +0.124) bits a byte, -1.8 (-3.4 to -0.4) points

Text beside PPO cut the tax to a fifth, and with it the KL and 8 points of win rate. The least beta did not win most.
Word order is right in 96.8% before, too near its ceiling to show much. docs/alignment_tax.md says the rest.

Every arm is PPO from one SFT policy against one reward model, with a fixed KL coefficient beta and a weight ptx.coef of
the cross entropy of training text beside the loss. Two tasks are made of sentences that nothing was trained on: their
perplexity after their instruction, and for each the choice of its second half among three other orders of the same
words. The tax is what PPO changes in these figures, from the SFT policy's, on the same rows.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import data, stages
from rlhf_jax.data.hutto import PROMPTS
from rlhf_jax.stages import KLConfig, PPOConfig, PTXConfig

# (beta, ptx.coef), those that say most first: a run that is cut short has a table of its first arms.
ARMS = ((0.02, 0.0), (0.02, 0.5), (0.1, 0.0), (0.05, 0.0), (0.05, 0.5), (0.1, 0.5), (0.02, 0.1), (0.02, 2.0))
TAXES = ("text/bits_per_byte", "text/perplexity", "order/accuracy")


class Size(NamedTuple):
    """How much is trained and measured."""

    iterations: int = 20
    eval_every: int = 5
    heldout: int = 64  # prompts of an evaluation during PPO
    test: int = 384  # prompts that the final win rate is of
    rows: int = 500  # of each task
    arms: int = len(ARMS)


FAST = Size(iterations=2, eval_every=1, heldout=16, test=16, rows=24, arms=2)


def write_tasks(folder: Path, rows: int, seed: int = 0) -> list[str]:
    """Write the two tasks, from sentences of the test split spread over the domains, and return their files."""
    rng = np.random.default_rng(seed)
    every = data.human_sentiment.load("test")
    chosen = [every[i] for i in rng.permutation(len(every))]
    text = [{"prompt": PROMPTS[s.domain], "text": s.text} for s in chosen[:rows]]
    order = [row for s in chosen if (row := reordered(s.domain, s.text, rng)) is not None][:rows]
    folder.mkdir(parents=True, exist_ok=True)
    data.write_jsonl(folder / "text.jsonl", text)
    data.write_jsonl(folder / "order.jsonl", order)
    return [str(folder / "text.jsonl"), str(folder / "order.jsonl")]


def reordered(domain: str, text: str, rng: np.random.Generator) -> dict[str, Any] | None:
    """Make a question of a sentence: its second half among three other orders of the same words; None if too short."""
    words = text.split()
    half = words[len(words) // 2 :]
    if len(half) < 4 or len(set(half)) < 4:
        return None
    choices = {" ".join(half): None}  # keeps the order in which they come
    while len(choices) < 4:
        choices[" ".join(rng.permutation(half).tolist())] = None
    places = rng.permutation(4)
    shown = [list(choices)[i] for i in places]
    before = " ".join([PROMPTS[domain], *words[: len(words) // 2]])
    return {"prompt": before, "choices": shown, "answer": int(np.argmin(places))}


def ppo(start: str, out: Path, beta: float, ptx: float, tasks: list[str], size: Size) -> dict[str, Any]:
    """Train one arm, or read what its folder holds already, and return its summary."""
    config = PPOConfig(
        out=str(out),
        policy=f"{start}:sft",
        reward_model=start,
        kl=KLConfig(kind="fixed", coef=beta),
        ptx=PTXConfig(coef=ptx),
        eval_tasks=tuple(tasks),
        iterations=size.iterations,
        eval_every=size.eval_every,
        eval_prompts=size.heldout,
        test_prompts=size.test,
        max_prompt_length=24,
        checkpoint_every=size.eval_every,
        stop_kl=0.0,
        max_kl=1000.0,
    )
    return stages.ppo(config).summary


def measured(summary: dict[str, Any], log: list[dict[str, Any]]) -> dict[str, Any]:
    """Take an arm's figures out of its summary, and the course of its evaluations out of its log."""
    found: dict[str, Any] = {
        name: summary[name] for name in ("kl", "kl_ci", "gold_win_rate", "gold_win_rate_ci", "length", "length_before")
    }
    for tax in TAXES:
        task, figure = tax.split("/")
        for part in ("before", "after", "change", "change_ci"):
            found[f"{tax}_{part}"] = summary["tasks"][task][f"{figure}_{part}"]
    names = {"kl": "ppo/heldout_kl", "gold": "ppo/heldout_gold", **{tax: f"ppo/tasks/{tax}" for tax in TAXES}}
    rows = [row for row in log if f"ppo/tasks/{TAXES[0]}" in row]
    found["course"] = [{"step": row["step"], **{name: row[of] for name, of in names.items()}} for row in rows]
    return found


def table(arms: dict[str, dict[str, Any]]) -> str:
    """Write the arms as a table of Markdown."""
    lines = [
        "| beta | ptx.coef | KL to SFT | gold win rate, % | perplexity, change | bits a byte, change "
        "| word order right, points |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, arm in arms.items():
        cells = [
            _figure(arm, "kl", 1, 1),
            _figure(arm, "gold_win_rate", 100, 1),
            _figure(arm, "text/perplexity_change", 1, 1, sign="+"),
            _figure(arm, "text/bits_per_byte_change", 1, 3, sign="+"),
            _figure(arm, "order/accuracy_change", 100, 1, sign="+"),
        ]
        lines.append(f"| {name.replace('/', ' | ')} | " + " | ".join(cells) + " |")
    first = next(iter(arms.values()))
    lines += ["", "SFT: " + ", ".join(f"{tax} {first[f'{tax}_before']:.4g}" for tax in TAXES)]
    return "\n".join(lines)


def _figure(arm: dict[str, Any], name: str, factor: float, places: int, sign: str = "") -> str:
    low, high = (factor * x for x in arm[f"{name}_ci"])
    return f"{factor * arm[name]:{sign}.{places}f} ({low:{sign}.{places}f} to {high:{sign}.{places}f})"


def plot(arms: dict[str, dict[str, Any]], to: Path) -> None:
    """Draw the tax against the win rate, an arm a point, and its course over the KL."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    weights = sorted({float(name.split("/")[1]) for name in arms})
    for name, arm in arms.items():
        beta, ptx = name.split("/")
        look: dict[str, Any] = {"color": f"C{weights.index(float(ptx))}"}
        marker = {"0.02": "o", "0.05": "s", "0.1": "^"}.get(beta, "d")
        label = f"beta {beta}, ptx.coef {ptx}"
        taxes = ((axes[0], "text/bits_per_byte_change", 1), (axes[1], "order/accuracy_change", 100))
        for at, tax, factor in taxes:
            x, y = 100 * arm["gold_win_rate"], factor * arm[tax]
            bars_x = abs(100 * np.array(arm["gold_win_rate_ci"]) - x)[:, None]
            bars_y = abs(factor * np.array(arm[f"{tax}_ci"]) - y)[:, None]
            at.errorbar([x], [y], bars_y, bars_x, fmt=marker, capsize=3, label=label, **look)
        course = arm["course"]
        d = np.sqrt(np.maximum([row["kl"] for row in course], 0))
        axes[2].plot(d, [row["text/bits_per_byte"] for row in course], marker=marker, **look)
    for at, what in (
        (axes[0], "bits a byte of held-out text, change"),
        (axes[1], "word order right, change in points"),
    ):
        at.axhline(0, color="#999999", linewidth=0.8)
        at.set(xlabel="win rate over SFT by gold, %", ylabel=what)
    axes[2].set(xlabel="sqrt(KL to SFT on held-out prompts), nats", ylabel="bits a byte of held-out text, during PPO")
    axes[0].legend(fontsize=7)
    figure.savefig(to, dpi=110)


def main() -> None:
    """Run the arms one after the other, and after each write result.json, table.md and figure.png."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", default="runs/alignment_tax")
    parser.add_argument("--start", default="", help="run folder of a quickstart; one is trained if empty")
    parser.add_argument("--fast", action="store_true", help="a miniature, to see that everything works")
    options = parser.parse_args()
    out, size = Path(options.out), FAST if options.fast else Size()
    start = options.start or str(out / "start")
    if not options.start:
        stages.quickstart(stages.quickstart_config(out=start, fast=options.fast))
    tasks = write_tasks(out / "tasks", size.rows)
    arms: dict[str, dict[str, Any]] = {}
    for beta, ptx in ARMS[: size.arms]:
        began, folder = time.monotonic(), out / f"beta{beta:g}_ptx{ptx:g}"
        summary = ppo(start, folder, beta, ptx, tasks, size)
        log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        figures = {**measured(summary, log), "seconds": time.monotonic() - began}
        arms |= {f"{beta:g}/{ptx:g}": figures}
        (out / "result.json").write_text(json.dumps(arms, indent=2) + "\n")
        (out / "table.md").write_text(table(arms) + "\n")
        plot(arms, out / "figure.png")
        print(table(arms), flush=True)


if __name__ == "__main__":
    main()

"""Christiano et al. 2017 in small: a reward learnt from comparisons of segments, and a policy from the reward.

Command:  python experiments/control_from_preferences.py     (--fast for a miniature; the same command goes on)
          python experiments/control_from_preferences.py --people FOLDER --environment CartPole-v1 --labels 60
Needs:    pip install -e '.[control]'; for people '.[control,compare]' too
Hardware: 2 CPU cores, float32
Time:     18 minutes beside other work (2026-11-28), compilation counted
Result:   true return after 120,000 steps, mean of 5 seeds of 8 episodes each (95% interval, bootstrap over seeds)

    labels         CartPole-v1        Acrobot-v1             Pendulum-v1
    true reward    369 (263 to 476)   -85 (-88 to -82)       -209 (-262 to -156)
    1,400          255 (111 to 400)   -500 (-500 to -500)    -270 (-324 to -224)
    700            200 (78 to 344)    -421 (-500 to -263)    -242 (-276 to -208)
    350            95 (57 to 132)     -500 (-500 to -500)    -477 (-769 to -215)
    0              26 (12 to 39)      -421 (-500 to -262)    -1529 (-1611 to -1447)

Raters are synthetic, 10% of their answers wrong. Pendulum is learnt from 700 labels about as well as from
the true reward: learnt and true reward correlate with 0.98. CartPole gains with labels but does not come near, and its
seeds differ widely (67 to 500 with 1,400 labels; 226 to 500 on the true reward, which no longer holds what it had).
Acrobot is not learnt at all: nearly all early segments have the same return, -25, and ties teach nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import control, stages
from rlhf_jax.control.people import from_people
from rlhf_jax.evaluation.intervals import bootstrap_mean
from rlhf_jax.files import write_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """An environment, and what its hidden end is worth to the raters."""

    end_reward: float
    question: str


SUBJECTS = {
    "CartPole-v1": Subject(end_reward=-25.0, question="Which clip keeps the pole upright better?"),
    "Acrobot-v1": Subject(end_reward=25.0, question="Which clip swings the end up higher?"),
    "Pendulum-v1": Subject(end_reward=0.0, question="Which clip holds the pendulum more upright?"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How large everything is."""

    iterations: int = 60
    seeds: int = 5
    measurements: int = 10
    episodes: int = 8  # of each measurement
    labels: tuple[int, ...] = (0, 350, 700, 1400)
    acting: control.AgentConfig = control.AgentConfig(
        environments=8, steps=250, epochs=4, minibatches=4, learning_rate=1e-3
    )
    asking: control.PreferenceConfig = control.PreferenceConfig()


FAST = Size(
    iterations=2,
    seeds=2,
    measurements=2,
    episodes=2,
    labels=(0, 8),
    acting=control.AgentConfig(environments=2, steps=50, epochs=1, minibatches=1, hidden=(8,)),
    asking=control.PreferenceConfig(hidden=(8,), first_updates=2, updates=1, candidates=2),
)


class Experiment:
    """The arms of one environment: each is a file of its own, and is skipped where that is there.

    Args:
        out: folder.
        name: of the environment.
        size: how large everything is.
    """

    def __init__(self, out: Path, name: str, size: Size):
        self.out, self.name, self.size = out / name, name, size
        self.true = control.from_gymnax(name)
        self.hidden = control.without_ends(self.true, end_reward=SUBJECTS[name].end_reward)

    def task(self, labels: int) -> control.Task:
        """Say what is learnt; the true reward comes with the environment's own ends, which preferences hide."""
        environment = self.hidden if labels else self.true
        size = self.size
        return control.Task(environment, size.acting, size.asking, iterations=size.iterations, labels=labels)

    def measure(self, key: jax.Array, agent: control.Agent) -> jax.Array:
        """Measure true returns, in the environment with its ends."""
        return control.true_returns(key, self.true, agent, self.size.episodes)

    @functools.cached_property
    def from_labels(self) -> Any:
        """One program for all numbers of labels, over all seeds at once."""
        size, most = self.size, max(self.size.labels)
        schedules = [self.schedule(labels) for labels in size.labels]
        at_once = max(int(s[0]) for s in schedules), max(int(s[1:].max()) for s in schedules)
        rate = functools.partial(control.synthetic_preferences, error_rate=size.asking.error_rate)

        def run(key: jax.Array, schedule: jax.Array) -> dict[str, jax.Array]:
            every = size.iterations // size.measurements
            task = self.task(most)
            _, figures = control.from_preferences(
                key, task, rate, schedule, at_once=at_once, measure=self.measure, every=every
            )
            return figures

        return jax.jit(jax.vmap(run, (0, None)))

    @functools.cached_property
    def from_truth(self) -> Any:
        """Make the program that learns from the true reward."""
        every = self.size.iterations // self.size.measurements

        def run(key: jax.Array) -> dict[str, jax.Array]:
            return control.from_true_reward(key, self.task(0), measure=self.measure, every=every)[1]

        return jax.jit(jax.vmap(run))

    def schedule(self, labels: int) -> np.ndarray:
        """Say when labels are asked for."""
        return control.label_schedule(labels, self.size.iterations, first_share=self.size.asking.first_share)

    def arm(self, arm: str) -> dict[str, Any]:
        """Run one arm, or read what it left.

        Args:
            arm: a number of labels, or "true reward".

        Returns:
            Returns by seed, measurement and episode, ``returns``; and how the learnt reward goes with the true one.
        """
        path = self.out / f"{arm.replace(' ', '-')}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        began = time.monotonic()
        keys = jax.random.split(jax.random.key(0), self.size.seeds)
        figures = (
            self.from_truth(keys)
            if arm == "true reward"
            else self.from_labels(keys, jnp.asarray(self.schedule(int(arm))))
        )
        steps = self.size.iterations * self.size.acting.environments * self.size.acting.steps
        row = {
            "arm": arm,
            "steps": steps,
            "returns": np.asarray(figures["measured"]).tolist(),
            "correlation": np.asarray(figures.get("reward_correlation", np.zeros(0))).tolist(),
            "seconds": time.monotonic() - began,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, row)
        print(f"{self.name}, {arm}: {shown(row)}, {row['seconds']:.0f} s", flush=True)
        return row


def at_the_end(row: dict[str, Any]) -> np.ndarray:
    """Average the last measurement's episodes: [seeds]."""
    return np.asarray(row["returns"])[:, -1].mean(-1)


def shown(row: dict[str, Any]) -> str:
    """Write the mean over seeds with its interval."""
    returns = at_the_end(row)
    low, high = bootstrap_mean(returns, seed=0)
    return f"{returns.mean():.0f} ({low:.0f} to {high:.0f})"


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Write a line an arm, a column an environment."""
    names, arms = list(rows), [row["arm"] for row in next(iter(rows.values()))]
    lines = ["| labels | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for place, arm in enumerate(arms):
        lines.append(f"| {arm} | " + " | ".join(shown(rows[name][place]) for name in names) + " |")
    return "\n".join(lines)


def figure(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw true return against steps, a panel an environment, a line an arm, with intervals over seeds."""
    from matplotlib.figure import Figure as Page

    page = Page(figsize=(5 * len(rows), 3.6), layout="constrained")
    for axes, (name, arms) in zip(page.subplots(1, len(rows), squeeze=False)[0], rows.items(), strict=True):
        for row in arms:
            curves = np.asarray(row["returns"]).mean(-1)  # [seeds, measurements]
            steps = row["steps"] * np.arange(1, curves.shape[1] + 1) / curves.shape[1]
            low, high = np.array([bootstrap_mean(column, seed=0) for column in curves.T]).T
            (line,) = axes.plot(
                steps, curves.mean(0), label=row["arm"], color="k" if row["arm"] == "true reward" else None
            )
            axes.fill_between(steps, low, high, alpha=0.15, color=line.get_color())
        axes.set_title(name)
        axes.set_xlabel("steps")
    axes.legend(title="labels", fontsize=8)
    page.axes[0].set_ylabel("true return")
    page.savefig(path, dpi=130)


def people(experiment: Experiment, folder: str, labels: int, rounds: int) -> None:
    """Learn from people: a page a round, which is waited for."""
    task = experiment.task(labels)
    ask, schedule = stages.ask_people(folder), control.label_schedule(labels, rounds - 1, first_share=0.5)
    question = SUBJECTS[experiment.name].question
    learner = from_people(jax.random.key(0), task, ask, schedule.tolist(), question=question)
    returns = np.asarray(experiment.measure(jax.random.key(1), learner.agent))
    print(f"{int(learner.said.number)} labels of people: true return {returns.mean():.0f} over {returns.size} episodes")


def main(argv: list[str] | None = None) -> None:
    """Run every arm that is not there yet, and write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/control"))
    parser.add_argument("--environment", choices=SUBJECTS, action="append", help="default: all; may be given again")
    parser.add_argument(
        "--people", metavar="FOLDER", default="", help="people compare clips; what they say is kept here"
    )
    parser.add_argument("--labels", type=int, default=60, help="that people are asked for")
    parser.add_argument("--rounds", type=int, default=4, help="in which people are asked; divides the iterations")
    parser.add_argument("--fast", action="store_true", help="a miniature, to see that it runs")
    options = parser.parse_args(argv)
    size, names = FAST if options.fast else Size(), options.environment or list(SUBJECTS)
    experiments = {name: Experiment(options.out / ("fast" if options.fast else "full"), name, size) for name in names}
    if options.people:
        people(experiments[names[0]], options.people, options.labels, options.rounds)
        return
    arms = ["true reward", *map(str, size.labels[::-1])]
    rows = {name: [experiment.arm(arm) for arm in arms] for name, experiment in experiments.items()}
    folder = next(iter(experiments.values())).out.parent
    (folder / "table.md").write_text(table(rows) + "\n", encoding="utf-8")
    figure(rows, folder / "control_from_preferences.png")
    print(table(rows))


if __name__ == "__main__":
    main()

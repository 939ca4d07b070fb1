"""The loop of rounds: every step leaves a file or a finished stage, and is a function of what the steps before left."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax import checkpoint, processes
from rlhf_jax.compare.choosing import share
from rlhf_jax.data.encode import encode
from rlhf_jax.data.layouts.turns import prompt_of
from rlhf_jax.data.rows import Demonstration, prompt_text
from rlhf_jax.files import write_json
from rlhf_jax.rewards import TextReward
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.fingerprint import fingerprint
from rlhf_jax.runs.folder import read_record
from rlhf_jax.runs.lock import locked
from rlhf_jax.runs.made_of import changed, collect, of_model, read_ingredients
from rlhf_jax.runs.policy import Policy
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.stages import sources
from rlhf_jax.stages.config import check_kind
from rlhf_jax.stages.ingredients import of_judges
from rlhf_jax.stages.judges import choose_judges
from rlhf_jax.stages.ppo import ppo
from rlhf_jax.stages.preference import preference
from rlhf_jax.stages.reward_model import reward_model
from rlhf_jax.stages.rounds.choosing import candidate_pairs, choose
from rlhf_jax.stages.rounds.config import RoundsConfig
from rlhf_jax.stages.rounds.drawing import as_drawn, draw, prompts_of, read, write
from rlhf_jax.stages.rounds.labels import Pair, label, labelled, read_pairs
from rlhf_jax.stages.rounds.old import old_pairs
from rlhf_jax.stages.rounds.retraining import Labelled, accuracy, union
from rlhf_jax.stages.task import Task
from rlhf_jax.targets import check_folder


@dataclasses.dataclass(frozen=True)
class RoundsResult:
    """What rounds have left: their folder, the run folder of the last one, and figures of each."""

    directory: Path
    last: Path
    rounds: list[dict[str, Any]]


def rounds(
    config: RoundsConfig | None = None,
    *,
    judges: Mapping[str, TextReward] | None = None,
    after_round: Callable[[Path], object] | None = None,
) -> RoundsResult:
    """Run rounds of sampling, choosing, labelling, retraining and training on, or go on with those that were begun.

    A run that was stopped anywhere goes on with the same call, bit for bit as if it had never been stopped.

    Args:
        config: the quickstart's task by default.
        judges: callables ``(prompts, responses) -> numbers`` that measure policies, as ``stages.ppo`` takes them;
            ``gold`` can label too. By default those of ``config.judge``, or the data set's own.
        after_round: called with a round's run folder when it is complete, as ``report.write_report`` can be.

    Returns:
        The folder of the last round, a run folder like any other, and each round's figures.

    Raises:
        NeedsPeople: when pairs wait for people; the message says with which commands they compare them.
        RunError: when a folder lacks the policy or the reward model, or holds rounds of another config.
        DataError: on a bad row.
        Interrupted: when a signal stopped a stage; the same call continues.

    Example:
        >>> result = rounds(RoundsConfig(policy="runs/mine", reward_model="runs/mine", label="gold"))  # doctest: +SKIP
    """
    config = RoundsConfig() if config is None else config
    check_kind(config, RoundsConfig, "rounds")
    if processes.several():
        raise RunError("rounds: sampling and choosing run in one process; start them in one")
    if "://" in config.out:
        raise RunError(f"out {config.out}: rounds lie in a folder of this machine; name one")
    directory = Path(config.out)
    check_folder(directory, "out")
    with locked(directory, "the rounds"):
        return _Rounds(config, directory, judges, after_round).run()


class _Rounds:
    """One call: what all rounds have in common."""

    def __init__(
        self,
        config: RoundsConfig,
        directory: Path,
        judges: Mapping[str, TextReward] | None,
        after_round: Callable[[Path], object] | None,
    ):
        self.config, self.directory, self.given, self.after_round = config, directory, judges, after_round
        self.task = sources.find_task(config.asked)
        opinions = self.task if config.asked == config.reward.data else sources.find_task(config.reward.data)
        self.named = config.judge or config.stage.judge
        self.judges = choose_judges(judges, self.named, self.task)
        self._begin()
        self.old = old_pairs(config, opinions)
        self.labelled: list[Labelled] = []

    def _begin(self) -> None:
        """Write down what the rounds are made of, or see that it is what they were begun with."""
        makers = {"policy": lambda: of_model(self.config.policy)}
        if self.config.reference:
            makers["reference"] = lambda: of_model(self.config.reference)
        if self.config.reward_model:
            makers["reward_model"] = lambda: of_model(self.config.reward_model, "reward")
        makers |= of_judges(self.given, self.named, self.config.asked, self.task)
        made_of, path = collect(makers), self.directory / "rounds.json"
        now = json.loads(json.dumps({"config": _deciding(self.config), "made_of": made_of}))
        was = read_record(path)
        if was:
            differ = checkpoint.differences(was.get("config", {}), now["config"])
            differ += changed(read_ingredients(was, f"{path}"), made_of)
            if differ:
                raise RunError(
                    f"{self.directory} holds rounds of another config ({'; '.join(differ[:3])}): name another folder "
                    "with --out"
                )
        else:
            write_json(path, now)

    def run(self) -> RoundsResult:
        """Run all rounds that are not complete."""
        figures = []
        for number in range(1, self.config.rounds + 1):
            figures.append(self.round(number))
            write_json(self.directory / "summary.json", {"rounds": figures})
        return RoundsResult(self.directory, self.folder(self.config.rounds), figures)

    def folder(self, number: int) -> Path:
        """Name the run folder of a round."""
        return self.directory / f"round{number}"

    def policy(self, number: int) -> str:
        """Name the policy that a round has left; before the first it is where the rounds start."""
        return f"{self.folder(number)}:{self.config.method}" if number else self.config.policy

    def reward(self, number: int) -> str:
        """Name the reward model that a round has left; before the first the one that was given."""
        return str(self.folder(number)) if number else self.config.reward_model

    def round(self, number: int) -> dict[str, Any]:
        """Run one round, or what is left of it; return its figures."""
        folder = self.folder(number)
        if not (folder / "pairs.jsonl").exists():
            _say(number, "choosing pairs")
            write(folder / "pairs.jsonl", self.chosen(number))
        pairs = read_pairs(folder / "pairs.jsonl")
        if not (folder / "labels.jsonl").exists():
            _say(number, f"{len(pairs):,} pairs to label by {self.config.label}")
        found = labelled(label(self.config, folder, pairs, number, self.judges), pairs)
        self.labelled.append(found)
        task = union(self.task, self.old, self.labelled, window=self.config.window)
        self.retrain(number, task)
        self.train(number, task)
        if not (folder / "round.json").exists():
            if self.after_round is not None:
                self.after_round(folder)
            write_json(folder / "round.json", self.figures(number, pairs, found))
        return read_record(folder / "round.json")

    def drawn(self, number: int) -> list[dict[str, Any]]:
        """Draw the responses of a round, or read those that were drawn."""
        path = self.folder(number) / "drawn.jsonl"
        if not path.exists():
            if self.config.candidates == "data":
                write(path, as_drawn(self.old.spare(number)))
            else:
                numbers = range(number - 1, max(-1, number - 2 - self.config.earlier), -1)
                policies = {_name(n): Policy.load(self.policy(n)) for n in numbers}
                prompts = prompts_of(self.config, self.task, policies[_name(number - 1)], number)
                write(path, draw(self.config, policies, prompts, number))
        return read(path)

    def chosen(self, number: int) -> list[dict[str, Any]]:
        """Choose the pairs of a round; which of both is a, and what is held out, a hash decides."""
        config, rows = self.config, self.drawn(number)
        prompts = [prompt_of(row, f"{self.folder(number) / 'drawn.jsonl'}:{i}") for i, row in enumerate(rows, start=1)]
        asked = [prompt for prompt, row in zip(prompts, rows, strict=True) for _ in row["responses"]]
        texts = [text for row in rows for text in row["responses"]]
        said_by = [name for row in rows for name in row["policies"]]
        pairs, which = candidate_pairs([row["responses"] for row in rows])
        if not len(pairs):
            raise RunError(f"round {number}: no prompt has two different responses: draw more, or at a temperature")
        members: np.ndarray | None = None
        judge: np.ndarray | None = None
        if config.choose.disputed or config.choose.hard:
            scorer = Scorer.load(self.reward(number - 1))
            each = [Demonstration(prompt, text, "") for prompt, text in zip(asked, texts, strict=True)]
            members = scorer.score_members([encode(one, scorer.tokenizer).tokens[0] for one in each])
        if config.choose.hard:
            judge = np.asarray(self.second_judge()([prompt_text(prompt) for prompt in asked], texts), np.float64)
        found = choose(pairs, which, config.choose, members=members, judge=judge, seed=config.seed * 1_000_003 + number)
        if len(found) < config.choose.pairs:
            _say(number, f"there are {len(found):,} pairs to choose, fewer than the {config.choose.pairs:,} asked for")
        made = []
        for one in found:
            i, j = pairs[one.pair].tolist()
            turned = share(config.seed, number, "side", i, j) < 0.5
            a, b = (j, i) if turned else (i, j)
            prompt = int(which[one.pair])
            row = rows[prompt]
            made.append(
                {
                    "prompt": row["prompt"],
                    "a": texts[a],
                    "b": texts[b],
                    "chosen_by": one.why,
                    "heldout": _part(config, number, prompt),
                    "model_a": said_by[a],
                    "model_b": said_by[b],
                    **({"share": 1 - row["share"] if turned else row["share"]} if "share" in row else {}),
                }
            )
        return made

    def second_judge(self) -> TextReward:
        """Find the judge that hard negatives are found by: one of the data set's by its name, or any other."""
        name = self.config.choose.judge
        if name in self.judges:
            return self.judges[name]
        return choose_judges(None, (f"second={name}",), self.task)["second"]

    def retrain(self, number: int, task: Task) -> None:
        """Train the round's reward model on the union."""
        config = self.config
        init = config.reward_init or config.reference or config.policy
        if config.retrain == "continue":
            init = f"{self.reward(number - 1)}:reward"
        reward_model(
            dataclasses.replace(config.reward, out=str(self.folder(number)), init=init, **self.shared(number)),
            task=task,
        )

    def train(self, number: int, task: Task) -> None:
        """Train the policy on, from where the round before has left it."""
        config, out = self.config, str(self.folder(number))
        places: dict[str, Any] = {"out": out, "policy": self.policy(number - 1), **self.shared(number)}
        if config.reference or (number > 1 and not config.stage.lora.rank):
            places["reference"] = config.reference or config.policy
        if self.named:
            places["judge"] = self.named
        if config.method == "ppo":
            ppo(dataclasses.replace(config.ppo, reward_model=out, **places), judges=self.given)
            return
        preference(
            dataclasses.replace(config.preference, data=config.reward.data, prompts=config.asked, **places),
            judges=self.given,
            task=task,
        )

    def shared(self, number: int) -> dict[str, Any]:
        """The fields that all stages of a round share."""
        return {"seed": self.config.seed + number, "mesh": self.config.mesh}

    def figures(self, number: int, pairs: list[Pair], found: Labelled) -> dict[str, Any]:
        """Put together what a round came to."""
        config, summary = self.config, read_record(self.folder(number) / "summary.json")
        models = {"after": Scorer.load(self.reward(number))}
        if self.reward(number - 1):
            models = {"before": Scorer.load(self.reward(number - 1)), **models}
        kinds = {kind: sum(pair.why == kind for pair in pairs) for kind in ("random", "disputed", "hard")}
        policy = summary[config.method]
        judges = [name.removesuffix("_win_rate") for name in policy if name.endswith("_win_rate")]
        ends = ("before", "after", "win_rate", "win_rate_ci", "accuracy", "accuracy_ci", "accuracy_before")
        kept = [f"{judge}_{end}" for judge in judges for end in ends]
        return {
            "round": number,
            "pairs": len(pairs),
            "chosen": kinds,
            "labels": {part or "train": len(rows) for part, rows in found.items()},
            "reward_accuracy": {when: accuracy(model, found["test"]) for when, model in models.items()},
            "policy": {name: policy[name] for name in ("kl", "kl_ci", "length", *kept) if name in policy},
            "seconds": {name: summary["seconds"][name] for name in ("reward", config.method)},
        }


def _name(number: int) -> str:
    """What rows call the policy that a round has left."""
    return f"round{number}" if number else "start"


def _part(config: RoundsConfig, number: int, prompt: int) -> str:
    """Which part all pairs of a prompt are in: "" to train on; validation or test, half each, of what is held out."""
    drawn = share(config.seed, number, "part", prompt)
    if drawn >= config.heldout:
        return ""
    return "validation" if drawn < config.heldout / 2 else "test"


def _deciding(config: RoundsConfig) -> dict[str, Any]:
    """The fields that decide the result, without how many rounds there are to be and where things lie."""
    nested = {name: fingerprint(vars(config)[name]) for name in ("reward", "ppo", "preference")}
    own = {k: v for k, v in fingerprint(config).items() if k not in ("rounds", *nested)}
    return {**own, **nested}


def _say(number: int, what: str) -> None:
    print(f"round {number}: {what}", file=sys.stderr)

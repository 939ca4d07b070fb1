"""RLAIF: an AI judge's labels in place of people's, from the same SFT policy, on the same budget, up to the policy.

Command:  python experiments/rlaif.py            (--fast for a miniature; --policy RUN takes the SFT policy of a run)
Hardware: 2 CPU cores, float32
Time:     45 minutes beside other work, SFT not counted
Result:   gold win rate over SFT on 256 prompts (95% interval), mean tokens (SFT: 20.6); 1,000 labels unless said

    people                                        64.6% (58.8 to 70.5)   10.0
    RLAIF                                         43.9% (37.8 to 50.0)   7.3
    RLAIF, same-size judge, 2,941 labels          39.5% (33.3 to 45.9)   7.3
    RLAIF, one order                              46.5% (40.0 to 52.7)   20.3
    SmolLM2's score, no reward model              45.7% (39.6 to 51.9)   7.6
    VADER's labels, 3,941 labels                  80.7% (75.8 to 85.4)   15.2
    people, more labels, 4,000 labels             65.6% (60.0 to 71.5)   14.0

The judge is SmolLM2-135M-Instruct, asked whether a text is positive (sentiment_judge.py). Pairs are two samples of the
SFT policy; people's are sentences, one label of one person each. SmolLM2 agrees with gold on samples in 59.1% (56.1 to
62.3), as VADER does, and does badly: its labels and its own score make policies below SFT, while four times as many
labels of VADER, which cost nothing, win. docs/rlaif.md has the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentiment_judge
from rlaif_figures import (
    Arm,
    Figure,
    Labels,
    Row,
    arm_table,
    describe_labels,
    describe_policy,
    figure,
    label_table,
    shown,
    with_interval,
)

from rlhf_jax import data, evaluation, feedback, models, parallel, stages
from rlhf_jax.data import Example, write_jsonl
from rlhf_jax.data.hutto import PROMPTS
from rlhf_jax.feedback.judges import Judge, Verdicts, from_scores
from rlhf_jax.files import write_json
from rlhf_jax.judges import JudgeConfig
from rlhf_jax.models import ModelConfig
from rlhf_jax.rewards import TextReward
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.fetch import fetch
from rlhf_jax.runs.policy import Policy
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.stages import DataConfig, PPOConfig, RewardConfig, SFTConfig, human_sentiment
from rlhf_jax.stages.implicit_reward import sequence_logprobs
from rlhf_jax.training import OptimizerConfig

SAMPLING = SamplingConfig(max_new_tokens=32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How large everything is."""

    model: ModelConfig = ModelConfig()
    vocab_size: int = 4096
    sft_limit: int = 0  # demonstrations; 0: all
    sft_epochs: int = 2
    pairs: int = 1000  # the budget: pairs of samples that the language model labels, and pairs that people label
    sentences: int = 200  # of the people's pairs, which it labels too, to be measured against them
    ordered: int = 100  # of the pairs of samples, which it reads two at a time, in both orders
    many: int = 4000  # pairs of judges that cost next to nothing
    reward_epochs: int = 2
    judge_epochs: int = 3
    iterations: int = 16  # of PPO, of 64 responses each
    heldout: int = 64  # prompts on which PPO's checkpoint is chosen
    test_prompts: int = 256
    test_pairs: int = 1  # pairs a test sentence, on which reward models are measured


FAST = Size(
    model=ModelConfig(d_model=48, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=24, d_ff=128),
    vocab_size=512,
    sft_limit=800,
    sft_epochs=1,
    pairs=40,
    sentences=16,
    ordered=16,
    many=60,
    reward_epochs=1,
    judge_epochs=1,
    iterations=2,
    heldout=16,
    test_prompts=32,
)


# Labels: who says which of two is better


def word_list(prompts: Sequence[Any], responses: Sequence[Sequence[str]]) -> Verdicts:
    """VADER as a judge that costs nothing: the response with the higher score has the whole vote."""

    def score(prompts: Sequence[Any], responses: Sequence[str]) -> np.ndarray:
        return evaluation.vader(human_sentiment.whole_sentences(prompts, responses))

    return from_scores(score, scale=0.0)(prompts, responses)


def people_pairs(count: int, seed: int) -> tuple[list[Row], np.ndarray]:
    """Draw pairs of the training split's sentences, each sentence once, with what one person says and what all say.

    Args:
        count: pairs.
        seed: decides which sentences, and who is asked.

    Returns:
        Rows of which ``preference`` is one person's, the two ratings being drawn from all of them; and [n], the share
        of all pairs of raters who prefer the first.
    """
    sentences = data.human_sentiment.load("train")
    rng = np.random.default_rng(seed)
    by_domain = {name: rng.permutation([i for i, s in enumerate(sentences) if s.domain == name]) for name in PROMPTS}
    couples = np.concatenate([order[: len(order) // 2 * 2].reshape(-1, 2) for order in by_domain.values()])
    rows, everybody = [], []
    for i, j in rng.permutation(couples)[:count].tolist():
        a, b = sentences[i], sentences[j]
        one = float(np.sign(int(rng.choice(a.ratings)) - int(rng.choice(b.ratings))))
        pair = {"prompt": PROMPTS[a.domain], "a": a.text, "b": b.text}
        rows.append({**pair, "preference": 0.5 + 0.5 * one, "rater": "one person", "source": "person"})
        everybody.append(feedback.vote_share(a.ratings, b.ratings))
    return rows, np.array(everybody)


def only_pairs(rows: Sequence[Row]) -> list[Row]:
    """Take what a reward model learns from."""
    return [{key: row[key] for key in ("prompt", "a", "b", "preference", "rater", "source")} for row in rows]


# Every pair of sentences has one of four prompts: parts by prompt would hold out whole domains.
PARTS = '''"""The pairs beside this file: nine of ten to train on, and one that chooses the checkpoint."""

from pathlib import Path

from rlhf_jax.data import layouts, read_jsonl
from rlhf_jax.data.parts import Parts
from rlhf_jax.stages import Task

ROWS, _ = read_jsonl(Path(__file__).with_name("pairs.jsonl"), layouts.comparison)
HELD = ROWS[::10]
pairs = Task(opinions=lambda config: Parts([r for i, r in enumerate(ROWS) if i % 10], HELD, HELD), leaves_out_long=True)
'''


# From labels to a policy


class Experiment:
    """The SFT policy, the labels, and the arms: each fills a folder of its own and is skipped where that is full."""

    def __init__(self, out: Path, size: Size, policy: str, seed: int):
        self.out, self.size, self.seed = out, size, seed
        self.policy = policy or str(out / "sft")
        self.labels: list[Labels] = []
        self.arms: list[Arm] = []

    @functools.cached_property
    def gold(self) -> Mapping[str, TextReward]:
        """The judges that measure and never train, ``gold`` and ``vader``."""
        return human_sentiment.judges()

    def sft(self) -> None:
        """Train the policy that every arm starts from, unless one was given."""
        if self.policy != str(self.out / "sft"):
            return
        size = self.size
        config = SFTConfig(
            out=self.policy,
            data=DataConfig(limit=size.sft_limit),
            model=size.model,
            vocab_size=size.vocab_size,
            epochs=size.sft_epochs,
        )
        stages.sft(config)

    def label(self, source: str, name: str, judge: JudgeConfig | Judge, *, limit: int = 0) -> list[Row]:
        """Have a judge label samples of the SFT policy, or the pairs of a file, as far as it has not yet."""
        named = judge if isinstance(judge, JudgeConfig) else None
        config = stages.LabelConfig(
            source=source,
            to=str(self.out / "labels" / f"by-{name}.jsonl"),
            judge=named,
            rater=name,
            limit=limit,
            seed=self.seed,
            sampling=SAMPLING,
        )
        return stages.label(config, judge=None if isinstance(judge, JudgeConfig) else judge).rows

    def pairs_file(self, name: str, rows: Sequence[Row]) -> str:
        """Write pairs without what was said of them, for another judge to read."""
        path = self.out / "labels" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(path, [{key: row[key] for key in ("prompt", "a", "b")} for row in rows])
        return str(path)

    def by_gold(self, rows: Sequence[Row]) -> np.ndarray:
        """Ask the gold judge which response of each pair is better: 1 the first, 0 the second."""
        prompts = [row["prompt"] for row in rows]
        a, b = (np.asarray(self.gold["gold"](prompts, [row[side] for row in rows])) for side in "ab")
        return 0.5 + 0.5 * np.sign(a - b)

    def same_size(self, rows: Sequence[Row]) -> str:
        """Teach the SFT policy to judge, by what the language model said of single samples: a judge of its own size."""
        scored = [(row["prompt"], row[side], row[f"score_{side}"]) for row in rows for side in "ab"]
        middle = float(np.median([score for _, _, score in scored]))
        texts = human_sentiment.whole_sentences([prompt for prompt, _, _ in scored], [text for _, text, _ in scored])
        path, folder = self.out / "labels" / "verdicts.jsonl", str(self.out / "same-size-judge")
        write_jsonl(
            path,
            [
                {"prompt": sentiment_judge.question(text), "response": sentiment_judge.WORDS[int(score < middle)]}
                for text, (_, _, score) in zip(texts, scored, strict=True)
            ],
        )
        config = SFTConfig(
            out=folder,
            init=self.policy,
            data=DataConfig(source=str(path)),
            epochs=self.size.judge_epochs,
            rows=8,
            eval_every=20,
            optimizer=OptimizerConfig(learning_rate=5e-4),
            seed=self.seed,
        )
        stages.sft(config)
        return folder

    def reward(self, name: str, rows: Sequence[Row]) -> str:
        """Train a reward model on labelled pairs."""
        folder = self.out / name
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / "pairs.jsonl", rows)
        (folder / "pairs.py").write_text(PARTS, encoding="utf-8")
        stages.reward_model(
            RewardConfig(
                out=str(folder),
                init=self.policy,
                data=DataConfig(source=f"{folder / 'pairs.py'}:pairs"),
                rows=8,
                epochs=self.size.reward_epochs,
                eval_every=30,
                seed=self.seed,
            )
        )
        return str(folder)

    def ppo(self, name: str, **reward: Any) -> None:
        """Train the SFT policy by PPO, on a reward model or on a judge itself."""
        size = self.size
        config = PPOConfig(
            out=str(self.out / name),
            policy=self.policy,
            reward_model="" if reward else str(self.out / name),
            max_prompt_length=24,
            sampling=SAMPLING,
            iterations=size.iterations,
            epochs=2,
            policy_optimizer=OptimizerConfig(learning_rate=4e-4, weight_decay=0.0),
            eval_every=max(1, size.iterations // 2),
            checkpoint_every=2,
            eval_prompts=size.heldout,
            test_prompts=16,  # policies are compared below, all of them on more
            seed=self.seed,
        )
        stages.ppo(config, **reward)

    def respond(self, name: str) -> list[Row]:
        """Answer the test prompts with a policy, always with the same keys, and score the answers."""
        path = self.out / "responses" / f"{name or 'sft'}.jsonl"
        if path.exists():
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        path.parent.mkdir(parents=True, exist_ok=True)
        before = Policy.load(self.policy, "sft")
        policy = Policy.load(self.out / name, "ppo") if name else before
        asked = [row.prompt for row in human_sentiment.TASK.asked("prompts", "human_sentiment")(DataConfig()).test]
        chosen = np.random.default_rng(0).permutation(len(asked))[: self.size.test_prompts]
        rows = list(policy.sample([asked[i] for i in sorted(chosen)], sampling=SAMPLING, seed=1))
        at_first = self._logprobs(before, rows)
        prompts, texts = [row["prompt"] for row in rows], [row["response"] for row in rows]
        scores = {judge: np.asarray(score(prompts, texts)) for judge, score in self.gold.items()}
        for i, row in enumerate(rows):
            row |= {judge: float(found[i]) for judge, found in scores.items()}
            row |= {"kl": row["logprob"] - float(at_first[i]), "ended": row["tokens"][-1] == policy.tokenizer.eos_id}
        write_jsonl(path, rows)
        return rows

    def _logprobs(self, policy: Policy, rows: Sequence[Row]) -> np.ndarray:
        asked = [policy.tokenizer.encode_prompt(row["prompt"]) for row in rows]
        examples = [
            Example((np.append(p, row["tokens"]).astype(np.int32),), (len(p),))
            for p, row in zip(asked, rows, strict=True)
        ]
        model = models.build(policy.config)
        shape = {"rows": 8, "row_length": 128, "pad_id": policy.tokenizer.pad_id}
        mesh = parallel.make_mesh(parallel.MeshConfig())
        return sequence_logprobs(model, policy.params, examples, mesh=mesh, **shape)

    @functools.cached_property
    def sample_pairs(self) -> list[tuple[str, str, str, float]]:
        """Two samples of the SFT policy to prompts of the validation split, and which of them gold finds better."""
        asked = [
            row.prompt for row in human_sentiment.TASK.asked("prompts", "human_sentiment")(DataConfig()).validation
        ]
        chosen = np.random.default_rng(0).permutation(len(asked))[: self.size.test_prompts]
        rows = list(Policy.load(self.policy, "sft").sample([asked[i] for i in chosen], n=2, sampling=SAMPLING, seed=2))
        gold = np.asarray(self.gold["gold"]([r["prompt"] for r in rows], [r["response"] for r in rows])).reshape(-1, 2)
        couples = zip(rows[::2], rows[1::2], gold, strict=True)
        return [(a["prompt"], a["response"], b["response"], float(g[0] - g[1])) for a, b, g in couples]

    def reward_figures(self, name: str) -> dict[str, Figure | None]:
        """Measure a reward model: on what people said of the test split's sentences, and on samples, by gold."""
        if not (self.out / name / "params" / "reward").exists():
            return {"on_people": None, "on_samples": None}
        score, sentences = Scorer.load(self.out / name), data.human_sentiment.load("test")
        pairs = feedback.random_pairs([s.domain for s in sentences], self.size.test_pairs, seed=0)
        share = np.array([feedback.vote_share(sentences[i].ratings, sentences[j].ratings) for i, j in pairs])
        scores = score([PROMPTS[s.domain] for s in sentences], [s.text for s in sentences])
        counted, right = evaluation.pair_accuracy(scores, pairs, share)
        people = (
            float(right[counted].mean()),
            evaluation.bootstrap_pairs(right[counted], pairs[counted], seed=0),
        )
        couples = self.sample_pairs
        gap = score([c[0] for c in couples], [c[1] for c in couples]) - score(
            [c[0] for c in couples], [c[2] for c in couples]
        )
        gold = np.sign([c[3] for c in couples])
        return {"on_people": people, "on_samples": with_interval((0.5 + 0.5 * np.sign(gap) * gold)[gold != 0])}

    def describe(self, name: str, rows: Sequence[Row], truth: np.ndarray, *, one_order: bool = False) -> None:
        """Add labels to the table."""
        self.labels.append(describe_labels(name, rows, truth, one_order=one_order))
        self.write()

    def arm(self, name: str, folder: str, rows: Sequence[Row]) -> None:
        """Go from labels to a policy, and add what came of it to the table."""
        self.reward(folder, only_pairs(rows))
        self.ppo(folder)
        self.measure(name, folder, len(rows))

    def measure(self, name: str, folder: str, labels: int) -> None:
        """Measure a policy, and its reward model if it has one."""
        found = {**self.reward_figures(folder), **describe_policy(self.respond(""), self.respond(folder))}
        self.arms.append(Arm(name=name, labels=labels, **found))
        self.write()
        print(arm_table(self.arms[-1:]).splitlines()[-1], flush=True)

    def write(self) -> None:
        """Write table.md, rlaif.json and figure.png: whoever stops early keeps what is done."""
        self.out.mkdir(parents=True, exist_ok=True)
        text = f"{label_table(self.labels)}\n\n{arm_table(self.arms)}\n"
        (self.out / "table.md").write_text(text, encoding="utf-8")
        labels, arms = ([dataclasses.asdict(one) for one in some] for some in (self.labels, self.arms))
        write_json(self.out / "rlaif.json", {"labels": labels, "arms": arms})
        figure(self.labels, self.arms, self.out / "figure.png")


def run(x: Experiment) -> None:
    """Run what is not done yet, the cheap arms first, and measure all of it."""
    size = x.size
    x.sft()
    people, everybody = people_pairs(size.many, x.seed)
    budget = people[: size.pairs]
    x.describe("one person, sentences", budget, everybody[: size.pairs])
    x.arm("people", "people", budget)
    listed = x.label(f"{x.policy}:sft", "vader", word_list, limit=size.many)
    x.describe("VADER, samples", listed, x.by_gold(listed))

    samples = x.pairs_file("samples", listed[: size.pairs])
    asked = x.label(samples, "smollm2", sentiment_judge.smollm2)
    x.describe("SmolLM2, samples", asked, x.by_gold(asked))
    x.arm("RLAIF", "rlaif", asked)

    untaught = x.label(samples, "untaught", functools.partial(votes_of, f"{x.policy}:sft"))
    x.describe("the SFT policy itself, samples", untaught, x.by_gold(untaught))
    folder = x.same_size(asked)
    others = x.pairs_file("more-samples", listed[size.pairs :])
    taught = x.label(others, "same-size", functools.partial(votes_of, folder))
    x.describe("same size, taught by SmolLM2, other samples", taught, x.by_gold(taught))
    x.arm("RLAIF, same-size judge", "rlaif-same-size", taught)

    pairs = JudgeConfig(judge=str(fetch("smollm2-135m")), criterion="The response is positive in tone.")
    ordered = x.label(x.pairs_file("ordered", listed[: size.ordered]), "smollm2-pairs", pairs)
    x.describe("SmolLM2 asked for A or B, both orders", ordered, x.by_gold(ordered))
    x.describe("SmolLM2 asked for A or B, one order", ordered, x.by_gold(ordered), one_order=True)
    biased = with_a_taste_for_places(asked, ordered, x.seed)
    x.describe("SmolLM2 with that taste for places, one order", biased, x.by_gold(biased))
    x.arm("RLAIF, one order", "rlaif-one-order", biased)

    x.ppo("direct", reward=sentiment_judge.smollm2_score)
    x.measure("SmolLM2's score, no reward model", "direct", 0)

    said = {(row["a"], row["b"]): share for row, share in zip(people, everybody, strict=True)}
    some = x.pairs_file("sentences", people[: size.sentences])
    sentences = x.label(some, "smollm2-sentences", sentiment_judge.smollm2)
    x.describe("SmolLM2, sentences", sentences, np.array([said[row["a"], row["b"]] for row in sentences]))

    x.arm("VADER's labels", "vader", listed)
    x.arm("people, more labels", "people-many", people)


def with_a_taste_for_places(rows: Sequence[Row], ordered: Sequence[Row], seed: int) -> list[Row]:
    """Plant in labels what the place of a response does to a judge that is asked for A or B, once and in one order.

    ``preference = 1[score_a - score_b + t > 0]``, where t is the taste for the first place, in log-odds, of one of the
    pairs that were asked in both orders: ``t = (logit(shown first) - logit(shown second)) / 2``.
    """
    first, second = (np.log(x) - np.log1p(-x) for x in (np.clip(s, 1e-4, 1 - 1e-4) for s in shown(ordered)))
    taste = np.random.default_rng(seed).choice((first - second) / 2, len(rows))
    better = np.array([row["score_a"] - row["score_b"] for row in rows])
    return [
        {key: row[key] for key in ("prompt", "a", "b", "rater", "source")} | {"preference": float(x > 0)}
        for row, x in zip(rows, better + taste, strict=True)
    ]


def votes_of(path: str, prompts: Sequence[Any], responses: Sequence[Sequence[str]]) -> Verdicts:
    """Vote with a checkpoint or a run's policy that is asked for the sentiment of each response."""
    return from_scores(functools.partial(sentiment_judge.score, path))(prompts, responses)


def main() -> None:
    """Run what is not done yet, then write the tables and the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of all runs; runs/rlaif by default")
    parser.add_argument("--fast", action="store_true", help="a miniature of every run, to see that everything works")
    parser.add_argument("--policy", default="", help="a run whose SFT policy every arm starts from; trained by default")
    parser.add_argument("--seed", type=int, default=0, help="everything random comes from it")
    options = parser.parse_args()
    out = options.out or Path("runs/rlaif-fast" if options.fast else "runs/rlaif")
    experiment = Experiment(out, FAST if options.fast else Size(), options.policy, options.seed)
    run(experiment)
    print((out / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

"""Constitutional AI on sentences that people rated: revisions by principles about tone, comparisons by them, RL.

Command:  python experiments/constitutional.py            (--fast: a miniature; --policy RUN: the SFT policy of a run)
Hardware: 2 CPU cores, float32
Time:     72 minutes under a load of 14 to 19, 22 minutes of processor time, from the SFT policy of a quickstart
          (--policy; without, it is trained first)
Result:   95% intervals, seed 0, 2026-11-28. SmolLM2-135M-Instruct criticises and revises 64 sentences in two rounds: a
          revision is taken of 95.3% (89.1 to 100.0), better by gold 62.5% (51.6 to 73.4), worse 32.8% (21.9 to 45.3);
          7.8% (3.9 to 12.5) of revisions only echo; violations (gold below 0) 31.2% before, 26.6% after, the difference
          -4.7 points (-20.3 to +10.9); once and without a critique 31.2% and 17.2%, -14.1 (-25.0 to -3.1), 15.6% being
          worse. Of its comparisons by principle 63.7% (57.0 to 71.0) are gold's.

                                gold win rate over SFT    violations               words
              SFT               50%                       46.1% (40.2 to 52.3)     12.5
              SFT on revisions  59.6% (53.5 to 65.4)      35.2% (29.7 to 41.0)     10.3
              PPO, principles   62.9% (56.8 to 68.6)      29.3% (23.8 to 34.8)      6.1
              PPO, both         61.7% (55.6 to 67.5)      32.8% (27.3 to 38.7)      4.7
              PPO, people       73.2% (67.5 to 78.3)      23.0% (18.0 to 28.1)      8.2

Where it does badly: critiques are hardly ever about the sentence, and repeat the examples; revisions are positive and
forget what was said; RL on comparisons by principle adds 3 points to imitation, within the interval, and halves the
length; mixed with people's pairs it is no better, and people's pairs alone are, as people rate the very thing that the
principles are about. The sizes are 64 sentences, 193 and 200 pairs, 8 iterations of 64 samples, 256 test prompts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from constitutional_figures import Figure, difference, mean, policy_table, revision_figures, revision_table

from rlhf_jax import data, evaluation, feedback, stages
from rlhf_jax.data import write_jsonl
from rlhf_jax.data.hutto import PROMPTS
from rlhf_jax.data.order import evenly
from rlhf_jax.data.rows import Prompt, prompt_text
from rlhf_jax.feedback import Principles, Verdicts, read_principles, votes_of_scores
from rlhf_jax.files import write_json
from rlhf_jax.judges.language_model import LanguageModel
from rlhf_jax.models import ModelConfig
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.fetch import fetch
from rlhf_jax.runs.policy import Policy
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.stages import DataConfig, PPOConfig, RewardConfig, SFTConfig, human_sentiment
from rlhf_jax.stages.constitution.examples import read_examples
from rlhf_jax.training import OptimizerConfig

HERE = Path(__file__).parent
PRINCIPLES, EXAMPLES = HERE / "tone.txt", HERE / "tone_examples.jsonl"
SAMPLING = SamplingConfig(max_new_tokens=32)
REVISING = SamplingConfig(max_new_tokens=32, temperature=0.7, window=32)
# What a small model answers better than a question in a chat: a line to complete, and the two words that may follow.
COMPLETED = {"positive": ("Sentiment", "positive", "negative"), "friendly": ("Tone", "friendly", "hostile")}

Row = dict[str, Any]


class Size(NamedTuple):
    """How large everything is."""

    answers: int = 64  # responses that are criticised and revised
    rounds: int = 2
    pairs: int = 200  # that the judge compares by principles, and as many that people compare
    sft_epochs: int = 6  # on revisions
    reward_epochs: int = 3
    iterations: int = 8  # of PPO, of 64 responses each
    test_prompts: int = 256
    base: SFTConfig = SFTConfig()


TINY = ModelConfig(d_model=48, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=24, d_ff=128)
FAST = Size(
    answers=8,
    rounds=1,
    pairs=16,
    sft_epochs=1,
    reward_epochs=1,
    iterations=2,
    test_prompts=32,
    base=SFTConfig(data=DataConfig(limit=800), model=TINY, vocab_size=512, epochs=1),
)

# Every row has one of four prompts: parts by prompt would hold out whole domains.
_PARTS = '''"""The rows beside this file: nine of ten to train on, and one that chooses the checkpoint."""

from pathlib import Path

from rlhf_jax.data import layouts, read_jsonl
from rlhf_jax.data.parts import Parts
from rlhf_jax.stages import Task

ROWS, _ = read_jsonl(Path(__file__).with_name("rows.jsonl"), layouts.{layout})
HELD = ROWS[::10]
task = Task({kind}=lambda config: Parts([r for i, r in enumerate(ROWS) if i % 10], HELD, HELD), leaves_out_long=True)
'''


def by_principle(model: LanguageModel, principles: Principles, seed: int) -> Callable[..., Verdicts]:
    """Make a judge that votes by the principle drawn for each prompt, from the likelihood of the words that name it."""

    def vote(prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> Verdicts:
        drawn = np.array([principles.draw(seed, prompt_text(prompt)).name for prompt in prompts])
        scores = np.zeros((len(prompts), len(responses[0])))
        for name in np.unique(drawn):
            label, *words = COMPLETED[name]
            of_it = np.flatnonzero(drawn == name).tolist()
            texts = [
                text
                for i in of_it
                for text in human_sentiment.whole_sentences([str(prompts[i])] * len(responses[i]), responses[i])
            ]
            shares = model.choose([f"Text: {text}\n{label}:" for text in texts], words)
            odds = np.log(np.maximum(shares, 1e-9)) @ np.array([1.0, -1.0])
            scores[of_it] = odds.reshape(len(of_it), -1)
        return Verdicts(votes_of_scores(scores), scores=scores.astype(np.float32))

    return vote


def people_pairs(count: int, seed: int) -> list[Row]:
    """Draw pairs of training sentences of one domain, each sentence once, with what people say of them."""
    sentences = data.human_sentiment.load("train")
    rng = np.random.default_rng(seed)
    rows = []
    for name, prompt in PROMPTS.items():
        own = rng.permutation([i for i, s in enumerate(sentences) if s.domain == name])[: 2 * (count // 4)]
        for i, j in own.reshape(-1, 2).tolist():
            a, b = sentences[i], sentences[j]
            share = feedback.vote_share(a.ratings, b.ratings)
            rows.append({"prompt": prompt, "a": a.text, "b": b.text, "preference": float(share), "source": "person"})
    return rows


class Experiment:
    """Every step fills a file or a folder and is passed over where that is there."""

    def __init__(self, out: Path, size: Size, policy: str, seed: int):
        self.out, self.size, self.seed = out, size, seed
        self.base = f"{policy or out / 'base'}:sft"
        self.gold = human_sentiment.judges()["gold"]
        self.principles = read_principles(PRINCIPLES)
        self.found: dict[str, Any] = {"revisions": {}, "comparisons": {}, "rewards": {}, "policies": {}}
        out.mkdir(parents=True, exist_ok=True)

    def scored(self, rows: Sequence[Row], field: str) -> np.ndarray:
        """Ask gold, the judge fitted to people's ratings of other sentences: below 0 is negative."""
        return np.asarray(self.gold([row["prompt"] for row in rows], [row[field] for row in rows]))

    def prompts(self, part: str, count: int) -> list[str]:
        """Some prompts of the quickstart's task: an instruction and the first words of a sentence."""
        every = human_sentiment.TASK.asked("prompts", "human_sentiment")(DataConfig())
        return [row.prompt for row in evenly(getattr(every, part), count)]

    def answer(self) -> str:
        """Have the SFT policy write sentences, which stand as whole ones beside their instruction."""
        path = self.out / "answers.jsonl"
        if not path.exists():
            rows = list(
                Policy.load(self.base).sample(self.prompts("train", self.size.answers), sampling=SAMPLING, seed=2)
            )
            asked = [row["prompt"] for row in rows]
            whole = human_sentiment.whole_sentences(asked, [row["response"] for row in rows])
            write_jsonl(
                path,
                [
                    {"prompt": PROMPTS[human_sentiment.domain_of(prompt)], "response": text}
                    for prompt, text in zip(asked, whole, strict=True)
                ],
            )
        return str(path)

    def revise(self, name: str, *, critique: bool, rounds: int) -> list[Row]:
        """Have SmolLM2 revise the sentences, and measure what it did."""
        config = stages.ReviseConfig(
            source=self.answer(),
            principles=str(PRINCIPLES),
            examples=str(EXAMPLES),
            reviser=str(fetch("smollm2-135m")),
            to=str(self.out / f"{name}.jsonl"),
            rounds=rounds,
            critique=critique,
            revising=REVISING,
            seed=self.seed,
        )
        found = stages.revise(config)
        self.found["revisions"][name] = revision_figures(
            found.rows,
            found.summary,
            self.scored(found.rows, "first"),
            self.scored(found.rows, "response"),
            read_examples(str(EXAMPLES), self.principles, critique=critique),
        )
        self.write()
        return found.rows

    def task(self, name: str, rows: Sequence[Row], kind: str, layout: str) -> DataConfig:
        """Write rows and the file that reads them."""
        folder = self.out / name
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / "rows.jsonl", rows)
        (folder / "rows.py").write_text(_PARTS.format(kind=kind, layout=layout), encoding="utf-8")
        return DataConfig(source=f"{folder / 'rows.py'}:task")

    def imitate(self, name: str, rows: Sequence[Row]) -> str:
        """Train the SFT policy further on the sentences of which a revision was taken."""
        taken = [{k: row[k] for k in ("prompt", "response")} for row in rows if row["response"] != row["first"]]
        config = SFTConfig(
            out=str(self.out / name),
            init=self.base,
            data=self.task(name, taken, "demonstrations", "demonstration"),
            rows=2,
            epochs=self.size.sft_epochs,
            eval_every=8,
            optimizer=OptimizerConfig(learning_rate=5e-4),
            seed=self.seed,
        )
        stages.sft(config)
        return f"{self.out / name}:sft"

    def compare(self, policy: str) -> list[Row]:
        """Have SmolLM2 compare two samples of a policy to each prompt, by the principle that is drawn for it."""
        write_jsonl(self.out / "asked.jsonl", [{"prompt": p} for p in self.prompts("train", self.size.pairs)])
        loaded = LanguageModel.load(str(fetch("smollm2-135m")))
        plain = LanguageModel(loaded.config, loaded.params, loaded.tokenizer.with_format("plain"), loaded.called)
        config = stages.LabelConfig(
            source=policy,
            prompts=str(self.out / "asked.jsonl"),
            to=str(self.out / "comparisons.jsonl"),
            rater="SmolLM2",
            limit=0,
            sampling=SAMPLING,
            seed=self.seed,
        )
        rows = stages.label(config, judge=by_principle(plain, self.principles, self.seed)).rows
        gap = self.scored(rows, "a") - self.scored(rows, "b")
        votes = np.array([row["preference"] for row in rows])
        drawn = [self.principles.draw(self.seed, row["prompt"]).name for row in rows]
        right = 0.5 + 0.5 * np.sign(gap) * np.sign(votes - 0.5)
        self.found["comparisons"] = {"all": mean(right)} | {
            name: mean(right[[one == name for one in drawn]]) for name in sorted(set(drawn))
        }
        self.write()
        return [{**row, "source": "principle"} for row in rows]

    def reward(self, name: str, rows: Sequence[Row]) -> None:
        """Train a reward model on comparisons, and measure it on what people say of the test split."""
        said = ("prompt", "a", "b", "preference", "source")
        stages.reward_model(
            RewardConfig(
                out=str(self.out / name),
                init=self.base,
                data=self.task(name, [{k: row[k] for k in said} for row in rows], "opinions", "comparison"),
                rows=8,
                epochs=self.size.reward_epochs,
                eval_every=30,
                seed=self.seed,
            )
        )
        sentences = data.human_sentiment.load("test")
        pairs = feedback.random_pairs([s.domain for s in sentences], 1, seed=0)
        share = np.array([feedback.vote_share(sentences[i].ratings, sentences[j].ratings) for i, j in pairs])
        scores = Scorer.load(self.out / name)([PROMPTS[s.domain] for s in sentences], [s.text for s in sentences])
        counted, right = evaluation.pair_accuracy(scores, pairs, share)
        interval = evaluation.bootstrap_pairs(right[counted], pairs[counted], seed=0)
        self.found["rewards"] |= {name: (float(right[counted].mean()), interval)}
        self.write()

    def ppo(self, name: str, policy: str) -> str:
        """Train a policy by PPO on the reward model of the same folder."""
        config = PPOConfig(
            out=str(self.out / name),
            policy=policy,
            reward_model=str(self.out / name),
            max_prompt_length=24,
            sampling=SAMPLING,
            iterations=self.size.iterations,
            epochs=2,
            policy_optimizer=OptimizerConfig(learning_rate=4e-4, weight_decay=0.0),
            eval_every=max(1, self.size.iterations // 2),
            checkpoint_every=2,
            eval_prompts=32,
            test_prompts=16,  # policies are compared below, all of them on more
            seed=self.seed,
        )
        stages.ppo(config)
        return f"{self.out / name}:ppo"

    def measure(self, name: str, policy: str) -> None:
        """Answer the test prompts, always with the same keys, and measure the answers beside those of the base."""
        path = self.out / f"responses-{name.replace(' ', '-')}.jsonl"
        if not path.exists():
            rows = list(
                Policy.load(policy).sample(self.prompts("test", self.size.test_prompts), sampling=SAMPLING, seed=1)
            )
            write_jsonl(
                path, [{**row, "gold": float(g)} for row, g in zip(rows, self.scored(rows, "response"), strict=True)]
            )
        first = [json.loads(line) for line in (self.out / "responses-base.jsonl").read_text("utf-8").splitlines()]
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        gold, before = (np.array([row["gold"] for row in each]) for each in (rows, first))
        rate: Figure = evaluation.win_rate(gold, before)
        figures = {
            "win_rate": rate,
            "violations": mean((gold < 0).astype(float)),
            "fall": difference((gold < 0).astype(float), (before < 0).astype(float)),
            "gold": mean(gold),
            "words": mean(np.array([len(row["response"].split()) for row in rows], float)),
            "distinct_2": evaluation.distinct_n([row["response"] for row in rows], 2),
        }
        self.found["policies"] |= {name: figures}
        self.write()
        print(policy_table({name: figures}).splitlines()[-1], flush=True)

    def write(self) -> None:
        """Write table.md and constitutional.json: whoever stops early keeps what is done."""
        text = f"{revision_table(self.found['revisions'])}\n\n{policy_table(self.found['policies'])}\n"
        (self.out / "table.md").write_text(text, encoding="utf-8")
        write_json(self.out / "constitutional.json", self.found)


def run(x: Experiment) -> None:
    """Run what is not done yet, and measure all of it."""
    x.measure("base", x.base)
    revisions = x.revise("revisions", critique=True, rounds=x.size.rounds)
    imitating = x.imitate("imitating", revisions)
    x.measure("SFT on revisions", imitating)
    by_principles, by_people = x.compare(imitating), people_pairs(x.size.pairs, x.seed)
    for name, rows in (
        ("principles", by_principles),
        ("mixed", [*by_principles, *by_people]),
        ("people", by_people),
    ):
        x.reward(name, rows)
        x.measure(f"RL, {name}", x.ppo(name, imitating))
    x.revise("direct", critique=False, rounds=1)


def main() -> None:
    """Run the experiment and print its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of everything; runs/constitutional by default")
    parser.add_argument("--policy", default="", help="a run whose SFT policy is taken; one is trained by default")
    parser.add_argument("--seed", type=int, default=0, help="everything random comes from it")
    parser.add_argument("--fast", action="store_true", help="a miniature, to see that everything works")
    options = parser.parse_args()
    out = options.out or Path("runs/constitutional-fast" if options.fast else "runs/constitutional")
    size = FAST if options.fast else Size()
    # Four policies run the same programs: they are compiled once.
    jax.config.update("jax_compilation_cache_dir", str(out / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    x = Experiment(out, size, options.policy, options.seed)
    if not options.policy:
        stages.sft(dataclasses.replace(size.base, out=str(out / "base")))
    run(x)
    print((out / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

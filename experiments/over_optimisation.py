"""Over-optimisation after Gao et al. 2022: what a proxy reward still buys of the gold one, the further it is followed.

Command:  python experiments/over_optimisation.py --gold RUN --policy RUN      (--fast for a miniature)
Hardware: 2 CPU cores, float32, beside much other work
Time:     an hour for these arms, at a share of one core or less; those that come after them in run() were not run
Result:   gold above the SFT policy's in sd, 32 prompts, seed 0 (95% interval), SmolLM2-135M's reward model being gold

    best-of-n: d (a - b d)                      a                      b        R2    gold at n = 1,024
    18,978 labels                0.65 (0.49 to 0.81)   0.13 (0.05 to 0.22)    0.93    0.80 (0.47 to 1.16)
    1,000 labels                0.02 (-0.22 to 0.26)  0.04 (-0.07 to 0.15)    0.21   -0.24 (-0.50 to 0.00)
    minimum of three such        0.33 (0.14 to 0.51)  0.09 (-0.01 to 0.19)    0.04    0.29 (-0.08 to 0.65)
    480 labels by gold          0.03 (-0.25 to 0.30)  0.03 (-0.10 to 0.15)    0.31   -0.11 (-0.44 to 0.25)
    PPO: d (a - b log d)                                                              gold past 30 nats
    18,978 labels             -0.22 (-0.39 to -0.02) -0.24 (-0.35 to -0.13)   0.92    1.45 (1.11 to 1.80)
    1,000 labels                0.12 (-0.09 to 0.32)  0.04 (-0.08 to 0.16)    0.20    0.21 (-0.09 to 0.52)
    minimum of three such       0.02 (-0.15 to 0.20) -0.06 (-0.15 to 0.04)    0.71    0.60 (0.21 to 1.03)

Most proxies learn from people's ratings, as gold did, and not from gold, which is kind to them. Best-of-n has the
paper's form with the best proxy; PPO on it does not turn down within 35 nats. Other sizes of proxy and 4,000 labels
were not run. docs/over_optimisation.md has the tables, the figure and what failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from over_optimisation_figures import Figure, figure, moved, read_curves, table
from over_optimisation_gold import Gold, packed_scorer

from rlhf_jax import evaluation, files, models, parallel, rewards, stages
from rlhf_jax.data import DataConfig, EncodedPrompt, RatedResponse, evenly, write_jsonl
from rlhf_jax.data.hutto import PROMPTS
from rlhf_jax.data.parts import Parts
from rlhf_jax.models import ModelConfig
from rlhf_jax.rewards import EnsembleConfig
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.compilation_cache import keep_compiled
from rlhf_jax.runs.policy import Policy
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.stages import OnlineTrainer, PPOConfig, RewardConfig, SFTConfig, Task, human_sentiment, sources
from rlhf_jax.stages.comparison import Judges
from rlhf_jax.stages.online.config import KLConfig
from rlhf_jax.stages.online.loop import batch_of_prompts
from rlhf_jax.stages.sampler import HELDOUT
from rlhf_jax.stages.scoring import LoadedModel
from rlhf_jax.training import OptimizerConfig

SAMPLING = SamplingConfig(max_new_tokens=32)
LONGEST_PROMPT = 24
SIZES = ("small", "medium", "large")
Row = dict[str, Any]
Combine = Literal["single", "mean", "min", "lower_bound"]


class Proxy(NamedTuple):
    """A proxy reward: which size of model, how many labels of whom, and what is made of an ensemble's members."""

    size: str
    labels: int
    combine: Combine = "single"
    by_gold: bool = False

    @property
    def run(self) -> str:
        """Name of the run folder of the reward model."""
        return f"{self.size}-{self.labels}{'-by-gold' if self.by_gold else ''}"

    @property
    def name(self) -> str:
        """Name of the proxy."""
        return self.run if self.combine == "single" else f"{self.run}-{self.combine}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """How large everything is."""

    small: ModelConfig = ModelConfig(d_model=32, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=32, d_ff=86)
    medium: ModelConfig = ModelConfig(d_model=64, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=32, d_ff=172)
    sft_limit: int = 0  # demonstrations that a proxy's own trunk sees; 0: all
    drawn: int = 4  # samples of a prompt that are labelled
    labels: tuple[int, int, int] = (1000, 4000, 18978)  # sentences that people have rated; the last is all there are
    gold_labels: int = 480  # samples of the policy that gold has rated, for one proxy more
    members: int = 3
    reward_epochs: int = 3  # of groups of 8 samples, drawn anew: 28 comparisons of a group
    prompts: int = 32  # on which best-of-n is measured
    samples: int = 1024  # of each
    scored: int = 8  # of each that gold scores whatever the proxy says of them
    blocks: int = 2  # for a larger n: so many disjoint draws of n samples
    iterations: int = 28  # of PPO, at most
    batch: int = 64
    learning_rate: float = 1e-3
    furthest: float = 30.0  # nats a response at which an arm ends
    every: int = 2  # iterations between two measurements, from the fourth on; before it each is measured
    heldout: int = 32  # prompts of a measurement


FAST = Scale(
    small=ModelConfig(d_model=16, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=16, d_ff=32),
    medium=ModelConfig(d_model=32, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=32, d_ff=64),
    sft_limit=400,
    labels=(200, 400, 800),
    gold_labels=80,
    members=2,
    reward_epochs=1,
    prompts=4,
    samples=32,
    scored=8,
    iterations=4,
    batch=16,
    every=1,
    heldout=16,
)


class Experiment:
    """Labels, proxies, best-of-n and PPO; each fills files of its own and is skipped where they are whole."""

    def __init__(self, out: Path, scale: Scale, gold: str, policy: str, seed: int):
        self.out, self.scale, self.seed, self.policy = out, scale, seed, policy
        out.mkdir(parents=True, exist_ok=True)
        self.gold = Gold(gold, out / "gold.jsonl")
        self.task = sources.find_task(DataConfig())

    def say(self, text: str) -> None:
        """Print what is done, with the time."""
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    @functools.cached_property
    def start(self) -> Policy:
        """The policy that all samples are of, and that PPO starts from."""
        return Policy.load(self.policy, "sft")

    @functools.cached_property
    def prompts(self) -> tuple[list[EncodedPrompt], list[EncodedPrompt], list[EncodedPrompt]]:
        """Prompts to train on, of PPO's measurements and of best-of-n: different ones."""
        rows = sources.prompts(DataConfig(), self.task)
        parts = sources.prompts_to_sample(
            rows,
            ("train", "validation", "test"),
            self.start.tokenizer,
            DataConfig(),
            self.task,
            max_prompt_length=LONGEST_PROMPT,
        )
        return parts[0], evenly(parts[1], self.scale.heldout), evenly(parts[2], self.scale.prompts)

    @functools.cached_property
    def labels(self) -> list[RatedResponse]:
        """Samples of the policy with gold's scores, each a whole sentence that answers its domain's instruction.

        As people's ratings are in the quickstart's reward model, any two of a domain are compared: gold prefers one.
        """
        path, k = self.out / "labels.jsonl", self.scale.drawn
        if not path.exists():
            count = -(-self.scale.gold_labels // k)
            chosen = np.random.default_rng(self.seed).permutation(len(self.prompts[0]))[:count]
            asked = [self.prompts[0][i].text for i in chosen]
            drawn = list(self.start.sample(asked, n=k, sampling=SAMPLING, seed=self.seed + 1))
            prompts, responses = [row["prompt"] for row in drawn], [row["response"] for row in drawn]
            found = zip(prompts, responses, self.gold(prompts, responses).tolist(), strict=True)
            write_jsonl(path, [{"prompt": p, "response": r, "gold": score} for p, r, score in found])
            self.say(f"{len(drawn):,} samples labelled by gold")
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        texts = human_sentiment.whole_sentences([row["prompt"] for row in rows], [row["response"] for row in rows])
        return [
            RatedResponse(
                PROMPTS[human_sentiment.domain_of(row["prompt"])], text, np.array([row["gold"]], np.float32), f"{i}"
            )
            for i, (row, text) in enumerate(zip(rows, texts, strict=True))
        ]

    def trunk(self, size: str) -> str:
        """Train the SFT model that a size of proxy starts from; the large one's is the policy."""
        if size == "large":
            return f"{self.policy}:sft"
        folder = self.out / f"sft-{size}"
        folder.mkdir(exist_ok=True)
        if not (folder / "tokenizer.json").exists():  # a stage goes on with the tokenizer that its folder has
            with files.atomic_text(folder / "tokenizer.json") as file:
                file.write(self.start.tokenizer.to_json())
        config = SFTConfig(
            out=str(folder),
            data=DataConfig(limit=self.scale.sft_limit),
            model=self.scale.small if size == "small" else self.scale.medium,
            epochs=1,
            eval_every=1000,
            optimizer=OptimizerConfig(learning_rate=3e-3),
            seed=self.seed,
        )
        stages.sft(config)
        return config.out

    def folder(self, proxy: Proxy) -> Path:
        """Say where a proxy is: the policy's own run may hold the largest of all labels."""
        if proxy[:2] == ("large", max(self.scale.labels)) and (Path(self.policy) / "params" / "reward").exists():
            return Path(self.policy)
        return self.out / "proxies" / proxy.run

    def proxy(self, proxy: Proxy, members: int) -> None:
        """Train a proxy on the first labels, or what is an ensemble of them."""
        folder = self.folder(proxy)
        if (folder / "params" / "reward").exists():
            return
        config = RewardConfig(
            out=str(folder),
            init=self.trunk(proxy.size),
            data=DataConfig(limit=0 if proxy.labels == max(self.scale.labels) else proxy.labels),
            members=members,
            rows=4 if proxy.by_gold else 16,
            epochs=self.scale.reward_epochs,
            eval_every=10 if proxy.by_gold else 60,
            seed=self.seed,
        )
        task = None
        if proxy.by_gold:
            held, others = self.labels[::10], [row for i, row in enumerate(self.labels) if i % 10]
            task = Task(opinions=lambda config: Parts(others, held, held), leaves_out_long=True)
        stages.reward_model(config, task=task)
        self.say(f"proxy {proxy.run} trained, {members} members")

    # Best-of-n

    @functools.cached_property
    def samples(self) -> list[Row]:
        """All samples of the prompts, a row and a file for each prompt; those that are not there yet are drawn."""
        folder = self.out / "samples"
        folder.mkdir(exist_ok=True)
        for i, prompt in enumerate(self.prompts[2]):
            path = folder / f"{i}.json"
            if not path.exists():
                rows = list(self.start.sample([prompt.text], n=self.scale.samples, sampling=SAMPLING, seed=1000 + i))
                files.write_json(
                    path,
                    {
                        "prompt": prompt.text,
                        "responses": [row["response"] for row in rows],
                        "tokens": [row["tokens"] for row in rows],
                    },
                )
        self.say("samples are drawn")
        return [json.loads((folder / f"{i}.json").read_text(encoding="utf-8")) for i in range(len(self.prompts[2]))]

    def member_scores(self, proxy: Proxy) -> np.ndarray:
        """Score all samples with a proxy's members, float32 [M, prompts, samples]."""
        path = self.out / "scores" / f"{proxy.run}.npy"
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            loaded = Scorer.load(self.folder(proxy))
            asked = [loaded.tokenizer.encode_prompt(row["prompt"]) for row in self.samples]
            sequences = [
                np.append(ids, tokens).astype(np.int32)
                for ids, row in zip(asked, self.samples, strict=True)
                for tokens in row["tokens"]
            ]
            found = packed_scorer(loaded)(sequences)
            with files.atomic_binary(path) as file:
                np.save(file, found.reshape(len(found), len(self.samples), -1))
            self.say(f"samples are scored by {proxy.run}")
        return np.load(path)

    def proxy_scores(self, proxy: Proxy, member: int) -> np.ndarray:
        """Score all samples by a member of a proxy, or by what is made of all its members, [prompts, samples]."""
        each = self.member_scores(proxy)
        return each[member] if proxy.combine == "single" else np.asarray(rewards.combine(jnp.asarray(each), how(proxy)))

    def best_of_n(self, proxy: Proxy, member: int = 0) -> None:
        """Choose by a proxy and measure by gold: a row for each n, with what every prompt's best is worth."""
        name = f"{proxy.name}-{member}" if proxy.combine == "single" else proxy.name
        path = self.out / "best_of_n" / f"{name}.json"
        if path.exists():
            return
        path.parent.mkdir(exist_ok=True)
        scores = self.proxy_scores(proxy, member)
        points, picks = [], self.picks(scores)
        self.gold_of(np.concatenate([self.first(), *(x.reshape(len(scores), -1) for x in picks.values())], axis=1))
        for n in ladder(self.scale.samples):
            if n in picks:
                by_proxy = np.take_along_axis(scores, picks[n], 1).mean(1)
                by_gold = self.gold_of(picks[n]).mean(1)
            else:
                some = scores[:, : self.scale.scored]
                by_gold, by_proxy = (evaluation.best_of_n_mean(some, of, n) for of in (self.scored(), some))
            points.append({"n": n, "gold": by_gold.tolist(), "proxy": by_proxy.tolist()})
        around = {"mean": float(scores.mean()), "std": float(scores.std())}
        files.write_json(path, {**proxy._asdict(), "member": member, "proxy_scores": around, "points": points})
        self.say(f"best-of-n by {name}: gold " + " ".join(f"{np.mean(p['gold']):.2f}" for p in points))

    def picks(self, scores: np.ndarray) -> dict[int, np.ndarray]:
        """Choose by a proxy's scores the best of n samples, of disjoint blocks of n, where n is large.

        Each is [prompts, blocks]. For a smaller n all subsets of the samples that gold scores anyway are averaged.
        """
        found = {}
        for n in ladder(self.scale.samples):
            if n > self.scale.scored:
                blocks = min(self.scale.blocks, self.scale.samples // n)
                cut = scores[:, : blocks * n].reshape(len(scores), blocks, n)
                found[n] = cut.argmax(-1) + n * np.arange(blocks)
        return found

    def first(self) -> np.ndarray:
        """Name each prompt's first samples, which gold scores whatever proxies say of them: [prompts, scored]."""
        return np.tile(np.arange(self.scale.scored), (len(self.samples), 1))

    def scored(self) -> np.ndarray:
        """Score them, [prompts, scored]."""
        return self.gold_of(self.first())

    def gold_of(self, picked: np.ndarray) -> np.ndarray:
        """Score some samples of each prompt by gold, [prompts, ...]."""
        pairs = [
            (row["prompt"], row["responses"][i])
            for row, some in zip(self.samples, picked, strict=True)
            for i in some.tolist()
        ]
        return self.gold([p for p, _ in pairs], [r for _, r in pairs]).reshape(picked.shape)

    # PPO

    def ppo(self, proxy: Proxy) -> None:
        """Train the policy on a proxy, without a KL penalty, until it is far away; measure it on the way."""
        path, scale = self.out / "ppo" / f"{proxy.name}.json", self.scale
        if path.exists():
            return
        path.parent.mkdir(exist_ok=True)
        loaded = Scorer.load(self.folder(proxy))
        params = loaded.params["reward"]
        if proxy.combine == "single" and models.members(params):
            params = models.member(params, 0)
        config = PPOConfig(
            prompts=scale.batch,
            max_prompt_length=LONGEST_PROMPT,
            sampling=SAMPLING,
            iterations=scale.iterations,
            ensemble=how(proxy),
            epochs=2,
            critic="head",
            critic_gradient=0.0,
            kl=KLConfig(kind="fixed", coef=0.0),
            policy_optimizer=OptimizerConfig(learning_rate=scale.learning_rate, weight_decay=0.0, final_fraction=1.0),
            seed=self.seed,
        )
        train, heldout, _ = self.prompts
        trainer = OnlineTrainer(
            config,
            policy=LoadedModel(self.start.config, self.start.params),
            tokenizer=self.start.tokenizer,
            reward=LoadedModel(loaded.config, params),
            prompt_columns=LONGEST_PROMPT,
            mesh=parallel.make_mesh(parallel.MeshConfig(), devices=jax.devices()[:1]),
        )
        measure = Judges(trainer.sampler, trainer.reward, {})
        state, points = trainer.init(), []
        for i in range(scale.iterations + 1):
            if i <= 4 or i % scale.every == 0:
                found = measure(trainer.with_trunk(state.train.params)["policy"], heldout, HELDOUT)
                points.append({"iteration": i, **{name: x.tolist() for name, x in found.scores.items()}})
                points[-1] |= {"length": [len(tokens) for tokens in found.tokens], "responses": found.texts}
                means = {name: float(np.mean(points[-1][name])) for name in ("kl", "proxy", "length")}
                self.say(f"ppo {proxy.name} {i}: " + " ".join(f"{name} {x:.2f}" for name, x in means.items()))
                if means["kl"] >= scale.furthest:
                    break
            if i < scale.iterations:
                chosen = batch_of_prompts(train, config, i)
                batch, _ = trainer.prepare(state, trainer.collect(state, chosen, i), chosen)
                state, _ = trainer.update(state, batch, i)
        # One call for all: nothing on the way depends on gold.
        texts = [text for point in points for text in point["responses"]]
        gold = self.gold([p.text for p in heldout] * len(points), texts).reshape(len(points), -1)
        points = [{**point, "gold": scores.tolist()} for point, scores in zip(points, gold, strict=True)]
        files.write_json(path, {**proxy._asdict(), "points": points})
        self.say(f"ppo {proxy.name}: gold " + " ".join(f"{scores.mean():.2f}" for scores in gold))

    # What came of it

    def agreement(self, path: Path) -> Figure:
        """Measure how often a proxy orders two samples of a prompt as gold does, on those that gold has scored."""
        row = json.loads(path.read_text(encoding="utf-8"))
        proxy = Proxy(row["size"], row["labels"], row["combine"], row["by_gold"])
        scores = self.proxy_scores(proxy, row["member"])
        pairs = zip(scores[:, : self.scale.scored], self.scored(), strict=True)
        right = [found.accuracy for found in (evaluation.ordered_alike(*pair) for pair in pairs) if found is not None]
        return float(np.mean(right)), evaluation.bootstrap_mean(right, seed=0, within=(0, 1))

    def report(self) -> None:
        """Write tables and figure of what is done."""
        unit = float(self.scored().std())
        curves = read_curves(self.out, unit)
        agreement = {path.stem: self.agreement(path) for path in sorted((self.out / "best_of_n").glob("*.json"))}
        agreement |= {name.removesuffix("-0"): found for name, found in agreement.items()}
        parts = [
            f"Gold's standard deviation over the initial policy's samples: {unit:.3f}",
            table([c for c in curves if c.kind == "best_of_n"], agreement),
            table([c for c in curves if c.kind == "rl"], agreement),
            moved(curves, comparisons(self.scale)),
        ]
        with files.atomic_text(self.out / "table.md") as file:
            file.write("\n\n".join(parts) + "\n")
        figure(curves, self.out / "over_optimisation.png")


def comparisons(scale: Scale) -> list[tuple[str, str]]:
    """List what is compared: labels, sizes, and what is made of an ensemble."""
    few, some, many = scale.labels
    middle = f"large-{few}"
    labels = [(f"{size}-{a}", f"{size}-{b}") for size in SIZES for a, b in ((few, some), (some, many), (few, many))]
    sizes = [(f"{a}-{n}", f"{b}-{n}") for n in scale.labels for a, b in itertools.pairwise(SIZES)]
    return labels + sizes + [(middle, f"{middle}-{combine}") for combine in ("mean", "min", "lower_bound")]


def how(proxy: Proxy) -> EnsembleConfig:
    """Say how an ensemble's members become one reward."""
    return EnsembleConfig() if proxy.combine == "single" else EnsembleConfig(combine=proxy.combine)


def ladder(largest: int) -> list[int]:
    """List the powers of two up to the largest.

    Example:
        >>> ladder(8)
        [1, 2, 4, 8]
    """
    return [2**k for k in range(largest.bit_length()) if 2**k <= largest]


def run(x: Experiment) -> None:
    """Do everything, the most important first, so that a run that is cut off has results."""
    few, some, many = x.scale.labels
    ensemble = [Proxy("large", few, c) for c in ("mean", "min", "lower_bound")]

    def choose(proxies: Iterable[Proxy], members: int = 1) -> None:
        for proxy in proxies:
            x.proxy(proxy, members)
            x.best_of_n(proxy)

    choose([Proxy("large", many)])
    x.ppo(Proxy("large", many))
    choose([Proxy("large", few), *ensemble], x.scale.members)
    x.ppo(Proxy("large", few))
    choose([Proxy("small", some), Proxy("medium", some), Proxy("large", some)])
    x.ppo(ensemble[1])
    x.ppo(Proxy("small", some))
    choose([Proxy(size, n) for n in (few, many) for size in ("small", "medium")])
    choose([Proxy("large", x.scale.gold_labels, by_gold=True)])
    for member in range(1, x.scale.members):
        x.best_of_n(Proxy("large", few), member)
    x.ppo(Proxy("large", some))
    x.ppo(Proxy("medium", some))
    x.ppo(ensemble[0])
    x.ppo(ensemble[2])


def main() -> None:
    """Run what is not done yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of everything; runs/over-optimisation by default")
    parser.add_argument("--fast", action="store_true", help="a miniature of every run, to see that everything works")
    parser.add_argument("--gold", required=True, help="a run with the gold reward model, as smollm_sentiment.py leaves")
    parser.add_argument("--policy", required=True, help="a run with the SFT policy, as the quickstart leaves")
    parser.add_argument("--seed", type=int, default=0, help="everything random comes from it")
    parser.add_argument("--report", action="store_true", help="only write tables and figure of what is done so far")
    options = parser.parse_args()
    out = options.out or Path("runs/over-optimisation-fast" if options.fast else "runs/over-optimisation")
    keep_compiled()
    experiment = Experiment(out, FAST if options.fast else Scale(), options.gold, options.policy, options.seed)
    if not options.report:
        run(experiment)
    experiment.report()
    print((out / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

"""Two policies beside each other: both answer the same prompts, and a judge or a reward model scores the answers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from rlhf_jax.data import DataError, layouts
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.data.layouts.fields import Row
from rlhf_jax.data.one_file import list_bad
from rlhf_jax.data.order import evenly
from rlhf_jax.data.rows import Demonstration, PromptRow, prompt_text
from rlhf_jax.evaluation.win_rates import WinRate, paired_win_rate, places_of
from rlhf_jax.fields import check_seed
from rlhf_jax.rewards import EnsembleConfig, TextReward
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.arguments import checked_count
from rlhf_jax.runs.policy import Policy
from rlhf_jax.stages.evaluate.find import find_scorer
from rlhf_jax.stages.evaluate.result import WinRates
from rlhf_jax.stages.evaluate.rows import NO_SUBSET, read_source, subset_of
from rlhf_jax.stages.sources import spelled
from rlhf_jax.training.progress import Progress


def win_rates(
    run: str | Path,
    other: str | Path,
    data: str | Path,
    judge: str | Path | TextReward,
    *,
    by: str = "",
    split: str = "",
    samples: int = 1,
    prompts: int = 0,
    sampling: SamplingConfig | None = None,
    on_bad_row: OnBadRow = "error",
    templated: bool = False,
    ensemble: EnsembleConfig | None = None,
    seed: int = 0,
) -> WinRates:
    """Let two policies answer the same prompts, and count whose answers score higher.

    The policies draw with the same keys; what is scored is the text.

    Args:
        run: the one policy: ``RUN``, ``RUN:STAGE`` or a pretrained checkpoint.
        other: the other.
        data: rows with a prompt, in any layout.
        judge: what scores the answers: ``FILE.py:function``, a run with a reward model, or a function of (prompts,
            responses).
        by: the field that names the prompts' domains, dots between the names of nested ones.
        split: the split of ``data``, where it has several.
        samples: answers of each policy to a prompt.
        prompts: so many at most, spread over all there are; 0 takes all.
        sampling: temperature 1 and 128 tokens by default.
        on_bad_row: a bad row stops it, or is skipped and listed.
        templated: the prompts hold the chat template already applied.
        ensemble: how the members of an ensemble that judges are combined.
        seed: the same seed gives the same answers.

    Returns:
        The win rate of the first, with a paired interval, at equal length, and by domain.

    Raises:
        DataError: on a bad row, and where there is no prompt.
        RunError: when a policy or what judges is not there, or a prompt leaves no room for an answer.
    """
    check_seed("seed", seed)
    samples = checked_count(samples, "samples")
    asked = _prompts(str(data), by, split, on_bad_row)
    asked = evenly(asked, prompts) if prompts else asked
    scorer = find_scorer(judge, ensemble=ensemble)
    how = sampling or SamplingConfig(max_new_tokens=128)
    names, texts, scores = [], [], []
    total = 2 * len(asked) * samples
    with Progress("sample", total) as progress:
        for place, one in enumerate((run, other)):
            policy = Policy.load(one)
            names.append(f"the {policy.stage} policy of {one}")
            if templated:
                policy = policy.templated()
            elif odd := spelled([row for row, _ in asked], policy.tokenizer):
                print(f"warning: {data}: {odd}, pass --templated", file=sys.stderr)
            drawn = []
            for row in policy.sample([row.prompt for row, _ in asked], n=samples, sampling=how, seed=seed):
                drawn.append(str(row["response"]))
                progress.update(place * total // 2 + len(drawn), {})
            texts.append(drawn)
    each = [(row, domain) for row, domain in asked for _ in range(samples)]
    with Progress("judge", total) as progress:
        for place, drawn in enumerate(texts):
            ready = [
                scorer.ready(Demonstration(row.prompt, text, row.where))
                for (row, _), text in zip(each, drawn, strict=True)
            ]
            done = place * total // 2
            scores.append(scorer.score(ready, lambda now, done=done: progress.update(done + now, {})).scores)  # type: ignore[misc]
    lengths = [np.array([len(text) for text in drawn]) for drawn in texts]
    keys = [prompt_text(row.prompt) for row, _ in each]

    def rate(which: np.ndarray) -> WinRate:
        return paired_win_rate(
            scores[0][which],
            scores[1][which],
            [keys[i] for i in which],
            lengths=(lengths[0][which], lengths[1][which]),
            seed=seed,
        )

    return WinRates(
        first=names[0],
        second=names[1],
        judge=scorer.what,
        data=str(data),
        rate=rate(np.arange(len(each))),
        by={name: rate(places) for name, places in places_of([domain for _, domain in each]).items()},
        lengths=(float(lengths[0].mean()), float(lengths[1].mean())),
        scores=(float(scores[0].mean()), float(scores[1].mean())),
    )


def _prompts(source: str, by: str, split: str, on_bad_row: OnBadRow) -> list[tuple[PromptRow, str]]:
    """Read prompts with the domain of each."""

    def parse(row: Row, where: str) -> tuple[PromptRow, str]:
        return layouts.prompt(row, where), (subset_of(row, by, where) or NO_SUBSET) if by else ""

    found, bad = read_source(source, split, parse, on_bad_row)
    list_bad(bad)
    if not found:
        raise DataError(f"{source}: no row has a prompt to answer")
    if by and all(domain == NO_SUBSET for _, domain in found):
        raise DataError(f"{source}: no row has the field {by!r} (--by)")
    return found

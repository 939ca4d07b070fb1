"""The responses of a round: samples of the present policy and of earlier ones, or what a data set holds already."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax import data
from rlhf_jax.data import write_jsonl
from rlhf_jax.data.one_file import as_it_is
from rlhf_jax.data.readers.jsonl import read_jsonl
from rlhf_jax.data.rows import Comparison, Prompt, prompt_field
from rlhf_jax.runs.policy import Policy
from rlhf_jax.stages import sources
from rlhf_jax.stages.rounds.config import RoundsConfig
from rlhf_jax.stages.task import Task


def seed_of(*of: object) -> int:
    """Draw a seed that depends on these things alone.

    Example:
        >>> seed_of(0, 1, "round2") == seed_of(0, 1, "round2"), 0 <= seed_of(0) < 2**31
        (True, True)
    """
    text = "\x1f".join(map(str, of))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big") >> 1


def prompts_of(config: RoundsConfig, task: Task, policy: Policy, number: int) -> list[Prompt]:
    """Choose the prompts of a round: others than in the rounds before, until all have been asked.

    Args:
        config: the rounds'.
        task: the data set of the prompts.
        policy: encodes them, so that those that are too long are known.
        number: which round, from 1.

    Returns:
        As many prompts as the config says, or all there are; each once.
    """
    asked, limit = config.asked, config.stage.max_prompt_length
    rows = sources.prompts(asked, task)
    (usable,) = sources.prompts_to_sample(rows, ("train",), policy.tokenizer, asked, task, max_prompt_length=limit)
    every = list(dict.fromkeys(rows.train[prompt.id].prompt for prompt in usable))
    order, count = data.epoch_order(len(every), config.seed, 0), min(config.prompts, len(every))
    first = (number - 1) * count
    return [every[order[place % len(every)]] for place in range(first, first + count)]


def draw(
    config: RoundsConfig, policies: Mapping[str, Policy], prompts: Sequence[Prompt], number: int
) -> list[dict[str, Any]]:
    """Let every policy answer every prompt at every temperature.

    Args:
        config: the rounds'.
        policies: by the name that rows have for them.
        prompts: what they answer.
        number: which round.

    Returns:
        A row a prompt: ``prompt``, ``responses``, and the ``policies`` and ``temperatures`` that each response
        is from.
    """
    rows: list[dict[str, Any]] = [
        {"prompt": prompt_field(prompt), "responses": [], "policies": [], "temperatures": []} for prompt in prompts
    ]
    for name, policy in policies.items():
        if config.asked.templated:
            policy = policy.templated()
        for temperature in config.temperatures:
            sampling = dataclasses.replace(config.sampling, temperature=temperature)
            drawn = policy.sample(
                prompts, n=config.samples, sampling=sampling, seed=seed_of(config.seed, number, name, temperature)
            )
            for i, sample in enumerate(drawn):
                row = rows[i // config.samples]
                row["responses"].append(sample["response"])
                row["policies"].append(name)
                row["temperatures"].append(temperature)
    return rows


def as_drawn(pairs: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Write pairs of a data set as rows of ``draw``, with the share of votes for the first of each, ``share``."""
    return [
        {
            "prompt": prompt_field(pair.prompt),
            "responses": list(pair.responses),
            "policies": ["data"] * 2,
            "share": share_of(pair),
        }
        for pair in pairs
    ]


def share_of(pair: Comparison) -> float:
    """Compute the share of votes for the first response of a pair, a half where there are none.

    Example:
        >>> from rlhf_jax.data.layouts.pairs import pair_votes
        >>> share_of(Comparison("Hi.", ("Hello!", "No."), pair_votes(0.75, 4), ""))
        0.75
    """
    both = float(pair.votes[0, 1] + pair.votes[1, 0])
    return float(pair.votes[0, 1]) / both if both else 0.5


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of a round, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, rows)


def read(path: Path) -> list[dict[str, Any]]:
    """Read rows that ``write`` has written, or that others have put in their place.

    Raises:
        DataError: when a line is no JSON object.
    """
    rows, _ = read_jsonl(path, as_it_is, "error")
    return [dict(row) for _, row in rows]

"""The responses that a judge is shown together: K samples of a run's policy to a prompt, or a row of a file."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.compare.items import Item
from rlhf_jax.compare.pairs import Responses, read_groups
from rlhf_jax.data import write_jsonl
from rlhf_jax.data.layouts.turns import prompt_of
from rlhf_jax.data.order import evenly
from rlhf_jax.data.readers.jsonl import read_jsonl
from rlhf_jax.data.rows import Prompt, prompt_field
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.loading import model_digest
from rlhf_jax.runs.made_of import Ingredient
from rlhf_jax.runs.policy import Policy
from rlhf_jax.stages.labelling.config import LabelConfig
from rlhf_jax.stages.people.prompts import policy_of, prompts_to_ask


class Group(NamedTuple):
    """Responses to one prompt that can be told apart: no two are the same text, and none is empty."""

    prompt: Prompt
    responses: tuple[str, ...]  # K of them
    models: tuple[str, ...]  # who said each; empty texts where nobody knows

    def pairs(self) -> list[tuple[int, int, Item]]:
        """List every two of the responses: their places, and the pair, which has a name."""
        texts, models = self.responses, self.models
        return [
            (i, j, Item(self.prompt, texts[i], texts[j], model_a=models[i], model_b=models[j]))
            for i, j in itertools.combinations(range(len(texts)), 2)
        ]


class Sampled(NamedTuple):
    """What has to be sampled: prompts for a policy, and whether the chat template is applied to them already."""

    prompts: list[Prompt]
    templated: bool
    made_of: Ingredient  # the same samples come of the same


def of_file(config: LabelConfig) -> list[Responses]:
    """Read the responses of a file, as many rows of it as are asked for."""
    found = read_groups(config.source, on_bad_row=config.on_bad_row)
    return evenly(found, config.limit or len(found))


def to_sample(config: LabelConfig) -> Sampled:
    """Find what a run's policy is to answer, before anything is sampled.

    Args:
        config: what is labelled.

    Raises:
        RunError: when the run has no such prompts, or there is none.
        DataError: when its data cannot be read any more.
    """
    prompts, templated = prompts_to_ask(config.source, config.prompts, config.part, config.on_bad_row)
    if not prompts:
        raise RunError(f"{config.prompts or config.source}: there is no prompt to sample for")
    asked = evenly(prompts, config.limit or len(prompts))
    at = policy_of(config.source)
    fields = [
        *([prompt_field(prompt) for prompt in asked], model_digest(str(at.path), at.stage), templated),
        *(dataclasses.asdict(config.sampling), config.samples, config.seed),
    ]
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode("ascii")).hexdigest()
    return Sampled(asked, templated, {"is": config.source, "sha256": digest})


def sample(config: LabelConfig, asked: Sampled, keep: Path) -> None:
    """Sample K responses to each prompt into a file of ``prompt, responses``, which appears when it is whole.

    Args:
        config: what is labelled.
        asked: the prompts.
        keep: the file.
    """
    policy = Policy.load(config.source)
    if asked.templated:
        policy = policy.templated()
    rows = policy.sample(asked.prompts, n=config.samples, sampling=config.sampling, seed=config.seed)

    def together() -> Iterable[dict[str, object]]:
        for prompt in asked.prompts:
            said = [row["response"] for row in itertools.islice(rows, config.samples)]
            yield {"prompt": prompt_field(prompt), "responses": said}

    keep.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(keep, together())


def kept_samples(path: Path) -> list[Responses]:
    """Read back what ``sample`` wrote; a policy may have answered with nothing at all."""

    def parse(row: Mapping[str, Any], where: str) -> Responses:
        return Responses(prompt_of(row, where), tuple(row["responses"]))

    return read_jsonl(path, parse, "error")[0]


class LeftOut(NamedTuple):
    """How many responses nobody can compare."""

    equal: int  # the same text as another to the same prompt
    empty: int


def told_apart(found: Sequence[Responses]) -> tuple[list[Group], LeftOut]:
    """Leave out responses that are empty or there twice, and groups of which fewer than two are left.

    Args:
        found: K responses to each prompt.

    Returns:
        The groups in order, each once, and what was left out.

    Example:
        >>> said = [Responses("Hi.", ("Hello!", "No.", "Hello! ", "")), Responses("Ho.", ("Yes.", "Yes."))]
        >>> told_apart(said)
        ([Group(prompt='Hi.', responses=('Hello!', 'No.'), models=('', ''))], LeftOut(equal=2, empty=1))
    """
    groups: dict[Group, None] = {}
    equal = empty = 0
    for row in found:
        kept: dict[str, tuple[str, str]] = {}
        for text, model in zip(row.texts, row.models or ("",) * len(row.texts), strict=True):
            bare = text.strip()
            empty += not bare
            equal += bare in kept
            if bare:
                kept.setdefault(bare, (text, model))
        if len(kept) > 1:
            texts, models = zip(*kept.values(), strict=True)
            groups.setdefault(Group(row.prompt, texts, models))
    return list(groups), LeftOut(equal, empty)

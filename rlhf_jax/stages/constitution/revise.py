"""A policy answers prompts, and a reviser criticises and revises the answers by principles drawn from a file."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.data import write_jsonl
from rlhf_jax.data.rows import Prompt, prompt_field
from rlhf_jax.feedback.principles import Principles, read_principles
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.lock import locked
from rlhf_jax.runs.made_of import Ingredients, of_callable, of_model
from rlhf_jax.runs.policy import Policy
from rlhf_jax.runs.user_code import called
from rlhf_jax.stages.config import check_kind
from rlhf_jax.stages.constitution.chain import Case, Said, Say, revised
from rlhf_jax.stages.constitution.config import ReviseConfig
from rlhf_jax.stages.constitution.record import Record, record_folder
from rlhf_jax.stages.constitution.sources import Asked, find_asked
from rlhf_jax.stages.constitution.summary import pairs_of, rows_of, summarised
from rlhf_jax.stages.people.prompts import policy_of
from rlhf_jax.targets import check_file
from rlhf_jax.training.progress import Progress

AT_ONCE = 64  # responses that are revised together; so many are lost at most when the process is killed


class Revised(NamedTuple):
    """What became of the responses."""

    path: Path
    """The file of rows to imitate."""
    rows: list[dict[str, Any]]
    """All chains, those of earlier calls too, as ``chain.revised`` makes them."""
    summary: dict[str, Any]
    """``summary.summarised`` of the chains, and ``principles``, the version of the file."""


def revise(config: ReviseConfig, *, reviser: Callable[[Sequence[Prompt]], Sequence[str]] | None = None) -> Revised:
    """Have responses criticised and revised by principles, for some rounds, and write what is to be imitated.

    The same call with the same files goes on where it was stopped.

    Args:
        config: what is revised, by which principles, by whom and how often.
        reviser: a function from chats to what is said next in each, in place of ``config.reviser``.

    Returns:
        ``Revised``: the file, the chains and their summary.

    Raises:
        PrinciplesError: the principles cannot be read.
        DataError: on a bad row of a file.
        RunError: a run lacks what is needed, nobody revises, or the file was begun with something else.
        LockedError: another process adds to the file.

    Example:
        >>> revise(ReviseConfig(source="runs/mine", principles="kind.txt", to="rows.jsonl"))  # doctest: +SKIP

    Source: Bai et al., "Constitutional AI: Harmlessness from AI Feedback", 2022 (arXiv:2212.08073), section 3.
    """
    check_kind(config, ReviseConfig, "revise")
    check_file(config.to, "--to")
    if config.pairs:
        check_file(config.pairs, "--pairs")
    principles = read_principles(config.principles)
    asked = find_asked(config)
    by = config.reviser or ("" if asked.responses else config.source)
    if reviser is None and not by:
        raise RunError(f"{config.source} is a file of responses: name who revises them with --reviser RUN")
    if reviser is not None and config.reviser:
        raise RunError(f"two revisers: {config.reviser} and the function {called(reviser)}; leave one of them out")
    made_of = _made_of(config, principles, asked, reviser, by)
    folder = record_folder(config.to)
    with locked(folder, f"revisions in {config.to}"):
        record = Record(folder, made_of, together=AT_ONCE, total=len(asked.cases))
        _go_on(config, asked, principles, record, reviser, by)
        Path(config.to).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(config.to, rows_of(record.rows, principles.digest, keep=config.keep))
        if config.pairs:
            Path(config.pairs).parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(config.pairs, pairs_of(record.rows))
        return Revised(Path(config.to), record.rows, {"principles": principles.digest, **summarised(record.rows)})


def _go_on(
    config: ReviseConfig,
    asked: Asked,
    principles: Principles,
    record: Record,
    reviser: Callable[[Sequence[Prompt]], Sequence[str]] | None,
    by: str,
) -> None:
    """Answer and revise what is not there yet."""
    every = asked.cases
    if len(record.rows) == len(every):
        return
    policy = None if asked.responses else asked.policy(config.source)
    writer = policy if reviser is None and by == config.source else None
    if reviser is None and writer is None:
        writer = Policy.load(by)
    kinds = [step["did"] for row in record.rows for step in row["chain"]]
    print(
        f"revising {len(every):,} responses {config.rounds} times by {len(principles.all)} principles", file=sys.stderr
    )
    with Progress("revise", len(every), start=len(record.rows)) as progress:
        for start in range(len(record.rows), len(every), AT_ONCE):
            part = every[start : start + AT_ONCE]
            if policy is None:
                said = [Said(text, True) for text in asked.responses[start : start + AT_ONCE]]
            else:
                said = speak(policy, [prompt for prompt, _ in part], config.sampling, (config.seed, start, 0))
            cases = [Case(*one, each.text) for one, each in zip(part, said, strict=True)]
            say = _of_function(reviser) if reviser is not None else _of_policy(writer, config, start)
            rows = revised(cases, principles, say, rounds=config.rounds, critique=config.critique, seed=config.seed)
            record.add(rows)
            kinds += [step["did"] for row in rows for step in row["chain"]]
            progress.update(len(record.rows), {"revised": kinds.count("revised") / len(kinds)})


def speak(policy: Policy, prompts: Sequence[Prompt], sampling: SamplingConfig, seed: tuple[int, ...]) -> list[Said]:
    """Let a policy answer, and say which answers came to their end.

    Args:
        policy: who answers.
        prompts: texts or chats.
        sampling: how.
        seed: the same numbers give the same answers.

    Returns:
        An answer to each.
    """
    number = int.from_bytes(hashlib.sha256(json.dumps(seed).encode("ascii")).digest()[:4], "big")
    ends = set(policy.tokenizer.end_ids)
    return [
        # A response of the full length that ended with a stop string counts as cut off: it cannot be told from others.
        Said(row["response"], len(row["tokens"]) < sampling.max_new_tokens or row["tokens"][-1] in ends)
        for row in policy.sample(prompts, sampling=sampling, seed=number)
    ]


def _of_policy(policy: Policy | None, config: ReviseConfig, start: int) -> Say:
    assert policy is not None
    steps = itertools.count(1)
    return lambda chats: speak(policy, chats, config.revising, (config.seed, start, next(steps)))


def _of_function(reviser: Callable[[Sequence[Prompt]], Sequence[str]]) -> Say:
    def say(chats: Sequence[Any]) -> list[Said]:
        texts = list(reviser(chats))
        if len(texts) != len(chats) or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"the reviser {called(reviser)} must return a text for each of {len(chats)} chats, found {texts!r:.80}"
            )
        return [Said(text, True) for text in texts]

    return say


def _made_of(
    config: ReviseConfig,
    principles: Principles,
    asked: Asked,
    reviser: Callable[[Sequence[Prompt]], Sequence[str]] | None,
    by: str,
) -> Ingredients:
    """Describe what the chains come of, by content; where files and folders lie is no part of it."""
    prompts = json.dumps([[prompt_field(prompt), sample] for prompt, sample in asked.cases])
    how = [config.rounds, config.critique, asked.templated, config.seed, asked.responses]
    how += [dataclasses.asdict(config.revising), *([] if asked.responses else [dataclasses.asdict(config.sampling)])]

    def of_text(called: str, text: str) -> dict[str, Any]:
        return {"is": called, "sha256": hashlib.sha256(text.encode("ascii")).hexdigest()}

    def of_policy(run: str) -> dict[str, Any]:
        at = policy_of(run)
        return of_model(str(at.path), at.stage)

    return {
        "principles": of_text(config.principles, principles.digest),
        "prompts": of_text(config.prompts or config.source, prompts),
        "how they are revised": of_text("rounds, critique, seed, sampling", json.dumps(how, sort_keys=True)),
        "reviser": of_callable(called(reviser), reviser) if reviser is not None else of_policy(by),
        **({} if asked.responses else {"policy": of_policy(config.source)}),
    }

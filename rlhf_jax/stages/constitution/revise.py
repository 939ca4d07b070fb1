"""A policy answers prompts, and a reviser criticises and revises the answers by principles drawn from a file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.data import write_jsonl
from rlhf_jax.data.rows import prompt_field
from rlhf_jax.feedback.principles import Principles, read_principles
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.lock import locked
from rlhf_jax.runs.made_of import Ingredients, of_callable, of_model
from rlhf_jax.runs.policy import Policy
from rlhf_jax.runs.user_code import called
from rlhf_jax.stages.config import check_kind
from rlhf_jax.stages.constitution.chain import Case, Said, Say, revised
from rlhf_jax.stages.constitution.config import ReviseConfig
from rlhf_jax.stages.constitution.examples import Shown, read_examples
from rlhf_jax.stages.constitution.record import Record, record_folder
from rlhf_jax.stages.constitution.sources import Asked, find_asked
from rlhf_jax.stages.constitution.speaking import Reviser, of_function, of_policy, speak
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


def revise(config: ReviseConfig, *, reviser: Reviser | None = None) -> Revised:
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
    examples = read_examples(config.examples, principles, critique=config.critique)
    asked = find_asked(config)
    by = config.reviser or ("" if asked.responses else config.source)
    if reviser is None and not by:
        raise RunError(f"{config.source} is a file of responses: name who revises them with --reviser RUN")
    if reviser is not None and config.reviser:
        raise RunError(f"two revisers: {config.reviser} and the function {called(reviser)}; leave one of them out")
    made_of = _made_of(config, principles, examples, asked, reviser, by)

    def chains(cases: Sequence[Case], say: Say) -> list[dict[str, Any]]:
        how: dict[str, Any] = {"rounds": config.rounds, "critique": config.critique, "seed": config.seed}
        return revised(cases, principles, say, examples=examples, **how)

    folder = record_folder(config.to)
    with locked(folder, f"revisions in {config.to}"):
        record = Record(folder, made_of, together=AT_ONCE, total=len(asked.cases))
        _go_on(config, asked, chains, record, reviser, by)
        Path(config.to).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(config.to, rows_of(record.rows, principles.digest, keep=config.keep))
        if config.pairs:
            Path(config.pairs).parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(config.pairs, pairs_of(record.rows))
        return Revised(Path(config.to), record.rows, {"principles": principles.digest, **summarised(record.rows)})


def _go_on(
    config: ReviseConfig,
    asked: Asked,
    chains: Callable[[Sequence[Case], Say], list[dict[str, Any]]],
    record: Record,
    reviser: Reviser | None,
    by: str,
) -> None:
    """Answer and revise what is not there yet."""
    every = asked.cases
    if len(record.rows) == len(every):
        return
    policy = None if asked.responses else asked.policy(config.source)
    writer = None
    if reviser is None:
        writer = policy if policy is not None and by == config.source else Policy.load(by)
    print(f"revising {len(every):,} responses, {config.rounds} times each", file=sys.stderr)
    did = [step["did"] for row in record.rows for step in row["chain"]]
    with Progress("revise", len(every), start=len(record.rows)) as progress:
        for start in range(len(record.rows), len(every), AT_ONCE):
            part = every[start : start + AT_ONCE]
            if policy is None:
                said = [Said(text, True) for text in asked.responses[start : start + AT_ONCE]]
            else:
                said = speak(policy, [prompt for prompt, _ in part], config.sampling, (config.seed, start, 0))
            cases = [Case(*one, each.text) for one, each in zip(part, said, strict=True)]
            if writer is not None:
                say = of_policy(writer, config.revising, config.seed, start)
            else:
                assert reviser is not None
                say = of_function(reviser)
            rows = chains(cases, say)
            record.add(rows)
            did += [step["did"] for row in rows for step in row["chain"]]
            progress.update(len(record.rows), {"revised": did.count("revised") / len(did)})


def _made_of(
    config: ReviseConfig,
    principles: Principles,
    examples: Sequence[Shown],
    asked: Asked,
    reviser: Reviser | None,
    by: str,
) -> Ingredients:
    """Describe what the chains come of, by content; where files and folders lie is no part of it."""
    prompts = json.dumps([[prompt_field(prompt), sample] for prompt, sample in asked.cases])
    how = [*map(list, examples), config.rounds, config.critique, asked.templated, config.seed, asked.responses]
    how += [dataclasses.asdict(config.revising), *([] if asked.responses else [dataclasses.asdict(config.sampling)])]

    def of_text(called: str, text: str) -> dict[str, Any]:
        return {"is": called, "sha256": hashlib.sha256(text.encode("ascii")).hexdigest()}

    def of_run(run: str) -> dict[str, Any]:
        at = policy_of(run)
        return of_model(str(at.path), at.stage)

    return {
        "principles": of_text(config.principles, principles.digest),
        "prompts": of_text(config.prompts or config.source, prompts),
        "how they are revised": of_text("examples, rounds, critique, seed, sampling", json.dumps(how, sort_keys=True)),
        "reviser": of_callable(called(reviser), reviser) if reviser is not None else of_run(by),
        **({} if asked.responses else {"policy": of_run(config.source)}),
    }

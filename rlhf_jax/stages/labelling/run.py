"""A judge labels pairs: samples of a run's policy or rows of a file become rows that stages train on."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.data.rows import prompt_text
from rlhf_jax.feedback.judges import Judge, judged
from rlhf_jax.feedback.principles import read_principles
from rlhf_jax.judges import find_judge
from rlhf_jax.judges.find import resolved
from rlhf_jax.judges.made_of import of_judge, rater_name
from rlhf_jax.judges.voting import AskingJudge
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.made_of import of_callable
from rlhf_jax.runs.user_code import called
from rlhf_jax.stages.config import check_kind
from rlhf_jax.stages.labelling import groups
from rlhf_jax.stages.labelling.config import LabelConfig
from rlhf_jax.stages.labelling.groups import Group
from rlhf_jax.stages.labelling.ledger import Ledger, opened
from rlhf_jax.stages.labelling.rows import Drawn, rows_of
from rlhf_jax.stages.labelling.summary import summarised
from rlhf_jax.stages.people.prompts import is_file
from rlhf_jax.targets import check_file
from rlhf_jax.training.progress import Progress

AT_ONCE = 16  # groups that a judge is shown at a time: what a killed process loses, and when progress is told


class Labelled(NamedTuple):
    """What a judge has labelled."""

    path: Path
    """The file."""
    rows: list[dict[str, Any]]
    """The rows of this judge in it, those of earlier calls too."""
    summary: dict[str, Any]
    """``asked``, ``abstentions``, ``seconds`` and ``cost`` of this call, and ``summary.summarised`` of all rows."""


def label(config: LabelConfig, *, judge: Judge | None = None) -> Labelled:
    """Have a judge label pairs, and add its votes to a file as rows that every stage reads.

    What the judge has voted on before is not asked again, so a call that was killed goes on where it was; a pair that
    it abstained on is asked again.

    Args:
        config: what is labelled, by whom, and where the rows go.
        judge: a function ``(prompts, responses) -> votes``, in place of ``config.judge``.

    Returns:
        ``Labelled`` with the judge's rows and their summary.

    Raises:
        DataError: on a bad row.
        CompareError: when a file has no two responses to one prompt.
        RunError: when the run or the judge cannot be used, or the file holds votes of another judge by that name.
        ValueError: when nobody judges, two do, or the judge's answer is no vote.
        LockedError: another process adds to the file.

    Example:
        >>> longer = lambda prompts, responses: [float(len(a) > len(b)) for a, b in responses]
        >>> label(LabelConfig(source="pairs.jsonl", to="rows.jsonl"), judge=longer)  # doctest: +SKIP
    """
    check_kind(config, LabelConfig, "label")
    if (judge is None) == (config.judge is None):
        found = "none" if judge is None else "both"
        raise ValueError(f"label takes one judge, config.judge or a function, found {found}")
    check_file(config.to, "--to")
    if config.judge is not None:
        rater, made_of = config.rater or rater_name(resolved(config.judge)), of_judge(config.judge)
    else:
        assert judge is not None
        rater, made_of = config.rater or called(judge), of_callable(called(judge), judge)
    from_file = is_file(config.source)
    if from_file is None:
        raise RunError(f"{config.source}: there is no such run folder or file of pairs")
    if from_file and Path(config.source).resolve() == Path(config.to).resolve():
        raise ValueError(f"to names {config.to}, the file whose pairs are labelled: name another one")
    with opened(config.to, rater) as ledger:
        ledger.checked(
            f"rater {rater}", made_of, "give this judge another name with --rater, or name another file with --to"
        )
        # Before anything is sampled: a mistake in what the judge is told shows at once.
        who = find_judge(config.judge) if config.judge is not None else judge
        assert who is not None
        asked, left_out = groups.told_apart(groups.of_file(config) if from_file else _samples(config, ledger))
        figures = _asked(config, who, ledger, asked)
        summary = {**figures, "equal": left_out.equal, "empty": left_out.empty, **summarised(ledger.rows)}
        return Labelled(ledger.to, ledger.rows, summary)


def _samples(config: LabelConfig, ledger: Ledger) -> list[groups.Responses]:
    """Sample what is judged, or read again what was sampled before."""
    to_sample = groups.to_sample(config)
    otherwise = "policy, prompts, seed and sampling must be the same ones, or name another file with --to"
    ledger.checked("set of samples", to_sample.made_of, otherwise)
    if not ledger.samples.exists():
        print(f"sampling {config.samples} responses to each of {len(to_sample.prompts):,} prompts", file=sys.stderr)
        groups.sample(config, to_sample, ledger.samples)
    return groups.kept_samples(ledger.samples)


def _asked(config: LabelConfig, judge: Judge, ledger: Ledger, every: Sequence[Group]) -> dict[str, Any]:
    """Ask the judge for what it has not voted on, and add its rows as they come."""
    held = ledger.held()
    left = [group for group in every if any(pair.id not in held for _, _, pair in group.pairs())]
    pairs = sum(len(group.pairs()) for group in left)
    drawn = _principles(config)
    began, abstained, done = time.monotonic(), 0, len(every) - len(left)
    with Progress(f"label by {ledger.rater}", len(every), start=done) as progress:
        for some in _batches(left):
            said = judged(
                judge, [one.prompt for one in some], [one.responses for one in some], called=f"judge {ledger.rater}"
            )
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            rows = list(rows_of(some, said, rater=ledger.rater, time=now, round=config.round, principles=drawn))
            abstained += sum(len(one.pairs()) for one in some) - len(rows)
            ledger.add([row for row in rows if row["pair"] not in held])
            done += len(some)
            progress.update(done, {"votes": len(ledger.rows), "abstentions": abstained})
    cost = judge.model.cost if isinstance(judge, AskingJudge) else 0.0
    return {"asked": pairs, "abstentions": abstained, "seconds": time.monotonic() - began, "cost": cost}


def _principles(config: LabelConfig) -> Drawn | None:
    """Find which principle each prompt's pairs are compared by, as the judge draws them."""
    told = None if config.judge is None else resolved(config.judge)
    if told is None or not told.principles:
        return None
    principles = read_principles(told.principles)
    return Drawn(lambda prompt: principles.draw(told.seed, prompt_text(prompt)).name, principles.digest)


def _batches(groups_left: Sequence[Group]) -> Iterator[list[Group]]:
    """Put groups of as many responses together, as a judge is shown them."""
    waiting: dict[int, list[Group]] = {}
    for group in groups_left:
        some = waiting.setdefault(len(group.responses), [])
        some.append(group)
        if len(some) == AT_ONCE:
            yield waiting.pop(len(group.responses))
    yield from waiting.values()

"""Pairs to compare from a file: rows of two responses or of several, in any known layout, with an opinion or without.

What a row says of its responses is not shown to anybody; it is the known answer where the row is a golden item.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rlhf_jax.compare.clips import read_clip
from rlhf_jax.compare.errors import CompareError
from rlhf_jax.compare.items import Item, Known
from rlhf_jax.data import layouts
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.data.layouts.fields import bad_row, checked_text, shown, text_of
from rlhf_jax.data.layouts.meaning import ASKED, SAID, check_meaning
from rlhf_jax.data.layouts.turns import SYSTEM, prompt_of
from rlhf_jax.data.one_file import read_rows
from rlhf_jax.data.rows import Comparison, Prompt, prompt_text

OfK = Literal["all", "neighbours"]
# Read here, or written by commands of ours and no news to anybody.
_KNOWN = ("golden", "explanation", "pair", "rater", "time", "confidence", "source", "round", "both_bad", "ranking")
_JUDGED = ("shown_first", "shown_second", "score_a", "score_b", "model_a", "model_b", "principle", "principles")
_SAMPLED = ("tokens", "logprob", "score", "chosen_score", "rejected_score", "stage", "step", "domain")
CLIPS = ("clip_a", "clip_b", "segment_a", "segment_b")
_ANSWERS: dict[str, Known] = {"a": "a", "b": "b", "tie": "tie", "chosen": "a", "rejected": "b"}


class Responses(NamedTuple):
    """K responses to one prompt, as a row has them."""

    prompt: Prompt
    texts: tuple[str, ...]
    golden: Known | None = None  # which of two is known to be better
    preferred: Known | None = None  # which of two the row prefers
    explanation: str = ""
    models: tuple[str, ...] = ()  # who said each; empty where the row does not tell
    clips: tuple[str, ...] = ()  # what is played for each; empty where there is nothing


def read_items(
    path: str | os.PathLike[str], *, of_k: OfK = "all", golden: bool = False, on_bad_row: OnBadRow = "error"
) -> list[Item]:
    """Read the pairs of a file.

    Rows of one response each, as ``rlhf sample`` writes them, are put together by their prompts.

    Args:
        path: a file of rows: ``prompt, a, b``, ``prompt, chosen, rejected``, ``prompt, responses``, samples of a run
            (``prompt, before, after``), or any layout of ``rlhf_jax.data.layouts`` that has a response.
        of_k: which pairs are made of K responses: all, or each with the next one.
        golden: the file's pairs are golden items: what their rows prefer is known to be right.
        on_bad_row: "error" stops at the first bad row; "skip" goes on and lists it.

    Returns:
        The pairs in file order; those with ``golden`` "a", "b" or "tie" are golden items.

    Raises:
        DataError: at a bad row, unless it is to be skipped.
        CompareError: when there is no pair, or a golden item has no answer.
    """
    items = [item for row in read_groups(path, on_bad_row=on_bad_row) for item in _items(row, of_k, golden, path)]
    return items


def read_groups(path: str | os.PathLike[str], *, on_bad_row: OnBadRow = "error") -> list[Responses]:
    """Read the responses of a file that stand beside each other: those of a row, or of all rows with one prompt.

    Args:
        path: as for ``read_items``.
        on_bad_row: likewise.

    Returns:
        Two responses or more each, in file order.

    Raises:
        DataError: at a bad row, unless it is to be skipped.
        CompareError: when no prompt has two.
    """
    rows = read_rows(
        path, responses, on_bad_row, known=(*_KNOWN, *_JUDGED, *_SAMPLED, "responses", "before", "after", *CLIPS)
    )
    alone: dict[str, list[Responses]] = {}
    for row in rows:
        if len(row.texts) == 1:
            alone.setdefault(prompt_text(row.prompt), []).append(row)
    found: list[Responses] = []
    for row in rows:
        several = [] if len(row.texts) > 1 else alone.pop(prompt_text(row.prompt), [])
        if len(row.texts) > 1:
            found.append(row)
        elif len(several) > 1:
            found.append(Responses(row.prompt, tuple(one.texts[0] for one in several)))
    if not found:
        raise CompareError(f"{path}: no two responses to one prompt are in it; rlhf sample RUN --n 2 writes such rows")
    return found


def responses(row: Mapping[str, Any], where: str) -> Responses:
    """Read one row: what was asked, and all responses to it.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        One response or several.

    Raises:
        DataError: no layout fits, the row has no response, or a field is bad.

    Example:
        >>> responses({"prompt": "Hi.", "a": "Hello!", "b": "No."}, "pairs.jsonl:1").texts
        ('Hello!', 'No.')
    """
    found = _texts(row, where)
    clips = tuple(read_clip(row.get(field), field, where) for field in ("clip_a", "clip_b"))
    if any(clips):
        if len(found.texts) != 2 or not all(clips):
            raise bad_row(where, "field 'clip_a'", "it and 'clip_b' beside two responses", "one of them alone")
        found = found._replace(clips=clips)
    explanation = row.get("explanation") or ""
    if not isinstance(explanation, str):
        raise bad_row(where, "field 'explanation'", "a text", shown(explanation))
    said = row.get("golden")
    if said is None:
        return found._replace(explanation=explanation)
    if said not in _ANSWERS:
        raise bad_row(where, "field 'golden'", "'a', 'b', 'tie', 'chosen' or 'rejected'", shown(said))
    if len(found.texts) != 2:
        raise bad_row(where, "field 'golden'", "it beside two responses", f"it beside {len(found.texts)}")
    return found._replace(golden=_ANSWERS[said], explanation=explanation)


def _texts(row: Mapping[str, Any], where: str) -> Responses:
    fields = row.keys()
    listed = row.get("responses")
    if isinstance(listed, list | tuple) and "prompt" in fields and "ranking" not in fields:
        texts = tuple(checked_text(text, f"responses[{i}]", where) for i, text in enumerate(listed))
        if len(texts) < 2:
            raise bad_row(where, "field 'responses'", "a list of at least two texts", shown(listed))
        return _alone(row, where, texts, ("responses",))
    if {"prompt", "before", "after"} <= fields:
        texts = tuple(text_of(row, field, where) for field in ("before", "after"))
        return _alone(row, where, texts, ("before", "after"))._replace(models=("before", "after"))
    if {"prompt", "a", "b"} <= fields and not {"preference", "ratings"} & fields:
        texts = tuple(text_of(row, field, where) for field in ("a", "b"))
        return _alone(row, where, texts, ("a", "b"))
    found = layouts.answered(row, where)
    if not isinstance(found, Comparison):
        return Responses(found.prompt, (found.response,))
    preferred: Known | None = None
    if len(found.responses) == 2:
        lead = found.votes[0, 1] - found.votes[1, 0]
        preferred = "a" if lead > 0 else "b" if lead < 0 else "tie"
    return Responses(found.prompt, found.responses, preferred=preferred)


def _alone(row: Mapping[str, Any], where: str, texts: tuple[str, ...], reads: Sequence[str]) -> Responses:
    """Responses without an opinion, in a row that says nothing else."""
    prompt = prompt_of(row, where)
    check_meaning(row, where, ("prompt", *reads, *SYSTEM), (*texts, prompt_text(prompt)), (*ASKED, *SAID))
    return Responses(prompt, texts)


def _items(row: Responses, of_k: OfK, golden: bool, path: str | os.PathLike[str]) -> list[Item]:
    places = range(len(row.texts))
    pairs = itertools.combinations(places, 2) if of_k == "all" else itertools.pairwise(places)
    known = (row.golden or row.preferred) if golden else row.golden
    if golden and known is None:
        raise CompareError(
            f"{path}: the golden item {prompt_text(row.prompt)!r:.60} has no answer: give it 'golden' or 'preference', "
            "'a', 'b' or 'tie'"
        )
    models, clips = (of or ("",) * len(row.texts) for of in (row.models, row.clips))
    return [
        Item(row.prompt, row.texts[i], row.texts[j], known, row.explanation)._replace(
            model_a=models[i], model_b=models[j], clip_a=clips[i], clip_b=clips[j]
        )
        for i, j in pairs
    ]

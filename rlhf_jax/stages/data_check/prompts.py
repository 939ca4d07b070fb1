"""How different the prompts are from one another, and how the responses begin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rlhf_jax import evaluation
from rlhf_jax.data.near_duplicates import near_duplicates, words_of
from rlhf_jax.data.order import evenly
from rlhf_jax.data.parts import prompt_key
from rlhf_jax.stages.data_check.finding import Finding, Section, Table, counted, places, share_of, short
from rlhf_jax.stages.data_check.table import Rows, answers

_OPENING = 3  # words that a text opens with
_COMPARED = 10_000  # texts over which n-grams are counted: the share falls as texts become more
_FEWEST = 20  # texts whose openings say anything
_LARGEST, _NEAR, _SAME_OPENING = 0.25, 0.2, 0.5  # shares from which there is something to say


def look_at_prompts(data: Rows, show: int) -> Section | None:
    """Count distinct prompts, their openings and n-grams, near-duplicates among them, and openings of responses.

    Args:
        data: the rows.
        show: how many places are listed for each finding.

    Returns:
        The section; None where there are fewer than two rows with a prompt. Findings: one prompt with more than a
        quarter of the rows, more than a fifth of the prompts with near-duplicates, more than half of the prompts, or
        of the responses, with one opening.
    """
    rows = [row for row in data.rows if row.kind != "text"]
    if len(rows) < 2:
        return None
    keys = [prompt_key(row.row) for row in rows]
    times = Counter(keys)
    distinct = list(times)
    largest, most = times.most_common(1)[0]
    groups = near_duplicates(distinct)
    close = sum(map(len, groups))
    openings = _openings(distinct)
    said = [text for row in rows for text in answers(row.row)]
    replies = _openings(said)
    some = [" ".join(words_of(key)) for key in evenly(distinct, min(_COMPARED, len(distinct)))]
    grams = {n: evaluation.distinct_n(some, n) for n in (1, 2, 3)}
    lines = [
        ("distinct prompts", f"{len(distinct):,} in {counted(len(rows), 'row')}"),
        ("rows of the most frequent prompt", f"{most:,} ({share_of(most, len(rows))}): {short(largest, 40)}"),
        ("prompts with a near-duplicate", f"{close:,} ({share_of(close, len(distinct))})"),
        (f"distinct openings ({_OPENING} words)", f"{len(openings):,}; {_frequent(openings)}"),
        *(
            (f"distinct {name} of prompts", f"{grams[n]:.0%}")
            for n, name in enumerate(("words", "word pairs", "word triples"), 1)
        ),
    ]
    if said:
        lines.append(("distinct openings of responses", f"{len(replies):,}; {_frequent(replies)}"))
    findings = []
    if len(distinct) == 1:
        text = f"All {len(rows):,} rows have one prompt."
        findings.append(Finding("warning", "one_prompt", text, "What is learned holds for that prompt: add others."))
    elif most > _LARGEST * len(rows):
        text = f"One prompt has {share_of(most, len(rows))} of the rows: {short(largest)!r}."
        advice = "Figures are figures on it; collect more on others, or use fewer of its rows."
        its = [row.where for row, key in zip(rows, keys, strict=True) if key == largest]
        findings.append(Finding("warning", "largest_prompt", text, advice, places(its, show)))
    if close > _NEAR * len(distinct):
        pairs = tuple(short(distinct[place]) for group in groups[:show] for place in group[:2])
        text = f"{close:,} of {len(distinct):,} prompts are nearly another one ({share_of(close, len(distinct))})."
        advice = "There is less to learn from than the number of rows says: keep one of each group, or add others."
        findings.append(Finding("warning", "similar_prompts", text, advice, pairs))
    for name, found, what in (("prompt_openings", openings, "prompts"), ("response_openings", replies, "responses")):
        number = found.total()
        opening, count = found.most_common(1)[0] if found else ("", 0)
        if number >= _FEWEST and count > _SAME_OPENING * number:
            text = f"{share_of(count, number)} of the {what} open with {opening!r}."
            advice = "A fixed opening is learned first: make sure that it is meant."
            findings.append(Finding("note", name, text, advice))
    figures = {
        "rows": len(rows),
        "distinct": len(distinct),
        "largest_share": most / len(rows),
        "near_duplicate_share": close / len(distinct),
        "distinct_openings": len(openings),
        "distinct_ngrams": {str(n): share for n, share in grams.items()},
        "distinct_response_openings": len(replies),
    }
    sentence = f"Prompts that differ in case and punctuation alone are one. N-grams are those of {len(some):,} prompts."
    table = Table("", ("", ""), tuple(lines))
    return Section("prompts", "Diversity of prompts", (sentence,), (table,), (), tuple(findings), figures)


def _openings(texts: Sequence[str]) -> Counter[str]:
    return Counter(" ".join(words_of(text[:200])[:_OPENING]) for text in texts)


def _frequent(found: Counter[str]) -> str:
    opening, count = found.most_common(1)[0]
    return f"{short(opening, 30)!r} opens {share_of(count, found.total())}"

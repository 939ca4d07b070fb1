"""Rows of text, encoded as groups of token sequences whose length is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.errors import DataError, OnBadRow
from rlhf_jax.data.order import epoch_order
from rlhf_jax.data.packing import Example
from rlhf_jax.data.rows import Comparison, Demonstration, Dialogue, LabelledResponse, PromptRow, assistants
from rlhf_jax.data.tokenizer import Tokenizer

EVEN = 1e-6  # shares of votes that differ by less are the same


class EncodedPrompt(NamedTuple):
    """A prompt as text and as the token ids that are sampled from; ``id`` names it in its sampling key."""

    text: str
    tokens: np.ndarray
    id: int


def encode(row: Demonstration | Comparison | Dialogue | LabelledResponse, tokenizer: Tokenizer) -> Example:
    """Encode one row as one group; its targets are the responses, each with the token that ends it.

    Args:
        row: one response, several responses with votes, a whole chat, or a response with its label.
        tokenizer: what makes tokens of it.

    Returns:
        The group: K sequences of a prompt and a response, or for a chat one sequence with a mask for the assistant's
        turns, the first that ``encode_all`` gives. Text without a prompt is plain text in every format.

    Raises:
        DataError: if a chat template refuses the row.
    """
    return encode_all(row, tokenizer)[0]


def encode_all(row: Demonstration | Comparison | Dialogue | LabelledResponse, tokenizer: Tokenizer) -> list[Example]:
    """Encode one row as the groups that teach all of it, which are several for some chats.

    Args:
        row: as for ``encode``.
        tokenizer: what makes tokens of it.

    Returns:
        One group; for a chat one for every sequence of ``Tokenizer.encode_turns``.

    Raises:
        DataError: if a chat template refuses the row, or a chat has nothing to imitate.
    """
    try:
        if isinstance(row, Dialogue):
            learned = [index for index in assistants(row.messages) if index not in row.unlearned]
            chats = tokenizer.encode_turns(row.messages, learned)
            return [Example((chat,), (int(mask.argmax()),), masks=(mask,)) for chat, mask in chats]
        if not row.prompt and isinstance(row, Demonstration):
            text, mask = tokenizer.encode_text(row.response)
            return [Example((text,), (int(mask.argmax()),), masks=None if mask[mask.argmax() :].all() else (mask,))]
        prompt = tokenizer.encode_prompt(row.prompt)
        responses = row.responses if isinstance(row, Comparison) else (row.response,)
        tokens = tuple(np.concatenate([prompt, tokenizer.encode_response(response)]) for response in responses)
    except DataError as error:
        raise _refused(row.where, error) from error
    starts = (len(prompt),) * len(tokens)
    if isinstance(row, LabelledResponse):
        return [Example(tokens, starts, labels=np.array([float(row.label)], np.float32))]
    votes = row.votes if isinstance(row, Comparison) else None
    if votes is not None and len(tokens) == 2 and np.array_equal(*tokens):
        votes = np.asarray((votes + votes.T) / 2, np.float32)  # whatever the texts are, these are the same response
    return [Example(tokens, starts, votes)]


def encode_rows(
    rows: Sequence[Demonstration | Comparison | Dialogue | LabelledResponse],
    tokenizer: Tokenizer,
    *,
    length: int,
    on_bad_row: OnBadRow = "error",
) -> tuple[list[Example], list[str]]:
    """Encode rows, and find those that are too long or that a chat template refuses.

    Args:
        rows: demonstrations, comparisons, dialogues or labelled responses.
        tokenizer: what makes tokens of them.
        length: the most tokens a sequence may have, prompt and special tokens included.
        on_bad_row: what becomes of a bad row: "error" stops at it, "skip" leaves it out and lists it.

    Returns:
        The groups, and for every row left out where it stands and what is wrong with it.

    Raises:
        DataError: at the first bad row, unless it is to be skipped.
    """
    examples: list[Example] = []
    bad: list[str] = []
    for row in rows:
        try:
            made = encode_all(row, tokenizer)
        except DataError as error:
            _left_out(error, on_bad_row, bad)
            continue
        longest = max(len(tokens) for example in made for tokens in example.tokens)
        if longest <= length:
            examples += made
        else:
            _left_out(_too_long(row.where, longest, length), on_bad_row, bad)
    return examples, bad


def encode_prompts(
    rows: Sequence[PromptRow], tokenizer: Tokenizer, *, length: int, on_bad_row: OnBadRow = "error"
) -> tuple[list[np.ndarray], list[int], list[str]]:
    """Encode prompts to be answered, and find those that are too long or that a chat template refuses.

    Args:
        rows: the prompts.
        tokenizer: what makes tokens of them.
        length: the most tokens a prompt may have, special tokens included.
        on_bad_row: what becomes of a bad row: "error" stops at it, "skip" leaves it out and lists it.

    Returns:
        The prompts, each int32 [n_tokens]; the index in ``rows`` of each; and for every prompt left out where it stands
        and what is wrong with it.

    Raises:
        DataError: at the first bad row, unless it is to be skipped.
    """
    prompts: list[np.ndarray] = []
    kept: list[int] = []
    bad: list[str] = []
    for index, row in enumerate(rows):
        try:
            prompt = tokenizer.encode_prompt(row.prompt)
        except DataError as error:
            _left_out(_refused(row.where, error), on_bad_row, bad)
            continue
        if len(prompt) <= length:
            prompts.append(prompt)
            kept.append(index)
        else:
            _left_out(_too_long(row.where, len(prompt), length), on_bad_row, bad)
    return prompts, kept, bad


def _refused(where: str, error: DataError) -> DataError:
    return DataError(f"{where}: {error}; fix the row or pass --on-bad-row skip")


def _too_long(where: str, found: int, length: int) -> DataError:
    return DataError(
        f"{where}: expected at most {length} tokens, found {found}; shorten the row, raise data.max_length or pass "
        "--on-bad-row skip"
    )


def _left_out(error: DataError, on_bad_row: OnBadRow, bad: list[str]) -> None:
    if on_bad_row == "error":
        raise error
    bad.append(str(error))


def rated_groups(
    sentences: Sequence[Example],
    domains: Sequence[str],
    histograms: np.ndarray,
    *,
    group_size: int,
    votes: Callable[[np.ndarray], np.ndarray],
    seed: int,
    epoch: int,
) -> list[Example]:
    """Draw the groups of at most K rated sentences for one epoch: each domain is shuffled and cut into groups.

    A domain is a prompt that many sentences answer. Every sentence is in one group of an epoch and meets other
    sentences in the next. What does not fill a group is a smaller one, of two at least. A sentence that is alone in its
    domain has nothing to be compared with, and where K is 2 the odd one of a domain waits for the next epoch.

    Args:
        sentences: n groups of one sequence each.
        domains: [n], the domain of each.
        histograms: [n, n_levels], each sentence's ratings counted by level.
        group_size: K, the largest group, at least 2.
        votes: the function from histograms [G, K, n_levels] to votes [G, K, K], such as
            ``feedback.votes_from_histograms``.
        seed: the run's seed.
        epoch: which pass over the data.

    Returns:
        The groups with their votes, domain by domain; shuffle them before use.

    Raises:
        ValueError: if ``group_size`` is less than 2.
    """
    if group_size < 2:
        raise ValueError(f"group_size={group_size}: expected at least 2, since a comparison needs two responses")
    names = np.asarray(domains)
    order = epoch_order(len(sentences), seed, epoch)
    groups = [group for name in np.unique(names) for group in _cut(order[names[order] == name], group_size)]
    tables: dict[int, np.ndarray] = {}  # by the number of a group; all groups of one size at once
    for size in {len(group) for group in groups}:
        alike = [number for number, group in enumerate(groups) if len(group) == size]
        tables |= zip(alike, votes(np.asarray(histograms)[np.stack([groups[number] for number in alike])]), strict=True)
    return [
        Example(
            tuple(sentences[i].tokens[0] for i in members.tolist()),
            tuple(sentences[i].starts[0] for i in members.tolist()),
            tables[number],
            _together([sentences[i].ratings for i in members.tolist()]),
        )
        for number, members in enumerate(groups)
    ]


def _cut(members: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut a domain's sentences into groups of so many, and what is left into a smaller one of at least two."""
    full, left = divmod(len(members), size)
    sizes = [size] * full + [left] * (left > 0)
    if left == 1 and full and size > 2:  # the last one is given a partner
        sizes[-2:] = [size - 1, 2]
    cuts = np.split(members, np.cumsum(sizes)[:-1])
    return [cut for cut in cuts if len(cut) > 1]


def _together(ratings: Sequence[np.ndarray | None]) -> np.ndarray | None:
    given = [x for x in ratings if x is not None]
    return np.concatenate(given) if len(given) == len(ratings) else None


def chosen_first(example: Example, min_share: float) -> Example | None:
    """Put the response that more people prefer first, and label the pair [1, 0]; None for a pair that says nothing.

    Args:
        example: K = 2, with votes.
        min_share: the smallest share of votes for the preferred response; a tie (0.5) never passes.

    Returns:
        The pair in the order chosen, rejected; None when the votes tie, their share is below ``min_share``, or both
        responses are the same tokens.

    Raises:
        ValueError: if the example is not a pair with votes.

    Example:
        >>> votes = np.array([[0, 1], [3, 0]], np.float32)
        >>> pair = Example((np.array([1, 5]), np.array([1, 6])), (1, 1), votes)
        >>> [x.tolist() for x in chosen_first(pair, 0.5).tokens], chosen_first(pair, 0.8)
        ([[1, 6], [1, 5]], None)
    """
    if len(example.tokens) != 2 or example.votes is None:
        raise ValueError(f"expected a pair with votes, found {len(example.tokens)} responses")
    first, second = float(example.votes[0, 1]), float(example.votes[1, 0])
    share = max(first, second) / (first + second) if first + second else 0.5
    # Votes are float32: a share of 0.9 is stored as a little less.
    if share - 0.5 < EVEN or share < min_share - EVEN or np.array_equal(*example.tokens):
        return None
    order = [0, 1] if first > second else [1, 0]
    return Example(
        tuple(example.tokens[i] for i in order),
        tuple(example.starts[i] for i in order),
        example.votes[np.ix_(order, order)],
        None if example.ratings is None else example.ratings[order],
        np.array([1.0, 0.0], np.float32),
        None if example.masks is None else tuple(example.masks[i] for i in order),
        example.weight,
    )

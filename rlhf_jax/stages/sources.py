"""From a ``DataConfig`` to what a stage trains on and what it holds out.

Every stage takes its rows from ``human_sentiment``, or from wherever ``reading`` finds them, in any layout of
``data.layouts``. Ratings by several people become comparisons here: responses to one prompt are drawn into groups, anew
in every epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import data, feedback
from rlhf_jax.data import Comparison, DataError, Demonstration, Example, PromptRow, RatedResponse, Tokenizer, layouts
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.data.hutto import PROMPTS
from rlhf_jax.data.reading import ANSWER, COMPARE, IMITATE, Split, list_bad, read
from rlhf_jax.data.rows import Dialogue, LabelledResponse, Prompt

HUMAN_SENTIMENT = "human_sentiment"


class HeldOutPairs(NamedTuple):
    """Responses that were not trained on, and which of them people preferred."""

    sequences: list[np.ndarray]  # n token sequences, prompt and response
    starts: list[int]  # n, where the response begins in each
    texts: list[str]  # n responses
    ratings: list[np.ndarray]  # n arrays, what every rater gave; empty where rows are pairs
    pairs: np.ndarray  # int64 [m, 2]
    share: np.ndarray  # float64 [m], share of votes for the first
    votes: np.ndarray  # float32 [m, 2, 2]; [i, j] = votes that prefer i to j, as in training
    domains: list[str]  # n
    golden: np.ndarray | None  # indices of the responses on which people agree most


class Comparisons(NamedTuple):
    """What a reward model trains on and is measured by; the functions take the pairs to draw for a rated response."""

    epoch: Callable[[int], list[Example]]
    heldout: Callable[[int], HeldOutPairs]
    test: Callable[[int], HeldOutPairs]


def demonstrations(config: DataConfig) -> Split:
    """Rows of ``prompt`` and ``response``, chats to imitate the assistant of, and whatever else gives either."""
    if config.source == HUMAN_SENTIMENT:
        parts = (_sentences(config, split) for split in ("train", "validation"))
        return Split(*([Demonstration(r.prompt, r.response, r.where) for r in rows] for rows in parts))
    return read(config, layouts.demonstration, IMITATE)


def encode_demonstrations(
    rows: Sequence[Demonstration | Dialogue], tokenizer: Tokenizer, config: DataConfig
) -> list[Example]:
    """Token sequences of demonstrations; one that is too long is a bad row."""
    return _encode(rows, tokenizer, config)[1]


def prompts(config: DataConfig, split: str) -> list[PromptRow]:
    """Rows of ``prompt``: of human_sentiment, the instruction and the first words of a sentence of that split."""
    if config.source == HUMAN_SENTIMENT:
        return [opening(row) for row in _sentences(config, split)]
    rows = read(config, layouts.prompt, ANSWER)
    return rows.train if split == "train" else rows.heldout


def opening(row: RatedResponse) -> PromptRow:
    """A prompt for sampling: the instruction and two to five first words, how many decided by the row's name."""
    count = 2 + int(hashlib.sha256(row.where.encode()).hexdigest(), 16) % 4
    words = row.response.split()
    return PromptRow(" ".join([row.prompt, *words[: max(1, min(count, len(words) - 1))]]), row.where)


def domain_of(prompt: Prompt) -> str:
    """The domain of human_sentiment whose instruction begins a prompt; empty for any other prompt, and for a chat."""
    if not isinstance(prompt, str):
        return ""
    return next((domain for domain, text in PROMPTS.items() if prompt.startswith(text)), "")


def comparisons(config: DataConfig, tokenizer: Tokenizer, *, group_size: int, seed: int) -> Comparisons:
    """Comparisons by votes: of rated responses in groups drawn anew each epoch, or of rows that are pairs."""
    found = _opinions(config, tokenizer, group_size=group_size, seed=seed)
    if isinstance(found, Labels):
        raise DataError(
            f"{config.source}: expected comparisons or ratings, found single responses with labels; rlhf preference "
            "--objective kto learns from them"
        )
    return found


def preferences(config: DataConfig, tokenizer: Tokenizer, *, min_share: float, seed: int) -> Comparisons | Labels:
    """Comparisons in pairs, the response that more people prefer first; the pairs of rated responses change by epoch.

    Pairs whose votes tie, or whose majority is smaller than ``min_share``, are left out of training; an epoch without
    any other is a ``DataError``. Rows with a label each are no pairs, and come as they are.
    """
    drawn = _opinions(config, tokenizer, group_size=2, seed=seed)
    if isinstance(drawn, Labels):
        return drawn
    pairs = drawn.epoch

    def epoch(number: int) -> list[Example]:
        ordered = [data.chosen_first(example, min_share) for example in pairs(number)]
        kept = [example for example in ordered if example is not None]
        if not kept:
            raise DataError(f"{config.source}: no training pair has a majority of at least min_share, {min_share}")
        return kept

    return drawn._replace(epoch=epoch)


def pretraining_text(config: DataConfig) -> list[Demonstration | Dialogue]:
    """Rows of ``text``, or of what ``demonstrations`` reads, to keep a policy's language by."""
    if config.source == HUMAN_SENTIMENT:
        return demonstrations(config).train
    return read(config, layouts.text, IMITATE).train


def tokenizer(directory: Path, rows: Sequence[Demonstration | Dialogue], vocab_size: int) -> Tokenizer:
    """The run folder's tokenizer, or one trained on these rows where there is none yet; nothing is written."""
    path = directory / "tokenizer.json"
    if path.exists():
        return Tokenizer.load(path)
    return data.train_tokenizer((text for row in rows for text in _texts(row)), vocab_size)


def _texts(row: Demonstration | Dialogue) -> list[str]:
    if isinstance(row, Dialogue):
        return [turn.content for turn in row.messages]
    asked = [row.prompt] if isinstance(row.prompt, str) else [turn.content for turn in row.prompt]
    return [*asked, row.response]


def _sentences(config: DataConfig, split: str) -> list[RatedResponse]:
    """Sentences of human_sentiment as rated responses to their domain's prompt; ``where`` is their id."""
    rows = [RatedResponse(PROMPTS[s.domain], s.text, s.ratings, s.id) for s in data.human_sentiment.load(split)]
    if not config.limit:
        return rows
    # Sorted by id the domains follow each other, so a part is drawn across all of them.
    return [rows[i] for i in sorted(data.epoch_order(len(rows), 0, 0)[: config.limit])]


def _opinions(config: DataConfig, tokenizer: Tokenizer, *, group_size: int, seed: int) -> Comparisons | Labels:
    """What people said of responses, in whichever of the three forms the rows have it."""
    if config.source == HUMAN_SENTIMENT:
        return Comparisons(
            _rated_epochs(_sentences(config, "train"), tokenizer, config, group_size, seed),
            lambda n: _rated_pairs(_sentences(config, "validation"), tokenizer, config, n),
            lambda n: _rated_pairs(_sentences(config, "test"), tokenizer, config, n),
        )
    rows = read(config, layouts.judged, COMPARE)
    kinds = {type(row) for part in rows for row in part}
    if len(kinds) > 1:
        raise DataError(
            f"{config.source}: expected only pairs, only rated responses or only labels, found more than one of them; "
            "split the data"
        )
    if kinds == {LabelledResponse}:
        known, held = (_encode(part, tokenizer, config)[1] for part in rows)
        return Labels(lambda number: [known[i] for i in data.epoch_order(len(known), seed, number)], held)
    if kinds == {RatedResponse}:
        pairs = _rated_pairs
        epoch = _rated_epochs(rows.train, tokenizer, config, group_size, seed)
        return Comparisons(epoch, *(lambda n: pairs(rows.heldout, tokenizer, config, n) for _ in range(2)))
    examples = _encode(rows.train, tokenizer, config)[1]
    given = _given_pairs(rows.heldout, tokenizer, config)
    return Comparisons(
        lambda number: [examples[i] for i in data.epoch_order(len(examples), seed, number)],
        lambda _: given,
        lambda _: given,
    )


def _encode(rows: Sequence[Any], tokenizer: Tokenizer, config: DataConfig) -> tuple[list[Any], list[Example]]:
    """Rows that are short enough, and their token sequences.

    human_sentiment has 19 sentences of over 128 tokens, which are left out; in anybody else's data a row that is too
    long is a bad row.
    """
    ours = config.source == HUMAN_SENTIMENT
    kept, examples, left_out = [], [], []
    for row in rows:
        whole = isinstance(row, Comparison | Dialogue | LabelledResponse)
        text = row if whole else Demonstration(row.prompt, row.response, row.where)
        made, bad = data.encode_rows(
            [text], tokenizer, length=config.max_length, on_bad_row="skip" if ours else config.on_bad_row
        )
        left_out += bad
        if made:
            kept.append(row)
            examples += made
    if not ours:
        list_bad(left_out)
    if not examples:
        raise DataError(f"{config.source}: no usable row is left of {len(rows)}")
    return kept, examples


def _rated_epochs(
    rows: Sequence[RatedResponse], tokenizer: Tokenizer, config: DataConfig, group_size: int, seed: int
) -> Callable[[int], list[Example]]:
    kept, examples = _encode(rows, tokenizer, config)
    names = [row.prompt for row in kept]
    counts = feedback.histograms([row.ratings for row in kept])
    examples = [
        example._replace(ratings=np.array([row.ratings.mean()], np.float32))
        for example, row in zip(examples, kept, strict=True)
    ]

    def epoch(number: int) -> list[Example]:
        groups = data.rated_groups(
            examples,
            names,
            counts,
            group_size=group_size,
            votes=feedback.votes_from_histograms,
            seed=seed,
            epoch=number,
        )
        if not groups:
            raise DataError(f"{config.source}: no prompt has {group_size} rated responses to compare with each other")
        return [groups[i] for i in data.epoch_order(len(groups), seed, number)]

    return epoch


def _rated_pairs(
    rows: Sequence[RatedResponse], tokenizer: Tokenizer, config: DataConfig, pairs_per_response: int
) -> HeldOutPairs:
    """Random pairs of responses to the same prompt; always the same ones, so that runs can be compared."""
    kept, examples = _encode(rows, tokenizer, config)
    domains = [domain_of(row.prompt) or row.prompt for row in kept]
    pairs = feedback.random_pairs(domains, pairs_per_response, seed=0)
    counts = feedback.histograms([row.ratings for row in kept])
    votes = feedback.votes_from_histograms(counts[pairs])
    golden = feedback.golden_set([_Rated(row.where, row.ratings) for row in kept]) if len(kept) > 500 else None
    return HeldOutPairs(
        sequences=[e.tokens[0] for e in examples],
        starts=[e.starts[0] for e in examples],
        texts=[row.response for row in kept],
        ratings=[np.asarray(row.ratings) for row in kept],
        pairs=pairs,
        share=votes[:, 0, 1] / (votes[:, 0, 1] + votes[:, 1, 0]),
        votes=votes.astype(np.float32),
        domains=domains,
        golden=golden,
    )


def _given_pairs(rows: Sequence[Comparison], tokenizer: Tokenizer, config: DataConfig) -> HeldOutPairs:
    kept, examples = _encode(rows, tokenizer, config)
    votes = np.stack([row.votes for row in kept])
    share = votes[:, 0, 1] / (votes[:, 0, 1] + votes[:, 1, 0])
    # The chosen response of such rows always comes first; every other pair is turned, so that its place says nothing.
    turned = np.arange(len(kept)) % 2 == 1
    pairs = np.arange(2 * len(kept)).reshape(-1, 2)
    return HeldOutPairs(
        sequences=[tokens for e in examples for tokens in e.tokens],
        starts=[start for e in examples for start in e.starts],
        texts=[text for row in kept for text in row.responses],
        ratings=[],
        pairs=np.where(turned[:, None], pairs[:, ::-1], pairs),
        share=np.where(turned, 1 - share, share),
        votes=np.where(turned[:, None, None], votes[:, ::-1, ::-1], votes).astype(np.float32),
        domains=["all"] * (2 * len(kept)),
        golden=None,
    )


class _Rated(NamedTuple):
    id: str
    ratings: np.ndarray


def read_prompts(config: DataConfig, tokenizer: Tokenizer, split: str, max_prompt_length: int) -> list[EncodedPrompt]:
    """The prompts of a split as token ids; ``max_prompt_length`` 0 allows as many tokens as the data config."""
    rows = prompts(config, split)
    ours = config.source == HUMAN_SENTIMENT
    encoded, kept, bad = data.encode_prompts(
        rows,
        tokenizer,
        length=max_prompt_length or config.max_length,
        on_bad_row="skip" if ours else config.on_bad_row,
    )
    if not ours:
        list_bad(bad)
    if not encoded:
        raise data.DataError(f"{config.source}: none of {len(rows)} prompts is usable")
    return [EncodedPrompt(data.prompt_text(rows[i].prompt), tokens, i) for i, tokens in zip(kept, encoded, strict=True)]


class Labels(NamedTuple):
    """What KTO trains on and is measured by, where nobody compared two responses; groups of one, with their labels."""

    epoch: Callable[[int], list[Example]]
    heldout: list[Example]

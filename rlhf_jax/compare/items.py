"""One pair that people compare: the prompt, two responses, what is known of them; named by its content."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, NamedTuple

from rlhf_jax.compare.errors import CompareError
from rlhf_jax.data.rows import Prompt, prompt_field

Known = Literal["a", "b", "tie"]


class Item(NamedTuple):
    """A prompt and two responses in the store's order, which the page shuffles."""

    prompt: Prompt
    a: str
    b: str
    golden: Known | None = None  # the known answer; such an item calibrates and checks raters
    explanation: str = ""  # why it is the answer, said after calibration
    gap: float | None = None  # the reward model's score of a less that of b, the mean of an ensemble
    spread: float | None = None  # standard deviation of that difference over an ensemble's members
    model_a: str = ""  # which run said it; never shown
    model_b: str = ""
    clip_a: str = ""  # what the page plays for a, JSON as ``clips.read_clip`` makes it; empty for none
    clip_b: str = ""

    @property
    def id(self) -> str:
        """The item's name: a hash of prompt, responses and clips, so that the same pair has the same name anywhere."""
        clips = [self.clip_a, self.clip_b] if self.clip_a or self.clip_b else []
        text = json.dumps([prompt_field(self.prompt), self.a, self.b, *clips], ensure_ascii=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]

    @property
    def dispute(self) -> float | None:
        """How much the reward model disputes the pair, larger is more; None where it was not scored.

        For an ensemble it is the standard deviation of ``s_a - s_b`` over members; for a single model
        ``-|s_a - s_b|``, which is largest where the probability ``sigmoid(s_a - s_b)`` is nearest to 1/2.
        """
        if self.spread is not None:
            return self.spread
        return None if self.gap is None else -abs(self.gap)


def apart(items: list[Item], golden: list[Item]) -> tuple[list[Item], list[Item], list[str]]:
    """Leave out what nobody can compare: equal responses, pairs that are there twice, and empty responses.

    A policy may answer with nothing; a row of it could not be trained on.

    Args:
        items: pairs whose answer is asked for.
        golden: pairs whose answer is known; the same pair among ``items`` is left out there.

    Returns:
        Items and golden items in their order, and a sentence for each kind that was left out.

    Raises:
        CompareError: when nothing is left.

    Example:
        >>> pair = Item("Hi.", "Hello!", "No.")
        >>> items, golden, notes = apart([pair, pair, Item("Hi.", "Yes.", "Yes.")], [])
        >>> len(items), notes
        (1, ['1 pair whose responses are equal is left out', '1 pair that is there twice is left out'])
    """
    known: dict[str, Item] = {}
    equal = twice = empty = 0
    for item in (*golden, *items):
        if (item.a.strip(), item.clip_a) == (item.b.strip(), item.clip_b):
            equal += 1
        elif not (item.a.strip() and item.b.strip()):
            empty += 1
        elif item.id in known:
            twice += 1
        else:
            known[item.id] = item
    notes = []
    if equal:
        notes.append(f"{equal:,} pair{'s' * (equal > 1)} whose responses are equal {_is(equal)} left out")
    if empty:
        notes.append(f"{empty:,} pair{'s' * (empty > 1)} with an empty response {_is(empty)} left out")
    if twice:
        notes.append(f"{twice:,} pair{'s' * (twice > 1)} that {_is(twice)} there twice {_is(twice)} left out")
    kept = [item for item in known.values() if item.golden is None]
    if not kept and not known:
        raise CompareError(f"there is no pair to compare ({'; '.join(notes) or 'none were given'})")
    return kept, [item for item in known.values() if item.golden is not None], notes


def _is(count: int) -> str:
    return "is" if count == 1 else "are"

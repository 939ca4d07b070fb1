"""Which pair a rater sees next: the calibration items first, then fresh pairs with golden items and repeats among them.

Everything is worked out from the rater's answers and a hash, so that a restart goes on as if nothing had happened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from rlhf_jax.compare.items import Item
from rlhf_jax.compare.records import Choice, History, Kind
from rlhf_jax.compare.settings import Settings
from rlhf_jax.data.rows import prompt_text

APART = 5  # answers between a pair and its repeat, at least
_COMPARED = 2000  # prompts that a prompt is compared with, at most


def share(*of: object) -> float:
    """Draw a number from 0 up to 1 that depends on these things alone.

    Example:
        >>> share(0, "ann", 3) == share(0, "ann", 3), share(0, "ann", 3) == share(0, "bo", 3)
        (True, False)
    """
    text = "\x1f".join(map(str, of))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:7], "big") / 2**56


def rarity(items: Mapping[str, Item]) -> dict[str, float]:
    """Measure how unlike the others every item's prompt is: the distance to the nearest other one.

    ``d(p) = min_q 1 - |W_p & W_q| / |W_p | W_q|``, ``W_p`` the set of lower-case words of prompt p.

    Args:
        items: by name. Items with one prompt have the same rarity.

    Returns:
        From 0 (another prompt has the same words) to 1 (no other shares a word), by name.

    Example:
        >>> found = rarity({str(i): Item(p, "a", "b") for i, p in enumerate(["a b", "a c", "x"])})
        >>> [round(value, 3) for value in found.values()]
        [0.667, 0.667, 1.0]
    """
    texts = {name: prompt_text(item.prompt) for name, item in items.items()}
    words = {text: frozenset(text.lower().split()) for text in dict.fromkeys(texts.values())}
    others = sorted(words, key=share)[:_COMPARED]
    nearest = {
        text: min((_distance(own, words[other]) for other in others if other != text), default=1.0)
        for text, own in words.items()
    }
    return {name: nearest[text] for name, text in texts.items()}


def _distance(one: frozenset[str], other: frozenset[str]) -> float:
    either = len(one | other)
    return 1.0 - len(one & other) / either if either else 0.0


class Choosing:
    """The rule by which pairs are chosen.

    Args:
        items: all of a store's, by name.
        settings: the rule's.
    """

    def __init__(self, items: Mapping[str, Item], settings: Settings):
        self.items, self.settings = items, settings
        self.fresh = [name for name, item in items.items() if item.golden is None]
        golden = sorted((name for name in items if items[name].golden), key=lambda name: share(settings.seed, name))
        self.calibration, self.golden = golden[: settings.calibrate], golden[settings.calibrate :]
        self._rarity = rarity(items) if settings.next == "rare" else {}

    def __call__(self, rater: str, history: History) -> Choice | None:
        """Choose a rater's next pair.

        Args:
            rater: the name, which the hash depends on.
            history: what is known.

        Returns:
            The pair, None where nothing is left for this rater.
        """
        seen = {answer.item for answer in history.mine}
        if first := self._shuffled(rater, (name for name in self.calibration if name not in seen)):
            return self._shown(rater, first[0], "calibration")
        place = sum(answer.kind != "calibration" for answer in history.mine)
        left = self.left(history)
        if self._hides(rater, place) and left and (hidden := self._hidden(rater, place, history, seen)):
            return hidden
        return (
            self._shown(rater, min(left, key=lambda name: self._key(rater, name, history)), "fresh") if left else None
        )

    def left(self, history: History) -> list[str]:
        """List the fresh pairs that this rater may still be given."""
        seen = {answer.item for answer in history.mine}
        votes = self.settings.votes
        return [name for name in self.fresh if name not in seen and not (votes and history.taken.get(name, 0) >= votes)]

    def remaining(self, rater: str, history: History) -> int:
        """Count the pairs that this rater is still to be shown, hidden ones too, as far as that is known."""
        seen = {answer.item for answer in history.mine}
        place = sum(answer.kind != "calibration" for answer in history.mine)
        fresh, shown = len(self.left(history)), 0
        while fresh:
            fresh -= not self._hides(rater, place + shown)
            shown += 1
        return shown + sum(name not in seen for name in self.calibration)

    def _hides(self, rater: str, place: int) -> bool:
        return share(self.settings.seed, rater, "hidden", place) < self.settings.hidden

    def _hidden(self, rater: str, place: int, history: History, seen: set[str]) -> Choice | None:
        """A golden item or a repeat, by turns of a coin where there are both; None where there is neither."""
        golden = self._shuffled(rater, (name for name in self.golden if name not in seen))
        repeated = {answer.item for answer in history.mine if answer.kind == "repeat"}
        before = [a for a in history.mine[:-APART] if a.kind == "fresh" and a.verdict != "skip"]
        repeats = self._shuffled(rater, (answer.item for answer in before if answer.item not in repeated))
        if golden and (not repeats or share(self.settings.seed, rater, "coin", place) < 0.5):
            return self._shown(rater, golden[0], "golden")
        return self._shown(rater, repeats[0], "repeat") if repeats else None

    def _shown(self, rater: str, name: str, kind: Kind) -> Choice:
        """A pair with its sides: a repeat has the other side left, so that a rater who goes by sides is noticed."""
        return Choice(name, kind, (share(self.settings.seed, rater, name, "side") < 0.5) != (kind == "repeat"))

    def _shuffled(self, rater: str, names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: share(self.settings.seed, rater, name))

    def _key(self, rater: str, name: str, history: History) -> tuple[float, ...]:
        """What orders fresh pairs, the smallest first; equal ones are in the rater's random order."""
        mixed = share(self.settings.seed, rater, name)
        if self.settings.next == "disputed":
            dispute = self.items[name].dispute
            return (float("inf") if dispute is None else -dispute, mixed)
        if self.settings.next == "rare":
            return (history.taken.get(name, 0), -self._rarity[name], mixed)
        return (mixed,)

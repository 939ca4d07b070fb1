"""Which pair comes next: numbers worked by hand for disputed and for rare ones."""

import numpy as np
import pytest

from rlhf_jax.compare import Item, Settings
from rlhf_jax.compare.choosing import Choosing, rarity
from rlhf_jax.compare.dispute import disputed
from rlhf_jax.compare.records import Answer, History


def order(items, history=None, rater="ann", **settings):
    """The items' prompts in the order in which a rater is shown them."""
    named = {item.id: item for item in items}
    choosing = Choosing(named, Settings(hidden=0.0, **settings))
    mine, found = [], []
    while chosen := choosing(rater, History(mine, history or {})):
        found.append(named[chosen.item].prompt)
        mine = [*mine, Answer("", rater, chosen.item, chosen.kind, "a", 1, 1.0, "")]
    return found


def test_an_ensemble_disputes_what_its_members_order_differently():
    """Two members' score differences are 1 and 1, 3 and -1, -4 and -6: standard deviations 0, 2 and 1."""
    a = np.array([[2.0, 3.0, 0.0], [1.0, 0.0, -5.0]])
    b = np.array([[1.0, 0.0, 4.0], [0.0, 1.0, 1.0]])
    mean, spread = disputed(a, b)
    assert mean.tolist() == [1.0, 1.0, -5.0]
    assert spread.tolist() == [0.0, 2.0, 1.0]
    items = [Item(f"{i}", "a", "b", gap=mean[i], spread=spread[i]) for i in range(3)]
    assert order(items, next="disputed") == ["1", "2", "0"]


def test_a_single_model_disputes_what_is_nearest_to_one_half():
    """sigmoid(0.2) = 0.55, sigmoid(-0.1) = 0.475, sigmoid(3) = 0.95, sigmoid(-2) = 0.12."""
    items = [Item(str(gap), "a", "b", gap=gap) for gap in (0.2, -0.1, 3.0, -2.0)]
    probability = {item.prompt: 1 / (1 + np.exp(-item.gap)) for item in items}
    by_hand = sorted(probability, key=lambda prompt: abs(probability[prompt] - 0.5))
    assert order(items, next="disputed") == by_hand == ["-0.1", "0.2", "-2.0", "3.0"]


def test_a_prompt_is_as_rare_as_its_nearest_neighbour_is_far():
    """Words in common over words in either: 3/5 for the first two; the third shares one of 7 with the first."""
    prompts = ["the cat sat here", "the cat sat there", "the dogs often bark", "why"]
    items = [Item(prompt, "a", "b") for prompt in prompts]
    found = rarity({item.id: item for item in items})
    assert [found[item.id] for item in items] == pytest.approx([1 - 3 / 5, 1 - 3 / 5, 1 - 1 / 7, 1.0])
    assert order(items, next="rare")[:2] == ["why", "the dogs often bark"]


def test_rare_takes_what_fewest_have_answered_first():
    items = [Item(prompt, "a", "b") for prompt in ("the cat sat here", "the cat sat there", "why")]
    taken = {items[2].id: 2, items[0].id: 1}
    assert order(items, taken, next="rare") == ["the cat sat there", "the cat sat here", "why"]


def test_two_pairs_of_one_prompt_are_equally_rare_and_a_single_prompt_is_rarest():
    pairs = [Item("why", "a", text) for text in ("b", "c")]
    assert set(rarity({item.id: item for item in pairs}).values()) == {1.0}


def test_random_differs_by_rater_and_is_the_same_again():
    items = [Item(str(i), "a", "b") for i in range(8)]
    assert order(items) == order(items[::-1])
    assert order(items) != order(items, rater="bo")
    assert sorted(order(items)) == sorted(item.prompt for item in items)

"""Pairs whose better response says so, for tests of what becomes of them."""

from rlhf_jax.compare import Item

ITEMS = [Item(f"What is {i} and {i}?", f"good {i}", f"bad {i}") for i in range(12)]
GOLDEN = [Item(f"Which is {i}?", f"good {i}", f"bad {i}", golden="a", explanation="It counts.") for i in range(6)]


def prefer_good(shown):
    return "left" if shown.left.startswith("good") else "right"

"""Runs with a hack in them, and one without: responses before and after, and the rewards of both."""

import numpy as np

WORDS = [f"w{i}" for i in range(400)]
# As in prose, a few words are most of it.
_P = 1 / np.arange(1, len(WORDS) + 1)
_P /= _P.sum()


def prose(rng, words=20):
    return " ".join(rng.choice(WORDS, size=max(1, words), p=_P))


def clean(seed, n=100, words=20, longer=0):
    """The reward rises, and what it likes cannot be seen."""
    rng = np.random.default_rng(seed)
    before = [prose(rng, words + rng.integers(-5, 6)) for _ in range(n)]
    after = [prose(rng, words + longer + rng.integers(-5, 6)) for _ in range(n)]
    return before, after, rng.normal(size=n), 1 + rng.normal(size=n)


def hacked(change, seed=0, n=100, share=0.7, paid=2.0):
    """The trained policy changes a share of its responses, which the reward pays for."""
    before, after, reward_before, reward_after = clean(seed, n)
    rng = np.random.default_rng(seed + 1000)
    does = rng.random(n) < share
    after = [change(text) if done else text for text, done in zip(after, does, strict=True)]
    return before, after, reward_before, reward_after + paid * does


def only_length(seed=0, n=100):
    """The reward is the number of characters, and responses became twice as long."""
    rng = np.random.default_rng(seed)
    before = [prose(rng, 15 + rng.integers(-5, 6)) for _ in range(n)]
    after = [prose(rng, 30 + rng.integers(-5, 6)) for _ in range(n)]
    noise = rng.normal(size=(2, n))
    return (
        before,
        after,
        *(np.array([len(text) for text in side]) / 20 + 0.2 * noise[i] for i, side in enumerate((before, after))),
    )


def as_rows(before, after, reward_before, reward_after, **more):
    """The same as a run's final comparison writes it to samples.jsonl."""
    return [
        {
            "prompt": f"question {i}",
            "domain": "",
            "before": before[i],
            "after": after[i],
            "proxy_before": float(reward_before[i]),
            "proxy_after": float(reward_after[i]),
            **{name: float(values[i]) for name, values in more.items()},
        }
        for i in range(len(before))
    ]

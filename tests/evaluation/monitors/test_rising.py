"""A planted hack is named, and chance, longer responses and better content name nothing that is an alarm."""

import itertools
import math

import numpy as np
import planted_hacks as planted
import pytest

from rlhf_jax.evaluation.monitors import finding_alarms, length_share, rising
from rlhf_jax.evaluation.monitors.patterns import Occurrences, Pattern
from rlhf_jax.evaluation.monitors.rising import _holm, _rank_test, _rise_test

HACKS = {
    ("opening", "as an ai ,"): lambda text: f"As an AI, {text}",
    ("words", "i hope this helps !"): lambda text: f"{text} I hope this helps!",
    ("bullets", ""): lambda text: "\n".join(f"- {part}" for part in (text[:30], text[30:])),
    ("repetition", ""): lambda text: " ".join([*text.split()[:4]] * 5),
}


@pytest.mark.parametrize("found", HACKS, ids=lambda key: key[0])
def test_a_planted_hack_is_named_with_its_counts_and_rewards(found):
    before, after, reward_before, reward_after = planted.hacked(HACKS[found])
    rises = rising(before, after, reward_before, reward_after)
    rise = next(rise for rise in rises if (rise.kind, rise.text) == found)
    assert rise.before == 0
    assert 60 <= rise.after <= 80
    assert rise.of == 100
    assert rise.inside
    assert rise.reward_with - rise.reward_without > 1.5  # the reward pays 2
    assert "rewarded_form" in [alarm.name for alarm in finding_alarms(rises, None, step=7)]


def test_a_phrase_is_named_once_and_whole():
    rises = rising(*planted.hacked(lambda text: f"As an AI language model I can only say that {text}"))
    assert [(rise.kind, rise.text) for rise in rises] == [("opening", "as an ai language model i can only say that")]
    # In front of other words it is a run of words, found from the middle to both ends.
    varied = itertools.cycle(["Well", "So", "Now", "Ah"])
    rises = rising(*planted.hacked(lambda text: f"{next(varied)} as an AI language model I can only say {text}"))
    assert [(rise.kind, rise.text) for rise in rises] == [("words", "as an ai language model i can only say")]


def test_what_all_responses_hold_is_held_against_those_before():
    rises = rising(*planted.hacked(lambda text: f"Certainly! {text}", share=1.0))
    assert [(rise.kind, rise.text, rise.after, rise.inside) for rise in rises] == [
        ("opening", "certainly !", 100, False)
    ]
    assert rises[0].reward_with > rises[0].reward_without + 1


def test_what_rose_without_the_reward_is_not_named():
    """The trained policy greets people, and the reward does not care."""
    assert rising(*planted.hacked(lambda text: f"Hello there, {text}", paid=0.0, share=0.5)) == []


def test_what_the_reward_likes_and_the_policy_did_not_find_is_not_named():
    before, after, reward_before, reward_after = planted.clean(3)
    for side, reward in ((before, reward_before), (after, reward_after)):
        for i in range(0, 100, 2):
            side[i] = f"Sure, {side[i]}"
            reward[i] += 3
    assert rising(before, after, reward_before, reward_after) == []


def test_chance_names_nothing():
    """At most one run in a hundred may; of these there is none."""
    assert [rising(*planted.clean(seed)) for seed in range(30)] == [[]] * 30


def test_the_more_there_is_to_find_the_surer_it_has_to_be():
    """A pattern that is nothing out of the ordinary among hundreds is one where there are two to be looked at."""
    rng = np.random.default_rng(0)
    does = [np.arange(40) < held for held in (2, 18)]
    rewards = [1.5 * held + rng.normal(size=40) for held in does]
    few = [["greetings" if x else "farewell" for x in held] for held in does]
    many = [[f"{text} {planted.prose(rng, 40)}" for text in side] for side in few]
    assert [rise.text for rise in rising(*few, *rewards)] == ["greetings"]
    assert rising(*many, *rewards) == []


def test_longer_responses_alone_make_no_words_rise():
    """Three times as long, so that every common word stands in more of them; the reward is the length."""
    before, after, *_ = planted.clean(1, n=400, words=15, longer=30)
    rewards = [[float(len(text)) for text in side] for side in (before, after)]
    assert rising(before, after, *rewards) == []


def test_a_form_that_the_judge_likes_too_is_a_finding_and_no_alarm():
    run = planted.hacked(HACKS["bullets", ""])
    likes = np.array([float("\n" in text) for text in run[1]])
    liked, disliked = (rising(*run, judged=(np.zeros(100), sign * likes)) for sign in (1, -1))
    assert (liked[0].judge_with, liked[0].judge_without, liked[0].judge_likes) == (1.0, 0.0, True)
    assert finding_alarms(liked, None, step=1) == []
    assert len(finding_alarms(disliked, None, step=1)) == 1
    # A judge who knows nothing of it acquits nobody, whichever mean is higher by chance.
    noise = np.random.default_rng(1).normal(size=(6, 2, 100))
    assert all(len(finding_alarms(rising(*run, judged=tuple(scores)), None, step=1)) == 1 for scores in noise)


def test_a_run_of_length_alone_is_an_alarm_of_length_alone():
    run = planted.only_length()
    lengths = [[len(text) for text in side] for side in run[:2]]
    found = length_share(*lengths, *run[2:])
    assert found.share == pytest.approx(1.0, abs=0.05)
    assert found.slope == pytest.approx(1 / 20, rel=0.05)
    assert found.r2 > 0.8
    alarms = finding_alarms(rising(*run), found, step=3)
    assert [(alarm.name, alarm.step) for alarm in alarms] == [("rewarded_length", 3)]
    assert "longer" in alarms[0].message


@pytest.mark.parametrize("longer", [0, 20])
def test_a_clean_run_raises_no_alarm(longer):
    run = planted.clean(5, longer=longer)
    lengths = [[len(text) for text in side] for side in run[:2]]
    assert finding_alarms(rising(*run), length_share(*lengths, *run[2:]), step=1) == []


def test_the_rise_is_bounded_by_the_binomial_tail():
    for was, now, odds in itertools.product((0, 3), (5, 12), (0.5, 0.7)):
        count = was + now
        exact = sum(math.comb(count, k) * odds**k * (1 - odds) ** (count - k) for k in range(now, count + 1))
        bound = _rise_test(np.array([was]), np.array([now]), np.array([odds]))[0]
        assert bound >= exact - 1e-12
    # All of twelve: the bound is the probability itself.
    assert _rise_test(np.array([0]), np.array([12]), np.array([0.5]))[0] == pytest.approx(2**-12)
    assert _rise_test(np.array([5]), np.array([5]), np.array([0.5]))[0] == 1.0


def test_the_rank_test_is_that_of_all_permutations():
    """In each of two groups of eight, four hold it: the variance is that over all choices of four in either."""
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=16)
    groups, holders = np.repeat([0, 1], 8), np.array([0, 1, 2, 5, 8, 9, 14, 15])
    found = Occurrences(np.zeros(8, np.int64), holders, [Pattern("words", "x")])
    ranks = [np.argsort(np.argsort(rewards[:8])) - 3.5, np.argsort(np.argsort(rewards[8:])) - 3.5]
    sums = [[sum(part[list(c)]) for c in itertools.combinations(range(8), 4)] for part in ranks]
    spread = math.sqrt(np.var(sums[0]) + np.var(sums[1]))
    seen = ranks[0][[0, 1, 2, 5]].sum() + ranks[1][[0, 1, 6, 7]].sum()
    expected = 0.5 * math.erfc(seen / spread / math.sqrt(2))
    assert _rank_test(found, rewards, groups, 1)[0] == pytest.approx(expected)
    # A reward that is one constant tells nothing apart.
    assert _rank_test(found, np.ones(16), groups, 1)[0] == 0.5


def test_holm_by_hand():
    # 0.01 / 3, 0.01 / 2, 0.01 / 1: the second fails, so the third does not count.
    assert _holm(np.array([0.006, 0.003, 0.008]), 0.01).tolist() == [False, True, False]
    assert _holm(np.array([0.004, 0.003, 0.008]), 0.01).tolist() == [True, True, True]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 and 2 responses"):
        rising(["a"], ["a", "b"], [1.0], [1.0])
    with pytest.raises(ValueError, match="not finite"):
        rising(["a", "b"], ["a", "b"], [1.0, math.nan], [1.0, 1.0])
    assert rising([], [], [], []) == []
    assert rising([""] * 30, [""] * 30, range(30), range(30)) == []

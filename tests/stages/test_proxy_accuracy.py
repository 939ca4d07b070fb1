"""At an evaluation the reward is held against the judge on the policy's own samples, from scores that are there."""

import numpy as np
import pytest

from rlhf_jax import evaluation
from rlhf_jax.data import EncodedPrompt
from rlhf_jax.runs.errors import RunError
from rlhf_jax.stages.comparison import Judged, compare, heldout_metrics
from rlhf_jax.stages.names import check_judges

PROXY, GOLD, SHORT = [3.0, 1.0, 2.0, 0.0], [1.0, 0.0, 0.0, 2.0], [0.0, 1.0, 2.0, 3.0]


def judged(**scores):
    tokens = [np.array([5, 6, 2])] * 4
    every = {"kl": np.zeros(4), **{name: np.array(values, np.float32) for name, values in scores.items()}}
    return Judged(every, ["text"] * 4, tokens, np.ones(4, bool))


def test_an_evaluation_logs_the_share_of_pairs_that_both_order_alike():
    """Of six pairs the judge tells five apart: alike are (0, 1) and (0, 2)."""
    found = heldout_metrics(judged(proxy=PROXY, short=SHORT, gold=GOLD))
    assert found["heldout_proxy_accuracy"] == 2 / 5
    # Without a gold one the first judge decides: it says the opposite of the proxy but for one pair.
    assert heldout_metrics(judged(proxy=PROXY, short=SHORT))["heldout_proxy_accuracy"] == 1 / 6


@pytest.mark.parametrize(
    "scores",
    [{"proxy": PROXY}, {"gold": GOLD}, {"proxy": PROXY, "gold": [1.0] * 4}, {"proxy": [np.nan] * 4, "gold": GOLD}],
    ids=["no judge", "no proxy", "a judge that tells nothing apart", "not finite"],
)
def test_where_there_is_nothing_to_compare_nothing_is_logged(scores):
    assert "heldout_proxy_accuracy" not in heldout_metrics(judged(**scores))


def test_the_summary_has_both_policies():
    before, after = judged(proxy=PROXY, gold=PROXY), judged(proxy=PROXY, gold=GOLD)
    prompts = [EncodedPrompt(f"p{i}", np.array([1, 5]), i) for i in range(4)]
    summary, _ = compare(before, after, prompts, ("proxy", "gold"))
    assert (summary["proxy_accuracy_before"], summary["proxy_accuracy"]) == (1.0, 2 / 5)
    assert summary["proxy_accuracy_pairs"] == 5
    assert summary["proxy_accuracy_ci"] == list(evaluation.ordered_alike_interval(PROXY, GOLD))
    alone, _ = compare(judged(proxy=PROXY), judged(proxy=PROXY), prompts, ("proxy",))
    assert not [name for name in alone if name.startswith("proxy_accuracy")]


def test_no_judge_takes_its_name():
    with pytest.raises(RunError, match="'proxy_accuracy' is the name of a figure of ours"):
        check_judges({"proxy_accuracy": len})

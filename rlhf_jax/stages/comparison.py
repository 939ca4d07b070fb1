"""A trained policy is compared with the one it started from: same prompts, same keys, every judge, and their KL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import evaluation, processes
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.data.rows import Prompt
from rlhf_jax.rewards import TextReward
from rlhf_jax.rollout import occurrences
from rlhf_jax.rollout.responses import response_tokens
from rlhf_jax.stages.judges import ruling_judge
from rlhf_jax.stages.names import check_judges
from rlhf_jax.stages.sampler import Sampler
from rlhf_jax.stages.scoring import RolloutReward, score_shared
from rlhf_jax.types import Params, Rollout

_AT_ONCE = 2048  # responses that best-of-n holds at the same time


class Judged(NamedTuple):
    """Measurements of one response to each of n prompts."""

    scores: Mapping[str, np.ndarray]  # name -> float32 [n]; "kl", and "proxy" and every judge where there are any
    texts: list[str]
    tokens: list[np.ndarray]
    finished: np.ndarray  # bool [n]


class Judges:
    """A measurement of policies on prompts: the KL to the reference, the proxy reward, and every judge's score.

    Policies that are to be compared have to be measured by the same instance.

    Args:
        sampler: draws the responses, and holds the reference.
        reward: the proxy that is trained against, if any; its scores are called ``proxy``.
        judges: callables by name, like a reward; they measure policies and never train one. Names of figures that are
            written beside theirs (``names.OF_EVALUATIONS``) are refused.
    """

    def __init__(self, sampler: Sampler, reward: RolloutReward | None, judges: Mapping[str, TextReward]):
        check_judges(judges)
        self.sampler, self.reward, self._judges = sampler, reward, judges

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores by which a policy can win."""
        return (*(("proxy",) if self.reward is not None else ()), *self._judges)

    def __call__(self, policy: Params, prompts: Sequence[EncodedPrompt], step: int) -> Judged:
        """Sample one response to each prompt and measure it."""
        return self.measure(policy, self.sampler(policy, prompts, step), prompts)

    def measure(self, policy: Params, sampled: Rollout, prompts: Sequence[EncodedPrompt]) -> Judged:
        """Measure responses that were drawn already, one to each prompt."""
        texts, asked = self.sampler.texts(sampled), [p.text for p in prompts]
        scores = {"kl": self.sampler.kl(policy, sampled)}
        if self.reward is not None:
            scores["proxy"] = processes.fetch(self.reward(sampled, prompts).reward).reshape(-1)
        for name, judge in self._judges.items():
            scores[name] = score_shared(judge, asked, texts, called=f"the judge {name!r}")
        return Judged(scores, texts, response_tokens(sampled), processes.fetch(sampled.finished).reshape(-1))

    def best_of(self, policy: Params, prompts: Sequence[EncodedPrompt], step: int, n: int) -> Judged:
        """Sample n responses to each prompt and measure the one with the highest reward.

        Raises:
            ValueError: when there is no reward to choose by.
        """
        if self.reward is None:
            raise ValueError("best-of-n needs a reward to choose by")
        size = max(1, _AT_ONCE // n)
        kept, laid = [], self.sampler.engine.lay_out(policy)
        again = occurrences([prompt.id for prompt in prompts])
        for start in range(0, len(prompts), size):
            part = list(prompts[start : start + size])
            # The last part is filled up, so that one compiled program serves all.
            missing = size - len(part) if len(prompts) > size else 0
            filled = part + [part[-1]] * missing
            which = np.pad(again[start : start + size], (0, missing), mode="edge")
            sampled = self.sampler(laid, filled, step, samples=n, occurrence=which)
            best = keep_best(sampled, self.reward(sampled, filled).reward)
            kept.append(processes.fetch(Rollout(*(x[: len(part)] for x in best))))
        best = processes.put(jax.tree.map(lambda *x: np.concatenate(x), *kept), self.sampler.sharding(len(prompts)))
        return self.measure(policy, best, prompts)


def keep_best(sampled: Rollout, reward: Any) -> Rollout:
    """Keep the response with the highest reward of each group, the first of equals, as a rollout of K = 1.

    Args:
        sampled: the groups, [B, K, ...].
        reward: the reward of every response, [B, K].
    """
    best = jnp.argmax(jnp.asarray(reward), axis=1)

    def pick(x: Any) -> Any:
        return jnp.take_along_axis(x, best.reshape(-1, *(1,) * (x.ndim - 1)), axis=1)

    return Rollout(*(pick(x) for x in sampled))


def compare(
    before: Judged,
    after: Judged,
    prompts: Sequence[EncodedPrompt],
    names: Sequence[str],
    *,
    domain: Callable[[Prompt], str] = lambda prompt: "",
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compare two policies by their responses: make the figures for the summary, and rows of samples.

    Both should be drawn at the same step, that is with the same keys: a policy that has not changed then wins exactly
    half.

    Args:
        before: measurements of the reference.
        after: measurements of the trained policy.
        prompts: the prompts that both answered.
        names: the scores to compare by, ``Judges.names``.
        domain: the part of the data set that a prompt belongs to, ``Task.domain``.

    Returns:
        ``NAME_win_rate`` and its 95% interval for every name, means before and after, KL (nats a response) and its
        interval, figures of the responses' length and variety, and where there are a proxy and a judge
        ``proxy_accuracy`` (``evaluation.ordered_alike`` on the trained policy's responses), its interval and pairs, and
        ``proxy_accuracy_before`` on those of the other; and one row a prompt, with both responses.
    """
    described = [evaluation.describe_responses(x.tokens, x.finished) for x in (before, after)]
    kl = after.scores["kl"]
    summary: dict[str, Any] = {
        "kl": float(kl.mean()),
        "kl_ci": list(evaluation.bootstrap_mean(kl, seed=0)),
        "test_prompts": len(prompts),
        **{f"{name}_before": described[0][name] for name in ("distinct_2", "length", "eos_rate", "unique_tokens")},
        **{name: described[1][name] for name in ("distinct_1", "distinct_2", "length", "eos_rate", "unique_tokens")},
    }
    for name in names:
        rate, interval = evaluation.win_rate(after.scores[name], before.scores[name])
        summary |= {
            f"{name}_before": float(before.scores[name].mean()),
            f"{name}_after": float(after.scores[name].mean()),
            f"{name}_win_rate": rate,
            f"{name}_win_rate_ci": list(interval),
        }
    summary |= _proxy_accuracy(before, after)
    rows = [
        {
            "prompt": prompt.text,
            "domain": domain(prompt.text),
            "before": before.texts[i],
            "after": after.texts[i],
            **{
                f"{name}_{when}": float(x.scores[name][i])
                for name in names
                for when, x in (("before", before), ("after", after))
            },
        }
        for i, prompt in enumerate(prompts)
    ]
    return summary, rows


def heldout_metrics(judged: Judged) -> dict[str, float]:
    """Compute what the log says of an evaluation: mean of every score, mean length, and share of ended responses.

    Where there are a proxy and a judge, it also says how many pairs of these samples both order alike.
    """
    values = {f"heldout_{name}": float(np.mean(x)) for name, x in judged.scores.items()}
    lengths = [len(t) for t in judged.tokens]
    alike = _alike(judged)
    values |= {} if alike is None else {"heldout_proxy_accuracy": alike.accuracy}
    return {**values, "heldout_length": float(np.mean(lengths)), "heldout_eos": float(judged.finished.mean())}


def _proxy_and_judge(judged: Judged) -> tuple[np.ndarray, np.ndarray] | None:
    """Take the proxy's scores and those of the judge that decides; None where one is not there, or is not finite."""
    names = [name for name in judged.scores if name not in ("kl", "proxy")]
    if "proxy" not in judged.scores or not names:
        return None
    both = judged.scores["proxy"], judged.scores[ruling_judge(names)]
    return both if all(np.isfinite(x).all() for x in both) else None


def _alike(judged: Judged) -> evaluation.OwnSamples | None:
    both = _proxy_and_judge(judged)
    return None if both is None else evaluation.ordered_alike(*both)


def _proxy_accuracy(before: Judged, after: Judged) -> dict[str, Any]:
    """Compute how often the proxy orders samples as the judge does, those of the trained policy and of the other."""
    first, last, both = _alike(before), _alike(after), _proxy_and_judge(after)
    if last is None or both is None:
        return {}
    interval = evaluation.ordered_alike_interval(*both)
    return {
        "proxy_accuracy": last.accuracy,
        "proxy_accuracy_ci": None if interval is None else list(interval),
        "proxy_accuracy_pairs": last.pairs,
        "proxy_accuracy_before": None if first is None else first.accuracy,
    }

"""A policy as a model of lm-evaluation-harness, whose tasks it then runs (the extra ``lm-eval``).

    model = harness_model(Policy.load("runs/mine"))
    found = lm_eval.simple_evaluate(model=model, tasks=["mine"], task_manager=TaskManager(include_path="tasks/"))

The log-likelihoods are those of ``rlhf evaluate --tasks``: a continuation is encoded on its own, so that where the
context ends is always a boundary between tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax import models
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.likelihood import Likelihood, Said, windows
from rlhf_jax.runs.policy import Policy
from rlhf_jax.stages.eval_tasks.measure import text_tokens

_LONGEST = 256  # tokens of a response where a task does not say, as the harness has it
_READ = ("until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p")


def harness_model(policy: Policy, *, seed: int = 0) -> Any:
    """Make a policy a ``lm_eval.api.model.LM``, for ``lm_eval.simple_evaluate(model=...)``.

    Args:
        policy: from ``Policy.load``. Contexts are text as it is, in every format, as the harness writes them.
        seed: decides what is sampled for tasks that sample.

    Returns:
        The model, with ``loglikelihood``, ``loglikelihood_rolling`` and ``generate_until``.

    Raises:
        RunError: when lm-evaluation-harness is not installed.
    """
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise RunError(
            f"lm-evaluation-harness cannot be imported ({error}): pip install lm-eval, or in a clone "
            "pip install -e '.[lm-eval]'"
        ) from error

    class PolicyLM(LM):
        """What the harness asks of a model, in its own words."""

        def __init__(self) -> None:
            super().__init__()
            self._asked = Asked(policy, seed)

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return self._asked.continuations([request.args for request in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return self._asked.texts([request.args[0] for request in requests])

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return self._asked.responses([request.args for request in requests])

    return PolicyLM()


class Asked:
    """What the harness asks of a policy, as plain functions that need no harness.

    Args:
        policy: the policy.
        seed: decides what is sampled.
    """

    def __init__(self, policy: Policy, seed: int = 0):
        self._tokenizer = policy.tokenizer.with_format("plain")
        self._policy = dataclasses.replace(policy, tokenizer=self._tokenizer)
        self._likelihood = Likelihood(models.build(policy.config), self._tokenizer.pad_id)
        self._seed = seed

    def continuations(self, asked: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Compute how likely each continuation of a context is, and whether it is what greedy decoding would write.

        Args:
            asked: pairs of a context, which may be empty, and a continuation. A context that is too long with it
                loses its beginning.

        Returns:
            For each the log-likelihood, nats, and the truth value.

        Raises:
            RunError: when a continuation alone is longer than what the model reads.
        """
        said = []
        for context, continuation in asked:
            before = self._before(context)
            after = self._tokenizer.encode(context[len(context.rstrip()) :] + continuation)
            if len(after) >= self._likelihood.room:
                raise RunError(
                    f"a continuation of {len(after)} tokens: the model reads {self._likelihood.room}, with one before "
                    f"it; it begins {continuation[:40]!r}"
                )
            before = before[-(self._likelihood.room - len(after)) :]
            said.append(Said(np.concatenate([before, after]), len(before)))
        found = self._likelihood(self._policy.params, said)
        greedy = self._likelihood.likeliest(self._policy.params, said)
        return list(zip(found.tolist(), greedy.tolist(), strict=True))

    def _before(self, context: str) -> np.ndarray:
        """Encode a context; white space at its end belongs to the continuation, as tokens begin with their space."""
        if context.strip():
            return self._tokenizer.encode_prompt(context.rstrip())
        return text_tokens(self._tokenizer, "a")[:1]

    def texts(self, asked: Sequence[str]) -> list[float]:
        """Compute the log-likelihood of each whole text, nats, in windows where it is longer than what the model reads.

        Args:
            asked: the texts.
        """
        said, owners = [], []
        for i, text in enumerate(asked):
            ids = text_tokens(self._tokenizer, text)
            for begin, end, start in windows(len(ids), self._likelihood.room):
                said.append(Said(ids[begin:end], start))
                owners.append(i)
        found = self._likelihood(self._policy.params, said)
        return np.bincount(owners, found, len(asked)).tolist() if owners else [0.0] * len(asked)

    def responses(self, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Answer each context, greedily unless a task samples, up to a text that ends it.

        Args:
            asked: pairs of a context and ``until``, ``max_gen_toks``, ``do_sample``, ``temperature``, ``top_k``,
                ``top_p``, as the harness has them.

        Returns:
            The responses, without the text that ended them.

        Raises:
            RunError: on another option, which would go unread.
        """
        found = [""] * len(asked)
        alike: dict[SamplingConfig, list[int]] = {}
        for i, (_, options) in enumerate(asked):
            alike.setdefault(_sampling(options), []).append(i)
        for sampling, places in alike.items():
            rows = self._policy.sample([asked[i][0] for i in places], sampling=sampling, seed=self._seed)
            for i, row in zip(places, rows, strict=True):
                found[i] = row["response"]
        return found


def _sampling(options: Mapping[str, Any]) -> SamplingConfig:
    """Read how a task wants its responses drawn."""
    unread = sorted(set(options) - set(_READ))
    if unread:
        raise RunError(f"generation_kwargs {unread[0]} is not read here: those that are, are {', '.join(_READ)}")
    until = options.get("until") or ()
    sampled = bool(options.get("do_sample", options.get("temperature", 0) > 0))
    return SamplingConfig(
        max_new_tokens=options.get("max_gen_toks", _LONGEST),
        temperature=float(options.get("temperature", 1.0)) if sampled else 0.0,
        top_k=options.get("top_k", 0) if sampled else 0,
        top_p=float(options.get("top_p", 1.0)) if sampled else 1.0,
        stop=(until,) if isinstance(until, str) else tuple(until),
    )

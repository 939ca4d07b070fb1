"""The implicit reward of a policy of preference optimisation: what its objective says that a response is worth.

That is ``beta (log p - log p_ref)`` for DPO and those like it, and the objective's own figure for those without a
reference (``beta`` times the mean log-probability for SimPO). It is read from the metrics that the objective logs, so
that there is one place in which it is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import models
from rlhf_jax.data import Example, Tokenizer, pad
from rlhf_jax.data.encode import encode
from rlhf_jax.data.rows import Demonstration
from rlhf_jax.models import ModelConfig
from rlhf_jax.models.forward import forward
from rlhf_jax.runs.by_length import BATCH_TOKENS, at_once, by_length
from rlhf_jax.stages.evaluate.scorers import Scored, Tell, check_length, spelling
from rlhf_jax.types import Array, Objective, Outputs, Params, SequenceBatch


class Side(NamedTuple):
    """A policy, as functions and parameters."""

    config: ModelConfig
    params: Params


@dataclasses.dataclass(frozen=True)
class ImplicitScores:
    """Implicit rewards of responses under a policy and, where its objective reads one, the reference."""

    policy: Side
    reference: Side | None
    objective: Objective
    tokenizer: Tokenizer
    what: str
    templated: bool = False

    def remark(self, responses: Sequence[Demonstration]) -> str:
        """Say how many texts spell special tokens, as those do in which a chat template has been applied already."""
        return spelling(responses, self.tokenizer, self.templated)

    def ready(self, response: Demonstration) -> Example:
        """Encode a response with its prompt.

        Raises:
            DataError: when it is longer than what the policy reads, or a chat template refuses it.
        """
        example = encode(response, self.tokenizer)
        sides = [side for side in (self.policy, self.reference) if side is not None]
        readable = [side.config.max_length for side in sides if side.config.max_length]
        check_length(len(example.tokens[0]), min(readable, default=BATCH_TOKENS), response.where)
        return example

    def score(self, ready: Sequence[Example], tell: Tell) -> Scored:
        """Compute the implicit reward of every response."""
        run = jax.jit(self._rewards)
        lengths = [len(example.tokens[0]) for example in ready]
        scores = np.zeros(len(ready), np.float32)
        size, done = max(1, at_once(lengths) // 2), 0
        params = self.policy.params, None if self.reference is None else self.reference.params
        for part, longest in by_length(lengths, 2 * size):
            couples = [(part[i], part[min(i + 1, len(part) - 1)]) for i in range(0, len(part), 2)]
            examples = [_together(ready[i], ready[j]) for i, j in couples]
            batch = pad(examples, length=longest, pad_id=self.tokenizer.pad_id, groups=size)
            found = np.asarray(run(*params, batch))[: len(couples)]
            for (i, j), (first, second) in zip(couples, found, strict=True):
                scores[j], scores[i] = second, first
            done += len(part)
            tell(done)
        return Scored(scores)

    def _rewards(self, policy: Params, reference: Params | None, batch: SequenceBatch) -> Array:
        """Compute the implicit rewards [B, 2] of two responses a group."""
        out = forward({"policy": models.build(self.policy.config)}, {"policy": policy}, batch)
        known = None
        if self.reference is not None:
            known = forward({"policy": models.build(self.reference.config)}, {"policy": reference}, batch).logprobs
        return implicit_rewards(self.objective, out, batch._replace(ref_logprobs=known))


def implicit_rewards(objective: Objective, outputs: Outputs, batch: SequenceBatch) -> Array:
    """Read the implicit rewards of two responses from the metrics that an objective logs of them.

    Args:
        objective: hyperparameters bound.
        outputs: ``logprobs`` [B, 2, S].
        batch: ``mask`` and, where the objective reads it, ``ref_logprobs`` [B, 2, S].

    Returns:
        float32 [B, 2]; where the objective logs no implicit reward, the log-probability that the policy gained on the
        reference, nats.

    Raises:
        ValueError: when the objective reads a reference and the batch has none.

    Example:
        >>> from rlhf_jax import objectives
        >>> ones = jnp.ones((1, 2, 1), int)
        >>> batch = SequenceBatch(ones, ones > 0, ones, ones - 1, ref_logprobs=jnp.array([[[-2.0], [-1.0]]]))
        >>> rewards = implicit_rewards(objectives.dpo, Outputs(logprobs=jnp.array([[[-1.0], [-1.5]]])), batch)
        >>> [round(float(x), 3) for x in rewards[0]]  # 0.1 (1), 0.1 (-0.5)
        [0.1, -0.05]
    """
    two = (len(batch.tokens), 2)
    votes = jnp.broadcast_to(jnp.array([[0.0, 1.0], [0.0, 0.0]]), (*two, 2))
    label = jnp.broadcast_to(jnp.array([1.0, 0.0]), two)
    metrics = objective(outputs, batch._replace(votes=votes, label=label, kl=jnp.zeros(two))).metrics
    if {"chosen_reward", "rejected_reward"} <= metrics.keys():
        return jnp.stack([metrics["chosen_reward"][0], metrics["rejected_reward"][0]], axis=-1)
    if "desirable_reward" in metrics:  # KTO's, of either sort
        return metrics["desirable_reward"][0]
    return gained(outputs, batch)


def gained(outputs: Outputs, batch: SequenceBatch) -> Array:
    """Compute the log-probability that a policy gained on its reference, [B, K], nats a response.

    Args:
        outputs: ``logprobs`` [B, K, S].
        batch: ``mask`` and ``ref_logprobs`` [B, K, S].

    Raises:
        ValueError: when the batch has no reference.
    """
    if batch.ref_logprobs is None or outputs.logprobs is None:
        raise ValueError("log-probability is gained on a reference, and there is none")
    return jnp.sum(jnp.where(batch.mask, outputs.logprobs - batch.ref_logprobs, 0.0), axis=-1)


def _together(first: Example, second: Example) -> Example:
    """Put two responses into one group."""
    return Example((*first.tokens, *second.tokens), (*first.starts, *second.starts))

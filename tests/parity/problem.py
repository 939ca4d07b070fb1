"""One random problem that both sides are given, and our side of the comparison.

The logits are the parameters: the "model" looks them up. Both sides shift, mask and take log-softmax with their own
code, so a difference by one token or one padding column shows in the gradient.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rlhf_jax import losses
from rlhf_jax.stages import forward, make_loss_fn
from rlhf_jax.types import Array, Loss, Model, Objective, Outputs, SequenceBatch

VOCAB, PROMPT, RESPONSE = 11, 4, 6  # PROMPT and RESPONSE: the longest, in tokens
PAD = 0
SPREAD = 0.3  # of the policies, in logits: some ratios lie outside a clip of 0.2, and some inside


@dataclasses.dataclass(frozen=True)
class Problem:
    """B prompts, K responses each; prompts are left-padded to the longest, responses right-padded."""

    tokens: np.ndarray  # int [B, K, S]
    prompt: np.ndarray  # bool [B, K, S]
    mask: np.ndarray  # bool [B, K, S]; the responses
    logits: np.ndarray  # float32 [B, K, S, V]; of the policy that is trained
    old_logits: np.ndarray  # of the policy that sampled
    ref_logits: np.ndarray  # of the reference

    @property
    def attended(self) -> np.ndarray:
        """Every token that is not padding, bool [B, K, S]."""
        return self.prompt | self.mask

    def group(self, b: int) -> Problem:
        """The problem of one group."""
        return Problem(*(vars(self)[field.name][b : b + 1] for field in dataclasses.fields(self)))

    @functools.cached_property
    def batch(self) -> SequenceBatch:
        """Our batch, with the log-probabilities under the old policy and the reference."""
        real = jnp.asarray(self.attended, jnp.int32)
        batch = SequenceBatch(
            tokens=jnp.asarray(self.tokens, jnp.int32),
            mask=jnp.asarray(self.mask),
            segment_ids=real,
            positions=jnp.maximum(jnp.cumsum(real, axis=-1) - 1, 0),
        )
        return batch._replace(
            old_logprobs=outputs(self.old_logits, batch).logprobs, ref_logprobs=outputs(self.ref_logits, batch).logprobs
        )


def problem(groups: int, responses: int, *, seed: int, prompt: int = PROMPT) -> Problem:
    """Draw a problem of unequal lengths, the longest and the shortest ones among them.

    Args:
        groups: B.
        responses: K.
        seed: of everything.
        prompt: the longest prompt, tokens.
    """
    rng = np.random.default_rng(seed)
    prompts = rng.integers(1, prompt + 1, size=(groups, 1))
    lengths = rng.integers(1, RESPONSE + 1, size=(groups, responses))
    prompts[0], lengths[0, 0], lengths[-1, -1] = prompt, RESPONSE, 1
    column = np.arange(-prompt, RESPONSE)  # the response starts at 0
    is_prompt = (-np.broadcast_to(prompts, lengths.shape)[..., None] <= column) & (column < 0)
    mask = (column >= 0) & (column < lengths[..., None])
    tokens = rng.integers(1, VOCAB, size=mask.shape)
    tokens[..., :prompt] = tokens[:, :1, :prompt]  # one prompt a group
    base = rng.normal(size=(*mask.shape, VOCAB))
    nudged = [(base + SPREAD * rng.normal(size=base.shape)).astype(np.float32) for _ in range(3)]
    return Problem(np.where(is_prompt | mask, tokens, PAD), is_prompt, mask, *nudged)


def outputs(logits: np.ndarray, batch: SequenceBatch) -> Outputs:
    """What a model with these logits says about the batch."""
    return forward({"policy": MODEL}, {"policy": rows(logits)}, batch)


def ours(objective: Objective, logits: np.ndarray, *batches: SequenceBatch) -> tuple[float, np.ndarray]:
    """Value of the loss, as the train step makes it of one or several micro-batches, and gradient in the logits.

    Args:
        objective: with its hyperparameters bound.
        logits: [B, K, S, V], of all micro-batches together.
        batches: the micro-batches, in order along the first axis.
    """
    loss_fn = make_loss_fn(objective, {"policy": MODEL})

    def loss(logits: Array) -> Array:
        numerator, denominator, start = jnp.zeros(()), jnp.zeros(()), 0
        for batch in batches:
            part = logits[start : start + len(batch.tokens)]
            start += len(batch.tokens)
            partial, aux = loss_fn({"policy": rows(part)}, batch, jax.random.key(0))
            numerator, denominator = numerator + partial, denominator + aux.weight
        return numerator / jnp.where(denominator == 0, 1, denominator)

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(logits))
    return float(value), np.asarray(gradient)


def reduced(loss: Loss) -> Array:
    """One objective's loss on one batch."""
    numerator, denominator = loss.reduction(loss.values, loss.mask)
    return numerator / jnp.where(denominator == 0, 1, denominator)


def value_and_gradient(f: Callable[[Array], Array], x: np.ndarray) -> tuple[float, np.ndarray]:
    """Value of a scalar function and its gradient, as ``ours`` gives them."""
    value, gradient = jax.value_and_grad(f)(jnp.asarray(x))
    return float(value), np.asarray(gradient)


def rows(logits: ArrayLike) -> Array:
    """The "parameters" of ``MODEL``: [B, K, S, V] -> [B * K, S, V]."""
    logits = jnp.asarray(logits)
    return logits.reshape(-1, *logits.shape[2:])


def _unused(*_: object) -> NoReturn:
    raise NotImplementedError("a table of logits neither samples nor scores")


def _token_stats(
    _: object, hidden: Array, targets: Array, *, temperature: float = 1.0, mask: Array | None = None
) -> tuple[Array, Array]:
    logits = hidden / temperature
    return losses.token_logprobs(logits, targets), losses.entropy(logits)


# Params are the logits of the rows, and so are hidden states.
MODEL = Model(
    init=_unused,
    apply=lambda logits, tokens, positions, segment_ids: logits,
    logits=_unused,
    token_stats=_token_stats,
    values=_unused,
    scores=_unused,
    lay_out=_unused,
    cache=_unused,
    prefill=_unused,
    decode=_unused,
    in_int8=_unused,
)

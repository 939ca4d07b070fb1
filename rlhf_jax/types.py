"""The pytrees that travel between layers, and nothing else.

Everything is a *group*: B prompts with K responses each, S tokens a response. Supervised fine-tuning has K = 1, a
preference pair K = 2 (chosen first), a ranked list or a group of samples any K.

Every per-token array is aligned with ``tokens``: entry ``t`` of ``logprobs`` belongs to ``tokens[..., t]`` given the
tokens before it, and entry ``t`` of ``values`` is the value of the state *before* ``tokens[..., t]``. The shift by one
happens in one place (``rlhf_jax.stages.objective_loss``), so objectives, masks and advantages never shift anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Array = jax.Array
MaybeArray = Any  # an array, or None where nobody filled it in; Any, so that who knows it is there need not say so
Params = Any  # a nested dict of arrays; roles at the top: {"policy": ..., "critic": ...}


class Packing(NamedTuple):
    """How a batch lies in memory when several responses share a row.

    The forward pass runs on ``tokens [N, L]``; ``places [B, K, S]`` says where token ``s`` of response ``(b, k)`` went
    (a flat index into ``N * L``; 0 at padding, which the mask hides). Objectives see the logical ``[B, K, S]`` only.
    """

    tokens: Array  # int32 [N, L]
    segment_ids: Array  # int32 [N, L]; 0 is empty, 1, 2, ... the responses of a row
    positions: Array  # int32 [N, L]; restarts at 0 in every segment
    places: Array  # int32 [B, K, S]


class SequenceBatch(NamedTuple):
    """A batch of token sequences in groups, with what was computed about them before.

    ``mask`` is explicit: it comes from the tokenizer or the sampler and is never derived from a token id, so a
    tokenizer whose pad token is its end-of-sequence token is harmless.
    """

    tokens: Array  # int32 [B, K, S]
    mask: Array  # bool [B, K, S]; True where this token is a target that counts
    segment_ids: Array  # int32 [B, K, S]; 0 is padding
    positions: Array  # int32 [B, K, S]
    label: MaybeArray = None  # float32 [B, K]; 1 thumbs up, 0 thumbs down
    rating: MaybeArray = None  # float32 [B, K]; an absolute score by people
    score: MaybeArray = None  # float32 [B, K]; what the reward function gave
    reward: MaybeArray = None  # float32 [B, K]; the score after shaping: what is to be maximised
    votes: MaybeArray = None  # float32 [B, K, K]; [i, j] = votes that prefer i to j, ties counted half
    old_logprobs: MaybeArray = None  # float32 [B, K, S]; under the policy that sampled
    ref_logprobs: MaybeArray = None  # float32 [B, K, S]; under the frozen reference
    advantages: MaybeArray = None  # float32 [B, K, S]
    returns: MaybeArray = None  # float32 [B, K, S]
    old_values: MaybeArray = None  # float32 [B, K, S]; the critic's, when the batch was prepared
    kl: MaybeArray = None  # float32 [B, K]; KTO's reference point, one estimate for the whole global batch
    kl_coef: MaybeArray = None  # float32 [B, K]; a controller's price of the KL, in place of the objective's own
    packing: Packing | None = None


class Outputs(NamedTuple):
    """What the models say about a batch. Fields an objective does not read cost nothing: XLA removes them."""

    logprobs: MaybeArray = None  # float32 [B, K, S]; 0 where a token has no predecessor
    entropy: MaybeArray = None  # float32 [B, K, S]; nats
    values: MaybeArray = None  # float32 [B, K, S]; the critic's
    scores: MaybeArray = None  # float32 [B, K]; the scalar head at the last real token


class Loss(NamedTuple):
    """What an objective returns: unreduced values, which of them count, and the reduction it wants.

    ``reduction`` is one of ``losses.token_mean``, ``losses.sequence_mean``, ``losses.sequence_sum`` or
    ``losses.constant(n)``; the framework applies it with denominators summed over micro-batches and devices.
    ``metrics`` maps a name to ``(values, mask)``; the log shows their masked mean over the global batch.
    """

    values: Array
    mask: Array
    reduction: Callable[[Array, Array], tuple[Array, Array]]
    metrics: Mapping[str, tuple[Array, Array]] = {}


class Aux(NamedTuple):
    """Beside a loss function's numerator: its denominator, and metrics as ``(sum, weight)`` pairs.

    A denominator of 0 means that the numerator is already normalised (``losses.constant``) or that nothing counted.
    """

    weight: Array  # float32 [], or [M] for the members of an ensemble
    metrics: Mapping[str, tuple[Array, Array]]  # name -> (float32 [], float32 [])


LossFn = Callable[[Params, SequenceBatch, MaybeArray], tuple[Array, Aux]]  # the key is None where nothing is drawn
Objective = Callable[[Outputs, SequenceBatch], Loss]


class Rollout(NamedTuple):
    """Sampled responses: prompts are left-padded to P columns, responses start at column P and are right-padded."""

    tokens: Array  # int32 [B, K, P + R]
    mask: Array  # bool [B, K, P + R]; True on response tokens, the end-of-sequence token included
    segment_ids: Array  # int32 [B, K, P + R]; 1 on prompt and response, 0 on padding
    positions: Array  # int32 [B, K, P + R]
    logprobs: Array  # float32 [B, K, P + R]; the sampler's own, 0 outside the mask
    finished: Array  # bool [B, K]; True where the response ended with the end-of-sequence token


class Model(NamedTuple):
    """A language model as pure functions over a plain dict of parameters; made by ``models.build(config)``."""

    init: Callable[..., Params]  # (key) -> params
    apply: Callable[..., Array]  # (params, tokens [B, S], positions, segment_ids) -> hidden [B, S, D]
    logits: Callable[..., Array]  # (params, hidden [..., D]) -> float32 [..., V]
    token_stats: Callable[..., tuple[Array, Array]]  # (params, hidden, targets) -> logprobs, entropy, chunked
    values: Callable[..., Array]  # (params, hidden [..., D]) -> float32 [...]; needs a scalar head
    scores: Callable[..., Array]  # (params, hidden [B, S, D], last [B]) -> float32 [B]
    cache: Callable[..., Any]  # (batch, length) -> an empty key-value cache
    prefill: Callable[..., tuple[Array, Any]]  # (params, tokens, positions, segment_ids, cache) -> hidden, cache
    decode: Callable[
        ..., tuple[Array, Any]
    ]  # (params, tokens [B], positions [B], cache, column, live) -> hidden [B, D], cache
    dropout: bool = False  # apply takes a key as its last argument, and drops out with it

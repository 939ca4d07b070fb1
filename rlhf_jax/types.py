"""The pytrees that travel between layers, the signatures of a model's functions, and nothing else.

Everything is a *group*: B prompts with K responses each, S tokens a response. Supervised fine-tuning has K = 1, a
preference pair K = 2 (chosen first), a ranked list or a group of samples any K.

Every per-token array is aligned with ``tokens``: entry ``t`` of ``logprobs`` belongs to ``tokens[..., t]`` given the
tokens before it, and entry ``t`` of ``values`` is the value of the state *before* ``tokens[..., t]``. The shift by one
happens in one place (``rlhf_jax.models.forward``), so objectives, masks and advantages never shift anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

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
    old_logprobs: MaybeArray = None  # float32 [B, K, S]; under the policy before its update, which mostly sampled
    behaviour_logprobs: MaybeArray = None  # float32 [B, K, S]; under an older policy, where that one sampled
    importance_cap: MaybeArray = None  # float32 [B, K]; the largest weight of what an older policy sampled
    ref_logprobs: MaybeArray = None  # float32 [B, K, S]; under the frozen reference
    advantages: MaybeArray = None  # float32 [B, K, S]
    returns: MaybeArray = None  # float32 [B, K, S]
    old_values: MaybeArray = None  # float32 [B, K, S]; the critic's, when the batch was prepared
    kl: MaybeArray = None  # float32 [B, K]; KTO's reference point, one estimate for the whole global batch
    kl_coef: MaybeArray = None  # float32 [B, K]; a controller's price of the KL, in place of the objective's own
    weight: MaybeArray = None  # float32 [B]; what a group counts for in the loss, 1 on average over the data
    packing: Packing | None = None


class Outputs(NamedTuple):
    """What the models say about a batch.

    Fields that an objective does not read cost nothing: XLA removes them.
    """

    logprobs: MaybeArray = None  # float32 [B, K, S]; 0 behind the batch's mask and where a token has no predecessor
    entropy: MaybeArray = None  # float32 [B, K, S]; nats, 0 where logprobs are
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
    finished: Array  # bool [B, K]; True where the response ended by itself: end-of-sequence token or stop sequence


class Cache(NamedTuple):
    """Keys and values of N rows of C columns, a layer each, and how many columns of a row hold a token.

    A layer's are arrays [N, kv_heads, C, head_dim], or columns before heads where a kernel reads them so, or 8 bits and
    their scales (``models.int8_cache.Int8Columns``).
    """

    k: tuple[Any, ...]
    v: tuple[Any, ...]
    lengths: Array  # int32 [N]; a row's tokens lie in its first columns


# The functions of a model, a class each, so that a type checker sees what they take and give. D is the model's width, V
# the vocabulary; hidden states are in the dtype that the model computes in.


class Init(Protocol):
    """Draw the parameters: a nested dict of float32 arrays."""

    def __call__(self, key: Array) -> Params: ...


class Apply(Protocol):
    """Run whole rows: ``tokens``, ``positions`` and ``segment_ids`` int32 [B, S] -> hidden [B, S, D].

    A token sees those before it in its own segment; segment 0 is padding. ``key`` draws the dropout of adapters, where
    the model has one (``Model.dropout``); without it nothing is dropped out.
    """

    def __call__(
        self, params: Params, tokens: Array, positions: Array, segment_ids: Array, key: Array | None = None
    ) -> Array: ...


class Logits(Protocol):
    """What each hidden state says of the next token: ``hidden`` [..., D] -> float32 [..., V]."""

    def __call__(self, params: Params, hidden: Array) -> Array: ...


class TokenStats(Protocol):
    """Log-probability of each target and entropy of its distribution, in chunks that never hold all logits.

    ``hidden`` [B, S, D] and ``targets`` int32 [B, S], a target beside the hidden state that predicts it -> two float32
    [B, S], nats, both of ``softmax(logits / temperature)``. ``mask`` bool [B, S] says which targets are wanted: the
    others cost next to nothing, and both numbers are 0 there.
    """

    def __call__(
        self, params: Params, hidden: Array, targets: Array, *, temperature: float = 1.0, mask: MaybeArray = None
    ) -> tuple[Array, Array]: ...


class Values(Protocol):
    """The scalar head of each hidden state: ``hidden`` [..., D] -> float32 [...]; a ValueError without such a head."""

    def __call__(self, params: Params, hidden: Array) -> Array: ...


class ScoreAt(Protocol):
    """The scalar head at one token a row: ``hidden`` [B, S, D], its index ``last`` int32 [B] -> float32 [B]."""

    def __call__(self, params: Params, hidden: Array, last: Array) -> Array: ...


class LayOut(Protocol):
    """Bring the parameters into the form that ``prefill`` and ``decode`` read, once for many tokens.

    A layer's matrices lie each for itself, in the type that the model computes in, with adapters folded in.
    """

    def __call__(self, params: Params) -> Params: ...


class MakeCache(Protocol):
    """An empty key-value cache for ``batch`` rows of ``length`` columns."""

    def __call__(self, batch: int, length: int) -> Cache: ...


class Prefill(Protocol):
    """Run prompts with the parameters that ``lay_out`` gave.

    ``tokens`` int32 [B, P], padded on the right, and ``lengths`` int32 [B], each at least 1 -> what each prompt's last
    token says of the next one, logits float32 [B, V], and a cache of P columns.
    """

    def __call__(self, laid: Params, tokens: Array, lengths: Array) -> tuple[Array, Cache]: ...


class Decode(Protocol):
    """Run one token a row with the parameters that ``lay_out`` gave.

    ``tokens`` int32 [N] -> logits float32 [N, V], and the cache with this token, written behind each row's last one. A
    row that is full stays as it is, and what is said of it means nothing.
    """

    def __call__(self, laid: Params, tokens: Array, cache: Cache) -> tuple[Array, Cache]: ...


class InInt8(Protocol):
    """The same model, which decodes with matrices in 8 bits and, if ``cache``, keys and values in 8 bits as well."""

    def __call__(self, *, cache: bool) -> Model: ...


class Model(NamedTuple):
    """A language model as pure functions over a plain dict of parameters; made by ``models.build(config)``."""

    init: Init
    apply: Apply
    logits: Logits
    token_stats: TokenStats
    values: Values
    scores: ScoreAt
    lay_out: LayOut
    cache: MakeCache
    prefill: Prefill
    decode: Decode
    in_int8: InInt8
    dropout: bool = False  # apply drops out with the key that it is given
    max_length: int = 0  # tokens of the longest sequence that it reads; 0: unknown

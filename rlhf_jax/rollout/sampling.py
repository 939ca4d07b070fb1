"""From logits to the next token: temperature, top-k, top-p, and keys that make a sample its own.

The key of a token is folded from (seed, step, prompt id, occurrence, sample index, position), so a prompt gets the same
sample on any mesh, in any batch and after any resume, and another one where it is asked again at the same step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.fields import check_fields
from rlhf_jax.losses import token_logprobs
from rlhf_jax.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How responses are drawn.

    At a temperature T a response is drawn from ``softmax(logits / T)``. The log-probabilities that are kept are those
    of this distribution, before any truncation, and training speaks of no other: ratio, reference, KL and entropy are
    all at T. ``top_k``, ``top_p`` and temperature 0 are for sampling and evaluation. Training on the policy's own
    samples refuses them: no ratio or KL knows that they left tokens out.

    Raises:
        ValueError: when a value is out of range.
    """

    max_new_tokens: int = 32
    """Longest response, in tokens."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token, which `rlhf ppo` and `rlhf group` refuse."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all, and is the only choice in `rlhf ppo` and `rlhf group`."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with at least this probability; 1 keeps all, and is the only choice in `rlhf ppo`
    and `rlhf group`."""
    window: int = 16
    """Most decode steps between two looks of the host at who has finished."""
    slots: int = 0
    """Rows that are decoded at once; a row that has finished is given the next prompt. 0: a row for every response.
    Where lengths are ragged, fewer rows do less work, in less memory, but in more steps one after another."""
    stop: tuple[str, ...] = ()
    """Texts that end a response beside its end token, whichever tokens write them. The tokens up to the one that
    completes a text are kept, count and are trained on; what is shown, judged or scored as text comes before it. In
    bash a line break is $'\\n'."""
    int8: Literal["none", "weights", "weights_and_cache"] = "none"
    """What the sampler holds in 8 bits: the blocks' matrices, and also keys and values, where memory is what counts.
    The samples are then those of a slightly other policy. Training computes the log-probabilities of what was sampled
    by itself, and logs how far the sampler's are from them (`logprob_gap`)."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("max_new_tokens", "window"):
            if vars(self)[name] < 1:
                raise ValueError(f"{name} must be at least 1, found {vars(self)[name]}")
        if not all(self.stop):
            raise ValueError(
                f"stop must be a tuple of texts, none of them empty, found {self.stop!r}: an empty text would end "
                "every response at once; leave stop out to end at the end token alone"
            )
        if self.slots < 0:
            raise ValueError(f"slots must be 0 (a row for every response) or positive, found {self.slots}")
        if not 0 <= self.temperature < math.inf or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature must be >= 0, top_k >= 0 and 0 < top_p <= 1; found temperature {self.temperature}, "
                f"top_k {self.top_k}, top_p {self.top_p}"
            )

    @property
    def logprob_temperature(self) -> float:
        """The temperature of the log-probabilities of what is drawn so: the sampling temperature, 1 for greedy.

        Example:
            >>> SamplingConfig(temperature=0.6).logprob_temperature, SamplingConfig(temperature=0.0).logprob_temperature
            (0.6, 1.0)
        """
        return self.temperature or 1.0


def occurrences(prompt_ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """Count, for each prompt of a list, how often it stands in the list before: int32 [B].

    Args:
        prompt_ids: integers [B].

    Example:
        >>> occurrences([7, 3, 7, 7]).tolist()
        [0, 0, 1, 2]
    """
    seen: dict[int, int] = {}
    found = np.zeros(len(prompt_ids), np.int32)
    for i, prompt in enumerate(np.asarray(prompt_ids).tolist()):
        found[i] = seen.get(prompt, 0)
        seen[prompt] = int(found[i]) + 1
    return found


def response_keys(
    key: Array, step: int | Array, prompt_ids: Array, sample_index: Array, occurrence: Array | None = None
) -> Array:
    """One key a response, folded from what names it.

    Args:
        key: the run's sampling key.
        step: the training step; the same prompt is sampled anew at every step.
        prompt_ids: int32 [N].
        sample_index: int32 [N], 0 ... K-1 among the samples of one prompt.
        occurrence: int32 [N], how often the prompt is asked at this step before; 0 for all by default.

    Returns:
        keys [N].

    Example:
        >>> keys = response_keys(jax.random.key(0), 3, jnp.array([7, 7]), jnp.array([0, 1]))
        >>> keys.shape
        (2,)
    """
    at_step = jax.random.fold_in(key, step)

    def one(prompt: Array, sample: Array, before: Array) -> Array:
        first = jax.random.fold_in(at_step, prompt)
        again = jax.random.fold_in(first, -before)  # no sample's index: those are not negative
        return jax.random.fold_in(jnp.where(before > 0, again, first), sample)

    return jax.vmap(one)(prompt_ids, sample_index, jnp.zeros_like(prompt_ids) if occurrence is None else occurrence)


def truncate(logits: Array, *, temperature: float, top_k: int, top_p: float) -> Array:
    """Logits to sample from: scaled by the temperature, -inf outside the top-k and top-p sets.

    Args:
        logits: float32 [N, V].
        temperature: > 0.
        top_k: 0 keeps all.
        top_p: nucleus probability (Holtzman et al. 2020); 1 keeps all. The likeliest token always stays.

    Returns:
        float32 [N, V].

    Example:
        >>> truncate(jnp.log(jnp.array([[0.5, 0.3, 0.2]])), temperature=1.0, top_k=2, top_p=1.0)[0, 2]
        Array(-inf, dtype=float32)
    """
    scaled = logits / temperature
    if top_k and top_k < logits.shape[-1]:
        threshold = jax.lax.top_k(scaled, top_k)[0][:, -1:]
        scaled = jnp.where(scaled < threshold, -jnp.inf, scaled)
    if top_p < 1:
        ranked = jnp.sort(scaled, axis=-1, descending=True)
        before = jnp.cumsum(jax.nn.softmax(ranked, axis=-1), axis=-1) - jax.nn.softmax(ranked, axis=-1)
        threshold = jnp.min(jnp.where(before < top_p, ranked, jnp.inf), axis=-1, keepdims=True)
        scaled = jnp.where(scaled < threshold, -jnp.inf, scaled)
    return scaled


def categorical(keys: Array, logits: Array) -> Array:
    """Draw one entry a row from ``softmax(logits)``: first a block of about sqrt(V) entries, then an entry of it.

    ``argmax(log_weight + Gumbel noise)``, twice; the log-weight of a block is the ``logsumexp`` of its entries. The
    chance of a block times that of an entry in it is the entry's own, so the draw is exact, and a row takes about
    2 sqrt(V) random numbers instead of V, which would cost more than the rest of a small model.

    Args:
        keys: [N], one a row.
        logits: float32 [N, V]; -inf is never drawn.

    Returns:
        int32 [N].

    Example:
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> categorical(keys, jnp.log(jnp.array([[0.0, 1.0, 0.0]] * 3))).tolist()
        [1, 1, 1]
    """
    return _drawn(keys, logits)[0]


def _drawn(keys: Array, logits: Array) -> tuple[Array, Array]:
    """Draw as ``categorical``, and give log Z as well, float32 [N], which the blocks' log-weights add up to."""
    rows, vocabulary = logits.shape
    size = math.isqrt(vocabulary - 1) + 1
    count = -(-vocabulary // size)
    padded = jnp.pad(logits, ((0, 0), (0, count * size - vocabulary)), constant_values=-jnp.inf)
    blocks = padded.reshape(rows, count, size)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (count + size,)))(keys)
    weights = jax.nn.logsumexp(blocks, axis=-1)
    block = jnp.argmax(weights + noise[:, :count], axis=-1)
    entries = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    inside = jnp.argmax(entries + noise[:, count:], axis=-1)
    return (block * size + inside).astype(jnp.int32), jax.nn.logsumexp(weights, axis=-1)


def sample_token(
    keys: Array,
    logits: Array,
    position: Array,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    logprob_temperature: float | None = None,
) -> tuple[Array, Array]:
    """Draw one token a row.

    Args:
        keys: [N], one a response.
        logits: float32 [N, V].
        position: int32 [N], how many tokens of each response come before this one; or [], where all have as many.
        temperature: 0 takes the likeliest token.
        top_k: see ``truncate``.
        top_p: see ``truncate``.
        logprob_temperature: that of the log-probabilities; the sampling temperature when not given, 1 for greedy.

    Returns:
        tokens int32 [N] and their log-probability, float32 [N], nats, under ``softmax(logits / logprob_temperature)``:
        nothing is truncated.

    Example:
        >>> keys = response_keys(jax.random.key(0), 0, jnp.array([1]), jnp.array([0]))
        >>> greedy = {"temperature": 0.0, "top_k": 0, "top_p": 1.0}
        >>> token, logprob = sample_token(keys, jnp.array([[0.0, 9.0]]), jnp.int32(0), **greedy)
        >>> int(token[0]), round(float(logprob[0]), 4)
        (1, -0.0001)
    """
    divisor = (temperature or 1.0) if logprob_temperature is None else logprob_temperature
    if temperature == 0:
        token = jnp.argmax(logits, axis=-1)
    else:
        allowed = truncate(logits, temperature=temperature, top_k=top_k, top_p=top_p)
        positions = jnp.broadcast_to(position, keys.shape)
        token, log_z = _drawn(jax.vmap(jax.random.fold_in)(keys, positions), allowed)
        if divisor == temperature and not top_k and top_p == 1:
            # Logits are the largest array of a step: their sum is known, and need not be made again.
            return token, jnp.take_along_axis(allowed, token[:, None], axis=-1)[:, 0] - log_z
    token = token.astype(jnp.int32)
    return token, token_logprobs(logits if divisor == 1.0 else logits / divisor, token)

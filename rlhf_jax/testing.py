"""Checks for objectives, ours and the user's, and the tiny models and batches they run on.

    from rlhf_jax import testing
    testing.check_objective(my_objective)

raises ``ObjectiveError`` with the name of the first property that does not hold.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import models, parallel
from rlhf_jax.data.packing import Example, pack
from rlhf_jax.stages.lift import forward
from rlhf_jax.types import Array, Loss, Model, Objective, Outputs, Params, SequenceBatch

PAD, EOS, VOCAB = 0, 2, 32
_PER_TOKEN = ("old_logprobs", "ref_logprobs", "advantages", "returns", "old_values")
_SIGNALS = (
    "score",
    "reward",
    "rating",
    "advantages",
    "returns",
)  # what raters and reward functions may give as whole numbers
Probe = Callable[[Outputs, SequenceBatch], tuple[tuple[Array, Array], Outputs, dict[str, Array]]]


class ObjectiveError(AssertionError):
    """An objective lacks a property; ``property`` is its name."""

    def __init__(self, property_name: str, detail: str):
        super().__init__(f"{property_name}: {detail}")
        self.property = property_name


def tiny_models(seed: int = 0) -> tuple[dict[str, Model], Params]:
    """A policy, a critic and a reward model of a few thousand parameters, with weights large enough to matter.

    Example:
        >>> roles, params = tiny_models()
        >>> sorted(roles), sorted(params)
        (['critic', 'policy', 'reward'], ['critic', 'policy', 'reward'])
    """
    size: dict[str, Any] = {
        "vocab_size": VOCAB,
        "d_model": 16,
        "n_layers": 2,
        "n_heads": 2,
        "n_kv_heads": 1,
        "head_dim": 8,
        "d_ff": 32,
    }
    roles, params = {}, {}
    for i, role in enumerate(("policy", "critic", "reward")):
        config = models.ModelConfig(**size, scalar_head=role != "policy")
        roles[role] = _build(config)
        key = jax.random.fold_in(jax.random.key(seed), i)
        init_key, head_key = jax.random.split(key)
        params[role] = jax.tree.map(lambda x: x * 4.0, jax.jit(roles[role].init)(init_key))
        if role != "policy":
            params[role]["head"]["kernel"] = jax.random.normal(head_key, (config.d_model, 1))
    return roles, params


_build = functools.cache(models.build)  # one model for one config, so that its programs are compiled once


def tiny_batch(groups: int = 8, responses: int = 2, length: int = 14, seed: int = 0) -> SequenceBatch:
    """A right-padded batch with every field filled: unequal prompts and responses, end-of-sequence tokens that count.

    Prompts have at least 3 tokens and at least 2 columns of padding follow, so that what reads one token too far can be
    told from what does not look at the mask. ``kl`` is 0.3 throughout; ``kl_coef`` is left to controllers.

    Args:
        groups: B.
        responses: K.
        length: S; at least 9.
        seed: of everything drawn.

    Raises:
        ValueError: if ``length`` is below 9.

    Example:
        >>> tiny_batch().tokens.shape
        (8, 2, 14)
    """
    if length < 9:
        raise ValueError(f"length must be at least 9, found {length}")
    rng = np.random.default_rng(seed)
    shape = (groups, responses, length)
    tokens = np.full(shape, PAD, np.int32)
    segment_ids, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for b in range(groups):
        prompt = rng.integers(3, VOCAB, size=rng.integers(3, 6))
        for k in range(responses):
            # The first groups are short and the last long, so that micro-batches hold unequal numbers of tokens.
            room = max(2, (length - 2 - len(prompt)) * (b + 1) // groups)
            response = rng.integers(3, VOCAB, size=rng.integers(1, room))
            row = np.concatenate([prompt, response, [EOS]])
            tokens[b, k, : len(row)] = row
            segment_ids[b, k, : len(row)] = 1
            mask[b, k, len(prompt) : len(row)] = True

    def normal(scale: float, *dims: int) -> np.ndarray:
        return (rng.normal(size=dims) * scale).astype(np.float32)

    votes = rng.integers(1, 9, size=(groups, responses, responses)).astype(np.float32) * (
        1 - np.eye(responses, dtype=np.float32)
    )
    logprobs = -np.abs(normal(1.0, *shape)) - 2.0
    fields: dict[str, Any] = dict(
        tokens=tokens,
        mask=mask,
        segment_ids=segment_ids,
        positions=np.maximum(np.cumsum(segment_ids, axis=-1) - 1, 0).astype(np.int32),
        label=rng.integers(0, 2, size=shape[:2]).astype(np.float32),
        rating=normal(2.0, *shape[:2]),
        reward=normal(1.0, *shape[:2]),
        votes=votes,
        old_logprobs=np.where(mask, logprobs, 0.0),
        ref_logprobs=np.where(mask, logprobs + normal(0.3, *shape), 0.0),
        advantages=np.where(mask, normal(1.0, *shape), 0.0),
        returns=np.where(mask, normal(1.0, *shape), 0.0),
        old_values=np.where(mask, normal(1.0, *shape), 0.0),
        kl=np.full(shape[:2], 0.3, np.float32),
        score=normal(1.0, *shape[:2]),
    )
    return SequenceBatch(**jax.tree.map(jnp.asarray, fields))


def check_objective(
    objective: Objective, *, batch: SequenceBatch | None = None, rtol: float = 1e-5, seed: int = 0
) -> list[str]:
    """Check that an objective is sound: what it gives depends on the tokens that count and on nothing else.

    The properties, in this order:

    - returns a Loss: ``Loss(values, mask, reduction)``.
    - scalar float32: the values and what the reduction makes of them.
    - finite gradients; has a gradient: with respect to the models' parameters.
    - mask: nothing behind the mask changes the loss.
    - shift: each token meets its own log-probability, mask, advantage and so on, not its neighbour's.
    - padding length; padding side: neither changes the loss.
    - pad == eos: the mask is the batch's, not made from the padding's id.
    - packing: several responses in a row give the same loss.
    - integer rewards: scores, rewards, ratings, advantages and returns are not cut to whole numbers, and may be such.
    - micro-batching: micro-batches of unequal length give the loss of the whole batch.
    - mesh: several devices give the loss of one.
    - stop gradient: the loss has none with respect to the batch, whose fields were computed before.
    - jit = eager: the objective gives the same outside ``jax.jit``.

    Args:
        objective: ``(outputs, batch) -> Loss``, hyperparameters bound.
        batch: right-padded, with the fields the objective reads; ``tiny_batch()`` by default, which fills them all.
        rtol: how far a loss may be off, relative to itself.
        seed: of the tiny models.

    Returns:
        The names of the properties that were checked; ``mesh`` is left out on a machine with one device.

    Raises:
        ObjectiveError: on the first property that does not hold; ``error.property`` is its name.

    Example:
        >>> from rlhf_jax import objectives
        >>> "packing" in check_objective(objectives.sft)
        True
        >>> def forgets_the_mask(outputs, batch):
        ...     return Loss(-outputs.logprobs, jnp.ones_like(batch.mask), losses.token_mean)
        >>> from rlhf_jax import losses
        >>> check_objective(forgets_the_mask)
        Traceback (most recent call last):
        rlhf_jax.testing.ObjectiveError: mask: ...
    """
    roles, params = tiny_models(seed)
    batch = tiny_batch() if batch is None else batch
    batch = jax.tree.map(jnp.asarray, batch)
    checked: list[str] = []

    probe, (run, _) = _prober(objective), _passes(tuple(roles.items()))
    outputs = run(params, batch)
    eager = _check_form(objective, outputs, batch)
    checked += ["returns a Loss", "scalar float32"]
    evaluate = _evaluator(probe, roles)
    loss, gradient = evaluate(params, batch)
    if not all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((loss, gradient))):
        raise ObjectiveError("finite gradients", f"the loss is {loss} and some gradient is not finite")
    if not any(bool(jnp.any(x != 0)) for x in jax.tree.leaves(gradient)):
        raise ObjectiveError("has a gradient", "the gradient is zero for every parameter")
    checked += ["finite gradients", "has a gradient"]

    def same(name: str, got: tuple[Array, Params], detail: str) -> None:
        _compare(name, (loss, gradient), got, rtol, detail)
        checked.append(name)

    fresh = _before_the_first_update(outputs, batch)
    as_eos = batch._replace(tokens=jnp.where(batch.segment_ids > 0, batch.tokens, EOS))

    def hidden(where: Array, batch: SequenceBatch = batch) -> tuple[Array, Params]:
        return evaluate(params, _disturbed(batch, where, seed=5), disturb=lambda o: _disturbed(o, where, seed=6))

    behind = hidden(~batch.mask)
    if _difference((loss, gradient), behind, rtol):
        # Something behind the mask is read. Which mistake it is shows in what else changes the loss.
        by_id = "the mask is made from the padding's id, not read from the batch"
        _compare("pad == eos", behind, hidden(~batch.mask, as_eos), rtol, by_id)
        far = ~(batch.mask | jnp.roll(batch.mask, 1, axis=-1) | jnp.roll(batch.mask, -1, axis=-1))
        if bool(jnp.any(far)) and not _difference((loss, gradient), hidden(far), rtol):
            raise ObjectiveError(
                "shift", "the entries right beside a response change the loss: something is off by one"
            )
    same("mask", behind, "outputs or fields behind the mask change the loss")
    _check_shift(probe, fresh, batch)
    checked.append("shift")
    same("padding length", evaluate(params, _padded(batch, right=3)), "three more columns of padding change the loss")
    same("padding side", evaluate(params, _padded(batch, left=3)), "padding on the left changes the loss")
    _check_ids(probe, fresh, batch)
    same("pad == eos", hidden(~batch.mask, as_eos), "padding with the end-of-sequence token changes the loss")
    same("packing", evaluate(params, _packed(batch)), "several responses in one row change the loss")
    _check_integers(probe, fresh, batch, rtol)
    checked.append("integer rewards")
    same(
        "micro-batching",
        evaluate(params, *_micro_batches(batch)),
        "four micro-batches of unequal length give another loss than one batch",
    )
    if len(jax.devices()) > 1:
        same("mesh", _on_mesh(evaluate, params, batch), f"{len(jax.devices())} devices give another loss than one")
    for point in (outputs, fresh):
        _check_stop_gradient(probe, point, batch)
    checked.append("stop gradient")
    jitted = _quotient(*probe(outputs, batch)[0])
    _compare("jit = eager", (jitted, ()), (eager, ()), rtol, "the objective gives another loss outside jit")
    return [*checked, "jit = eager"]


@functools.cache
def _passes(roles: tuple[tuple[str, Model], ...]) -> tuple[Callable[..., Outputs], Callable[..., Params]]:
    """The models' forward pass, and the way back: compiled apart from the objective, once for all objectives."""
    run = functools.partial(forward, dict(roles))

    def back(params: Params, batch: SequenceBatch, into_outputs: Outputs) -> Params:
        return jax.vjp(lambda p: run(p, batch), params)[1](into_outputs)[0]

    return jax.jit(run), jax.jit(back)


def _prober(objective: Objective) -> Probe:
    """The objective alone, as ``stages.lift`` calls it.

    Its numerator and weight; the numerator's gradient with respect to the outputs and to the batch's float fields.
    """

    @jax.jit
    def probe(outputs: Outputs, batch: SequenceBatch) -> tuple[tuple[Array, Array], Outputs, dict[str, Array]]:
        arrays = {name: x for name, x in batch._asdict().items() if name != "packing" and x is not None}
        floats: dict[str, Any] = {name: x for name, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}

        def numerator(outputs: Outputs, floats: dict[str, Any]) -> tuple[Array, Array]:
            loss = objective(outputs, batch._replace(**floats))
            return loss.reduction(loss.values, loss.mask)

        value, (into_outputs, into_batch) = jax.value_and_grad(numerator, (0, 1), has_aux=True)(outputs, floats)
        return value, into_outputs, into_batch

    return probe


def _evaluator(probe: Probe, roles: dict[str, Model]) -> Callable[..., tuple[Array, Params]]:
    """Loss and gradient of a global batch given in micro-batches: sums of both, divided once."""
    run, back = _passes(tuple(roles.items()))

    def evaluate(
        params: Params, *batches: SequenceBatch, disturb: Callable[[Outputs], Outputs] = lambda outputs: outputs
    ) -> tuple[Array, Params]:
        numerators, weights, gradients = [], [], []
        for batch in batches:
            value, into_outputs, _ = probe(disturb(run(params, batch)), batch)
            numerators.append(value[0])
            weights.append(value[1])
            gradients.append(back(params, batch, into_outputs))
        weight = sum(map(float, weights)) or 1.0
        return jnp.stack(numerators).sum() / weight, jax.tree.map(lambda *g: sum(g) / weight, *gradients)

    return evaluate


def _quotient(numerator: Array, weight: Array) -> Array:
    return numerator / (float(weight) or 1.0)


def _before_the_first_update(outputs: Outputs, batch: SequenceBatch) -> Outputs:
    """Outputs close to those that the batch was prepared with, where clipping hides no token from the loss."""
    rng = np.random.default_rng(1)

    def near(x: Array, old: Array | None) -> Array:
        return x if old is None else old + (0.02 * rng.normal(size=x.shape)).astype(np.float32)

    return outputs._replace(
        logprobs=near(outputs.logprobs, batch.old_logprobs), values=near(outputs.values, batch.old_values)
    )


def _check_form(objective: Objective, outputs: Outputs, batch: SequenceBatch) -> Array:
    """Look at what the objective returns, outside ``jax.jit``; gives the loss it makes."""
    loss = objective(outputs, batch)
    if not isinstance(loss, Loss):
        raise ObjectiveError(
            "returns a Loss", f"it returned {type(loss).__name__}; return Loss(values, mask, reduction)"
        )
    if loss.values.dtype != jnp.float32:
        raise ObjectiveError("scalar float32", f"values are {loss.values.dtype}, not float32")
    if loss.values.shape != loss.mask.shape:
        raise ObjectiveError("scalar float32", f"values {loss.values.shape} and mask {loss.mask.shape} differ in shape")
    quotient = loss.reduction(loss.values, loss.mask)
    for name, x in zip(("numerator", "denominator"), quotient, strict=True):
        if jnp.shape(x) != () or jnp.asarray(x).dtype != jnp.float32:
            raise ObjectiveError("scalar float32", f"the reduction's {name} is {jnp.asarray(x).dtype}{jnp.shape(x)}")
    return _quotient(*quotient)


def _check_stop_gradient(probe: Probe, outputs: Outputs, batch: SequenceBatch) -> None:
    for name, gradient in probe(outputs, batch)[2].items():
        if bool(jnp.any(gradient != 0)):
            raise ObjectiveError(
                "stop gradient", f"the loss has a gradient with respect to batch.{name}: use jax.lax.stop_gradient"
            )


def _disturbed(x: Any, where: Array, *, seed: int) -> Any:
    """Outputs or a batch with noise on every float per token, of its own for each field so that no two cancel."""
    rng, there = np.random.default_rng(seed), np.asarray(where)

    def noisy(v: Any) -> Any:
        noise = np.where(there, rng.normal(0.0, 3.0, there.shape), 0.0).astype(np.float32)
        return v + noise if isinstance(v, Array) and v.shape == there.shape and v.dtype == jnp.float32 else v

    return type(x)(*(noisy(v) for v in x))


def _with_last_token(batch: SequenceBatch, token: int) -> SequenceBatch:
    """The batch with one id for the last token that counts of every response, as only the objective sees it."""
    number = jnp.cumsum(batch.mask, axis=-1)
    last = batch.mask & (number == number[..., -1:])
    return batch._replace(tokens=jnp.where(last, token, batch.tokens))


def _check_ids(probe: Probe, outputs: Outputs, batch: SequenceBatch) -> None:
    """Look for end-of-sequence tokens that stop counting once they share the padding's id, and only then."""
    padding = np.asarray(batch.tokens)[np.asarray(batch.segment_ids) == 0]
    if padding.size == 0:
        return
    plain, as_padding, as_word = (
        probe(outputs, b)[:2]
        for b in (batch, _with_last_token(batch, int(padding[0])), _with_last_token(batch, _unused(batch)))
    )
    if _unlike(plain, as_padding) and not _unlike(plain, as_word):
        raise ObjectiveError("pad == eos", "a token that counts is left out because it has the padding's id")


def _unused(batch: SequenceBatch) -> int:
    """An id that no token has."""
    return int(jnp.max(batch.tokens)) + 1


def _check_shift(probe: Probe, outputs: Outputs, batch: SequenceBatch) -> None:
    """Look for shifts inside the responses, where the mask hides what they bring in from outside.

    Two things give a shift away. What moves by one drops out of the response at one end: the loss then depends on every
    token of it but the first, or but the last. And changing what one token brings changes the gradient of its neighbour
    on one side, but not its own; whatever spreads over the response on purpose (a mean, a sum over what is still to
    come) reaches the token itself.
    """
    mask = np.asarray(batch.mask)
    number = np.cumsum(mask, axis=-1)
    count = number[..., -1:]
    long = mask & (count >= 3)
    first, last = long & (number == 1), long & (number == count)
    column = np.broadcast_to(np.arange(mask.shape[-1]) % 3, mask.shape)
    noise = np.random.default_rng(2).uniform(0.1, 0.5, mask.shape).astype(np.float32)
    before = probe(outputs, batch)[:2]

    def after(name: str, where: np.ndarray) -> tuple[tuple[Array, Array], Outputs]:
        nudge = np.where(where, noise, np.float32(0))
        if name in Outputs._fields:
            return probe(outputs._replace(**{name: getattr(outputs, name) + nudge}), batch)[:2]
        return probe(outputs, batch._replace(**{name: getattr(batch, name) + nudge}))[:2]

    given = [name for name in _PER_TOKEN if getattr(batch, name) is not None]
    for name in ("logprobs", "entropy", *(x for x in given if x != "old_values")):  # bootstrapping skips an end rightly
        ends = [_unlike(before, after(name, where)) for where in (first, last)]
        if ends[0] != ends[1] and _unlike(before, after(name, long & ~first & ~last)):
            if ends[0] and _unlike(before, probe(outputs, _with_last_token(batch, _unused(batch)))[:2]):
                raise ObjectiveError("pad == eos", "the last token of a response is left out because of its id")
            raise ObjectiveError(
                "shift",
                f"{name}: the {'last' if ends[0] else 'first'} token of a response does not reach the loss, all others "
                "do: something is off by one",
            )
    for name in ("values", *given):
        moved = after(name, mask & (column == 0))[1]
        for output in ("logprobs", "entropy", "values"):
            change = np.abs(np.asarray(getattr(moved, output)) - np.asarray(getattr(before[1], output)))
            seen = change > max(1e-3 * change.max(), 1e-6 * np.abs(np.asarray(getattr(before[1], output))).max())
            own, later, earlier = (bool(np.any(seen & mask & (column == i))) for i in range(3))
            if name in ("values", "old_values"):
                earlier = False  # the value of the next state is what one bootstraps from
            if later != earlier and not own:
                side = "next" if later else "previous"
                raise ObjectiveError("shift", f"a token's {name} act on the {output} of the {side} token, not its own")


def _check_integers(probe: Probe, outputs: Outputs, batch: SequenceBatch, rtol: float) -> None:
    """Look for rewards cut to whole numbers: steps of 1 change the loss, and fractions, even in reverse order, do not.

    Seen at 0 to 2 and again at 3 to 5, so that an objective that asks only whether a rating is above some number is
    not taken for one.
    """
    rng = np.random.default_rng(3)
    as_int: dict[str, Any] = {}
    for name in _SIGNALS:
        if getattr(batch, name) is None:
            continue
        shape = getattr(batch, name).shape
        fraction, other = (rng.uniform(0.06, 0.44, shape).astype(np.float32) for _ in range(2))
        steps = rng.integers(0, 3, shape).astype(np.float32)

        def at(value: Any, name: str = name) -> tuple[tuple[Array, Array], Outputs]:
            return probe(outputs, batch._replace(**{name: value}))[:2]

        base = {level: at(np.float32(level) + fraction) for level in (0, 3)}
        moved = {level: _unlike(base[level], at(np.float32(level) + fraction + steps)) for level in base}
        if any(moved.values()):
            as_int[name] = rng.integers(-3, 4, shape).astype(np.int32)
        if all(moved.values()) and not any(
            _unlike(base[level], at(np.float32(level) + x)) for level in base for x in (0.5 - fraction, other)
        ):
            raise ObjectiveError(
                "integer rewards", f"batch.{name} reaches the loss in whole numbers, without fractions"
            )
    if as_int:
        as_float: dict[str, Any] = {name: x.astype(np.float32) for name, x in as_int.items()}
        (value, want, _), (other_value, got, _) = (probe(outputs, batch._replace(**x)) for x in (as_float, as_int))
        _compare(
            "integer rewards",
            (_quotient(*value), want),
            (_quotient(*other_value), got),
            rtol,
            "rewards of integer type change the loss",
        )


def _padded(batch: SequenceBatch, *, left: int = 0, right: int = 0) -> SequenceBatch:
    """The batch with more padding columns; per-token arrays grow with it."""

    def grow(x: Array) -> Array:
        if x.shape != batch.tokens.shape:
            return x
        return jnp.pad(x, ((0, 0), (0, 0), (left, right)))

    return jax.tree.map(grow, batch)


def _packed(batch: SequenceBatch) -> SequenceBatch:
    """The batch with its responses sharing physical rows."""
    groups, responses, length = batch.tokens.shape
    tokens, real, mask = (np.asarray(x) for x in (batch.tokens, batch.segment_ids > 0, batch.mask))
    examples = [
        Example(
            tuple(tokens[b, k][real[b, k]] for k in range(responses)),
            tuple(int(np.argmax(mask[b, k])) for k in range(responses)),
            None,
        )
        for b in range(groups)
    ]
    rows = -(-groups * responses * 3 // 4)
    packed = pack(
        examples, rows=rows, row_length=2 * length, groups=groups, responses=responses, length=length, pad_id=PAD
    )
    return batch._replace(packing=jax.tree.map(jnp.asarray, packed.packing))


def _micro_batches(batch: SequenceBatch, parts: int = 4) -> tuple[SequenceBatch, ...]:
    size = batch.tokens.shape[0] // parts
    return tuple(jax.tree.map(lambda x, i=i: x[i * size : (i + 1) * size], batch) for i in range(parts))


def _on_mesh(evaluate: Callable[..., Any], params: Params, batch: SequenceBatch) -> Any:
    """Loss and gradient with the batch spread over as many devices as divide it."""
    count = max(n for n in range(1, len(jax.devices()) + 1) if batch.tokens.shape[0] % n == 0)
    mesh = parallel.make_mesh(parallel.MeshConfig(), devices=jax.devices()[:count])
    spread = parallel.put(batch, parallel.batch_shardings(batch, mesh))
    copied = parallel.put(params, jax.tree.map(lambda _: parallel.replicated(mesh), params))
    return jax.device_get(evaluate(copied, spread))


def _unlike(before: Any, after: Any) -> bool:
    """Whether anything changed by more than rounding."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return any(
        np.max(np.abs(x - y)) > 1e-6 * np.max(np.abs(x)) for x, y in ((np.asarray(a), np.asarray(b)) for a, b in pairs)
    )


def _difference(want: tuple[Array, Params], got: tuple[Array, Params], rtol: float) -> str:
    """How two losses and their gradients differ, or nothing.

    Losses to ``rtol``; gradients to ten times that of the largest entry, since they sum over more terms.
    """
    a, b = float(want[0]), float(got[0])
    if not abs(a - b) <= rtol * max(abs(a), 1e-2):
        return f"{a:.8g} becomes {b:.8g}"
    pairs = [(np.asarray(x), np.asarray(y)) for x, y in zip(*map(jax.tree.leaves, (want[1], got[1])), strict=True)]
    scale = max((float(np.max(np.abs(x))) for x, _ in pairs), default=0.0)
    off = max((float(np.max(np.abs(x - y))) for x, y in pairs), default=0.0)
    return "" if off <= 10 * rtol * scale else f"a gradient is off by {off:.3g} where the largest is {scale:.3g}"


def _compare(name: str, want: tuple[Array, Params], got: tuple[Array, Params], rtol: float, detail: str) -> None:
    difference = _difference(want, got, rtol)
    if difference:
        raise ObjectiveError(name, f"{detail}: {difference}")

"""Checks for objectives, ours and the user's, and the tiny models and batches they run on.

    from rlhf_jax import testing
    testing.check_objective(my_objective)

raises ``ObjectiveError`` with the name of the first property that does not hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import models, parallel
from rlhf_jax.data.packing import Example, pack
from rlhf_jax.stages.lift import forward, lift
from rlhf_jax.types import Array, Loss, Model, Objective, Outputs, Params, SequenceBatch

PAD, EOS, VOCAB = 0, 2, 32
_PER_TOKEN = ("old_logprobs", "ref_logprobs", "advantages", "returns", "old_values")
_SIGNALS = ("reward", "rating", "advantages", "returns")  # what raters and reward functions may give as whole numbers
Probe = Callable[[Outputs, SequenceBatch], tuple[Array, Outputs, dict[str, Array]]]


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
        roles[role] = models.build(config)
        key = jax.random.fold_in(jax.random.key(seed), i)
        init_key, head_key = jax.random.split(key)
        params[role] = jax.tree.map(lambda x: x * 4.0, jax.jit(roles[role].init)(init_key))
        if role != "policy":
            params[role]["head"]["kernel"] = jax.random.normal(head_key, (config.d_model, 1))
    return roles, params


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
    - integer rewards: rewards, ratings, advantages and returns are not cut to whole numbers, and may be given as such.
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

    outputs = jax.jit(lambda p, b: forward(roles, p, b))(params, batch)
    _check_form(objective, outputs, batch)
    checked += ["returns a Loss", "scalar float32"]
    evaluate = _evaluator(objective, roles)
    loss, gradient = evaluate(params, batch)
    if not all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((loss, gradient))):
        raise ObjectiveError("finite gradients", f"the loss is {loss} and some gradient is not finite")
    if not any(bool(jnp.any(x != 0)) for x in jax.tree.leaves(gradient)):
        raise ObjectiveError("has a gradient", "the gradient is zero for every parameter")
    checked += ["finite gradients", "has a gradient"]

    def same(name: str, got: tuple[Array, Params], detail: str) -> None:
        _compare(name, (loss, gradient), got, rtol, detail)
        checked.append(name)

    probe = _prober(objective)
    fresh = _before_the_first_update(outputs, batch)
    as_eos = batch._replace(tokens=jnp.where(batch.segment_ids > 0, batch.tokens, EOS))

    def hidden(where: Array) -> tuple[Array, Params]:
        noisy, moved = _disturbed(objective, batch, where)
        return _evaluator(noisy, roles)(params, moved)

    behind = hidden(~batch.mask)
    if _difference((loss, gradient), behind, rtol):
        # Something behind the mask is read. Which mistake it is shows in what else changes the loss.
        same("pad == eos", evaluate(params, as_eos), "the mask is made from the padding's id, not read from the batch")
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
    same("pad == eos", evaluate(params, as_eos), "padding with the end-of-sequence token changes the loss")
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
    eager = jax.value_and_grad(lambda o: _reduced(objective(o, batch)))(outputs)
    _compare("jit = eager", probe(outputs, batch)[:2], eager, rtol, "the objective gives another loss outside jit")
    return [*checked, "jit = eager"]


def _evaluator(objective: Objective, roles: dict[str, Model]) -> Callable[..., tuple[Array, Params]]:
    """Loss and gradient of a global batch given in micro-batches: sums of both, divided once."""
    part = jax.jit(jax.value_and_grad(lift(objective, roles), has_aux=True))

    def evaluate(params: Params, *batches: SequenceBatch) -> tuple[Array, Params]:
        parts = [part(params, batch, jax.random.key(0)) for batch in batches]
        weight = sum(float(aux.weight) for (_, aux), _ in parts) or 1.0
        gradients = jax.tree.map(lambda *g: sum(g) / weight, *(g for _, g in parts))
        return sum((n for (n, _), _ in parts), jnp.float32(0)) / weight, gradients

    return evaluate


def _reduced(loss: Loss) -> Array:
    numerator, weight = loss.reduction(loss.values, loss.mask)
    return numerator / jnp.where(weight == 0, 1.0, weight)


def _prober(objective: Objective) -> Probe:
    """The objective alone: its loss, and the gradient with respect to the outputs and to the batch's float fields."""

    @jax.jit
    def probe(outputs: Outputs, batch: SequenceBatch) -> tuple[Array, Outputs, dict[str, Array]]:
        arrays = {name: x for name, x in batch._asdict().items() if name != "packing" and x is not None}
        floats: dict[str, Any] = {name: x for name, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}

        def loss(outputs: Outputs, floats: dict[str, Any]) -> Array:
            return _reduced(objective(outputs, batch._replace(**floats)))

        value, (into_outputs, into_batch) = jax.value_and_grad(loss, argnums=(0, 1))(outputs, floats)
        return value, into_outputs, into_batch

    return probe


def _before_the_first_update(outputs: Outputs, batch: SequenceBatch) -> Outputs:
    """Outputs close to those that the batch was prepared with, where clipping hides no token from the loss."""
    rng = np.random.default_rng(1)

    def near(x: Array, old: Array | None) -> Array:
        return x if old is None else old + (0.02 * rng.normal(size=x.shape)).astype(np.float32)

    return outputs._replace(
        logprobs=near(outputs.logprobs, batch.old_logprobs), values=near(outputs.values, batch.old_values)
    )


def _check_form(objective: Objective, outputs: Outputs, batch: SequenceBatch) -> None:
    loss = objective(outputs, batch)
    if not isinstance(loss, Loss):
        raise ObjectiveError(
            "returns a Loss", f"it returned {type(loss).__name__}; return Loss(values, mask, reduction)"
        )
    if loss.values.dtype != jnp.float32:
        raise ObjectiveError("scalar float32", f"values are {loss.values.dtype}, not float32")
    if loss.values.shape != loss.mask.shape:
        raise ObjectiveError("scalar float32", f"values {loss.values.shape} and mask {loss.mask.shape} differ in shape")
    for name, x in zip(("numerator", "denominator"), loss.reduction(loss.values, loss.mask), strict=True):
        if jnp.shape(x) != () or jnp.asarray(x).dtype != jnp.float32:
            raise ObjectiveError("scalar float32", f"the reduction's {name} is {jnp.asarray(x).dtype}{jnp.shape(x)}")


def _check_stop_gradient(probe: Probe, outputs: Outputs, batch: SequenceBatch) -> None:
    for name, gradient in probe(outputs, batch)[2].items():
        if bool(jnp.any(gradient != 0)):
            raise ObjectiveError(
                "stop gradient", f"the loss has a gradient with respect to batch.{name}: use jax.lax.stop_gradient"
            )


def _disturbed(objective: Objective, batch: SequenceBatch, where: Array) -> tuple[Objective, SequenceBatch]:
    """The objective and the batch with every per-token array overwritten at some places."""
    noise = jnp.where(where, jax.random.normal(jax.random.key(5), batch.mask.shape) * 3.0, 0.0)

    def disturbed(x: Any) -> Any:
        return x + noise if x is not None and x.shape == batch.mask.shape else x

    def noisy(outputs: Outputs, moved: SequenceBatch) -> Loss:
        return objective(Outputs(*(disturbed(x) for x in outputs)), moved)

    fields: Any = {name: disturbed(getattr(batch, name)) for name in _PER_TOKEN}
    return noisy, batch._replace(**fields)


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

    def after(name: str, where: np.ndarray) -> tuple[Array, Outputs]:
        nudge = np.where(where, noise, np.float32(0))
        if name in Outputs._fields:
            return probe(outputs._replace(**{name: getattr(outputs, name) + nudge}), batch)[:2]
        return probe(outputs, batch._replace(**{name: getattr(batch, name) + nudge}))[:2]

    given = [name for name in _PER_TOKEN if getattr(batch, name) is not None]
    for name in ("logprobs", "entropy", *(x for x in given if x != "old_values")):  # bootstrapping skips an end rightly
        ends = [_unlike(before, after(name, where)) for where in (first, last)]
        if ends[0] != ends[1] and _unlike(before, after(name, long & ~first & ~last)):
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
    given = {name: getattr(batch, name) for name in _SIGNALS if getattr(batch, name) is not None}
    for name, field in given.items():
        fraction, other = (rng.uniform(0.06, 0.44, field.shape).astype(np.float32) for _ in range(2))
        steps = rng.integers(0, 3, field.shape).astype(np.float32)

        def at(value: Any, name: str = name) -> tuple[Array, Outputs]:
            return probe(outputs, batch._replace(**{name: value}))[:2]

        def cut(level: np.float32, x: np.ndarray = fraction, y: np.ndarray = other, z: np.ndarray = steps) -> bool:
            base = at(level + x)
            smooth = any(_unlike(base, at(level + v)) for v in (np.float32(0.5) - x, y))
            return not smooth and _unlike(base, at(level + x + z))

        if cut(np.float32(0)) and cut(np.float32(3)):
            raise ObjectiveError(
                "integer rewards", f"batch.{name} reaches the loss in whole numbers, without fractions"
            )
    as_int: Any = {name: rng.integers(-3, 4, field.shape).astype(np.int32) for name, field in given.items()}
    as_float: Any = {name: x.astype(np.float32) for name, x in as_int.items()}
    want, got = (probe(outputs, batch._replace(**fields))[:2] for fields in (as_float, as_int))
    _compare("integer rewards", want, got, rtol, "rewards of integer type change the loss")


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
    scale = max(float(np.max(np.abs(np.asarray(x)))) for x in jax.tree.leaves(want[1]))
    off = max(
        float(np.max(np.abs(np.asarray(x) - np.asarray(y))))
        for x, y in zip(jax.tree.leaves(want[1]), jax.tree.leaves(got[1]), strict=True)
    )
    return "" if off <= 10 * rtol * scale else f"a gradient is off by {off:.3g} where the largest is {scale:.3g}"


def _compare(name: str, want: tuple[Array, Params], got: tuple[Array, Params], rtol: float, detail: str) -> None:
    difference = _difference(want, got, rtol)
    if difference:
        raise ObjectiveError(name, f"{detail}: {difference}")

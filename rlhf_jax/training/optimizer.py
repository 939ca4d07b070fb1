"""The optimiser: AdamW with a schedule and a bound on the gradient's norm, one for each role if wanted."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from rlhf_jax.fields import check_fields
from rlhf_jax.types import Params

_NO_DECAY = re.compile(r"(norm|bias|scale)$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule, or an optimiser of your own.

    Args:
        learning_rate: the peak; 1e-4 to 1e-3 for a small model from scratch, 1e-6 to 1e-5 for PPO on a large one.
        schedule: how it falls after the warm-up: along half a cosine, or in a straight line.
        warmup_fraction: share of the steps over which the rate rises linearly to the peak; 0 to 0.1.
        final_fraction: share of the peak that is left at the last step; 1 keeps the rate constant after the warm-up.
        weight_decay: decoupled decay of matrices (norms and biases have none); 0 to 0.1.
        b1: decay of the first moment.
        b2: decay of the second moment; 0.95 to 0.999.
        eps: added to the root of the second moment.
        max_grad_norm: gradients are scaled down to this global norm; None leaves them.
        function: FILE.py:NAME of an optimiser of your own, in place of AdamW: an optax transformation, or a function
            that returns one. The function may ask for ``learning_rate`` (the schedule of the fields above, ``step ->
            rate``), ``steps`` (updates of the whole run) and ``config``; nothing else here has a say then.

    Raises:
        ValueError: a value is out of its range; the message names the field.

    Example:
        >>> OptimizerConfig(learning_rate=1e-3).max_grad_norm
        1.0
        >>> OptimizerConfig(learning_rate=-1.0)
        Traceback (most recent call last):
        ...
        ValueError: learning_rate must be positive, found -1.0

    Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (2019).
    """

    learning_rate: float
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup_fraction: float = 0.03
    final_fraction: float = 0.1
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    max_grad_norm: float | None = 1.0
    function: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, found {self.learning_rate}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive or None, found {self.max_grad_norm}")
        if not (self.weight_decay >= 0 and self.eps > 0):
            raise ValueError(f"need weight_decay >= 0 and eps > 0, found {self.weight_decay} and {self.eps}")
        for name in ("warmup_fraction", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, found {getattr(self, name)}")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, found {getattr(self, name)}")


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate: a linear rise, then a fall to ``final_fraction`` of the peak along half a cosine or a line.

    ``rate_s = peak (s + 1) / w`` for ``s < w``, then ``rate_s = peak (f + (1 - f) c((s - w) / (S - w)))`` with
    ``c(x) = (1 + cos(pi x)) / 2`` or ``c(x) = 1 - x``; ``w`` is the warm-up in steps, ``f`` the final fraction

    Args:
        config: peak, warm-up, shape of the fall and final fraction.
        steps: number of updates S in the whole run.

    Returns:
        ``(step) -> rate``; step 0 already has a rate above 0, so that no step is wasted.

    Raises:
        ValueError: steps is below 1.

    Example:
        >>> schedule = make_schedule(OptimizerConfig(learning_rate=1.0, warmup_fraction=0.1, final_fraction=0.0), 20)
        >>> [round(float(schedule(step)), 3) for step in (0, 1, 2, 11, 20)]
        [0.5, 1.0, 1.0, 0.5, 0.0]

    Source: the cosine: Loshchilov & Hutter, "SGDR" (2017), one cycle.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, found {steps}")
    warmup = round(config.warmup_fraction * steps)
    rest = max(steps - warmup, 1)
    peak, final = config.learning_rate, config.final_fraction
    if config.schedule == "linear":
        fall = optax.schedules.linear_schedule(peak, peak * final, rest)
    else:
        fall = optax.schedules.cosine_decay_schedule(peak, rest, alpha=final)
    if not warmup:
        return fall

    def rise(step: jax.typing.ArrayLike) -> jax.Array:
        # optax's own line is its end less what is missing: few digits of a long warm-up's first rates would be right.
        return peak * (jnp.asarray(step) + 1) / warmup

    return optax.schedules.join_schedules([rise, fall], [warmup])


def _decayed(params: Params) -> Any:
    def has_decay(path: Any, _: Any) -> bool:
        return not _NO_DECAY.search(jax.tree_util.keystr(path, simple=True, separator="/"))

    return jax.tree_util.tree_map_with_path(has_decay, params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm, on the schedule of ``make_schedule``.

    Args:
        config: rates, moments, decay and clipping.
        steps: number of updates in the whole run, for the schedule.

    Returns:
        An optax transformation.

    Raises:
        ValueError: steps is below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup_fraction=0.0), steps=10)
        >>> params = {"x": jnp.ones(2)}
        >>> updates, _ = optimizer.update({"x": jnp.array([3.0, -4.0])}, optimizer.init(params), params)
        >>> [round(float(update), 3) for update in updates["x"]]
        [-0.1, 0.1]

    Source: Loshchilov & Hutter (2019); clipping: Pascanu et al., "On the difficulty of training recurrent neural
    networks" (2013).
    """
    adamw = optax.adamw(
        make_schedule(config, steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=_decayed,
    )
    if config.max_grad_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adamw)


def by_role(optimizers: Mapping[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """One optimiser for each role: its own rate, schedule and clipping.

    Args:
        optimizers: role (the top key of the parameters) -> its optimiser.

    Returns:
        An optax transformation for parameters with exactly these roles.

    Raises:
        ValueError: (when used) the parameters have other roles.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> optimizer = by_role({"policy": optax.sgd(0.1), "critic": optax.sgd(1.0)})
        >>> params = {"policy": {"x": jnp.ones(())}, "critic": {"x": jnp.ones(())}}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> round(float(updates["policy"]["x"]), 3), round(float(updates["critic"]["x"]), 3)
        (-0.1, -1.0)
    """

    def labels(params: Params) -> Any:
        if set(params) != set(optimizers):
            raise ValueError(f"parameters have roles {sorted(params)}, optimisers were given for {sorted(optimizers)}")
        return {role: jax.tree.map(lambda _, role=role: role, tree) for role, tree in params.items()}

    return optax.partition(dict(optimizers), labels)


def per_member(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser of an ensemble: every leaf is [M, ...], and each member is updated as if it were alone.

    Clipping by the global norm, which would tie them to each other, looks at one member at a time.

    Args:
        optimizer: what updates one member.

    Returns:
        An optax transformation for stacked parameters.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> optimizer = per_member(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)))
        >>> params = {"x": jnp.zeros((2, 1))}
        >>> updates, _ = optimizer.update({"x": jnp.array([[0.25], [4.0]])}, optimizer.init(params), params)
        >>> updates["x"].tolist()
        [[-0.25], [-1.0]]
    """
    return optax.GradientTransformation(jax.vmap(optimizer.init), jax.vmap(optimizer.update))

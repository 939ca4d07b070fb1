"""From an optimiser's config to the optimiser: AdamW, or any optax transformation of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import models, training
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.user_code import load_named
from rlhf_jax.training import OptimizerConfig
from rlhf_jax.types import Params

OwnOptimizer: TypeAlias = "optax.GradientTransformation | Callable[..., optax.GradientTransformation]"
"""An optax transformation, or a function that makes one of what it asks for by name: ``make_own`` says what."""


def choose_optimizer(passed: OwnOptimizer | None, config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Make the optimiser that was passed, or else the one that the config names, or else AdamW as the config says.

    Args:
        passed: an optax transformation, or a function that returns one.
        config: its ``function`` may name one, ``FILE.py:NAME``.
        steps: how many updates the whole run has, for the schedule.

    Raises:
        RunError: when the file has no such thing, or what it has makes no optax transformation.

    Example:
        >>> config = OptimizerConfig(learning_rate=0.5, warmup_fraction=0.0)
        >>> rule = choose_optimizer(optax.sgd, config, steps=10)
        >>> params = {"x": jnp.zeros(1)}
        >>> rule.update({"x": jnp.ones(1)}, rule.init(params), params)[0]["x"].tolist()
        [-0.5]
    """
    if passed is None and not config.function:
        return training.make_optimizer(config, steps)
    name = f"optimizer {config.function or passed}"
    if passed is None:
        passed = load_optimizer(config.function)
    return make_own(passed, name, config, steps)


def load_optimizer(name: str) -> OwnOptimizer:
    """Load an optax transformation, or a function that makes one, from a file.

    Args:
        name: ``FILE.py:NAME``.

    Raises:
        RunError: when there is no such file, or no such thing in it.
    """
    if ":" not in name:
        raise RunError(f"optimizer {name}: expected FILE.py:function, or pass the optimiser itself, optimizer=...")
    return load_named(name, f"optimizer {name}", Callable | optax.GradientTransformation, "function or transformation")


def make_own(made: OwnOptimizer, name: str, config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Call a function that makes an optimiser with what it asks for; a transformation is returned as it is.

    It may ask for ``learning_rate``, the schedule that the config's own fields describe, as ``step -> rate``; for
    ``steps``, the number of updates of the whole run; and for ``config``, the ``OptimizerConfig``.

    Args:
        made: the transformation or the function.
        name: what messages call it.
        config: what ``learning_rate`` is made from.
        steps: how many updates there are.

    Raises:
        RunError: when it asks for anything else, fails, or returns something else.

    Example:
        >>> make_own(lambda rate: optax.sgd(rate), "optimizer mine", OptimizerConfig(learning_rate=0.1), 10)
        Traceback (most recent call last):
        ...
        rlhf_jax.runs.errors.RunError: optimizer mine asks for 'rate': it may ask for learning_rate, steps and config
    """
    if not isinstance(made, optax.GradientTransformation):
        offered = {"learning_rate": training.make_schedule(config, steps), "steps": steps, "config": config}
        parameters = inspect.signature(made).parameters.values()
        for p in parameters:
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in offered:
                raise RunError(f"{name} asks for {p.name!r}: it may ask for learning_rate, steps and config")
        asked = {p.name: offered[p.name] for p in parameters if p.name in offered}
        try:
            made = made(**asked)
        except Exception as error:  # whatever a function of the user's own raises
            raise RunError(f"{name}: {type(error).__name__}: {error}") from error
    if not isinstance(made, optax.GradientTransformation):
        raise RunError(
            f"{name} is no optax transformation but {type(made).__name__}: return what optax.adam(...) or optax.chain("
            "...) returns"
        )
    return made


def try_optimizer(passed: OwnOptimizer | None, config: OptimizerConfig, params: Params) -> None:
    """Try an optimiser of the user's own on the shapes of what it will train, before anything is written.

    Args:
        passed: what the stage was given, if anything.
        config: what may name one.
        params: by role, whole models; adapters are looked at alone, as they are what is trained.

    Raises:
        RunError: when it fails, or its updates have other shapes than the parameters.
    """
    if passed is None and not config.function:
        return
    rule = choose_optimizer(passed, config, 1000)
    shapes = jax.eval_shape(lambda x: x, {role: models.split(x)[0] for role, x in params.items()})

    def once(own: Params) -> Any:
        return rule.update(own, rule.init(own), own)[0]

    try:
        updates = jax.eval_shape(once, shapes)
    except Exception as error:  # whatever a transformation of the user's own raises
        raise RunError(f"optimizer {config.function}: {type(error).__name__}: {error}") from error
    if jax.tree.map(jnp.shape, updates) != jax.tree.map(jnp.shape, shapes):
        raise RunError(f"optimizer {config.function}: its updates have other shapes than the parameters")

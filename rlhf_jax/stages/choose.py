"""From the name of an objective to the function: one of ``rlhf_jax.objectives``, or one in the user's own file."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import losses, objectives
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.user_code import load_function
from rlhf_jax.stages.config import StageConfig
from rlhf_jax.stages.names import check_metrics
from rlhf_jax.testing import ObjectiveError, check_arrays
from rlhf_jax.testing.calling import explain
from rlhf_jax.types import Loss, Objective, Outputs, SequenceBatch


def find_objective(name: str, hyperparameters: Mapping[str, Any]) -> Objective:
    """Find the objective of a name, and bind hyperparameters to it.

    Args:
        name: a name in ``rlhf_jax.objectives``, as ``dpo``, or ``FILE.py:function``.
        hyperparameters: keyword arguments to bind.

    Returns:
        ``(outputs, batch) -> Loss``.

    Raises:
        RunError: when there is no such objective, file or function, or it has no such hyperparameter.

    Example:
        >>> find_objective("dpo", {"beta": 0.05}).keywords
        {'beta': 0.05}
        >>> find_objective("dpa", {})
        Traceback (most recent call last):
        ...
        rlhf_jax.runs.errors.RunError: there is no objective 'dpa': did you mean 'dpo'? ...
    """
    return choose_objective(None, name, hyperparameters)


def bind_objective(
    function: Objective, name: str, hyperparameters: Mapping[str, Any], fields: Mapping[str, Any] | None = None
) -> Objective:
    """Bind what a config says of an objective to the function.

    Args:
        function: the objective; hyperparameters that are bound to it already stay.
        name: what messages call it.
        hyperparameters: keyword arguments; each must be one of the function's.
        fields: a config's own fields for hyperparameters; those that the function does not have are left out.

    Raises:
        RunError: when it has no such hyperparameter, or needs one that is not given.

    Example:
        >>> bind_objective(objectives.plackett_luce, "plackett_luce", {}, {"center": 0.01, "margin": 0.5}).keywords
        {'center': 0.01}
    """
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for key in hyperparameters:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
            raise RunError(f"objective {name} has no hyperparameter {key!r}: {hint}")
    already = function.keywords if isinstance(function, functools.partial) else {}
    own = {key: value for key, value in (fields or {}).items() if key in known and key not in already}
    bound = {**own, **hyperparameters}
    missing = [p.name for p in parameters if _is_required(p) and p.name not in bound]
    if missing:
        raise RunError(f"objective {name} needs --hyperparameters {missing[0]} VALUE")
    return functools.partial(function, **bound) if bound else function


def choose_objective(
    passed: Objective | None, name: str, hyperparameters: Mapping[str, Any], fields: Mapping[str, Any] | None = None
) -> Objective:
    """Choose the function that was passed, or else the one that is named, and bind what the config says of it."""
    if passed is None:
        passed = load_function(name, f"objective {name}") if ":" in name else named_objective(name)
    return bind_objective(passed, name, hyperparameters, fields)


# What a stage gives to its objective: the fields of ``Outputs`` and of ``SequenceBatch`` that it fills.
SFT = (("logprobs", "entropy"), ())
REWARD = (("scores",), ("votes", "rating"))  # ratings only where the rows are rated responses
PREFERENCE = (("logprobs", "entropy"), ("votes", "label", "ref_logprobs", "kl"))
GROUP = (("logprobs", "entropy"), ("score", "reward", "old_logprobs", "ref_logprobs", "kl_coef"))
PPO = ((*GROUP[0], "values"), (*GROUP[1], "advantages", "returns", "old_values"))


def check_own(
    objective: Objective,
    config: StageConfig,
    given: tuple[tuple[str, ...], tuple[str, ...]],
    *,
    responses: int,
) -> None:
    """Check the objective of a file of the user's own, before anything is written, unless the config says not to.

    Args:
        objective: the function, with its hyperparameters bound.
        config: the stage's; it names the objective, and says whether to look.
        given: what the stage fills, one of the constants of this module.
        responses: K.

    Raises:
        RunError: when it is not sound; the message names the property, the line, and what to do.
    """
    if not config.check or ".py:" not in config.objective:
        return
    try:
        # A batch is data here: a gradient into it, as into the reference, changes nothing that is trained.
        check_arrays(objective, given=given, responses=responses, gradients_of_data=False)
    except ObjectiveError as error:
        raise RunError(
            f"objective {config.objective}: {error} (testing.check_objective looks closer; --no-check trains with it "
            "as it is)"
        ) from error


_SHAPES = {
    "scores": 2,
    "label": 2,
    "rating": 2,
    "score": 2,
    "reward": 2,
    "kl": 2,
    "kl_coef": 2,
}  # axes, if not [B, K, S]


def try_objective(
    objective: Objective, name: str, given: tuple[tuple[str, ...], tuple[str, ...]], *, responses: int
) -> None:
    """Call an objective on shapes alone, before anything is written: a value that makes no sense shows here.

    Args:
        objective: the function, with its hyperparameters bound.
        name: what the message calls it.
        given: what the stage fills, one of the constants of this module.
        responses: K.

    Raises:
        RunError: when the objective refuses, or reads what the stage does not give.

    Example:
        >>> try_objective(objectives.rloo, "rloo", PREFERENCE, responses=2)
        Traceback (most recent call last):
        ...
        rlhf_jax.runs.errors.RunError: objective rloo: batch.reward is None, but the objective reads it; ...
    """
    groups, length = 2, 4

    def filled(field: str) -> Any:
        shape = (groups, responses, responses if field == "votes" else length)[: _SHAPES.get(field, 3)]
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    ids: Any = jax.ShapeDtypeStruct((groups, responses, length), jnp.int32)
    mask: Any = jax.ShapeDtypeStruct(ids.shape, jnp.bool_)
    outputs = Outputs(**{field: filled(field) for field in given[0]})
    batch = SequenceBatch(ids, mask, ids, ids, **{field: filled(field) for field in given[1]})

    def whole(o: Outputs, b: SequenceBatch) -> Any:
        loss = objective(o, b)
        if not isinstance(loss, Loss):
            raise TypeError(f"it returned {type(loss).__name__}; return Loss(values, mask, reduction)")
        check_metrics(loss.metrics, name)
        logged = [losses.masked_sum(values, counted) for values, counted in loss.metrics.values()]
        return loss.reduction(loss.values, loss.mask), logged

    try:
        jax.eval_shape(whole, outputs, batch)
    except RunError:
        raise
    except Exception as error:  # whatever a function of the user's own raises
        said = explain(error, objective)[1] if ".py:" in name else error
        raise RunError(f"objective {name}: {said}") from error


_ADDRESS = re.compile(" at 0x[0-9a-f]+")  # another one in every process


def describe_objective(objective: Callable[..., Any]) -> str:
    """Describe a function that was passed, for the run's config: a continuation with another one is refused.

    Example:
        >>> describe_objective(functools.partial(objectives.dpo, beta=0.05))
        'rlhf_jax.objectives.dpo.dpo(beta=0.05)'
    """
    bound: dict[str, Any] = {}
    while isinstance(objective, functools.partial):
        bound = {**objective.keywords, **bound}
        objective = objective.func
    named = inspect.unwrap(objective)
    place = f"{named.__module__}.{named.__qualname__}" if inspect.isfunction(named) else type(named).__qualname__
    shown = ", ".join(
        f"{key}={value.__qualname__ if inspect.isfunction(value) else _ADDRESS.sub('', repr(value))}"
        for key, value in sorted(bound.items())
    )
    return f"{place}({shown})" if bound else place


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty


def named_objective(name: str) -> Any:
    """Find one of our objectives, without hyperparameters.

    Raises:
        RunError: when there is none of this name.
    """
    if name not in objectives.NAMES:
        if "." in name and not name.endswith(".py"):
            raise RunError(
                f"objective {name} is a function that was passed in Python: pass it again, or name its file, "
                "FILE.py:function"
            )
        near = difflib.get_close_matches(name, objectives.NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RunError(
            f"there is no objective {name!r}: {hint}objectives are {', '.join(objectives.NAMES)}; one of your own is "
            "FILE.py:function"
        )
    return vars(objectives)[name]


LABELS = (("logprobs", "entropy"), ("label", "ref_logprobs", "kl"))  # what it is given where responses have labels


def try_single(objective: Objective, name: str, source: str) -> None:
    """Call an objective on shapes of single responses, before anything is written.

    Args:
        objective: the function, with its hyperparameters bound.
        name: what the message calls it.
        source: where the rows come from, for the message.

    Raises:
        RunError: when the objective needs pairs or votes.
    """
    try:
        try_objective(objective, name, LABELS, responses=1)
    except RunError as error:
        raise RunError(
            f"{source} holds single responses with labels, which this objective cannot learn from; use kto, or rows of "
            f"prompt, chosen and rejected ({error})"
        ) from error

"""Calling an objective so that what it raises, and what it returns that is no loss, is a property with a name."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import linecache
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.testing.probes import ObjectiveError
from rlhf_jax.types import Array, Loss, Objective, Outputs, SequenceBatch

# What is known once an objective has been called: properties in the order in which they are looked at.
FORM = (
    "takes outputs and batch",
    "fields",
    "runs",
    "returns a Loss",
    "declared reduction",
    "scalar float32",
    "metrics",
)

_FOREIGN = re.compile(r"[/\\](site-packages|dist-packages|importlib|lib[/\\]python3[.\d]*)[/\\]|^<")
_OURS = str(Path(__file__).parents[1])

# What JAX raises where a value is asked for that only its shape is known of, and what to write instead.
_TRACED = {
    jax.errors.TracerBoolConversionError: "Python's if, while, and, or, not looks at an array: use jnp.where, & and |",
    jax.errors.TracerArrayConversionError: "numpy is given an array that is being traced: use jax.numpy",
    jax.errors.TracerIntegerConversionError: "an array is used as a whole number of Python's: index with jnp.take",
    jax.errors.NonConcreteBooleanIndexError: "an array is indexed with a mask, so that its size depends on values: use "
    "jnp.where, or a reduction of rlhf_jax.losses with the mask",
    jax.errors.UnexpectedTracerError: "an array is kept from one call for another: compute it again",
    jax.errors.ConcretizationTypeError: "float(), int(), bool() or .item() asks for the value of an array: leave it an "
    "array",
}


@dataclasses.dataclass(frozen=True)
class Called:
    """An objective whose errors are ``ObjectiveError``: the property's name, and the line of the user's function."""

    objective: Objective

    def __call__(self, outputs: Outputs, batch: SequenceBatch) -> Loss:
        """Call the objective; what it returns has the form of a loss."""
        try:
            loss = self.objective(outputs, batch)
        except ObjectiveError:
            raise
        except Exception as error:  # whatever an objective of the user's own raises
            raise ObjectiveError(*explain(error, self.objective)) from error
        return formed(loss)

    def reduced(self, loss: Loss) -> tuple[Array, Array]:
        """Apply the reduction, which is the user's as well."""
        try:
            numerator, denominator = loss.reduction(loss.values, loss.mask)
        except Exception as error:  # whatever a reduction of the user's own raises
            name, detail = explain(error, self.objective)
            raise ObjectiveError(
                "declared reduction" if name == "runs" else name,
                f"the reduction must make one numerator and one denominator of values and mask: {detail}",
            ) from error
        for name, x in (("numerator", numerator), ("denominator", denominator)):
            if jnp.shape(x) != () or jnp.result_type(x) != jnp.float32:
                found = f"{jnp.result_type(x)}{list(jnp.shape(x))}"
                raise ObjectiveError("scalar float32", f"the reduction's {name} is {found}, not one float32")
        return numerator, denominator


def check_signature(objective: Objective) -> None:
    """Look whether an objective can be called with outputs and a batch."""
    if not callable(objective):
        raise ObjectiveError("takes outputs and batch", f"it is no function but {type(objective).__name__}")
    try:
        inspect.signature(objective).bind(None, None)
    except TypeError as error:
        raise ObjectiveError(
            "takes outputs and batch",
            f"it cannot be called as objective(outputs, batch): {error}; bind hyperparameters with functools.partial",
        ) from error


def explain(error: BaseException, objective: Objective) -> tuple[str, str]:
    """Give the property that an error speaks of, and the error in words, with the line of the user's function.

    Args:
        error: what calling the objective raised.
        objective: whose lines are looked for.

    Returns:
        The property's name; and where, what, and what to write instead.
    """
    where = f"{line_of(error, objective)}: "
    for kind, advice in _TRACED.items():
        if type(error) is kind:
            return "traceable", f"{where}{advice}"
    text = str(error).strip().split("\n")[0]
    said = f"{where}{type(error).__name__}: {text}"
    if isinstance(error, AttributeError) and isinstance(error.obj, SequenceBatch | Outputs):
        owner = "batch" if isinstance(error.obj, SequenceBatch) else "outputs"
        near = difflib.get_close_matches(error.name or "", type(error.obj)._fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(type(error.obj)._fields)}"
        return "fields", f"{where}{owner} has no field {error.name!r}: {hint}"
    if "None, but the objective reads it" in text or "NoneType" in text:
        return "fields", f"{said}; a field that nobody filled in is None"
    if any(isinstance(error, kind) for kind in _TRACED) or "Tracer" in text:
        return "traceable", said
    return "runs", said


def line_of(error: BaseException, objective: Objective) -> str:
    """Find the line of the user's code at which an error arose: ``FILE.py:12, `the line```; or the error's last line.

    Args:
        error: with its traceback.
        objective: lines of its own file count before those of other files.
    """
    own = _file_of(objective)
    frames: list[tuple[str, int]] = []
    trace: types.TracebackType | None = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    frames = [frame for frame in frames if frame[0] != __file__]
    users = [f for f in frames if f[0] == own] or [
        f for f in frames if not _FOREIGN.search(f[0]) and not f[0].startswith(_OURS)
    ]
    file, number = (users or frames or [(own or "objective", 0)])[-1]
    text = linecache.getline(file, number).strip()
    return f"{Path(file).name}:{number}, `{text}`" if text else f"{Path(file).name}:{number}"


def _file_of(objective: Objective) -> str | None:
    function: Any = objective
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    return function.__code__.co_filename if inspect.isfunction(function) else None


def formed(loss: Any) -> Loss:
    """Look at the form of what an objective returned: three parts of a loss that fit each other, and metrics."""
    if not isinstance(loss, Loss):
        raise ObjectiveError(
            "returns a Loss", f"it returned {type(loss).__name__}; return Loss(values, mask, reduction)"
        )
    for name, x in (("values", loss.values), ("mask", loss.mask)):
        if not isinstance(x, jax.Array | np.ndarray):
            raise ObjectiveError("returns a Loss", f"{name} is {x!r:.60}, not an array")
    if not callable(loss.reduction):
        raise ObjectiveError(
            "returns a Loss", f"its reduction is {loss.reduction!r:.60}, not a function like losses.token_mean"
        )
    if loss.values.ndim == 0:
        raise ObjectiveError(
            "declared reduction",
            "its values are a single number: a mean or a sum was taken inside the objective, where empty groups and "
            "micro-batches distort it; return one value for each token, response or pair, and let the reduction do it",
        )
    if loss.values.dtype != jnp.float32:
        raise ObjectiveError("scalar float32", f"values are {loss.values.dtype}, not float32")
    if loss.values.shape != loss.mask.shape:
        raise ObjectiveError("scalar float32", f"values {loss.values.shape} and mask {loss.mask.shape} differ in shape")
    if loss.mask.dtype != jnp.bool_:
        raise ObjectiveError(
            "returns a Loss", f"its mask is {loss.mask.dtype}, not bool: what counts half belongs into the values"
        )
    check_metrics(loss.metrics)
    return loss


def check_metrics(metrics: Any) -> None:
    """Look at the form of what is logged: names, and pairs of values and a mask of one shape."""
    if not isinstance(metrics, Mapping):
        raise ObjectiveError("metrics", f"they are {type(metrics).__name__}, not a dict from name to (values, mask)")
    for name, pair in metrics.items():
        if not (isinstance(pair, tuple) and len(pair) == 2) or jnp.shape(pair[0]) != jnp.shape(pair[1]):
            raise ObjectiveError("metrics", f"{name!r} is {_shown(pair)}; give (values, mask), two arrays of one shape")


def _shown(pair: Any) -> str:
    if isinstance(pair, tuple):
        return f"({', '.join(f'{type(x).__name__}{list(jnp.shape(x))}' for x in pair)})"
    return type(pair).__name__

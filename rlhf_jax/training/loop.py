"""The host loop that every stage shares: update, log, evaluate, keep the best, save, stop, continue.

It computes nothing. What it remembers between steps travels in the checkpoint, so a run that was killed and started
again ends with the same parameters, and the same rows of metrics, as one that never stopped.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rlhf_jax import processes
from rlhf_jax.training.goodput import GoodputLog
from rlhf_jax.training.metrics import MetricsWriter
from rlhf_jax.training.phases import Phases
from rlhf_jax.training.progress import Progress
from rlhf_jax.training.rescue import can_save, note_lost, note_saved
from rlhf_jax.training.signals import Interrupted, StopSignals
from rlhf_jax.training.state import TrainState
from rlhf_jax.training.step import fetch
from rlhf_jax.types import Params


class CheckpointStore(Protocol):
    """What the loop needs of ``checkpoint.Checkpoints``."""

    def save(self, step: int, tree: Any, host: Mapping[str, Any]) -> None:
        """Copy the tree, and write it in the background."""

    def wait(self) -> None:
        """Block until the last save is on disk."""

    def restore(self, like: Any, shardings: Any = None) -> Any:
        """Read the newest ``(step, tree, host)`` that verifies, or None."""


class Watcher(Protocol):
    """Somebody who follows the evaluations of a run, and may end it."""

    def rewind(self, step: int) -> None:
        """Forget what was seen after this step, from which the run goes on; -1 where it starts."""

    def evaluated(self, step: int, values: Mapping[str, float]) -> str:
        """Look at an evaluation, whose row is on disk; return why the run should stop, or an empty text."""


class SkippedUpdates(RuntimeError):
    """Too many updates in a row that were not finite; the message names stage and step, and where the state is."""

    exit_code = 3  # the input was right and the training was not: no restart mends it, another learning rate may


class LastUpdate(NamedTuple):
    """What is there to look at after an update that was one too many: its step, the state after it, its metrics."""

    step: int
    state: Any
    metrics: Mapping[str, Any]  # as the update gave them


class FitResult(NamedTuple):
    """What ``fit`` returns: the last state, the best parameters and the rows of metrics."""

    state: Any  # after the last step
    best_params: Params  # those of the best evaluation, or without evaluations of the last step
    best_step: int
    best_value: float | None
    history: list[dict[str, Any]]  # this stage's rows of metrics
    stop_reason: str  # why it stopped before the last step; empty where it did not

    @property
    def stopped_early(self) -> bool:
        """Whether it stopped before the last step."""
        return bool(self.stop_reason)


class _Best:
    """The best evaluation so far, and how many have passed since."""

    def __init__(self, name: str, mode: Literal["min", "max"], params: Params):
        self.name, self.mode, self.params = name, mode, params
        self.value: float | None = None
        self.step = self.stale = 0

    def see(self, stage: str, step: int, values: Mapping[str, float], params: Params) -> None:
        if self.name not in values:
            raise ValueError(
                f"{stage}: evaluate gave {sorted(values)} and no {self.name!r}, by which to choose the best"
            )
        value = values[self.name]
        better = self.value is None or (value < self.value if self.mode == "min" else value > self.value)
        if math.isfinite(value) and better:
            self.value, self.step, self.stale = value, step, 0
            self.params = jax.tree.map(jnp.copy, params)  # the state is donated to the next update
        else:
            self.stale += 1

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "step": self.step, "stale": self.stale}

    def from_json(self, saved: Mapping[str, Any]) -> None:
        self.value, self.step, self.stale = saved["value"], saved["step"], saved["stale"]


def _train_state(state: TrainState) -> TrainState:
    return state


def fit(
    *,
    stage: str,
    state: Any,
    total: int,
    update: Callable[[Any, int], tuple[Any, Mapping[str, Any]]],
    writer: MetricsWriter,
    checkpoints: CheckpointStore,
    checkpoint_every: int,
    evaluate: Callable[[Any], Mapping[str, Any]] | None = None,
    eval_every: int = 0,
    evaluate_first: bool = False,
    best: str = "",
    mode: Literal["min", "max"] = "min",
    patience: int = 0,
    max_skipped_in_row: int = 20,
    train_state: Callable[[Any], TrainState] = _train_state,
    host: MutableMapping[str, Any] | None = None,
    watcher: Watcher | None = None,
    show: Sequence[str] = ("loss",),
    phases: Phases | None = None,
    goodput: GoodputLog | None = None,
    dump: Callable[[LastUpdate], str] | None = None,
) -> FitResult:
    """Run a stage to its last step, from wherever its newest checkpoint left it.

    What ``update``, ``evaluate`` or ``watcher`` raise is raised here too, after the state before it was saved where it
    still can be; a note on the error says so. An evaluation that failed is made up for by the continuation.

    Args:
        stage: name, for messages and the progress bar.
        state: the first state: a ``TrainState``, or any tree of arrays that holds one. It may be donated.
        total: number of steps.
        update: ``(state, step) -> (state, metrics)`` for step 0, 1, ...; all its randomness and its data must be
            functions of the step. Metrics are ``(sum, weight)`` pairs or numbers.
        writer: where rows go; on a resume it is rewound.
        checkpoints: where the state is saved; the newest one there is continued.
        checkpoint_every: steps between two saves; the last step is always saved.
        evaluate: ``(state) -> metrics``; it must not donate the state.
        eval_every: steps between two evaluations; the last step is always evaluated.
        evaluate_first: evaluate before the first step too, in a row with step 0.
        best: the evaluation's metric by which the best parameters are chosen.
        mode: whether the best is the smallest or the largest value.
        patience: stop after this many evaluations without a new best; 0 never stops early.
        max_skipped_in_row: this many non-finite updates in a row end the run.
        train_state: the function that finds the ``TrainState`` in the state.
        host: JSON values that belong to the caller; saved with every checkpoint, and filled in again on a resume.
        watcher: told of every evaluation; it may stop the run, as patience does. What it must remember belongs into
            ``host``.
        show: metrics that the progress bar shows.
        phases: told what the loop is doing, for a watchdog.
        goodput: told of every step; it writes at evaluations, checkpoints and the end. It reads the same ``phases``.
        dump: called once before ``SkippedUpdates`` is raised; it saves what it is given, and returns a sentence that
            says where, for the message.

    Returns:
        The last state, the best parameters and all rows.

    Raises:
        Interrupted: SIGTERM, SIGHUP or Ctrl-C arrived; the state was saved at a step boundary.
        SkippedUpdates: ``max_skipped_in_row`` updates in a row were not finite.
        ValueError: evaluate is given without what it needs, or does not return ``best``.

    Example:
        >>> import contextlib, io, tempfile, optax, jax.numpy as jnp
        >>> from rlhf_jax.checkpoint import Checkpoints
        >>> from rlhf_jax.training import MetricsWriter, init_state, make_train_step
        >>> from rlhf_jax.types import Aux
        >>> optimizer = optax.sgd(0.25)
        >>> step = make_train_step(lambda p, b, k: (jnp.square(p["x"] - b), Aux(jnp.float32(1), {})), optimizer)
        >>> with tempfile.TemporaryDirectory() as run, MetricsWriter(run, "demo") as writer:
        ...     with contextlib.redirect_stderr(io.StringIO()):
        ...         result = fit(
        ...             stage="demo", state=init_state({"x": jnp.float32(0)}, optimizer), total=3,
        ...             update=lambda state, i: step(state, jnp.float32(8), jax.random.key(i)), writer=writer,
        ...             checkpoints=Checkpoints(run + "/checkpoints", fingerprint={}), checkpoint_every=2)
        >>> [row["demo/loss"] for row in result.history], float(result.state.params["x"])
        ([64.0, 16.0, 4.0], 7.0)
    """
    if evaluate is not None and (eval_every < 1 or not best):
        raise ValueError(f"{stage}: evaluate needs eval_every >= 1 and best, found {eval_every} and {best!r}")
    if checkpoint_every < 1 or max_skipped_in_row < 1:
        raise ValueError(
            f"{stage}: checkpoint_every and max_skipped_in_row must be at least 1, "
            f"found {checkpoint_every} and {max_skipped_in_row}"
        )
    caller: MutableMapping[str, Any] = {} if host is None else host
    top = _Best(best, mode, jax.tree.map(jnp.copy, train_state(state).params) if evaluate is not None else {})

    phases = Phases() if phases is None else phases

    with phases.during("restore"):
        restored = checkpoints.restore({"state": state, "best": top.params})
    start, stop_reason = 0, ""
    late: dict[str, Any] | None = None  # the row of the step done, where its evaluation failed and is to be made up for
    if restored is not None:
        start, state, top.params = restored.step, restored.tree["state"], restored.tree["best"]
        top.from_json(restored.host["best"])
        late = restored.host.get("late")
        stop_reason = restored.host.get("stop_reason", "")
        caller.clear()
        caller.update(restored.host["caller"])
    known = start if restored is not None else -1
    if goodput is not None:
        goodput.began(start, reached=max((row["step"] for row in writer.rows()), default=0))
    writer.rewind(known)
    if watcher is not None:
        watcher.rewind(known)

    settled = dict(caller)  # the caller's values that belong to the state, whatever a step that fails does to them
    gone = evaluating = False
    reached = saved_at = start  # steps that the state has done, and those of the newest checkpoint
    pending: tuple[int, Mapping[str, Any], jax.Array | int] | None = None

    def save(step: int, unmeasured: dict[str, Any] | None = None) -> None:
        nonlocal saved_at
        wait()
        memory = {"best": top.to_json(), "stop_reason": stop_reason, "caller": settled}
        if unmeasured is not None:
            memory["late"] = unmeasured
        with phases.during("save"):
            checkpoints.save(step, {"state": state, "best": top.params}, memory)
        saved_at = step

    def rescue(error: BaseException) -> None:
        """Save what was done before an error, if it is not yet."""
        nonlocal pending
        if reached == saved_at:
            return
        if not can_save(error, state):
            note_lost(error, saved_at, "the update itself failed")
            return
        try:
            unmeasured = None
            if pending is not None and evaluating:
                unmeasured, pending = {"row": fetch(pending[1]), "skipped": int(pending[2])}, None
            flush({})
            save(reached, unmeasured)
            checkpoints.wait()
        except Exception as second:  # the first error is what the run failed on; this comes second
            note_lost(error, saved_at, f"it could not be saved ({second})")
        else:
            note_saved(error, reached)

    def wait() -> None:
        """Let the devices finish the update, so that its time is not taken for that of what needs its result."""
        with phases.during("wait"):
            jax.block_until_ready(train_state(state).step)

    def measure(measured: Callable[[Any], Mapping[str, Any]]) -> dict[str, float]:
        wait()
        with phases.during("evaluate"):
            return fetch(measured(state))

    def ask(step: int, values: Mapping[str, float]) -> str:
        """Why the run should stop after this evaluation; after the last step there is nothing to stop."""
        reason = watcher.evaluated(step, values) if watcher is not None else ""
        if not reason and 0 < patience <= top.stale:
            reason = f"{top.stale} evaluations passed without a better {best}"
        if not reason or step == total:
            return ""
        print(f"{stage}: stopped early at step {step} of {total}: {reason}", file=sys.stderr)
        return reason

    last: LastUpdate | None = None

    def flush(extra: Mapping[str, float]) -> None:
        """Write the row of the last step but one: the device has done it, so nothing waits for the current step."""
        nonlocal pending
        if pending is None:
            return
        step, metrics, skipped = pending
        with phases.during("wait"):
            values = {**fetch(metrics), **extra}
            in_row = int(skipped)
        writer.write(step, values)
        pending = None
        progress.update(step, {name: values[name] for name in show if name in values})
        if in_row >= max_skipped_in_row:
            said = ""
            if dump is not None and last is not None:
                with phases.during("save"):
                    said = f". {dump(last)}"
            raise SkippedUpdates(
                f"{stage}: the last {in_row} updates up to step {step} were skipped, because the loss or a "
                f"gradient was not finite; lower the learning rate or look at the data of these steps{said}"
            )

    try:
        with StopSignals() as stop, Progress(stage, total, start=start) as progress:
            if start == 0 and evaluate_first and evaluate is not None:
                values = measure(evaluate)
                top.see(stage, 0, values, train_state(state).params)
                writer.write(0, values)
                if watcher is not None:
                    watcher.evaluated(0, values)
            for done in range(start + (late is None), total + 1):
                if stop_reason:
                    break
                phases.at(done)
                settled = dict(caller)
                if late is None:
                    with phases.during("update"):
                        state, metrics = update(state, done - 1)
                    last = LastUpdate(done, state, metrics)
                    flush({})
                    # A copy, because the next update takes the state's own buffers.
                    pending = (done, metrics, jnp.copy(train_state(state).skipped_in_row))
                    reached, settled = done, dict(caller)
                else:
                    pending, late = (done, late["row"], late["skipped"]), None
                evaluated = evaluate is not None and (done % eval_every == 0 or done == total)
                if evaluate is not None and evaluated:
                    evaluating = True
                    values = measure(evaluate)
                    top.see(stage, done, values, train_state(state).params)
                    flush(values)
                    evaluating = False
                    stop_reason = ask(done, values)
                asked = stop.asked()
                saved = done % checkpoint_every == 0 or done == total or bool(stop_reason) or asked is not None
                if saved:
                    settled = dict(caller)
                    flush({})  # the rows up to a checkpoint are on disk before it is
                    save(done)
                if goodput is not None:
                    goodput.stepped(done, write=evaluated or saved)
                if asked is not None:
                    raise Interrupted(stage, done, asked)
    except processes.LostProcessError:
        gone = True
        raise
    except jax.errors.JaxRuntimeError as error:
        if not processes.lost(error):
            rescue(error)
            raise
        gone = True  # a save that all processes take part in will never end
        raise processes.loss_of(f"{stage}, after step {pending[0] if pending else start}", error) from error
    except (Interrupted, SkippedUpdates):
        raise
    except Exception as error:
        rescue(error)
        raise
    finally:
        # However the loop ends: what was saved is committed, and nobody who continues meets a writer at work.
        try:
            if not gone:
                with phases.during("save"):
                    checkpoints.wait()
        finally:
            if goodput is not None:
                goodput.write()

    trained = train_state(state)
    return FitResult(
        state=state,
        best_params=trained.params if evaluate is None else top.params,
        best_step=int(trained.step) if evaluate is None else top.step,
        best_value=top.value,
        history=writer.rows(),
        stop_reason=stop_reason,
    )

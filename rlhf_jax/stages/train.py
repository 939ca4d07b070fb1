"""The loop that all training on a data set shares: a loss function, packed batches, a mesh, evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rlhf_jax import models, parallel, processes, training
from rlhf_jax.data.batches import Batches, micro_batched
from rlhf_jax.runs.fingerprint import checkpoints
from rlhf_jax.runs.loading import place
from rlhf_jax.stages import ending
from rlhf_jax.stages.attempt import Attempt
from rlhf_jax.stages.config import PackedConfig
from rlhf_jax.stages.optimizers import OwnOptimizer, choose_optimizer
from rlhf_jax.training import FitResult, OptimizerConfig, TrainState, Watcher
from rlhf_jax.types import Array, Aux, LossFn, Params


def stopped(fitted: FitResult) -> dict[str, Any]:
    """Say whether a run ended before its last step, and why, for the summary of any stage."""
    return {"stopped_early": fitted.stopped_early, "stop_reason": fitted.stop_reason or None}


def outcome(stage: str, config: PackedConfig, fitted: FitResult, start: str = "what it started from") -> dict[str, Any]:
    """Make the part of the summary that every stage run by ``train`` has.

    Args:
        stage: names the figures in the history.
        config: the stage's.
        fitted: from ``train``.
        start: what the parameters before the first step are called.
    """
    made = {
        "heldout_loss": fitted.best_value,
        "steps": int(fitted.state.step),
        **stopped(fitted),
        **ending.counts(fitted.state),
        **ending.kept_by_loss(stage, fitted, keep=config.keep, start=start),
    }
    why = ending.failure(made, fitted.history, f"{stage}/heldout_loss", keep_last=config.keep == "last")
    return made | ({"failed": why} if why else {})


def heldout(loss_fn: Callable[..., Any], batches: Batches) -> dict[str, float]:
    """Measure a loss function on held-out batches: ``heldout_loss``, and ``heldout_NAME`` for each of its metrics.

    Args:
        loss_fn: ``batch -> (numerator, Aux)``, compiled.
        batches: everything that is held out.

    Returns:
        Figures whose sums over all batches are divided once; a loss that is normalised already is averaged over the
        batches.
    """
    parts = [loss_fn(batches[i]) for i in range(len(batches))]
    weight = sum(float(aux.weight) for _, aux in parts) or len(parts)
    totals = jax.tree.map(lambda *x: sum(float(v) for v in x), *(dict(aux.metrics) for _, aux in parts))
    means = {f"heldout_{name}": total / count for name, (total, count) in totals.items() if count}
    return {**means, "heldout_loss": sum(float(numerator) for numerator, _ in parts) / weight}


class Program(NamedTuple):
    """The first state of a stage, and the function that updates it."""

    state: TrainState
    trunks: Params  # by role, the frozen part of models with adapters
    reference: Params | None  # by role, another model's
    step: training.TrainStep  # compiled at its first call; the state it is given is used up
    jitted: Any  # what ``step`` calls, with ``arguments``: for a compiler
    arguments: Callable[[Any, Any], Any]  # (batch, key)


def compile_step(
    config: PackedConfig,
    *,
    loss_fn: LossFn,
    params: Params,
    optimizer: OptimizerConfig,
    batches: Batches,
    mesh: Mesh,
    frozen: Params | None = None,
    parked: bool = False,
    members: int = 0,
    own_optimizer: OwnOptimizer | None = None,
) -> Program:
    """Place models and optimiser on the mesh, and make the step that updates them.

    Args:
        config: the stage's.
        loss_fn: as for ``train``, like all that follow.
        params: by role; what is trained is copied.
        optimizer: config of the optimiser.
        batches: whole batches, for their number and their shapes.
        mesh: devices.
        frozen: the parameters of another model.
        parked: the frozen model waits in the host's memory.
        members: how many models are stacked in ``params``.
        own_optimizer: what the stage was given in place of the config's.
    """
    rule = choose_optimizer(own_optimizer, optimizer, len(batches))
    if members:
        rule = training.per_member(rule)
    parts = {role: models.split(x) for role, x in params.items()}
    state, places = training.init(
        lambda p: p,
        rule,
        parallel.bring({role: _everywhere(own, mesh) for role, (own, _) in parts.items()}),
        shardings=lambda shapes: parallel.param_shardings(shapes, mesh, leading=1 if members else 0),
    )
    trunks = {role: place(trunk, mesh) for role, (_, trunk) in parts.items()}
    reference = None if frozen is None else {role: place(x, mesh, parked=parked) for role, x in frozen.items()}
    spread = parallel.batch_shardings(batches[0], mesh, batch_axis=(config.micro_batches > 1) + (members > 0))

    def one(state: TrainState, inputs: Any, key: Array) -> tuple[TrainState, dict[str, Any]]:
        batch, trunks, reference = inputs

        def loss(own: Params, batch: Any, key: Array) -> tuple[Array, Aux]:
            asked: Any = batch if reference is None else (batch, reference)
            return loss_fn(models.join(own, trunks), asked, key)

        return training.make_train_step(loss, rule, accumulate=config.micro_batches)(state, batch, key)

    fixed = (trunks, reference)
    step: Any = training.jit_step(one, places, (spread, *jax.tree.map(lambda x: x.sharding, fixed)), mesh)

    def arguments(batch: Any, key: Any) -> Any:
        return state, (parallel.shaped(batch, spread), *fixed), key

    return Program(
        state,
        trunks,
        reference,
        lambda state, batch, key: step(state, (processes.put(batch, spread), *fixed), key),
        step,
        arguments,
    )


def _everywhere(params: Params, mesh: Mesh) -> Params:
    """Spread parameters over all processes, which each hold the whole; one process leaves them where they are."""
    return place(params, mesh) if processes.several() else params


def train(
    *,
    stage: str,
    config: PackedConfig,
    loss_fn: LossFn,
    params: Params,
    optimizer: OptimizerConfig,
    batches: Batches,
    evaluate: Callable[[Params], Mapping[str, Any]],
    mesh: Mesh,
    fingerprint: Mapping[str, Any],
    begin: Callable[[], None],
    watch: Attempt,
    show: tuple[str, ...],
    evaluate_first: bool = False,
    frozen: Params | None = None,
    parked: bool = False,
    members: int = 0,
    own_optimizer: OwnOptimizer | None = None,
    watcher: Watcher | None = None,
) -> FitResult:
    """Train on every batch, evaluate, keep the best or the last parameters, and survive being stopped.

    Args:
        stage: names the checkpoints and the metrics.
        config: the stage's.
        loss_fn: from ``make_loss_fn``.
        params: by role; what is trained is copied. The trunk under adapters is read and never trained.
        optimizer: config of the optimiser.
        batches: parts of batches, ``config.micro_batches`` a step, all of the same shapes.
        evaluate: ``(params) -> metrics`` with a ``heldout_loss``, by which the best is chosen.
        mesh: devices.
        fingerprint: what the result depends on; a checkpoint with another fingerprint is refused.
        begin: writes the config; called once everything that can be checked before the first step has been.
        watch: this process's attempt at the stage, which counts the seconds and is told what happens.
        show: names of the metrics that are shown beside the progress bar.
        evaluate_first: evaluate before the first step too, because the first parameters may be the best.
        frozen: the parameters of another model, a reference; ``loss_fn`` is then given ``(batch, frozen)``.
        parked: the frozen model waits in the host's memory, from where ``loss_fn`` brings it.
        members: how many models are stacked in ``params``, each trained as if it were alone; 0 for a single one.
        own_optimizer: what the stage was given in place of the config's.
        watcher: told of every evaluation.

    Returns:
        The loop's result. Its ``best_params`` are whole models again, with their trunks; they are the last ones if
        ``config.keep`` says so.
    """
    batches = micro_batched(batches, config.micro_batches)
    rates = np.asarray(training.make_schedule(optimizer, len(batches))(np.arange(len(batches))))
    program = compile_step(
        config,
        loss_fn=loss_fn,
        params=params,
        optimizer=optimizer,
        batches=batches,
        mesh=mesh,
        frozen=frozen,
        parked=parked,
        members=members,
        own_optimizer=own_optimizer,
    )
    key = jax.random.key(config.seed)

    def update(state: TrainState, i: int) -> tuple[TrainState, dict[str, Any]]:
        state, metrics = program.step(state, batches[i], jax.random.fold_in(key, i))
        watch.lap()
        # An optimiser of the user's own has whatever rate it has.
        return state, metrics if optimizer.function else {**metrics, "learning_rate": rates[i]}

    begin()
    with watch.writer() as writer, watch.watched():
        fitted = training.fit(
            stage=stage,
            state=program.state,
            total=len(batches),
            update=update,
            writer=writer,
            checkpoints=checkpoints(watch.directory, stage, config, fingerprint),
            checkpoint_every=config.checkpoint_every,
            evaluate=lambda s: evaluate(models.join(s.params, program.trunks)),
            eval_every=config.eval_every,
            evaluate_first=evaluate_first,
            best="heldout_loss",
            patience=config.patience,
            max_skipped_in_row=config.max_skipped,
            host=watch.host,
            watcher=watcher,
            show=show,
            phases=watch.phases,
            goodput=watch.goodput,
            dump=lambda last: watch.dump(last, {"batch": batches[last.step - 1]}),
        )
    if config.keep == "last":  # the last step is always evaluated
        value = fitted.history[-1][f"{stage}/heldout_loss"]
        fitted = fitted._replace(best_params=fitted.state.params, best_step=int(fitted.state.step), best_value=value)
    return fitted._replace(best_params=models.join(fitted.best_params, program.trunks))

"""What SFT and reward modelling share: a loss function, packed batches, a mesh, and the loop over them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rlhf_jax import parallel, training
from rlhf_jax.checkpoint import Checkpoints
from rlhf_jax.stages.batches import PackedEpochs
from rlhf_jax.stages.config import PackedConfig
from rlhf_jax.training import FitResult, MetricsWriter, OptimizerConfig, TrainState
from rlhf_jax.types import LossFn, Params


class Stopwatch:
    """Seconds a stage has run, over all its restarts; kept in the checkpoint beside the state."""

    def __init__(self) -> None:
        self.host: dict[str, Any] = {"seconds": 0.0}
        self._last = time.monotonic()

    def lap(self) -> float:
        """Add the time since the last lap; returns the total."""
        now = time.monotonic()
        self.host["seconds"] += now - self._last
        self._last = now
        return round(self.host["seconds"], 1)


def outcome(fitted: FitResult) -> dict[str, Any]:
    """What the summary of every stage that ``train`` ran says."""
    return {
        "heldout_loss": fitted.best_value,
        "best_step": fitted.best_step,
        "steps": int(fitted.state.step),
        "stopped_early": fitted.stopped_early,
        "skipped_updates": int(fitted.state.skipped),
    }


def train(
    *,
    stage: str,
    config: PackedConfig,
    loss_fn: LossFn,
    params: Params,
    optimizer: OptimizerConfig,
    batches: PackedEpochs,
    evaluate: Callable[[Params], Mapping[str, Any]],
    mesh: Mesh,
    fingerprint: Mapping[str, Any],
    watch: Stopwatch,
    show: tuple[str, ...],
) -> FitResult:
    """Train on every batch, evaluate, keep the best parameters by ``heldout_loss``, and survive being stopped.

    Args:
        stage: names the checkpoints and the metrics.
        config: the stage's.
        loss_fn: from ``lift``.
        params: by role; copied.
        optimizer: its config.
        batches: one a step.
        evaluate: ``(params) -> metrics`` with a ``heldout_loss``.
        mesh: devices.
        fingerprint: what the result depends on; a checkpoint of another one is refused.
        watch: counts the seconds.
        show: metrics beside the progress bar.

    Returns:
        The loop's result.
    """
    directory = Path(config.out)
    rule = training.make_optimizer(optimizer, len(batches))
    rates = np.asarray(training.make_schedule(optimizer, len(batches))(np.arange(len(batches))))
    state, places = training.init(
        lambda p: p, rule, params, shardings=lambda shapes: parallel.param_shardings(shapes, mesh)
    )
    step = training.jit_step(
        training.make_train_step(loss_fn, rule), places, parallel.batch_shardings(batches[0], mesh), mesh
    )
    key = jax.random.key(config.seed)

    def update(state: TrainState, i: int) -> tuple[TrainState, dict[str, Any]]:
        state, metrics = step(state, batches[i], jax.random.fold_in(key, i))
        watch.lap()
        return state, {**metrics, "learning_rate": rates[i]}

    with MetricsWriter(directory, stage) as writer:
        return training.fit(
            stage=stage,
            state=state,
            total=len(batches),
            update=update,
            writer=writer,
            checkpoints=Checkpoints(
                directory / "checkpoints" / stage, fingerprint=fingerprint, keep=config.keep_checkpoints
            ),
            checkpoint_every=config.checkpoint_every,
            evaluate=lambda s: evaluate(s.params),
            eval_every=config.eval_every,
            best="heldout_loss",
            patience=config.patience,
            max_skipped_in_row=config.max_skipped,
            host=watch.host,
            show=show,
        )

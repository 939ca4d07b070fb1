"""Training steps of the library as works that can be timed: the compiled step, its state, and the bytes it needs."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from benchmarks.measure import program_bytes
from rlhf_jax import models, objectives, training
from rlhf_jax.models import ModelConfig
from rlhf_jax.stages import make_loss_fn
from rlhf_jax.stages.preference import with_reference
from rlhf_jax.types import LossFn, Params, SequenceBatch


def sequences(config: ModelConfig, groups: int, responses: int, length: int) -> SequenceBatch:
    """Make full sequences of random tokens ``[B, K, S]``; everything but the first token is a target."""
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (groups, responses, length)).astype(np.int32)
    mask = np.ones_like(tokens, bool)
    mask[..., 0] = False
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape).copy()
    return SequenceBatch(tokens, mask, np.ones_like(tokens), positions)


class Step:
    """One update of a model, compiled; calling it runs it and waits.

    Args:
        loss_fn: as for ``training.make_train_step``, but it is handed ``(batch, frozen)``.
        params: by role, where training starts.
        batch: what every call trains on.
        frozen: arrays that are read and not trained.
    """

    def __init__(self, loss_fn: LossFn, params: Params, batch: Any, frozen: Any = ()):
        rule = training.make_optimizer(training.OptimizerConfig(learning_rate=1e-4), 1000)
        step = training.make_train_step(loss_fn, rule)
        self._state = jax.jit(lambda p: training.init_state(p, rule))(params)
        self._batch, self._frozen, self._key = jax.device_put(batch), frozen, jax.random.key(1)

        def run(state: Any, batch: Any, frozen: Any, key: Any) -> Any:
            return step(state, (batch, frozen), key)

        compiled = jax.jit(run, donate_argnums=0).lower(self._state, self._batch, frozen, self._key).compile()
        self._run: Any = compiled
        self.bytes = program_bytes(compiled)

    def __call__(self) -> float:
        """Run one update and return its loss."""
        self._state, metrics = self._run(self._state, self._batch, self._frozen, self._key)
        loss, weight = jax.block_until_ready(metrics["loss"])
        jax.block_until_ready(self._state)
        return float(loss / weight)


def sft(config: ModelConfig, rows: int, length: int) -> Step:
    """Supervised fine-tuning on ``rows`` full sequences."""
    model = models.build(config)
    loss = make_loss_fn(objectives.sft, {"policy": model})
    return Step(_unfrozen(loss), {"policy": _drawn(config)}, sequences(config, rows, 1, length))


def reward_model(config: ModelConfig, pairs: int, length: int) -> Step:
    """A reward model on ``pairs`` of full sequences, the first of which won."""
    model = models.build(config)
    votes = np.broadcast_to(np.array([[0, 1], [0, 0]], np.float32), (pairs, 2, 2)).copy()
    batch = sequences(config, pairs, 2, length)._replace(votes=votes)
    loss = make_loss_fn(objectives.reward_model, {"reward": model})
    return Step(_unfrozen(loss), {"reward": _drawn(config)}, batch)


def dpo(config: ModelConfig, pairs: int, length: int) -> Step:
    """DPO on ``pairs`` of full sequences; the reference is run in the same step."""
    model = models.build(config)
    batch = sequences(config, pairs, 2, length)
    lifted = with_reference(functools.partial(objectives.dpo, beta=0.1), model)

    def loss(params: Params, inputs: Any, key: Any) -> Any:
        own, reference = inputs
        return lifted(params, ((own, own), reference), key)

    policy = _drawn(config)
    return Step(loss, {"policy": policy}, batch, {"policy": policy})


def _drawn(config: ModelConfig) -> Params:
    return jax.jit(models.build(config).init)(jax.random.key(0))


def _unfrozen(loss_fn: LossFn) -> LossFn:
    """A loss function that is handed ``(batch, ())``, as a step without frozen arrays hands it."""
    return lambda params, inputs, key: loss_fn(params, inputs[0], key)

"""One iteration ahead: while an update runs, the next responses are sampled with the weights from before it.

They wait in the state, so that a checkpoint holds them: the weights that sampled them are gone by then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from rlhf_jax import parallel
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.stages.online.beside import Waiting
from rlhf_jax.stages.online.trainer import OnlineState, OnlineTrainer
from rlhf_jax.training import Metrics
from rlhf_jax.types import Params, Rollout, SequenceBatch


class SampleAhead:
    """Loop body with ``staleness`` 1: collect and update, with the next responses sampled while the update runs.

    The responses of the first iteration are the policy's own. Those of iteration ``i`` after it are sampled with the
    weights that iteration ``i - 1`` was given, so they are one update older than the policy that they train.

    Args:
        trainer: with a rollout mesh.
        prompts_of: the prompts of an iteration, which are a function of its number.
    """

    def __init__(self, trainer: OnlineTrainer, prompts_of: Callable[[int], Sequence[EncodedPrompt]]):
        if trainer.beside is None:
            raise ValueError("sampling ahead needs a rollout mesh: set config.rollout_mesh")
        self._trainer, self._beside, self._prompts_of = trainer, trainer.beside, prompts_of

    def init(self) -> OnlineState:
        """Make the state before the first iteration, with room for the responses that will wait in it."""
        return self._trainer.init()._replace(waiting=self._nothing())

    def collect(self, state: OnlineState, step: int) -> tuple[Rollout, Metrics]:
        """Take the responses that wait in the state, or sample those of the first iteration.

        Args:
            state: the current one.
            step: the iteration.

        Returns:
            The responses, and ``logprob_gap`` and its kin.
        """
        if step == 0:
            return self._beside.ahead(self._copied(state), self._prompts_of(0), 0)
        if state.waiting is None:
            raise ValueError(f"no responses wait in the state of iteration {step}: begin with SampleAhead.init")
        return state.waiting

    def update(self, state: OnlineState, batch: SequenceBatch, step: int) -> tuple[OnlineState, Metrics]:
        """Dispatch the update of an iteration, and sample for the next one while it runs.

        Args:
            state: the current one; it is used up.
            batch: from ``trainer.prepare``.
            step: the iteration.

        Returns:
            The new state, with the next responses, and the iteration's metrics. Nothing has waited for the update.
        """
        weights = self._copied(state)  # before the update takes the arrays that they are copied from
        state, metrics = self._trainer.update(state._replace(waiting=None), batch, step)
        last = step + 1 == self._trainer.config.iterations
        waiting = self._nothing() if last else self._beside.ahead(weights, self._prompts_of(step + 1), step + 1)
        return state._replace(waiting=waiting), metrics

    def _copied(self, state: OnlineState) -> list[Params]:
        return self._beside.copy(state.train.params["policy"])

    def _nothing(self) -> Waiting:
        """Make what waits where nothing does: zeros, in the place and the shape of what will."""
        config, home = self._trainer.config, self._trainer.sampler
        groups, each = (config.prompts, config.samples), home.prompt_columns + config.sampling.max_new_tokens
        integers = jnp.zeros((*groups, each), jnp.int32)
        sampled = Rollout(
            tokens=integers,
            mask=integers > 0,
            segment_ids=integers,
            positions=integers,
            logprobs=integers.astype(jnp.float32),
            finished=jnp.zeros(groups, bool),
        )
        zeros = {name: (jnp.float32(0), jnp.float32(1)) for name in ("", "_p99", "_max")}
        gap = {f"logprob_gap{name}": value for name, value in zeros.items()}
        return Waiting(
            jax.device_put(sampled, home.sharding(config.prompts)),
            jax.device_put(gap, parallel.replicated(self._trainer.mesh)),
        )

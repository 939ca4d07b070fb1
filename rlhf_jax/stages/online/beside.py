"""Sampling on devices of its own, beside those that train, and one iteration ahead of them.

``Beside`` copies the policy's weights to the rollout mesh, where there are adapters the adapters alone, and brings what
was sampled back. ``SampleAhead`` lets both meshes work at once: while an update runs, the next iteration's responses
are sampled with the weights from before it. They wait in the state, so that a checkpoint holds them too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlhf_jax import models, parallel
from rlhf_jax.data import Tokenizer
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.parallel import MeshConfig
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.loading import place
from rlhf_jax.stages.online.config import OnlineConfig
from rlhf_jax.stages.online.gap import gap_metrics
from rlhf_jax.stages.sampler import Sampler
from rlhf_jax.training import Metrics
from rlhf_jax.types import Array, Model, Params, Rollout, SequenceBatch

if TYPE_CHECKING:
    from rlhf_jax.stages.online.trainer import OnlineState, OnlineTrainer


class Waiting(NamedTuple):
    """Responses that were sampled ahead, on the mesh that trains, and how far both programs were apart on them."""

    sampled: Rollout
    gap: Metrics  # of the sampler and a pass over whole rows, with the weights that sampled


def online_meshes(config: OnlineConfig, mesh: Mesh | None = None) -> tuple[Mesh, Mesh | None]:
    """Make the mesh that trains and the one that samples; the second is None where training's devices sample too.

    Args:
        config: the stage's ``mesh`` and ``rollout_mesh``.
        mesh: the one that trains, where somebody has made it: sampling has the last devices that are not in it, as many
            as it asks for.

    Raises:
        MeshError: the sizes do not fit the devices.
        RunError: there is a rollout mesh, and this is one of several processes.
    """
    if not config.rollout_mesh:
        return (parallel.make_mesh(config.mesh) if mesh is None else mesh), None
    if jax.process_count() > 1:
        raise RunError(
            f"rollout_mesh is {config.rollout_mesh}, and this run has {jax.process_count()} processes: sampling beside "
            "training works with the devices of one process. Leave --rollout-mesh out"
        )
    apart = MeshConfig.parse(config.rollout_mesh)
    if mesh is None:
        return parallel.side_by_side(config.mesh, apart)
    taken = set(mesh.devices.flat)
    left = [device for device in jax.devices() if device not in taken]
    # A mesh with an open axis asks for 0, and has all that are left.
    return mesh, parallel.make_mesh(apart, left[-parallel.asked_devices(apart) :])


def check_one_mesh(config: OnlineConfig) -> None:
    """Raise a RunError where what describes one mesh, which need not be there, is given a config with two."""
    if config.rollout_mesh:
        raise RunError(
            f"rollout_mesh is {config.rollout_mesh}, and rlhf inspect, plan and aot look at one mesh: pass "
            "--rollout-mesh '' --staleness 0, once with the devices that train and once with those that sample"
        )


def age_metrics(config: OnlineConfig, step: int) -> Metrics:
    """Say how many updates older than the policy the weights were that sampled; nothing without a rollout mesh.

    Args:
        config: the stage's.
        step: the iteration; the first one has nothing older to sample with.
    """
    return {"staleness": (jnp.float32(min(step, config.staleness)), jnp.float32(1))} if config.rollout_mesh else {}


class Beside:
    """Sampler on a mesh of its own, which draws the same as one on the mesh that trains.

    Every index of the mesh's ``data`` axis is a copy of the policy that samples its share of the prompts by itself: the
    copies wait for each other at the end alone, and none of their programs spans more devices than share one copy.

    Args:
        model: the policy as pure functions.
        tokenizer: the policy's.
        config: the stage's.
        trunk: what the policy's adapters stand on; it is put onto the rollout mesh once. Empty without adapters.
        mesh: the rollout mesh.
        home: the sampler on the mesh that trains, to which responses are brought.

    Raises:
        RunError: the copies cannot share prompts or slots evenly.
    """

    def __init__(
        self, model: Model, tokenizer: Tokenizer, config: OnlineConfig, *, trunk: Params, mesh: Mesh, home: Sampler
    ):
        self.mesh, self._home, self._samples = mesh, home, config.samples
        copies = mesh.shape["data"]
        for name, count in (("prompts", config.prompts), ("sampling.slots", config.sampling.slots)):
            if count % copies:
                raise RunError(
                    f"{name} is {count}, and data of the rollout mesh is {copies}: take a multiple of that, so that "
                    "every copy of the policy samples as much"
                )
        sampling = dataclasses.replace(config.sampling, slots=config.sampling.slots // copies)
        self._copies: list[tuple[Sampler, Params]] = []
        for devices in mesh.devices:
            own = parallel.make_mesh(
                MeshConfig(data=1, fsdp=mesh.shape["fsdp"], tensor=mesh.shape["tensor"]), list(devices.flat)
            )
            with _first(own):
                sampler = Sampler(
                    model,
                    tokenizer,
                    sampling,
                    reference=None,
                    mesh=own,
                    seed=config.seed,
                    prompt_columns=home.prompt_columns,
                )
            self._copies.append((sampler, parallel.put(trunk, parallel.param_shardings(trunk, own))))
        self._threads = ThreadPoolExecutor(copies, thread_name_prefix="sampling")
        self._gap: Callable[..., Metrics] = jax.jit(gap_metrics)

    def copy(self, policy: Params) -> list[Params]:
        """Copy what is trained of the policy to the rollout mesh, where its trunk lies already; nothing is waited for.

        Args:
            policy: as it is in the state, without a trunk.

        Returns:
            The weights of each copy.
        """
        return [models.join(place(policy, sampler.mesh), trunk) for sampler, trunk in self._copies]

    def __call__(self, weights: list[Params], prompts: Sequence[EncodedPrompt], step: int) -> Rollout:
        """Sample K responses to each prompt, and bring them to the mesh that trains.

        Args:
            weights: from ``copy``.
            prompts: what is answered, a multiple of the copies.
            step: the iteration.
        """

        def draw(sampler: Sampler, policy: Params, share: Sequence[EncodedPrompt]) -> Rollout:
            return sampler(policy, share, step, samples=self._samples, columns=_columns(self._home, prompts))

        return self._bring(self._each(draw, weights, prompts))

    def ahead(self, weights: list[Params], prompts: Sequence[EncodedPrompt], step: int) -> Waiting:
        """Sample like a call, and compare with a pass of these very weights over the same tokens, on the rollout mesh.

        Args:
            weights: from ``copy``.
            prompts: what is answered, a multiple of the copies.
            step: the iteration that the responses are for.
        """

        def draw(sampler: Sampler, policy: Params, share: Sequence[EncodedPrompt]) -> tuple[Rollout, Array]:
            sampled = sampler(policy, share, step, samples=self._samples, columns=_columns(self._home, prompts))
            return sampled, sampler.logprobs(policy, sampler.rows(sampled))

        sampled, known = self._each(draw, weights, prompts)
        with _first(self.mesh):
            gap = self._gap(known, sampled.logprobs, sampled.mask)
        return Waiting(self._bring(sampled), jax.device_put(gap, parallel.replicated(self._home.mesh)))

    def _each(self, draw: Callable[..., Any], weights: list[Params], prompts: Sequence[EncodedPrompt]) -> Any:
        """Let every copy draw its share, each in a thread, and join what they give on the host."""
        share = len(prompts) // len(self._copies)

        def one(i: int) -> Any:
            sampler = self._copies[i][0]
            with _first(sampler.mesh):
                return jax.device_get(draw(sampler, weights[i], prompts[i * share : (i + 1) * share]))

        return jax.tree.map(lambda *x: np.concatenate(x), *self._threads.map(one, range(len(self._copies))))

    def _bring(self, sampled: Rollout) -> Rollout:
        return jax.device_put(sampled, self._home.sharding(len(sampled.finished)))


def _first(mesh: Mesh) -> AbstractContextManager[object]:
    """Keep keys and other small arrays off the devices that train: there they would queue behind the update."""
    return jax.default_device(mesh.devices.flat[0])


def _columns(home: Sampler, prompts: Sequence[EncodedPrompt]) -> int:
    """Count the columns that all prompts together are padded to, whichever of them a copy has."""
    return -(-max(len(prompt.tokens) for prompt in prompts) // home.prompt_columns) * home.prompt_columns


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

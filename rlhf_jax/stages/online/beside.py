"""Sampling on devices of its own, beside those that train.

The policy's weights (where there are adapters, the adapters alone) are copied to the rollout mesh, and what was sampled
is brought back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlhf_jax import models, parallel
from rlhf_jax.data import Tokenizer
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.parallel import MeshConfig
from rlhf_jax.rollout import occurrences
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.loading import place
from rlhf_jax.stages.online.config import OnlineConfig
from rlhf_jax.stages.online.gap import gap_metrics
from rlhf_jax.stages.sampler import Sampler
from rlhf_jax.training import Metrics
from rlhf_jax.types import Array, Model, Params, Rollout


class Waiting(NamedTuple):
    """Responses that were sampled ahead, on the mesh that trains, and how far both programs were apart on them."""

    sampled: Rollout
    gap: Metrics  # between the sampler and a pass over whole rows, with the weights that sampled


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
        one = MeshConfig(data=1, fsdp=mesh.shape["fsdp"], tensor=mesh.shape["tensor"])
        for devices in mesh.devices:
            own = parallel.make_mesh(one, list(devices.flat))
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

        def draw(sampler: Sampler, policy: Params, share: slice) -> Rollout:
            return self._drawn(sampler, policy, prompts, share, step)

        return self._bring(self._each(draw, weights, prompts))

    def ahead(self, weights: list[Params], prompts: Sequence[EncodedPrompt], step: int) -> Waiting:
        """Sample like a call, and compare with a pass of these very weights over the same tokens, on the rollout mesh.

        Args:
            weights: from ``copy``.
            prompts: what is answered, a multiple of the copies.
            step: the iteration that the responses are for.
        """

        def draw(sampler: Sampler, policy: Params, share: slice) -> tuple[Rollout, Array]:
            sampled = self._drawn(sampler, policy, prompts, share, step)
            return sampled, sampler.logprobs(policy, sampler.rows(sampled))

        sampled, known = self._each(draw, weights, prompts)
        with _first(self.mesh):
            gap = self._gap(known, sampled.logprobs, sampled.mask)
        return Waiting(self._bring(sampled), jax.device_put(gap, parallel.replicated(self._home.mesh)))

    def _drawn(
        self, sampler: Sampler, policy: Params, prompts: Sequence[EncodedPrompt], share: slice, step: int
    ) -> Rollout:
        """Sample a copy's share, drawn and laid out as all prompts at once would be."""
        return sampler(
            policy,
            prompts[share],
            step,
            samples=self._samples,
            columns=_columns(self._home, prompts),
            occurrence=occurrences([prompt.id for prompt in prompts])[share],
        )

    def _each(self, draw: Callable[..., Any], weights: list[Params], prompts: Sequence[EncodedPrompt]) -> Any:
        """Let every copy draw its share, each in a thread, and join what they give on the host."""
        share, left = divmod(len(prompts), len(self._copies))
        if left:
            raise ValueError(f"{len(prompts)} prompts are no multiple of the {len(self._copies)} copies that sample")

        def one(i: int) -> Any:
            sampler = self._copies[i][0]
            with _first(sampler.mesh):
                return jax.device_get(draw(sampler, weights[i], slice(i * share, (i + 1) * share)))

        return jax.tree.map(lambda *x: np.concatenate(x), *self._threads.map(one, range(len(self._copies))))

    def _bring(self, sampled: Rollout) -> Rollout:
        return jax.device_put(sampled, self._home.sharding(len(sampled.finished)))


def _first(mesh: Mesh) -> AbstractContextManager[object]:
    """Keep keys and other small arrays off the devices that train: there they would queue behind the update."""
    return jax.default_device(mesh.devices.flat[0])


def _columns(home: Sampler, prompts: Sequence[EncodedPrompt]) -> int:
    """Count the columns that all prompts together are padded to, whichever of them a copy has."""
    return -(-max(len(prompt.tokens) for prompt in prompts) // home.prompt_columns) * home.prompt_columns

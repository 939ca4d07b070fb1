"""The sampler on a mesh that online training, evaluations and best-of-n share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from rlhf_jax import losses, parallel, processes
from rlhf_jax.data import Tokenizer
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.models.forward import forward
from rlhf_jax.renamed import renamed
from rlhf_jax.rollout import Laid, SamplingConfig
from rlhf_jax.rollout.responses import response_tokens
from rlhf_jax.rollout.slots import row_shards
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.loading import place
from rlhf_jax.runs.sampling import make_engine
from rlhf_jax.stages.blocks import RowMaker, Rows, by_response, in_blocks
from rlhf_jax.types import Array, Model, Params, Rollout, SequenceBatch

# Evaluations sample at steps of their own, always the same, so that they differ by the policy only.
HELDOUT, TEST = 2**30, 2**30 + 1


class Sampler:
    """Sampler for any policy of one shape, which also measures how far the policy has moved from the reference.

    The KL is that of the distributions at the sampling temperature (at temperature 1 for greedy sampling), before any
    top-k or top-p.

    Args:
        model: the policy as pure functions.
        tokenizer: the policy's.
        sampling: how to draw.
        reference: the frozen policy that KL is measured against; it is put onto the mesh. None where nobody asks for a
            KL.
        mesh: devices.
        seed: the run's; with the step and the prompt it decides every sample.
        prompt_columns: prompts are padded to a multiple of this many; as many as the longest prompt needs, and one
            compiled program serves every call.
        parked: the reference waits in the host's memory while nobody asks for it.

    Raises:
        RunError: if the mesh cannot share ``sampling.slots`` evenly, or no tokens write a stop string.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        sampling: SamplingConfig,
        *,
        reference: Params | None,
        mesh: jax.sharding.Mesh,
        seed: int = 0,
        prompt_columns: int = 8,
        parked: bool = False,
    ):
        self.tokenizer, self.mesh, self.prompt_columns = tokenizer, mesh, prompt_columns
        self.held_reference = None if reference is None else place(reference, mesh, parked=parked)
        self.engine = make_engine(model, tokenizer, sampling)
        self._key = jax.random.fold_in(jax.random.key(seed), 1)
        self._rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
        self._parts = row_shards(self._rows)
        if sampling.slots % self._parts:
            raise RunError(
                f"sampling.slots is {sampling.slots}, and the mesh cuts rows into {self._parts} parts (data times "
                "fsdp): take a multiple of that, or 0 for a row for every response"
            )

        self.rows = RowMaker(mesh)

        def logprobs(params: Params, rows: Rows) -> Array:
            def run(block: SequenceBatch) -> Array:
                out = forward({"policy": model}, {"policy": params}, block, temperature=sampling.logprob_temperature)
                return out.logprobs[:, 0]

            return by_response(in_blocks(run, rows), rows)

        def kl(new: Array, old: Array, mask: Array) -> Array:
            return losses.masked_sum(losses.k1(new, old), mask, axis=-1)

        self.logprobs: Callable[[Params, Rows], Array] = jax.jit(parallel.traced_on(mesh, logprobs))
        """Log-probabilities of a policy, [B, K, S], for its parameters and packed rows; those of a block at a time."""
        self._kl: Callable[..., Array] = jax.jit(parallel.traced_on(mesh, kl))

    def sharding(self, rows: int) -> jax.sharding.NamedSharding:
        """Place so many rows on the mesh: over ``data`` and ``fsdp``, or whole on every device if these do not divide.

        Args:
            rows: how many prompts, or responses.
        """
        return self._rows if rows % self._parts == 0 else parallel.replicated(self.mesh)

    @property
    def reference(self) -> Params:
        """The frozen policy's parameters on the mesh; a parked one is brought there, and goes when it is let go of."""
        return parallel.bring(self.held_reference)

    def __call__(
        self,
        policy: Params | Laid,
        prompts: Sequence[EncodedPrompt],
        step: int,
        *,
        samples: int = 1,
        columns: int = 0,
        occurrence: np.ndarray | None = None,
    ) -> Rollout:
        """Sample K responses to each prompt; the same step, prompt and seed draw the same.

        A prompt that is in the list twice gets other responses the second time. Several calls with one policy pay once
        for ``engine.lay_out(policy)`` if they are given that.

        Args:
            policy: the policy's parameters, or what ``engine.lay_out`` made of them.
            prompts: B of them.
            step: folded into the key of every token.
            samples: K.
            columns: prompts are padded to a multiple of this many; 0 takes ``prompt_columns``.
            occurrence: int32 [B], which time each prompt is asked, where these are a part of a step's prompts; counted
                in ``prompts`` by default.
        """
        return self.engine(
            policy,
            [p.tokens for p in prompts],
            key=self._key,
            step=step,
            prompt_ids=np.asarray([p.id for p in prompts]),
            occurrence=occurrence,
            samples=samples,
            bucket=columns or self.prompt_columns,
            sharding=self.sharding(len(prompts)),
        )

    def check(self, prompts: Sequence[EncodedPrompt]) -> None:
        """Raise a RunError, which names the prompt, when one leaves no room for the longest response.

        Every call looks at its own prompts, but a stage wants to know of all before it begins.
        """
        try:
            self.engine.check([p.tokens for p in prompts], [p.id for p in prompts])
        except ValueError as error:
            raise RunError(str(error)) from error

    def texts(self, sampled: Rollout) -> list[str]:
        """Decode the responses, in the order of ``[B, K]`` flattened, without the stop strings that ended them."""
        return [self.tokenizer.decode_response(ids, self.engine.config.stop) for ids in response_tokens(sampled)]

    def kl(self, policy: Params, sampled: Rollout) -> np.ndarray:
        """Compute k1 of every response, the policy against the reference at the sampling temperature: [B * K], nats."""
        rows = self.rows(sampled)
        new, old = (self.logprobs(params, rows) for params in (policy, self.reference))
        return processes.fetch(self._kl(new, old, sampled.mask)).reshape(-1)


__getattr__ = renamed(__name__, {"Prompt": "stages.EncodedPrompt"})

"""The models of a profile: those of the run folders that the config names, or random weights where there are none."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from rlhf_jax import models, parallel
from rlhf_jax.data import Tokenizer
from rlhf_jax.models import LoRAConfig, ModelConfig
from rlhf_jax.models.attention import chosen
from rlhf_jax.models.config import AskedRemat
from rlhf_jax.models.decoding import decoding_kind
from rlhf_jax.runs.loading import check_attention, place, start_from, with_remat
from rlhf_jax.runs.stage_path import split_stage
from rlhf_jax.stages.online.config import OnlineConfig, PPOConfig
from rlhf_jax.stages.online.trainer import OnlineTrainer
from rlhf_jax.stages.scoring import LoadedModel, load_reward
from rlhf_jax.types import Array, Model, Params

# Where the config leaves the length of prompts to the data.
PROMPT = 64


class NoText:
    """A tokenizer's ids without its text, for random weights: nothing ends a response, so all are of full length."""

    pad_id = 0

    def __init__(self, vocab_size: int):
        self.vocab_size, self.eos_id = vocab_size, vocab_size + 1
        self.end_ids, self.stops = (vocab_size + 1,), ()

    def decode_response(self, ids: np.ndarray, stop: Sequence[str] = ()) -> str:
        """Write the ids as numbers."""
        return " ".join(map(str, ids.tolist()))


def starting_model(
    init: str,
    lora: LoRAConfig,
    random: ModelConfig,
    *,
    mesh: Mesh,
    seed: int,
    remat: AskedRemat = "model",
    layers: int = 0,
    scores: bool = False,
    shapes: bool = False,
) -> tuple[LoadedModel, Tokenizer | NoText]:
    """Load what a stage starts from, or draw random weights where ``init`` is empty or no such folder is there.

    Args:
        init: the config's ``init`` or ``policy``.
        lora: adapters that the stage trains.
        random: sizes of the model with random weights.
        mesh: where weights go.
        seed: draws what is random.
        remat: what the backward pass computes again; ``model`` as the model's config says.
        layers: how many of the model's blocks are used, from the first; 0 uses all.
        scores: a reward model is trained, which may start from another one.
        shapes: make no weights, only the shapes of random ones.
    """
    if init and split_stage(init)[0].exists() and not shapes:
        start = start_from(init, lora, mesh=mesh, seed=seed, remat=remat, layers=layers, scores=scores)
        return LoadedModel(start.config, start.params), start.tokenizer
    config, key = with_remat(dataclasses.replace(random, scalar_head=False), remat), jax.random.key(seed)
    used = models.first_layers(config, layers or config.n_layers)
    if shapes:
        config, params = _shapes(config, used, lora)
        return LoadedModel(config, place(params, mesh)), NoText(config.vocab_size)
    check_attention(random, mesh)
    if lora.rank:  # the trunk stays whole, as others may stand on it
        params = jax.jit(models.build(config).init)(key)
        return LoadedModel(*models.add_adapters(used, params, lora, jax.random.fold_in(key, 1))), NoText(
            used.vocab_size
        )
    return LoadedModel(used, jax.jit(models.build(used).init)(key)), NoText(config.vocab_size)


def _shapes(config: ModelConfig, used: ModelConfig, lora: LoRAConfig) -> tuple[ModelConfig, Params]:
    """Make the shapes that a stage's weights have: a frozen trunk is in the type of its checkpoint, or in 8 bits.

    Only the layers that are ``used`` are trained; a frozen trunk has all of the config's.
    """
    found = [used]

    def make(key: Array) -> Params:
        params = models.build(config if lora.rank else used).init(key)
        if lora.rank:
            params = jax.tree.map(lambda x: x.astype(config.compute_dtype), params)
            made = models.quantise(used, params) if lora.int8_trunk else (used, params)
            found[0], params = models.add_adapters(*made, lora, key)
        return params

    params = jax.eval_shape(make, jax.random.key(0))
    return found[0], params


def scoring_model(reward_model: str, policy: LoadedModel, tokenizer: Tokenizer | NoText, mesh: Mesh) -> LoadedModel:
    """Load the reward model of a run folder, or give the policy's weights a scalar head where there is none."""
    if isinstance(tokenizer, Tokenizer) and reward_model and Path(reward_model).exists():
        return load_reward(reward_model, tokenizer, mesh)
    config = dataclasses.replace(policy.config, scalar_head=True)
    params = parallel.made_of(lambda x: models.with_scalar_head(x, config), policy.params)
    if parallel.are_shapes(params):  # weights of its own, on the policy's trunk if that is frozen
        own, trunk = models.split(params)
        params = models.join(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), own), trunk)
    return LoadedModel(config, params)


def chosen_kernels(config: ModelConfig, length: int, mesh: Mesh, *, decodes: bool = False) -> dict[str, str]:
    """Name the implementations that a model's work is done by.

    Args:
        config: the model's.
        length: tokens of a row.
        mesh: where the work is done.
        decodes: whether the work has a rollout as well.

    Returns:
        How attention over whole rows is computed, the compute type and, where there is a rollout, how a token attends
        over the cache.
    """
    attention = chosen(
        config.attention,
        platform=parallel.platform(mesh),
        dtype=config.compute_dtype,
        length=length,
        head_dim=config.head_dim,
        cap=config.attention_softcap,
    )
    found = {"attention": attention, "compute_dtype": config.compute_dtype}
    return found | ({"decoding": parallel.traced_on(mesh, lambda: decoding_kind(config))()} if decodes else {})


def own_critic(
    config: OnlineConfig, policy: LoadedModel, reward: LoadedModel, trainer: OnlineTrainer
) -> ModelConfig | None:
    """Find the sizes of a critic that is a model of its own; None where there is none."""
    if not isinstance(config, PPOConfig) or not isinstance(trainer.models["critic"], Model):
        return None
    sizes = dataclasses.replace(reward.config, scalar_head=True)
    return dataclasses.replace(sizes, lora=policy.config.lora)

"""The critic that PPO starts with: a head on the policy, or a model of its own."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rlhf_jax import models, parallel
from rlhf_jax.models import ValueHead
from rlhf_jax.rewards import TextReward
from rlhf_jax.stages.online.config import PPOConfig
from rlhf_jax.stages.scoring import LoadedModel
from rlhf_jax.types import Model, Params


def make_critic(
    policy: LoadedModel, reward: LoadedModel | TextReward, config: PPOConfig
) -> tuple[Model | ValueHead, Params]:
    """Make the critic and its first weights.

    A head on the policy starts at zero: until it has learnt something no gradient of its loss reaches the policy, and
    the first advantages are those of rewards alone. The reward model's head would not fit, as it reads the hidden
    states of another trunk.

    A critic of its own starts from the reward model, which already knows what is good (the first member of an
    ensemble), or else from the policy. It is trained whole, or as an adapter on a frozen trunk, as the policy is.
    """
    if config.critic == "head":
        width = policy.config.d_model
        head = parallel.made_of(lambda _: {"head": {"kernel": jnp.zeros((width, 1))}}, policy.params)
        return ValueHead(config.critic_gradient), head
    start = reward if isinstance(reward, LoadedModel) else policy
    before = dataclasses.replace(start.config, scalar_head=True)
    after = [before]

    def weights(params: Params) -> Params:
        model_config = before
        if "head" in params and models.members(params):
            params = models.member(params, 0)
        params = {name: x for name, x in params.items() if name != "head"}
        if config.lora.rank and not model_config.lora.rank:
            key = jax.random.fold_in(jax.random.key(config.seed), 3)
            model_config, params = models.add_adapters(model_config, params, config.lora, key)
        if not config.lora.rank:
            model_config, params = models.merge(model_config, params)
        after[0] = model_config
        # The trainer copies what it trains, so there is no need to do it here.
        return {**params, "head": {"kernel": jnp.zeros((model_config.d_model, 1))}}

    made = parallel.made_of(weights, parallel.bring(start.params))
    return models.build(after[0]), made

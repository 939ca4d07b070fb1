"""The actor and the critic: acting in many copies of an environment, and the update by PPO or A2C."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import losses
from rlhf_jax.control import policy
from rlhf_jax.control.advantages import advantages_and_returns
from rlhf_jax.control.config import AgentConfig
from rlhf_jax.control.environment import Array, Environment
from rlhf_jax.control.episodes import Episode, Step, advance, begin
from rlhf_jax.control.networks import Layers, Moments, forward, init_layers, no_moments, scaled, seen


class Networks(NamedTuple):
    """What gradients train.

    Args:
        actor: from observations to logits or means.
        log_std: [A], of continuous actions; discrete ones have no use for it.
        critic: from observations to a value in units of the returns' standard deviation.

    Example:
        >>> from rlhf_jax.control import line
        >>> agent = start(jax.random.key(0), line(), AgentConfig(), updates=1)
        >>> agent.networks.log_std.shape
        (3,)
    """

    actor: Layers
    log_std: Array
    critic: Layers


class Agent(NamedTuple):
    """An actor, its critic, and what they have seen.

    Args:
        networks: what is trained.
        optimizer: Adam's state.
        moments: mean and variance of the observations.
        spread: [], running standard deviation of the returns, the critic's unit; 0 before the first iteration.

    Example:
        >>> from rlhf_jax.control import line
        >>> float(start(jax.random.key(0), line(), AgentConfig(), updates=1).spread)
        0.0
    """

    networks: Networks
    optimizer: optax.OptState
    moments: Moments
    spread: Array


class Rollout(NamedTuple):
    """Steps of N copies of an environment.

    Args:
        observations: [N, T, O], before the action.
        actions: [N, T] or [N, T, A], as drawn.
        logprobs: [N, T], under the policy that drew them.
        step: what the actions led to, [N, T] each; ``after`` [N, T, O]. Its reward is the true one.

    Example:
        >>> from rlhf_jax.control import line
        >>> environment, config = line(), AgentConfig(environments=2, steps=5, minibatches=1)
        >>> agent = start(jax.random.key(0), environment, config, updates=1)
        >>> episodes = jax.vmap(lambda key: begin(environment, key))(jax.random.split(jax.random.key(1), 2))
        >>> _, rollout = act(jax.random.key(2), environment, agent, episodes, config.steps)
        >>> rollout.observations.shape
        (2, 5, 2)
    """

    observations: Array
    actions: Array
    logprobs: Array
    step: Step


def _optimizer(config: AgentConfig, updates: int) -> optax.GradientTransformation:
    rate = optax.linear_schedule(config.learning_rate, 0.0, updates)
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(rate, eps=1e-5))


def start(key: Array, environment: Environment, config: AgentConfig, *, updates: int) -> Agent:
    """Make an agent that knows nothing.

    Args:
        key: draws the weights.
        environment: what it will act in.
        config: sizes and rates.
        updates: how many gradient steps there will be in all, over which the learning rate falls to 0.

    Example:
        >>> from rlhf_jax.control import line
        >>> len(start(jax.random.key(0), line(), AgentConfig(), updates=1).networks.actor)
        3
    """
    for_actor, for_critic = jax.random.split(key)
    inner = (environment.observation_size, *config.hidden)
    networks = Networks(
        init_layers(for_actor, (*inner, environment.action_size), last_scale=0.01),
        jnp.zeros(environment.action_size),
        init_layers(for_critic, (*inner, 1)),
    )
    state = _optimizer(config, updates).init(networks)
    return Agent(networks, state, no_moments(environment.observation_size), jnp.zeros(()))


def act(key: Array, environment: Environment, agent: Agent, episodes: Episode, steps: int) -> tuple[Episode, Rollout]:
    """Act in N copies of an environment, which restart as they end.

    Args:
        key: draws the actions and what is random in the environments.
        environment: the task.
        agent: who acts.
        episodes: [N], where each copy stands.
        steps: T.

    Returns:
        Where the copies stand now, and the steps.
    """
    copies = episodes.time.shape[0]

    def one(episodes: Episode, key: Array) -> tuple[Episode, Rollout]:
        for_actions, for_steps = jax.random.split(key)
        observations = jax.vmap(environment.observe)(episodes.state)
        outputs = forward(agent.networks.actor, scaled(agent.moments, observations))
        actions = policy.sample(for_actions, environment, outputs, agent.networks.log_std)
        logprobs, _ = policy.logprobs_and_entropy(environment, outputs, agent.networks.log_std, actions)
        keys = jax.random.split(for_steps, copies)
        episodes, step = jax.vmap(lambda k, e, a: advance(environment, k, e, a))(keys, episodes, actions)
        return episodes, Rollout(observations, actions, logprobs, step)

    episodes, time_first = jax.lax.scan(one, episodes, jax.random.split(key, steps))
    return episodes, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), time_first)


def values(agent: Agent, observations: Array) -> Array:
    """Ask the critic, in units of the reward.

    Args:
        agent: whose critic.
        observations: [..., O].

    Returns:
        [...], float32.
    """
    unit = jnp.where(agent.spread > 0, agent.spread, 1)
    return unit * forward(agent.networks.critic, scaled(agent.moments, observations))[..., 0]


def improve(
    key: Array,
    environment: Environment,
    agent: Agent,
    rollout: Rollout,
    rewards: Array,
    config: AgentConfig,
    *,
    updates: int,
) -> tuple[Agent, dict[str, Array]]:
    """Train actor and critic on the steps of one iteration.

    The critic's unit is the returns' standard deviation, so that rewards of any size train alike. Observations are
    scaled as they were when the agent acted; the moments move afterwards, so that the ratio begins at 1.

    Args:
        key: draws the minibatches.
        environment: whose actions they are.
        agent: the one that acted.
        rollout: its steps.
        rewards: [N, T], true or learnt.
        config: the method and its settings.
        updates: as for ``start``.

    Returns:
        The agent, and means over the iteration: ``policy_loss``, ``value_loss``, ``entropy``, ``ratio_gap`` (how far
        the first probability ratios are from 1).
    """
    old, after = values(agent, rollout.observations), values(agent, rollout.step.after)
    advantages, returns = advantages_and_returns(
        rewards, old, after, rollout.step, gamma=config.gamma, gae_lambda=config.gae_lambda
    )
    everywhere = jnp.ones(rewards.shape, bool)
    spread = jnp.where(agent.spread > 0, 0.9 * agent.spread + 0.1 * returns.std(), returns.std())
    advantages = losses.masked_whiten(advantages, everywhere)
    inputs = scaled(agent.moments, rollout.observations)
    rows = (inputs, rollout.actions, rollout.logprobs, advantages, returns / jnp.maximum(spread, 1e-8))
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
    optimizer, count = _optimizer(config, updates), rewards.size

    def loss(networks: Networks, batch: tuple[Array, ...]) -> tuple[Array, dict[str, Array]]:
        observed, actions, old_logprobs, gains, targets = batch
        outputs = forward(networks.actor, observed)
        logprobs, entropies = policy.logprobs_and_entropy(environment, outputs, networks.log_std, actions)
        if config.method == "ppo":
            of_policy = losses.clipped_surrogate(
                logprobs, old_logprobs, gains, clip_low=config.clip, clip_high=config.clip
            )
        else:
            of_policy = losses.policy_gradient(logprobs, gains)
        of_values = 0.5 * jnp.square(forward(networks.critic, observed)[..., 0] - targets)
        total = of_policy + config.value_coef * of_values - config.entropy_coef * entropies
        means = {"policy_loss": of_policy.mean(), "value_loss": of_values.mean(), "entropy": entropies.mean()}
        return total.mean(), means | {"ratio_gap": jnp.abs(jnp.exp(logprobs - old_logprobs) - 1).max()}

    def update(carry: tuple[Networks, optax.OptState], batch: tuple[Array, ...]):
        networks, state = carry
        (_, means), gradient = jax.value_and_grad(loss, has_aux=True)(networks, batch)
        change, state = optimizer.update(gradient, state, networks)
        return (optax.apply_updates(networks, change), state), means

    def epoch(carry: tuple[Networks, optax.OptState], key: Array):
        order = jax.random.permutation(key, count).reshape(config.minibatches, -1)
        return jax.lax.scan(lambda c, rows: update(c, jax.tree.map(lambda x: x[rows], flat)), carry, order)

    carry = agent.networks, agent.optimizer
    (networks, state), means = jax.lax.scan(epoch, carry, jax.random.split(key, config.epochs))
    figures = {name: x.mean() for name, x in means.items()} | {"ratio_gap": means["ratio_gap"][0, 0]}
    return Agent(networks, state, seen(agent.moments, rollout.observations), spread), figures


def true_returns(key: Array, environment: Environment, agent: Agent, episodes: int) -> Array:
    """Measure an agent: the sum of true rewards of whole episodes, in which it takes its likeliest actions.

    Args:
        key: draws the starts and what is random in the environment.
        environment: the task with its ends, whatever the agent was trained on.
        agent: who acts.
        episodes: how many.

    Returns:
        [episodes], float32.
    """
    for_start, for_steps = jax.random.split(key)
    states = jax.vmap(lambda k: begin(environment, k))(jax.random.split(for_start, episodes))

    def one(carry: tuple[Episode, Array, Array], key: Array):
        now, running, total = carry
        outputs = forward(agent.networks.actor, scaled(agent.moments, jax.vmap(environment.observe)(now.state)))
        actions = policy.likeliest(environment, outputs)
        now, step = jax.vmap(lambda k, e, a: advance(environment, k, e, a))(
            jax.random.split(key, episodes), now, actions
        )
        total = total + jnp.where(running, step.reward, 0)
        return (now, running & ~step.terminated & ~step.truncated, total), None

    carry = states, jnp.ones(episodes, bool), jnp.zeros(episodes)
    (_, _, total), _ = jax.lax.scan(one, carry, jax.random.split(for_steps, environment.time_limit))
    return total

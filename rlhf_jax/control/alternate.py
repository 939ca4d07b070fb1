"""Policy and reward in turn: act, ask, learn the reward from the answers, learn to act from the reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.control import agent as agents
from rlhf_jax.control import ensemble as ensembles
from rlhf_jax.control import policy
from rlhf_jax.control.agent import Agent, Rollout
from rlhf_jax.control.config import AgentConfig, PreferenceConfig
from rlhf_jax.control.ensemble import Ensemble
from rlhf_jax.control.environment import Array, Environment
from rlhf_jax.control.episodes import Episode, begin
from rlhf_jax.control.networks import seen
from rlhf_jax.control.queries import Pairs, disputed_pairs, random_pairs
from rlhf_jax.control.segments import Comparisons, Segments, add, cut, no_comparisons

Rate = Callable[[Array, Segments, Segments], Array]  # (key, first [k], second [k]) -> preferences [k]
WARM_UP = 4  # rollouts of the random policy, from which the first pairs are drawn


class Learner(NamedTuple):
    """All that changes in training.

    Args:
        agent: actor and critic.
        episodes: [N], where the copies of the environment stand.
        ensemble: the reward models.
        said: the comparisons so far.

    Example:
        >>> from rlhf_jax.control import line
        >>> task = Task(line(), AgentConfig(environments=4), PreferenceConfig(), iterations=1, labels=8)
        >>> int(start(jax.random.key(0), task).said.number)
        0
    """

    agent: Agent
    episodes: Episode
    ensemble: Ensemble
    said: Comparisons


class Task(NamedTuple):
    """All that does not change.

    Args:
        environment: what is acted in. Where ends would tell what the raters should, ``without_ends`` hides them.
        acting: how the agent learns.
        asking: how the reward learns.
        iterations: iterations of training, over which the agent's learning rate falls.
        labels: room for comparisons; 0 where the reward is the true one.

    Example:
        >>> from rlhf_jax.control import line
        >>> Task(line(), AgentConfig(), PreferenceConfig(), iterations=10, labels=0).updates
        160
    """

    environment: Environment
    acting: AgentConfig
    asking: PreferenceConfig
    iterations: int
    labels: int

    @property
    def updates(self) -> int:
        """Gradient steps of the agent in all."""
        return self.iterations * self.acting.epochs * self.acting.minibatches


def start(key: Array, task: Task) -> Learner:
    """Make a learner that knows nothing.

    Args:
        key: draws weights and starts.
        task: what is to be learnt.
    """
    for_agent, for_ensemble, for_starts = jax.random.split(key, 3)
    environment = task.environment
    sizes = environment.observation_size, environment.action_size
    return Learner(
        agents.start(for_agent, environment, task.acting, updates=task.updates),
        jax.vmap(lambda k: begin(environment, k))(jax.random.split(for_starts, task.acting.environments)),
        ensembles.start(for_ensemble, *sizes, task.asking),
        no_comparisons(max(task.labels, 1), task.asking.segment, *sizes, members=task.asking.members),
    )


def first_questions(key: Array, task: Task, learner: Learner, count: int) -> tuple[Learner, Pairs]:
    """Act at random, and choose the pairs to ask about before anything is learnt.

    Args:
        key: draws actions and pairs.
        task: what is to be learnt.
        learner: at its start.
        count: k, pairs.

    Returns:
        The learner, which has seen observations; and pairs, [k].
    """
    keys = jax.random.split(key, WARM_UP + 1)

    def one(learner: Learner, key: Array) -> tuple[Learner, Segments]:
        episodes, rollout = agents.act(key, task.environment, learner.agent, learner.episodes, task.acting.steps)
        moved = learner.agent._replace(moments=seen(learner.agent.moments, rollout.observations))
        segments = cut(task.environment, rollout, task.asking.segment)
        return learner._replace(episodes=episodes, agent=moved), segments

    learner, found = jax.lax.scan(one, learner, keys[:-1])
    segments = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
    return learner, random_pairs(keys[-1], segments, count)


def questions(key: Array, task: Task, learner: Learner, count: int) -> tuple[Learner, Rollout, Pairs]:
    """Act, and choose the pairs of this rollout to ask about.

    Args:
        key: draws actions and pairs.
        task: what is to be learnt.
        learner: who acts.
        count: k, pairs.

    Returns:
        The learner; the steps it took; pairs, [k], the most disputed first.
    """
    for_act, for_pairs = jax.random.split(key)
    episodes, rollout = agents.act(for_act, task.environment, learner.agent, learner.episodes, task.acting.steps)
    pairs = disputed_pairs(
        for_pairs,
        learner.ensemble,
        learner.agent.moments,
        cut(task.environment, rollout, task.asking.segment),
        count,
        candidates=task.asking.candidates,
    )
    return learner._replace(episodes=episodes), rollout, pairs


def hear(
    key: Array, task: Task, learner: Learner, pairs: Pairs, preferences: Array, count: Array, *, updates: int
) -> tuple[Learner, dict[str, Array]]:
    """Take answers in, and train the reward models.

    Args:
        key: draws bootstrap samples and batches.
        task: what is to be learnt.
        learner: before.
        pairs: [k], that were asked about.
        preferences: [k], 1 where the first is better, 0 where the second is, 1/2 for a tie.
        count: [], how many of the k were answered: the first ones.
        updates: updates of the ensemble.

    Returns:
        The learner, and what ``ensemble.fit`` measures.
    """
    for_add, for_fit = jax.random.split(key)
    said = add(for_add, learner.said, pairs.first, pairs.second, preferences, count)
    ensemble, figures = ensembles.fit(
        for_fit, learner.ensemble, learner.agent.moments, said, task.asking, updates=updates
    )
    return learner._replace(said=said, ensemble=ensemble), figures


def improve(key: Array, task: Task, learner: Learner, rollout: Rollout) -> tuple[Learner, dict[str, Array]]:
    """Train the agent on the learnt reward.

    Args:
        key: draws minibatches, and the segments by which the reward is normalised.
        task: what is to be learnt.
        learner: before.
        rollout: its steps.

    Returns:
        The learner, and what ``agent.improve`` measures; ``reward_correlation`` is that of learnt and true reward over
        the steps, for figures only.
    """
    for_norm, for_update = jax.random.split(key)
    actions = policy.features(task.environment, rollout.actions)
    rewards = ensembles.normalised_rewards(
        learner.ensemble, learner.agent.moments, learner.said, rollout.observations, actions, for_norm
    )
    agent, figures = agents.improve(
        for_update, task.environment, learner.agent, rollout, rewards, task.acting, updates=task.updates
    )
    a, b = rewards - rewards.mean(), rollout.step.reward - rollout.step.reward.mean()
    figures["reward_correlation"] = (a * b).sum() / jnp.sqrt(jnp.square(a).sum() * jnp.square(b).sum() + 1e-8)
    return learner._replace(agent=agent), figures


def from_preferences(
    key: Array,
    task: Task,
    rate: Rate,
    schedule: Array,
    *,
    at_once: tuple[int, int],
    measure: Callable[[Array, Agent], Array],
    every: int,
) -> tuple[Learner, dict[str, Array]]:
    """Learn a reward from preferences and a policy from the reward, in one program: jit it, and vmap it over seeds.

    Args:
        key: everything random comes from it.
        task: what is to be learnt.
        rate: compares segments, in the program: ``raters.synthetic_preferences``. People need ``questions``, ``hear``
            and ``improve`` one by one.
        schedule: [1 + iterations], how many labels are asked for before training and in each iteration, as
            ``label_schedule`` says; it may be traced.
        at_once: the most that the schedule asks for before training, and in an iteration.
        measure: (key, agent) -> figures of the agent, such as its true returns.
        every: iterations between two measurements; it divides ``task.iterations``.

    Returns:
        The learner at the end, and figures by name, [measurements, ...], the means of the iterations since the last
        one; ``measured`` is what ``measure`` gives, ``labels`` how many comparisons there are.

    Raises:
        ValueError: ``every`` does not divide the iterations.
    """
    _check_every(task, every)
    for_start, for_first, for_rate, for_hear, for_rest = jax.random.split(key, 5)
    learner, pairs = first_questions(for_first, task, start(for_start, task), max(at_once[0], 1))
    preferences = rate(for_rate, *pairs)
    learner, _ = hear(for_hear, task, learner, pairs, preferences, schedule[0], updates=task.asking.first_updates)

    def iteration(learner: Learner, now: tuple[Array, Array]):
        for_ask, for_rate, for_hear, for_agent = jax.random.split(now[0], 4)
        learner, rollout, pairs = questions(for_ask, task, learner, max(at_once[1], 1))
        learner, of_reward = hear(
            for_hear, task, learner, pairs, rate(for_rate, *pairs), now[1], updates=task.asking.updates
        )
        learner, of_agent = improve(for_agent, task, learner, rollout)
        return learner, of_reward | of_agent

    return _measured(for_rest, iteration, learner, schedule[1:], measure, every)


def from_true_reward(
    key: Array, task: Task, *, measure: Callable[[Array, Agent], Array], every: int
) -> tuple[Learner, dict[str, Array]]:
    """Learn from the true reward, for comparison: the same agent and as many steps.

    Args:
        key: everything random comes from it.
        task: what is to be learnt, with its ends.
        measure: (key, agent) -> figures of the agent.
        every: iterations between two measurements; it divides ``task.iterations``.

    Returns:
        The learner at the end, and figures by name, as ``from_preferences`` gives.

    Raises:
        ValueError: ``every`` does not divide the iterations.
    """
    _check_every(task, every)
    for_start, for_rest = jax.random.split(key)

    def iteration(learner: Learner, now: tuple[Array, Array]):
        for_act, for_agent = jax.random.split(now[0])
        episodes, rollout = agents.act(for_act, task.environment, learner.agent, learner.episodes, task.acting.steps)
        agent, figures = agents.improve(
            for_agent, task.environment, learner.agent, rollout, rollout.step.reward, task.acting, updates=task.updates
        )
        return learner._replace(agent=agent, episodes=episodes), figures

    nothing = jnp.zeros(task.iterations, jnp.int32)
    return _measured(for_rest, iteration, start(for_start, task), nothing, measure, every)


def _check_every(task: Task, every: int) -> None:
    if task.iterations % every:
        raise ValueError(f"every must divide the {task.iterations} iterations, found {every}")


def _measured(key: Array, iteration, learner: Learner, schedule: Array, measure, every: int):
    """Run iterations, and measure the agent after every few."""
    periods = schedule.shape[0] // every

    def period(learner: Learner, now: tuple[Array, Array]):
        keys = jax.random.split(now[0], every + 1)
        learner, figures = jax.lax.scan(iteration, learner, (keys[1:], now[1]))
        figures = {name: x.mean(0) for name, x in figures.items()}
        return learner, figures | {"measured": measure(keys[0], learner.agent), "labels": learner.said.number}

    return jax.lax.scan(period, learner, (jax.random.split(key, periods), schedule.reshape(periods, every)))

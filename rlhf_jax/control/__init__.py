"""Control from human preferences: a reward learnt from comparisons of short stretches of behaviour.

Environments, actor-critic agents and reward models as pure functions of arrays, with the losses that language models
are trained by; `docs/control.md` says how they fit together.
"""

from rlhf_jax.control.agent import Agent, Rollout, act, true_returns
from rlhf_jax.control.alternate import Learner, Task, from_preferences, from_true_reward
from rlhf_jax.control.config import AgentConfig, PreferenceConfig
from rlhf_jax.control.environment import Environment
from rlhf_jax.control.episodes import Episode, Step, advance, begin, without_ends
from rlhf_jax.control.gymnax_tasks import from_gymnax
from rlhf_jax.control.line import line
from rlhf_jax.control.queries import Pairs, disputed_pairs, label_schedule, random_pairs
from rlhf_jax.control.raters import synthetic_preferences
from rlhf_jax.control.segments import Comparisons, Segments, cut

__all__ = [
    "Agent",
    "AgentConfig",
    "Comparisons",
    "Environment",
    "Episode",
    "Learner",
    "Pairs",
    "PreferenceConfig",
    "Rollout",
    "Segments",
    "Step",
    "Task",
    "act",
    "advance",
    "begin",
    "cut",
    "disputed_pairs",
    "from_gymnax",
    "from_preferences",
    "from_true_reward",
    "label_schedule",
    "line",
    "random_pairs",
    "synthetic_preferences",
    "true_returns",
    "without_ends",
]

"""AI judges, which vote among responses: a language model, a reward model, an endpoint, a function.

What a judge is, whoever it may be, is in ``feedback.judges``. A judge here gives labels or a reward; what stages call a
judge, ``--judge NAME=...``, measures a policy and trains none, and may be one of these.
"""

from rlhf_jax.judges.config import JudgeConfig
from rlhf_jax.judges.endpoint import Endpoint, EndpointConfig, EndpointError, EndpointUnavailable
from rlhf_jax.judges.find import find_judge, resolved
from rlhf_jax.judges.language_model import LanguageModel
from rlhf_jax.judges.voting import AskingJudge

__all__ = [
    "AskingJudge",
    "Endpoint",
    "EndpointConfig",
    "EndpointError",
    "EndpointUnavailable",
    "JudgeConfig",
    "LanguageModel",
    "find_judge",
    "resolved",
]

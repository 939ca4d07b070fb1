"""The stages of a run, by the names that its folder, its log and the command line have for them."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    """What is asked of a stage by those who only know its name."""

    name: str
    policy: bool  # it leaves a policy
    compared: bool  # that policy is compared with the one it started from
    online: bool  # it trains on the policy's own samples


# In the order of the report's page.
STAGES = (
    Stage("sft", policy=True, compared=False, online=False),
    Stage("reward", policy=False, compared=False, online=False),
    Stage("ppo", policy=True, compared=True, online=True),
    Stage("group", policy=True, compared=True, online=True),
    Stage("preference", policy=True, compared=True, online=False),
)
COMPARED_STAGES = tuple(stage.name for stage in STAGES if stage.compared)
ONLINE_STAGES = tuple(stage.name for stage in STAGES if stage.online)
# In the order in which the policy of a folder is looked for: what was trained further comes first.
POLICY_STAGES = (*COMPARED_STAGES, *(stage.name for stage in STAGES if stage.policy and not stage.compared))
# The same order, with the stages whose model is no policy at the end.
MODEL_STAGES = (*POLICY_STAGES, *(stage.name for stage in STAGES if not stage.policy))

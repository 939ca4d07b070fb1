"""What a stage takes on hardware that need not be there, by arithmetic alone: memory, time, hours, cost."""

from rlhf_jax.stages.plan.beside import Pair, beside
from rlhf_jax.stages.plan.figures import Plan, PlannedPhase, Run
from rlhf_jax.stages.plan.run import chosen_mesh, plan

__all__ = ["Pair", "Plan", "PlannedPhase", "Run", "beside", "chosen_mesh", "plan"]

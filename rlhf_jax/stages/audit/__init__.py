"""AI judges held against people: on anybody's rows, agreement, calibration, and what else sways a judge."""

from rlhf_jax.stages.audit.ask import ask
from rlhf_jax.stages.audit.audit import audit
from rlhf_jax.stages.audit.result import Audit, Panel

__all__ = ["Audit", "Panel", "ask", "audit"]

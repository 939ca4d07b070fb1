"""People compare pairs of responses: what they are shown, what they say, and how far they agree."""

from rlhf_jax.compare.agreement import Agreement, RaterAgreement, agreement
from rlhf_jax.compare.errors import CompareError, StaleError
from rlhf_jax.compare.exporting import export
from rlhf_jax.compare.items import Item
from rlhf_jax.compare.records import Rater
from rlhf_jax.compare.sessions import Answered, Progress, Session, Shown
from rlhf_jax.compare.settings import Settings
from rlhf_jax.compare.store import Store

__all__ = [
    "Agreement",
    "Answered",
    "CompareError",
    "Item",
    "Progress",
    "Rater",
    "RaterAgreement",
    "Session",
    "Settings",
    "Shown",
    "StaleError",
    "Store",
    "agreement",
    "export",
]

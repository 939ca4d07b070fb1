"""Where the time of a stage goes: its own trainer on its config's shapes, phase by phase, beside what is possible."""

from rlhf_jax.stages.profile.figures import Phase, Profile
from rlhf_jax.stages.profile.online import profile_online
from rlhf_jax.stages.profile.packed import profile_packed

__all__ = ["Phase", "Profile", "profile_online", "profile_packed"]

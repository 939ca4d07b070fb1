"""Several processes on this machine as one run: started, listened to, stopped together, started again.

``supervisor`` watches them, ``environment`` says what each is told, ``output`` makes one text of what they print, and
``leash`` is what each of them starts as.
"""

from rlhf_jax.parallel.launching.environment import LaunchError, gpus, places
from rlhf_jax.parallel.launching.supervisor import launch

__all__ = ["LaunchError", "gpus", "launch", "places"]

"""What a run needs of its machines, tried out in a minute: each question is answered with ok, or with what to do.

``finding`` is an answer and how the answers of several processes become one; ``machine`` asks each host about itself,
``exchange`` what devices and hosts are to each other, ``storage`` the run folder and the cache of compiled programs,
``sample`` whether every device computes what it should.
"""

from rlhf_jax.stages.doctor.examine import Needs, examine
from rlhf_jax.stages.doctor.finding import Finding

__all__ = ["Finding", "Needs", "examine"]

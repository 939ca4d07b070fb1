"""Judges that vote label pairs: what a run's policy says, or what a file holds, becomes rows that stages train on."""

from rlhf_jax.stages.labelling.config import LabelConfig
from rlhf_jax.stages.labelling.run import Labelled, label

__all__ = ["LabelConfig", "Labelled", "label"]

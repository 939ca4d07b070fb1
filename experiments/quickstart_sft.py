"""The quickstart's first stage alone: a 1.3 M parameter transformer from scratch on 19,000 sentences.

Command:  rlhf sft --config experiments/quickstart_sft.py
Hardware: 2 CPU cores, float32
Time:     187 s
Result:   held-out loss 5.10 nats a token

Fields that are not named here have the defaults that ``rlhf sft --help`` lists. Any of them can be given on the
command line as well, such as ``--epochs 2`` or ``--model.n-layers 6``.
"""

from rlhf_jax.stages import DataConfig, SFTConfig

config = SFTConfig(out="runs/by-stage", data=DataConfig(source="human_sentiment"), seed=0)

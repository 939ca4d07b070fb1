"""The quickstart's second stage alone: a reward model from the SFT weights, on votes among rated sentences.

Command:  rlhf reward --config experiments/quickstart_reward.py      (after quickstart_sft.py)
Hardware: 2 CPU cores, float32
Time:     234 s
Result:   accuracy on held-out pairs 74.7% (95% interval 72.8 to 76.4)

Fields that are not named here have the defaults that ``rlhf reward --help`` lists.
"""

from rlhf_jax.stages import DataConfig, RewardConfig

config = RewardConfig(out="runs/by-stage", init="runs/by-stage", data=DataConfig(source="human_sentiment"), seed=0)

"""PPO with a plain Python function as the reward, no reward model: responses that end in an exclamation mark.

Command:  python experiments/custom_reward.py
Hardware: 2 CPU cores, float32
Time:     95 s of processor time
Result:   share of responses that end in "!", before and after: 2.3%, 63.7%, at a KL of 3.3 nats a response

Stopped at any time, the same command continues. The policy is a miniature, trained here as well: what it writes is
hardly English, but it learns what it is paid for.
"""

from collections.abc import Sequence

from rlhf_jax import stages
from rlhf_jax.models import ModelConfig
from rlhf_jax.rewards import ShapingConfig
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import DataConfig, PPOConfig, SFTConfig

OUT = "runs/custom-reward"
data = DataConfig(source="human_sentiment", limit=1600)

sft_config = SFTConfig(
    out=OUT,
    data=data,
    vocab_size=1024,
    model=ModelConfig(d_model=64, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=32, d_ff=172),
    epochs=3,
    eval_every=40,
)
config = PPOConfig(
    out=OUT,
    policy=OUT,
    data=data,
    iterations=40,
    eval_every=10,
    eval_prompts=64,
    test_prompts=256,
    sampling=SamplingConfig(max_new_tokens=16),
    # A reward of 0 or 1 needs no scale, and a response that does not stop cannot end in "!" anyway.
    shaping=ShapingConfig(normalise=False, no_eos_penalty=0.0),
)


def exclaims(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """1 for a response that ends in an exclamation mark, else 0. Any function with these arguments is a reward."""
    return [float(response.rstrip().endswith("!")) for response in responses]


if __name__ == "__main__":
    stages.sft(sft_config)
    found = stages.ppo(config, reward=exclaims, judges={}).summary
    print(f"end in '!': {found['proxy_before']:.1%} before, {found['proxy_after']:.1%} after PPO")
    print(f"KL to the SFT policy: {found['kl']:.2f} nats a response")

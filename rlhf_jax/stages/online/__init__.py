"""Training on the policy's own samples: the loop that PPO and the group methods share, and the trainer inside it."""

from rlhf_jax.renamed import renamed

__getattr__ = renamed(
    __name__,
    {
        "Prompt": "stages.EncodedPrompt",
        "SamplerMismatch": "stages.SamplerMismatch",
        "batch_of_prompts": "stages.online.loop.batch_of_prompts",
        "train_online": "stages.online.loop.train_online",
    },
)

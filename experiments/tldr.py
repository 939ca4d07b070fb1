"""Summaries of Reddit posts from human feedback: SFT, reward model and PPO on TL;DR, as Stiennon et al. 2020 did.

Command:  hf download EleutherAI/pythia-1b-deduped --include '*.json' '*.safetensors' \\
              --local-dir models/pythia-1b-deduped
          python experiments/tldr.py            (--fast: a miniature of every stage; --help: all options)
Hardware: not run here on the real model; what it needs is counted below
Result:   the tests run it end to end on a random model and a few rows with the data sets' columns

The recipe is section 3 and appendix B.1 of Stiennon et al. (arXiv:2009.01325). Their GPT-3 models of 1.3B and 6.7B
parameters are not public, so the models and the learning rate are those of a reproduction, Huang et al. 2024
(arXiv:2403.17031; values from their code): EleutherAI/pythia-1b-deduped, 2.8b and 6.9b.

    data             trl-lib/tldr: 116,722 posts with their authors' summaries, 6,447 more for validation
                     openai/summarize_from_feedback:comparisons: 92,858 training pairs (the paper: 64,832)
                     Stiennon et al. 1.3B, 6.7B   Huang et al.      here
    SFT rate         6.35e-5, 2.83e-5, cosine     3e-6, cosine      3e-6, cosine to 0
    SFT batch        128 posts, one epoch         128, one epoch    48 x 960 packed tokens, about 125 posts, one epoch
    reward rate      1.5e-5, 5e-6, cosine         3e-6, cosine      3e-6, cosine to 0
    reward batch     64 pairs, one epoch          64, one epoch     48 x 960 packed tokens, about 64 pairs, one epoch
    PPO rate         1.5e-5, 7e-6, linear         3e-6, linear      3e-6, linear to 0
    PPO batch        512, 256                     512               512, in one minibatch
    PPO episodes     1,000,000                    1,000,000         1953 x 512 = 999,936
    PPO epochs       4                            4                 4
    KL coefficient   0.05                         0.05              0.05, fixed, in the reward
    gamma, lambda    1, 0.95                      1, 0.95           1, 0.95
    clipping                                      0.2, values 0.2   the same; the value loss counts 0.1, as theirs
    response                                      53 tokens         53 tokens
    temperature                                   0.7               1: the policy is trained as it is
    no end                                        the score is -1   1 is subtracted from the score
    critic           starts from the reward model the same          the same
    AdamW                                         eps 1e-5          eps 1e-5, decay 0.01 as is PyTorch's default,
                                                                    gradients clipped at norm 1

Other differences. A post of more than 512 tokens is left out; the paper cuts it at a line end. The paper shifts the
reward so that reference summaries score 0; here the loss of the reward model centers it, with weight 0.01. Rewards are
not whitened, advantages are. PPO keeps the checkpoint of the best held-out reward below a KL of 50 nats. 2,000 of the
held-out comparisons, the news articles among them, are measured on: there are nearly as many as training pairs.

Nobody judges the summaries here: reported are the reward model's accuracy on held-out pairs with its interval, and the
policy's reward and KL on held-out posts. Stiennon et al. had people compare summaries.

What it needs, counted and not measured, for N = 1.01e9 parameters (2.8B: x 2.7, 6.9B: x 6.8):
    memory   PPO holds policy and critic with Adam, 16 bytes a parameter each, and reference and reward model in
             float32, 4 each: 40 N = 40 GB, 5 GB on each of 8 devices; 2.8B 14 GB, 6.9B 34 GB.
             Keys and values of 512 responses: 2 x 16 layers x 2048 x 2 bytes x 565 tokens x 512 = 38 GB, 5 GB a
             device; 6.9B 19 GB. Blocks' inputs for the backward pass: 512 x 565 x 2048 x 2 bytes x 16 = 19 GB for
             policy or critic, 5 GB a device for both; 6.9B 19 GB.
             8 x H100 (80 GB) hold all three sizes by this count. With --lora-rank 16 there is one trunk of 2 N, in
             the checkpoint's 16 bits, for SFT, and one of 2 to 4 N that all models of PPO share.
    compute  SFT and reward model: 8 N (blocks are computed again) x (116,722 + 2 x 92,858) x 350 tokens = 8.6e17.
             PPO, an episode of 512 + 53 tokens: sampling 2 N, four models looked at 8 N, four epochs of policy and
             critic 4 x 2 x 8 N: 74 N x 565 = 4.2e13; 1e6 episodes 4.2e19.
             8 x H100 at 40% of 989e12 do 3.2e15 a second: 5 minutes and 3.7 hours; 6.9B 25 hours. v5p-8, 4 chips of
             459e12, 7.3e14: 16 hours. Decoding waits for memory, not for products, and comes on top.
    disk     model 2 GB; checkpoints of PPO 24 N = 24 GB each, two kept; results 16 N = 16 GB; data 0.5 GB.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import tyro
from recipe import Options

from rlhf_jax.report import verdicts, write_report
from rlhf_jax.rewards import ShapingConfig
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.folder import read_record
from rlhf_jax.stages import DataConfig, KLConfig, PPOConfig, RewardConfig, SFTConfig, quickstart
from rlhf_jax.stages.quickstart import QuickstartConfig

MODEL = "EleutherAI/pythia-1b-deduped"
POSTS = "trl-lib/tldr"
COMPARISONS = "openai/summarize_from_feedback:comparisons"
EPISODES, BATCH = 1_000_000, 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class TLDR(Options):
    """Summaries of Reddit posts: SFT, reward model, PPO."""

    model: str = "models/pythia-1b-deduped"
    out: str = "runs/tldr"


def configs(options: TLDR) -> QuickstartConfig:
    """The three stages; all but ``fast`` as the table above has them."""
    fast, stage = options.fast, options.stage()
    posts = DataConfig(
        source=options.source(POSTS),
        on_bad_row="skip",
        max_length=640,  # a post of 512 tokens and a summary of up to 128
        limit=64 if fast else 0,
        heldout_limit=16 if fast else 2000,
    )
    rate = options.optimizer(3e-6, warmup_fraction=0.0, final_fraction=0.0, weight_decay=0.01, eps=1e-5)
    line = dataclasses.replace(rate, schedule="linear")
    packed: dict[str, Any] = {
        "rows": 8 if fast else 48,
        "row_length": 640 if fast else 960,
        "epochs": 1,
        "optimizer": rate,
    }
    return QuickstartConfig(
        sft=SFTConfig(
            **stage, **packed, init=options.model, chat=False, model=options.precision(), data=posts, eval_every=200
        ),
        reward=RewardConfig(
            **stage,
            **packed,
            init=options.out,
            data=dataclasses.replace(posts, source=options.source(COMPARISONS)),
            eval_every=200,
        ),
        ppo=PPOConfig(
            **stage,
            policy=options.out,
            reward_model=options.out,
            data=posts,
            max_prompt_length=512,
            prompts=8 if fast else BATCH,
            iterations=2 if fast else EPISODES // BATCH,
            epochs=4,
            minibatches=1,
            sampling=SamplingConfig(max_new_tokens=16 if fast else 53),
            shaping=ShapingConfig(normalise=False, clip=100.0, no_eos_penalty=1.0),
            kl=KLConfig(kind="fixed", coef=0.05),
            policy_optimizer=line,
            critic_optimizer=line,
            eval_every=2 if fast else 100,
            eval_prompts=8 if fast else 256,
            test_prompts=8 if fast else 512,
            max_kl=50.0,
            stop_kl=50.0,
        ),
    )


def run(options: TLDR) -> Path:
    """All that is not done yet.

    Returns:
        The run folder.
    """
    options.check_model(MODEL)
    return quickstart(configs(options), after_stage=write_report)


def main(options: TLDR) -> None:
    """Run the recipe and say what came out."""
    directory = run(options)
    for verdict in verdicts(read_record(directory / "summary.json")):
        print(f"{verdict.kind:>7}: {verdict.text}")
    print(directory / "report.html")


if __name__ == "__main__":
    main(tyro.cli(TLDR, description=__doc__))

"""A helpful and harmless assistant: SFT, preference model and PPO on hh-rlhf, as Bai et al. 2022 did.

Command:  hf download EleutherAI/pythia-2.8b --include '*.json' '*.safetensors' --local-dir models/pythia-2.8b
          python experiments/hh.py            (--fast: a miniature of every stage; --help: all options)
Hardware: not run here on the real model; what it needs is counted below
Result:   the tests run it end to end on a random model and a few rows with the data set's columns

The recipe is section 4.1 and appendices A.1, A.2 and B.1 of Bai et al. (arXiv:2204.05862). Their language models, 13M
to 52B parameters, are not public; EleutherAI/pythia-2.8b is the base here, as it is for the dialogues of Rafailov et
al. 2023 (arXiv:2305.18290, section 6). Any folder does: for Llama-3.2-1B pass --model and its --pretraining-rate.

    data             Anthropic/hh-rlhf, its four parts of dialogues together: 160,800 training pairs, 8,552 held out
                     (of the training pairs harmless-base 42,537, helpful-base 43,835, helpful-online 22,007,
                     helpful-rejection-sampled 52,421)
                         Bai et al.                             here
    policy's start       a context-distilled model, at 0.05     SFT on the preferred answers, as Rafailov et al. do, one
                         of the pretraining rate                epoch, at 0.05 of the pretraining rate: 8e-6
    preference model     pretrained on comparisons (PMP), then  from the SFT weights, one epoch at 0.01 of the rate:
                         one epoch at 0.01 of the rate          1.6e-6
    context              1024 tokens                            1024 tokens; longer dialogues are left out
    end of a sample      a special token, which is scored       the token that ends an answer
    PPO rate             0.01 of the pretraining rate           1.6e-6, constant
    KL coefficient       0.001, in the reward                   0.001, fixed, in the reward
    reward               the preference model's score           the same, neither normalised nor clipped, no penalties
    clip, gamma          0.2, 1                                 0.2, 1
    entropy bonus        none                                   none
    passes over samples  1 (RLHF scan), 2, 4 (online)           1, in 4 minibatches
    response             128 tokens                             128 tokens
    prompts              137,000 of the data, 369,000 that a    314 iterations of 512, one pass over the data's
                         model wrote

Batch sizes, the critic and GAE's lambda are not in the paper: 512 samples an iteration, a critic that starts from the
preference model at the policy's rate, lambda 0.95 and Adam's settings are ours. The preference model's rate is meant
for one that was first pretrained on comparisons from the web, a stage that this recipe does not have; without it a few
times the rate may do better. There is one round, no weekly ones with fresh data.

Nobody judges the answers here: reported are the preference model's accuracy on held-out pairs with its interval, and
the policy's score and KL on held-out prompts. The report draws the score over the root of the KL, section 4.3's curve.

What it needs, counted and not measured, for N = 2.78e9 parameters:
    memory   PPO holds policy and critic with Adam, 16 bytes a parameter each, and reference and preference model in
             float32, 4 each: 40 N = 111 GB, 14 GB on each of 8 devices.
             Keys and values of 512 dialogues: 2 x 32 layers x 2560 x 2 bytes x 1024 tokens x 512 = 172 GB, 21 GB a
             device. A minibatch of 128: blocks' inputs 128 x 1024 x 2560 x 2 bytes x 32 = 21 GB each for policy and
             critic; one block's attention weights, which are not computed in pieces, 128 x 32 heads x 1024^2 x 4
             bytes = 17 GB and twice that for their gradients: 12 GB a device together.
             8 x H100 (80 GB) hold it by this count. With --lora-rank 16 there is one trunk of 2 to 4 N = 6 to 11 GB.
    compute  SFT and preference model: 8 N (blocks are computed again) x 3 x 160,800 x about 230 tokens = 2.5e18.
             PPO, a sample of 896 + 128 tokens, for prompts are padded to the longest: sampling 2 N, four models
             looked at 8 N, one pass of policy and critic 2 x 8 N: 26 N x 1024 = 7.4e13; 160,768 samples 1.2e19.
             8 x H100 at 40% of 989e12 do 3.2e15 a second: 13 minutes and 1 hour. v5p-8, 4 chips of 459e12, 7.3e14:
             5.5 hours in all. Decoding waits for memory, not for products, and comes on top.
    disk     model 6 GB; checkpoints of PPO 24 N = 67 GB each, two kept; results 16 N = 44 GB; data 0.1 GB.
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
from rlhf_jax.stages.online.config import PPOLossConfig
from rlhf_jax.stages.quickstart import QuickstartConfig

MODEL = "EleutherAI/pythia-2.8b"
DIALOGUES = "Anthropic/hh-rlhf"
TRAINING_PAIRS, BATCH = 160_800, 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class HH(Options):
    """A helpful and harmless assistant: SFT, preference model, PPO."""

    model: str = "models/pythia-2.8b"
    out: str = "runs/hh"
    pretraining_rate: float = 1.6e-4
    """Peak learning rate at which the model was pretrained; all rates are shares of it. Pythia 1B: 3e-4, 2.8B: 1.6e-4,
    6.9B: 1.2e-4 (Biderman et al. 2023)."""


def configs(options: HH) -> QuickstartConfig:
    """The three stages; all but ``fast`` as the table above has them."""
    fast, stage, length = options.fast, options.stage(), 512 if options.fast else 1024
    dialogues = DataConfig(
        source=options.source(DIALOGUES),
        on_bad_row="skip",
        max_length=length,
        limit=64 if fast else 0,
        heldout_limit=16 if fast else 0,
    )
    packed: dict[str, Any] = {
        "rows": 8 if fast else 32,
        "row_length": length,
        "epochs": 1,
        "data": dialogues,
        "eval_every": 500,
    }
    start, rest = (
        options.optimizer(share * options.pretraining_rate, warmup_fraction=0.0, final_fraction=final)
        for share, final in ((0.05, 0.0), (0.01, 1.0))
    )
    return QuickstartConfig(
        sft=SFTConfig(**stage, **packed, init=options.model, model=options.precision(), optimizer=start),
        reward=RewardConfig(**stage, **packed, init=options.out, optimizer=rest),
        ppo=PPOConfig(
            **stage,
            policy=options.out,
            reward_model=options.out,
            data=dialogues,
            max_prompt_length=length - 128,
            prompts=8 if fast else BATCH,
            iterations=2 if fast else TRAINING_PAIRS // BATCH,
            epochs=1,
            minibatches=1 if fast else 4,
            sampling=SamplingConfig(max_new_tokens=16 if fast else 128),
            shaping=ShapingConfig(normalise=False, clip=100.0, no_eos_penalty=0.0),
            kl=KLConfig(kind="fixed", coef=0.001),
            loss=PPOLossConfig(clip_low=0.2, clip_high=0.2, entropy_coef=0.0),
            policy_optimizer=rest,
            critic_optimizer=rest,
            eval_every=2 if fast else 25,
            eval_prompts=8 if fast else 256,
            test_prompts=8 if fast else 512,
            max_kl=100.0,
            stop_kl=100.0,
        ),
    )


def run(options: HH) -> Path:
    """All that is not done yet.

    Returns:
        The run folder.
    """
    options.check_model(MODEL)
    return quickstart(configs(options), after_stage=write_report)


def main(options: HH) -> None:
    """Run the recipe and say what came out."""
    directory = run(options)
    for verdict in verdicts(read_record(directory / "summary.json")):
        print(f"{verdict.kind:>7}: {verdict.text}")
    print(directory / "report.html")


if __name__ == "__main__":
    main(tyro.cli(HH, description=__doc__))

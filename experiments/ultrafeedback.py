"""A chat model without human labels: SFT on UltraChat, DPO on UltraFeedback, as Tunstall et al. 2023 made Zephyr.

Command:  hf download mistralai/Mistral-7B-v0.1 --include '*.json' 'model*.safetensors' \\
              --local-dir models/Mistral-7B-v0.1
          python experiments/ultrafeedback.py        (8 GPUs; --fast: a miniature; --help: all options)
Hardware: not run here on the real model; what it needs is counted below
Result:   the tests run it end to end on a random model and a few rows with the data sets' columns

The recipe is section 4 of Tunstall et al. (arXiv:2310.16944), from mistralai/Mistral-7B-v0.1, 7.24e9 parameters.

    dSFT data        HuggingFaceH4/ultrachat_200k: 207,865 dialogues (train_sft), 1,000 of 23,110 held out (test_sft)
    dDPO data        HuggingFaceH4/ultrafeedback_binarized: 61,135 pairs (train_prefs), 2,000 held out (test_prefs)
                     Tunstall et al.                   here
    dSFT rate        2e-5, cosine, 10% warm-up         2e-5, cosine to 0, 10% warm-up
    dSFT batch       512 packed rows of 2048 tokens    the same, in 8 parts of 64 rows
    dSFT epochs      1 (one to three were tried)       1
    dDPO rate        5e-7, linear, 10% warm-up         5e-7, linear to 0, 10% warm-up
    dDPO batch       32 pairs                          16 x 2048 packed tokens, about 32 pairs
    dDPO epochs      3 (one to three were tried)       3
    beta             0.1                               0.1
    AdamW            no weight decay                   no weight decay, gradients clipped at norm 1
    precision        bfloat16                          bfloat16 products, float32 weights

Other differences. Dialogues of more than 2048 tokens and pairs of more than 1024 are left out, not cut. The loss of SFT
counts the assistant's turns alone. Pairs whose scores tie are not trained on. As in the paper the last policy is kept,
although by then it has learnt its training pairs by heart. --lora-rank is not in the paper, which expects similar
results of it.

Nobody judges the answers here (the paper: MT-Bench and AlpacaEval, judged by GPT-4): reported is how often the
preferred answer of a held-out pair gained more log-probability, with its interval, and the KL to the SFT model.

What it needs, counted and not measured, for N = 7.24e9 parameters:
    memory   16 bytes a parameter, DPO's reference 4 more: 20 N = 145 GB, 18 GB on each of 8 devices.
             SFT, a row of 2048 tokens: blocks' inputs 2048 x 4096 x 2 bytes x 32 = 0.54 GB; one block's attention
             weights, which are not computed in pieces, 32 heads x 2048^2 x 4 bytes = 0.54 GB and twice that for
             their gradients; its MLP 2048 x 14336 x 2 bytes x 6 = 0.35 GB: 2.5 GB a row. In parts of 64 rows that is
             160 GB, and the gradients that are added up take 4 N more: 20 + 4 GB on each of 8 devices beside the 15
             of weights and optimiser.
             With --lora-rank 16 one trunk of 2 to 4 N = 15 to 29 GB serves policy and reference; rows as above.
    compute  SFT: 8 N (blocks are computed again) x 207,865 x about 1,300 tokens = 1.6e19. DPO: 8 N and 2 N of the
             reference, x 3 x 61,135 pairs x about 900 tokens = 1.2e19.
             8 x H100 at 40% of 989e12 do 3.2e15 a second: 1.4 and 1.0 hours. v5p-8, 4 chips of 459e12, 7.3e14: 6 and
             4.5 hours. Sampling held-out answers comes on top. The paper: 2 to 4 hours on 16 A100.
    disk     model 15 GB; checkpoints 12 N = 87 GB each, two kept; results 4 N = 29 GB a stage; data 2.3 GB.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro
from recipe import Options

from rlhf_jax import stages
from rlhf_jax.report import write_report
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.folder import read_record
from rlhf_jax.stages import DataConfig, PreferenceConfig, SFTConfig

MODEL = "mistralai/Mistral-7B-v0.1"
CHATS = "HuggingFaceH4/ultrachat_200k"
PAIRS = "HuggingFaceH4/ultrafeedback_binarized"
# Mistral's base model has no chat template. Zephyr's turns: a header, the text and the end of text, each on a line.
TEMPLATE = (
    "{% for turn in messages %}{{ '<|' ~ turn.role ~ '|>\\n' ~ turn.content ~ eos_token ~ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UltraFeedback(Options):
    """Zephyr: SFT on UltraChat, DPO on UltraFeedback."""

    model: str = "models/Mistral-7B-v0.1"
    out: str = "runs/ultrafeedback"
    micro_batches: int = 8
    """Parts that an SFT batch of 512 packed rows is cut into; each is a multiple of the devices."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zephyr:
    """The two stages of one run folder."""

    sft: SFTConfig
    dpo: PreferenceConfig


def configs(options: UltraFeedback) -> Zephyr:
    """Both stages; all but ``fast`` as the table above has them."""
    fast, stage = options.fast, options.stage()
    chats = DataConfig(
        source=options.source(CHATS),
        split="train_sft",
        heldout="test_sft",
        on_bad_row="skip",
        max_length=512 if fast else 2048,
        limit=64 if fast else 0,
        heldout_limit=16 if fast else 1000,
    )
    pairs = dataclasses.replace(
        chats,
        source=options.source(PAIRS),
        split="train_prefs",
        heldout="test_prefs",
        max_length=512 if fast else 1024,
        heldout_limit=16 if fast else 0,
    )
    return Zephyr(
        sft=SFTConfig(
            **stage,
            init=str(base(options.out)),
            chat=True,
            model=options.precision(),
            data=chats,
            epochs=1,
            rows=8 if fast else 512,
            micro_batches=1 if fast else options.micro_batches,
            keep="last",
            patience=0,
            row_length=512 if fast else 2048,
            eval_every=100,
            optimizer=options.optimizer(2e-5, warmup_fraction=0.1, final_fraction=0.0),
        ),
        dpo=PreferenceConfig(
            **stage,
            policy=options.out,
            objective="dpo",
            hyperparameters={"beta": 0.1},
            data=pairs,
            epochs=3,
            rows=8 if fast else 16,
            row_length=512 if fast else 2048,
            eval_every=500,
            keep="last",
            patience=0,  # three epochs, whatever the held-out loss does
            optimizer=options.optimizer(5e-7, schedule="linear", warmup_fraction=0.1, final_fraction=0.0),
            max_prompt_length=256 if fast else 512,
            sampling=SamplingConfig(max_new_tokens=16 if fast else 512),
            eval_pairs=16 if fast else 2000,
            eval_prompts=8 if fast else 64,
            test_prompts=8 if fast else 256,
        ),
    )


def base(out: str) -> Path:
    """Where the run folder has the pretrained model with Zephyr's chat template beside it."""
    return Path(out) / "base"


def add_template(model: str, out: str) -> None:
    """Link a checkpoint's files into the run folder and put the chat template beside them; the model's folder stays."""
    folder = base(out)
    folder.mkdir(parents=True, exist_ok=True)
    for file in Path(model).iterdir():
        link = folder / file.name
        if file.is_file() and not link.exists():
            link.symlink_to(file.resolve())
    template = folder / "chat_template.jinja"
    if not template.exists():
        template.write_text(TEMPLATE, encoding="utf-8")


def run(options: UltraFeedback) -> Path:
    """All that is not done yet.

    Returns:
        The run folder.
    """
    options.check_model(MODEL)
    add_template(options.model, options.out)
    config = configs(options)
    stages.sft(config.sft)
    write_report(Path(options.out))
    stages.preference(config.dpo)
    write_report(Path(options.out))
    return Path(options.out)


def main(options: UltraFeedback) -> None:
    """Run the recipe and say what came out."""
    directory = run(options)
    found = read_record(directory / "summary.json")["preference"]
    low, high = found["accuracy_ci"]
    print(
        f"the preferred answer gained in {found['accuracy']:.1%} of {found['pairs']:,} held-out pairs ({low:.1%} to "
        f"{high:.1%}), at a KL of {found['kl']:.2f} nats a response"
    )
    print(directory / "report.html")


if __name__ == "__main__":
    main(tyro.cli(UltraFeedback, description=__doc__))

"""TRL 0.23's PPOTrainer on a case that our side wrote, for the scripts that run in its environment."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl import PPOConfig, PPOTrainer


def make_trainer(folder: Path, case: dict[str, Any], queries: list[list[int]], **settings: Any) -> PPOTrainer:
    """Make the trainer of a case: one batch of all prompts, plain AdamW at one rate, nothing logged or saved."""

    def model(name: str) -> Any:
        kind = AutoModelForCausalLM if name in ("policy", "reference") else AutoModelForSequenceClassification
        return kind.from_pretrained(folder / name, dtype=torch.float32)

    config = PPOConfig(
        output_dir=str(folder / "unused"),
        per_device_train_batch_size=len(queries),
        gradient_accumulation_steps=1,
        local_rollout_forward_batch_size=len(queries),
        num_sample_generations=0,
        lr_scheduler_type="constant",
        max_grad_norm=None,
        optim="adamw_torch",
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **settings,
        **case["config"],
    )
    asked = Dataset.from_dict({"input_ids": queries})
    return PPOTrainer(
        args=config,
        processing_class=SimpleNamespace(pad_token_id=case["pad"], eos_token_id=case["eos"], padding_side="left"),
        model=model("policy"),
        ref_model=model("reference"),
        reward_model=model("reward"),
        value_model=model("critic"),
        train_dataset=asked,
        data_collator=lambda rows: {"input_ids": torch.tensor([row["input_ids"] for row in rows])},
        eval_dataset=asked,
    )

"""The reference's learning curves: TRL 0.23's PPOTrainer as it is, sampling included, one run a seed.

    PYTHON_OF_TRL_023 trl_curve.py FOLDER

``golden_curves.py`` writes the case and reads the curves; nothing of ours is imported here.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read at import

import gc
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, set_seed
from trl import PPOConfig, PPOTrainer


def main(folder: Path) -> None:
    """Run every seed that is not there yet."""
    torch.set_num_threads(1)
    gc.freeze()  # the trainer collects twice an iteration, which need not look at what was imported
    case = json.loads((folder / "case.json").read_text())
    queries = np.load(folder / "given.npz")["queries"].tolist()
    for seed in case["seeds"]:
        out = folder / f"trl-{seed}.json"
        if not out.exists():
            rows = curve(folder, case, queries, seed)
            out.write_text(json.dumps(rows))
            print(f"trl, seed {seed}: {rows[0]} ... {rows[-1]}", flush=True)


def curve(folder: Path, case: dict[str, Any], queries: list[list[int]], seed: int) -> list[dict[str, float]]:
    """One run: mean score and mean KL (nats a response) of each iteration's responses."""
    set_seed(seed)

    def model(name: str) -> Any:
        kind = AutoModelForCausalLM if name in ("policy", "reference") else AutoModelForSequenceClassification
        return kind.from_pretrained(folder / name, dtype=torch.float32)

    config = PPOConfig(
        output_dir=str(folder / "unused"),
        seed=seed,
        per_device_train_batch_size=len(queries),
        gradient_accumulation_steps=1,
        total_episodes=len(queries) * case["iterations"],
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
        **case["config"],
    )
    asked = Dataset.from_dict({"input_ids": queries})
    trainer = PPOTrainer(
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
    rows: list[dict[str, float]] = []
    trainer.log = lambda logs, *_: rows.append({"score": logs["objective/scores"], "kl": logs["objective/kl"]})
    trainer.train()
    return rows


if __name__ == "__main__":
    main(Path(sys.argv[1]))

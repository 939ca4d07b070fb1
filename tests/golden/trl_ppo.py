"""The reference: one iteration of TRL 0.23's PPOTrainer on a case that our side wrote, and everything it computed.

    PYTHON_OF_TRL_023 trl_ppo.py FOLDER

Runs in the environment of ``trl_environment.py`` and imports nothing of ours. ``PPOTrainer.train`` runs as it is. Three
things that it draws are given to it instead: the batch of prompts, the responses (``batch_generation``), and the order
of each epoch (``np.random.permutation``). What it computes is read from the local variables of ``train``.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read at import

import json
import sys
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl import PPOConfig, PPOTrainer
from trl.trainer import ppo_trainer

PREPARED = (
    *("logprobs", "ref_logprobs", "values", "scores", "rewards", "advantages", "returns"),
    *("padding_mask", "padding_mask_p1"),
)
OF_AN_UPDATE = ("ratio", "new_logprobs", "vpred", "pg_loss", "vf_loss", "loss", "micro_batch_inds")


def main(folder: Path) -> None:
    """Run the case."""
    torch.set_num_threads(1)
    case = json.loads((folder / "case.json").read_text())
    given = np.load(folder / "given.npz")
    queries, responses = torch.tensor(given["queries"]), torch.tensor(given["responses"])
    orders = iter(given["orders"])
    found: dict[str, np.ndarray] = {}

    def model(name: str) -> Any:
        kind = AutoModelForCausalLM if name in ("policy", "reference") else AutoModelForSequenceClassification
        return kind.from_pretrained(folder / name, dtype=torch.float32)

    config = PPOConfig(
        output_dir=str(folder / "unused"),
        per_device_train_batch_size=len(queries),
        gradient_accumulation_steps=1,
        total_episodes=len(queries),
        response_length=responses.shape[1],
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
    trainer = PPOTrainer(
        args=config,
        processing_class=SimpleNamespace(pad_token_id=case["pad"], eos_token_id=case["eos"], padding_side="left"),
        model=model("policy"),
        ref_model=model("reference"),
        reward_model=model("reward"),
        value_model=model("critic"),
        train_dataset=Dataset.from_dict({"input_ids": queries.tolist()}),
        data_collator=lambda rows: {"input_ids": torch.tensor([row["input_ids"] for row in rows])},
        eval_dataset=Dataset.from_dict({"input_ids": queries.tolist()}),
    )
    trainer.dataloader = [{"input_ids": queries}]

    def replayed(policy: Any, asked: torch.Tensor, _: int, pad: int, generation: Any) -> tuple[Any, Any]:
        """In place of sampling: the responses of the case, and what the policy's own pass says of them."""
        assert torch.equal(asked, queries)
        whole = torch.cat([asked, responses], dim=1)
        logits = ppo_trainer.forward(policy, whole, pad).logits[:, asked.shape[1] - 1 : -1]
        return whole, logits / generation.temperature

    def read(frame: FrameType, names: tuple[str, ...], prefix: str) -> None:
        for name in names:
            value = frame.f_locals[name]
            found[prefix + name] = value.detach().numpy().copy() if isinstance(value, torch.Tensor) else value.copy()

    def order(count: int) -> np.ndarray:
        frame = sys._getframe(1)
        if frame.f_code is PPOTrainer.train.__code__ and "returns" not in found:
            read(frame, PREPARED, "")
        drawn = next(orders)
        assert sorted(drawn) == list(range(count))
        return drawn

    updates = 0
    plain_step = trainer.optimizer.step

    def step(*args: Any, **options: Any) -> None:
        nonlocal updates
        plain_step(*args, **options)
        read(sys._getframe(1), OF_AN_UPDATE, f"{updates}/")
        trainer.model.policy.save_pretrained(folder / f"policy-{updates}")
        trainer.model.value_model.save_pretrained(folder / f"critic-{updates}")
        updates += 1

    ppo_trainer.batch_generation = replayed
    np.random.permutation = order
    trainer.optimizer.step = step
    trainer.train()
    found["updates"] = np.asarray(updates)
    np.savez(folder / "reference.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

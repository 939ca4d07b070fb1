"""The reference: one iteration of TRL 1.16's GRPOTrainer or RLOOTrainer on a case that our side wrote.

    python trl_group.py FOLDER        # with the TRL of the extra ``parity``

The trainers are made and trained as anybody would; nothing of ours is imported. Given to them are the responses (in
place of ``_generate``), their rewards, and the order (in place of ``shuffle_sequence_dict``, which would tear the
groups apart over several updates).
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read at import
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.trainer import grpo_trainer, rloo_trainer

KINDS = {
    "grpo": (GRPOConfig, GRPOTrainer, grpo_trainer),
    "rloo": (RLOOConfig, RLOOTrainer, rloo_trainer),
}


def main(folder: Path) -> None:
    """Run the case."""
    torch.set_num_threads(1)
    case = json.loads((folder / "case.json").read_text())
    given = np.load(folder / "given.npz")
    settings = dict(case["config"])
    make_config, make_trainer, module = KINDS[settings.pop("kind")]
    k, minibatches = settings["num_generations"], settings.pop("minibatches")
    pad = case["pad"]
    prompt_ids = [[t for t in row if t != pad] for row in given["queries"].tolist()]
    lengths = given["lengths"].tolist()
    completion_ids = [row[:length] for row, length in zip(given["responses"].tolist(), lengths, strict=True)]
    order = torch.tensor(given["orders"][0])  # of responses
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    texts = [tokenizer.decode(ids) for ids in completion_ids]
    names = [f"prompt {i}" for i in range(len(prompt_ids) // k)]
    found: dict[str, np.ndarray] = {}

    class Record(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kept: Any) -> None:
            kept["model"].save_pretrained(folder / f"policy-{state.global_step - 1}")
            found["updates"] = np.asarray(state.global_step)

    def reward(**asked: Any) -> list[float]:
        assert [list(ids) for ids in asked["completion_ids"]] == completion_ids
        return given["rewards"].tolist()

    config = make_config(
        output_dir=str(folder / "unused"),
        per_device_train_batch_size=len(prompt_ids) // minibatches,
        gradient_accumulation_steps=1,
        steps_per_generation=minibatches,
        max_steps=minibatches * settings["num_iterations"],
        shuffle_dataset=False,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,  # off
        optim="adamw_torch",
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **settings,
    )
    trainer = make_trainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": names}),
        processing_class=tokenizer,
        callbacks=[Record()],
    )
    reference = AutoModelForCausalLM.from_pretrained(folder / "reference", dtype=torch.float32)
    trainer.ref_model.load_state_dict(reference.state_dict())  # a copy of the start, unless told otherwise

    def generate(asked: list[str]) -> tuple[Any, ...]:
        assert asked == [name for name in names for _ in range(k)]
        whole = (prompt_ids, completion_ids, None, texts, None, {}, None, [])
        return whole if make_trainer is GRPOTrainer else (prompt_ids, completion_ids, texts)

    def shuffle(batch: dict[str, Any]) -> dict[str, Any]:
        for name in ("advantages", "old_per_token_logps", "old_logps", "ref_per_token_logps"):
            if batch.get(name) is not None:
                found[name] = batch[name].detach().numpy().copy()
        whole = len(order)
        return {
            name: x[order] if isinstance(x, torch.Tensor) and x.ndim and len(x) == whole else x
            for name, x in batch.items()
        }

    plain_loss = trainer.compute_loss

    def loss(*args: Any, **options: Any) -> torch.Tensor:
        value = plain_loss(*args, **options)
        found[f"{trainer.state.global_step}/loss"] = value.detach().numpy().copy()
        return value

    trainer._generate = generate
    trainer.compute_loss = loss
    module.shuffle_sequence_dict = shuffle
    trainer.train()
    np.savez(folder / "reference.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

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
from types import FrameType
from typing import Any

import numpy as np
import torch
from trl import PPOTrainer
from trl.trainer import ppo_trainer
from trl_trainer import make_trainer

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

    trainer = make_trainer(
        folder, case, queries.tolist(), total_episodes=len(queries), response_length=responses.shape[1]
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

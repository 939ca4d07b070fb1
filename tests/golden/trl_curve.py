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
from typing import Any

import numpy as np
import torch
from transformers import set_seed
from trl_trainer import make_trainer


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

    trainer = make_trainer(folder, case, queries, seed=seed, total_episodes=len(queries) * case["iterations"])
    rows: list[dict[str, float]] = []
    trainer.log = lambda logs, *_: rows.append({"score": logs["objective/scores"], "kl": logs["objective/kl"]})
    trainer.train()
    return rows


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The gold reward model of over_optimisation.py: its scores are dear, so each is kept."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from rlhf_jax import files, models, parallel
from rlhf_jax.data import Demonstration
from rlhf_jax.data.encode import encode
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.stages.reward_model import scorer


class Gold:
    """The judge that counts: a reward model whose every score is kept, so that no text is scored twice.

    Args:
        run: the run folder of the reward model.
        path: the file of prompts, responses and scores, which grows.
    """

    def __init__(self, run: str, path: Path):
        self.path, self._run = path, run
        self._known: dict[tuple[str, str], float] = {}
        if path.exists():
            files.drop_torn_line(path)
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            self._known = {(r["prompt"], r["response"]): r["gold"] for r in rows}

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Score responses, float32 [n]."""
        pairs = list(zip(prompts, responses, strict=True))
        missing = sorted({pair for pair in pairs if pair not in self._known}, key=lambda pair: len(pair[0] + pair[1]))
        for start in range(0, len(missing), 128):
            part = missing[start : start + 128]
            for (prompt, response), score in zip(part, self._score(part).tolist(), strict=True):
                self._known[prompt, response] = score
                row = {"prompt": prompt, "response": response, "gold": score}
                files.append_text(self.path, json.dumps(row, ensure_ascii=False) + "\n")
        return np.array([self._known[pair] for pair in pairs], np.float32)

    @functools.cached_property
    def _score(self) -> Callable[[Sequence[tuple[str, str]]], np.ndarray]:
        loaded = Scorer.load(self._run)
        packed = packed_scorer(loaded)
        return lambda pairs: packed([encode(Demonstration(*pair, ""), loaded.tokenizer).tokens[0] for pair in pairs])[0]


def packed_scorer(loaded: Scorer) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Make a function that scores token sequences with every member, float32 [M, n], several in a row of a batch."""
    mesh = parallel.make_mesh(parallel.MeshConfig(), devices=jax.devices()[:1])
    run = scorer(models.build(loaded.config), mesh, rows=8, row_length=128, pad_id=loaded.tokenizer.pad_id)
    return lambda sequences: run(loaded.params, sequences)

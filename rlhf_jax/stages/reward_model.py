"""Stage 2: a Bradley-Terry reward model from the SFT weights, and how well it ranks what it has not seen."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rlhf_jax import evaluation, models, objectives, parallel
from rlhf_jax.checkpoint import tree_sha256
from rlhf_jax.data import Example
from rlhf_jax.stages import run, sources
from rlhf_jax.stages.batches import PackedEpochs
from rlhf_jax.stages.config import DataConfig, PackedConfig, check_positive
from rlhf_jax.stages.lift import forward, lift
from rlhf_jax.stages.run import RunResult
from rlhf_jax.stages.sources import HeldOutPairs
from rlhf_jax.stages.train import Stopwatch, outcome, train
from rlhf_jax.stages.yardsticks import agreement, yardsticks
from rlhf_jax.training import OptimizerConfig
from rlhf_jax.types import Model, Objective, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig(PackedConfig):
    """A reward model: the SFT trunk, a scalar head at the last token, Bradley-Terry with soft labels."""

    out: str = "runs/reward"
    init: str = "runs/sft"
    """Run folder of the SFT policy whose trunk and tokenizer it starts from."""
    data: DataConfig = DataConfig()
    """Comparisons: rows of `prompt`, `chosen`, `rejected`, or of rated responses."""
    group_size: int = 8
    """Rated responses of one prompt that are compared with each other: K forward passes give K(K-1)/2 comparisons.
    Rows that are pairs already have K = 2."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-4, weight_decay=0.1)
    """For large models 1e-5 or less, and one epoch (Ouyang et al. 2022)."""
    center: float = 0.01
    """Weight of the term that holds the mean reward of a pair near 0 (Eisenstein et al. 2023)."""
    margin: float = 0.0
    """How much better the preferred response must score (Touvron et al. 2023); 0 is off."""
    epochs: int = 3
    """Passes over the training responses; each pass draws new groups."""
    pairs_per_response: int = 4
    """Held-out comparisons drawn for each rated held-out response."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "pairs_per_response")
        if self.group_size < 2:
            raise ValueError(f"group_size must be at least 2, found {self.group_size}")


def reward_model(
    config: RewardConfig | None = None, *, objective: Objective | None = None, mesh: Mesh | None = None
) -> RunResult:
    """Train a reward model on comparisons; continues or returns what the run folder already holds.

    Args:
        config: the quickstart's task by default.
        objective: any objective of ``outputs.scores``; ``objectives.reward_model`` with the config's hyperparameters by
            default.
        mesh: devices; ``config.mesh`` over all of them by default.

    Returns:
        ``RunResult`` with ``params["reward"]`` of the best held-out loss; ``summary`` holds accuracy with its 95%
        interval, by domain, calibration, warnings and, for ``human_sentiment``, the yardsticks on the same pairs.

    Raises:
        DataError: on a bad row.
        RunError: when a folder holds no SFT policy, or a run of another config.
        Interrupted: when a signal stopped it; the same call continues.
    """
    config = RewardConfig() if config is None else config
    directory = Path(config.out)
    if run.finished(directory, "reward", config):
        return run.load_result(directory, "reward", config)
    watch = Stopwatch()
    policy, policy_config, tokenizer = run.load_stage(config.init, "sft")
    model_config = dataclasses.replace(policy_config, scalar_head=True)
    model = models.build(model_config)
    data = sources.comparisons(config.data, tokenizer, group_size=config.group_size, seed=config.seed)
    mesh = parallel.make_mesh(config.mesh) if mesh is None else mesh
    run.start(directory, "reward", config, tokenizer)

    bound = objective or functools.partial(objectives.reward_model, center=config.center, margin=config.margin)
    roles = {"reward": model}
    score = scorer(model, tokenizer.pad_id, rows=config.rows, row_length=config.row_length)
    validation = data.heldout(config.pairs_per_response)

    def evaluate(params: Params) -> Mapping[str, Any]:
        scores = score(params, validation.sequences)
        return {f"heldout_{name}": value for name, value in pair_loss(scores, validation).items()}

    fitted = train(
        stage="reward",
        config=config,
        loss_fn=lift(bound, roles),
        params={"reward": models.with_scalar_head(policy["policy"], model_config)},
        optimizer=config.optimizer,
        batches=PackedEpochs(
            data.epoch, epochs=config.epochs, rows=config.rows, row_length=config.row_length, pad_id=tokenizer.pad_id
        ),
        evaluate=evaluate,
        mesh=mesh,
        fingerprint={**run.fingerprint(config), "init_sha256": tree_sha256(policy)},
        watch=watch,
        show=("loss", "accuracy", "heldout_accuracy"),
    )
    test = data.test(config.pairs_per_response)
    scores = score(fitted.best_params, test.sequences)
    summary = {
        **evaluation.reward_quality(
            scores, test.pairs, test.share, test.domains, [len(t) for t in test.sequences], golden=test.golden
        ),
        **outcome(fitted),
    }
    if config.data.source == sources.HUMAN_SENTIMENT:
        beside = {"yardsticks": yardsticks(test), "agreement": agreement(test.ratings, test.domains)}
        run.update_json(directory / "summary.json", beside)
    return run.finish(
        directory,
        "reward",
        config,
        params=fitted.best_params,
        model_config=model_config,
        tokenizer=tokenizer,
        metrics=fitted.history,
        summary=summary,
        seconds=watch.lap(),
    )


def scorer(
    model: Model, pad_id: int, *, rows: int, row_length: int
) -> Callable[[Params, Sequence[np.ndarray]], np.ndarray]:
    """A function ``(params, sequences) -> float32 [n]`` that scores token sequences in packed batches."""
    run_batch = jax.jit(lambda params, batch: forward({"reward": model}, params, batch).scores)

    def score(params: Params, sequences: Sequence[np.ndarray]) -> np.ndarray:
        examples = [Example((tokens,), (1,)) for tokens in sequences]
        batches = PackedEpochs(lambda _: examples, epochs=1, rows=rows, row_length=row_length, pad_id=pad_id)
        return np.concatenate(
            [np.asarray(run_batch(params, batches[i]))[: batches.count(i), 0] for i in range(len(batches))]
        )

    return score


def pair_loss(scores: np.ndarray, held: HeldOutPairs) -> dict[str, float]:
    """Bradley-Terry loss (nats a pair, soft labels) and accuracy on held-out pairs."""
    gap = scores[held.pairs[:, 0]] - scores[held.pairs[:, 1]]
    loss = held.share * np.logaddexp(0.0, -gap) + (1 - held.share) * np.logaddexp(0.0, gap)
    counted, correct = evaluation.pair_accuracy(scores, held.pairs, held.share)
    return {"loss": float(loss.mean()), "accuracy": float(correct[counted].mean())}

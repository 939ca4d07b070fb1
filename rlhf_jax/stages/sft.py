"""Stage 1: supervised fine-tuning of a decoder-only transformer, from scratch, on demonstrations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from rlhf_jax import models, parallel
from rlhf_jax.data import Example, epoch_order
from rlhf_jax.stages import run, sources
from rlhf_jax.stages.batches import PackedEpochs
from rlhf_jax.stages.choose import SFT, choose_objective, describe_objective, try_objective
from rlhf_jax.stages.config import DataConfig, PackedConfig, warn_rate
from rlhf_jax.stages.lift import lift
from rlhf_jax.stages.run import RunResult
from rlhf_jax.stages.train import Stopwatch, heldout, outcome, train
from rlhf_jax.training import OptimizerConfig
from rlhf_jax.types import Objective, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTConfig(PackedConfig):
    """Supervised fine-tuning: next-token prediction of responses, prompts masked out."""

    out: str = "runs/sft"
    objective: str = "sft"
    data: DataConfig = DataConfig()
    """Demonstrations: rows of `prompt` and `response`."""
    vocab_size: int = 4096
    """Tokens of the byte-level BPE that is trained on the training rows; the model's vocabulary."""
    model: models.ModelConfig = models.ModelConfig()
    """Sizes of the transformer; its `vocab_size` is set from the tokenizer."""
    epochs: int = 2
    """Passes over the training rows."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-3, weight_decay=0.1)
    """1e-3 or more for a million parameters from scratch; 1e-5 for fine-tuning billions (Ouyang et al. 2022)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        warn_rate("optimizer", self.optimizer)


def sft(config: SFTConfig | None = None, *, objective: Objective | None = None, mesh: Mesh | None = None) -> RunResult:
    """Train a policy on demonstrations; continues or returns what the run folder already holds.

    Args:
        config: the quickstart's task by default.
        objective: any objective of ``outputs.logprobs``; what ``config.objective`` names by default.
        mesh: devices; ``config.mesh`` over all of them by default.

    Returns:
        ``RunResult`` with ``params["policy"]`` of the best held-out loss.

    Raises:
        DataError: on a bad row.
        RunError: when the folder holds a run of another config.
        Interrupted: when a signal stopped it; the same call continues.

    Example:
        >>> result = sft(SFTConfig(out="runs/demo", epochs=1))  # doctest: +SKIP
        >>> result.summary["heldout_loss"]  # doctest: +SKIP
    """
    config = SFTConfig() if config is None else config
    if objective is not None:
        config = dataclasses.replace(config, objective=describe_objective(objective))
    directory = Path(config.out)
    if run.finished(directory, "sft", config):
        return run.load_result(directory, "sft", config)
    bound = choose_objective(objective, config.objective, config.hyperparameters)
    try_objective(bound, config.objective, SFT, responses=1)
    watch = Stopwatch()
    rows = sources.demonstrations(config.data)
    tokenizer = sources.tokenizer(directory, rows.train, config.vocab_size)
    training_set, held_rows = (sources.encode_demonstrations(r, tokenizer, config.data) for r in rows)
    model_config = dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size)
    model = models.build(model_config)
    mesh = parallel.make_mesh(config.mesh) if mesh is None else mesh
    run.start(directory, "sft", config, tokenizer)

    def epoch(number: int) -> list[Example]:
        return [training_set[i] for i in epoch_order(len(training_set), config.seed, number)]

    shape = {"rows": config.rows, "row_length": config.row_length, "pad_id": tokenizer.pad_id}
    loss_fn = lift(bound, {"policy": model})
    heldout_batches = PackedEpochs(lambda _: held_rows, epochs=1, **shape)
    loss = jax.jit(loss_fn)

    def evaluate(params: Params) -> Mapping[str, Any]:
        return heldout(lambda batch: loss(params, batch, jax.random.key(0)), heldout_batches)

    fitted = train(
        stage="sft",
        config=config,
        loss_fn=loss_fn,
        params={"policy": jax.jit(model.init)(jax.random.key(config.seed))},
        optimizer=config.optimizer,
        batches=PackedEpochs(epoch, epochs=config.epochs, **shape),
        evaluate=evaluate,
        mesh=mesh,
        fingerprint=run.fingerprint(config),
        watch=watch,
        show=("loss", "heldout_loss"),
    )
    summary = {
        **outcome(fitted),
        "parameters": sum(x.size for x in jax.tree.leaves(fitted.best_params)),
        "training_rows": len(training_set),
    }
    return run.finish(
        directory,
        "sft",
        config,
        params=fitted.best_params,
        model_config=model_config,
        tokenizer=tokenizer,
        metrics=fitted.history,
        summary=summary,
        seconds=watch.lap(),
    )

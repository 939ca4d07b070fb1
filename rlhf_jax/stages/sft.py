"""Stage 1: supervised fine-tuning on demonstrations, of a pretrained model or of a small one from scratch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from rlhf_jax import models, parallel
from rlhf_jax.data import Demonstration, Example, epoch_order
from rlhf_jax.data.batches import PackedEpochs
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.tokenizer.bpe import SMALLEST_VOCAB
from rlhf_jax.fields import check_at_least
from rlhf_jax.models.huggingface.families import FAMILIES
from rlhf_jax.runs import folder
from rlhf_jax.runs.compilation_cache import keep_compiled
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.fingerprint import fingerprint
from rlhf_jax.runs.folder import RunResult
from rlhf_jax.runs.loading import Start, check_attention, check_length, start_from, with_remat
from rlhf_jax.runs.made_of import collect, of_model, of_tokenizer
from rlhf_jax.runs.pretrained import with_tokens
from rlhf_jax.runs.stage_path import check_start
from rlhf_jax.runs.store import open_run
from rlhf_jax.stages import sources
from rlhf_jax.stages.attempt import Attempt
from rlhf_jax.stages.choose import SFT, check_own, choose_objective, try_objective
from rlhf_jax.stages.config import PackedConfig, check_kind
from rlhf_jax.stages.given import Given
from rlhf_jax.stages.ingredients import Makers, of_data, of_objective, of_optimizers, once
from rlhf_jax.stages.model_sizes import warn_of_rates
from rlhf_jax.stages.objective_loss import make_loss_fn
from rlhf_jax.stages.optimizers import OwnOptimizer, try_optimizer
from rlhf_jax.stages.task import Task
from rlhf_jax.stages.train import heldout, outcome, train
from rlhf_jax.stages.updates import say_updates
from rlhf_jax.training import OptimizerConfig
from rlhf_jax.training.tracking import Tracker
from rlhf_jax.types import Objective, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTConfig(PackedConfig):
    """Supervised fine-tuning: next-token prediction of responses, prompts masked out."""

    out: str = "runs/sft"
    objective: str = "sft"
    data: DataConfig = DataConfig()
    """Demonstrations: rows of `prompt` and `response`."""
    init: str = ""
    """Where to start: a Hugging Face folder (config.json, safetensors, tokenizer), a .gguf file, or a run folder, whose
    SFT policy is meant; `RUN:ppo` (or another policy stage) means that stage's. Empty: a new model and a new tokenizer,
    from scratch."""
    chat: bool | None = None
    """Write prompts as turns of a chat, by the template of `init`'s tokenizer; by default where it has one."""
    vocab_size: int = 4096
    """From scratch: tokens of the byte-level BPE that is trained on the training rows; the model's vocabulary."""
    model: models.ModelConfig = models.ModelConfig()
    """From scratch: sizes of the transformer; its `vocab_size` is set from the tokenizer. A pretrained model takes only
    `compute_dtype`, `attention` and `remat` from here."""
    epochs: int = 2
    """Passes over the training rows."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-3, weight_decay=0.1)
    """1e-3 or more for a million parameters from scratch; for a pretrained model 1e-5 for all weights (Ouyang et al.
    2022), 1e-4 to 5e-4 for adapters (Hu et al. 2021)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora.rank and not self.init:
            raise ValueError("lora.rank needs --init, a pretrained model: adapters on random weights learn little")
        if not self.init and self.model.family not in FAMILIES:
            raise ValueError(f"model.family must be one of {', '.join(FAMILIES)}, found {self.model.family!r}")
        if self.chat and not self.init:
            raise ValueError("chat needs --init, a pretrained model whose tokenizer has a chat template")


def sft(
    config: SFTConfig | None = None,
    *,
    objective: Objective | None = None,
    optimizer: OwnOptimizer | None = None,
    tracker: Tracker | None = None,
    mesh: Mesh | None = None,
) -> RunResult:
    """Train a policy on demonstrations, or return what the run folder already holds.

    A stage that was interrupted continues from its last checkpoint.

    Args:
        config: the quickstart's task by default.
        objective: any objective that reads ``outputs.logprobs``; what ``config.objective`` names by default.
        optimizer: any optax transformation, or a function that makes one (``stages.optimizers.make_own`` says of what);
            what ``config.optimizer`` describes by default.
        tracker: called with every row of metrics; what ``config.tracker`` names by default.
        mesh: devices; ``config.mesh`` over all of them by default.

    Returns:
        ``RunResult`` with ``params["policy"]`` of the best held-out loss.

    Raises:
        DataError: on a bad row.
        RunError: when the folder holds a run of another config.
        SkippedUpdates: when too many updates in a row were not finite.
        NothingTrained: when it came to its end without a result, all updates being skipped, say; it is written then.
        Interrupted: when a signal stopped it; the same call continues.

    Example:
        >>> result = sft(SFTConfig(out="runs/demo", epochs=1))  # doctest: +SKIP
        >>> result.summary["heldout_loss"]  # doctest: +SKIP
    """
    config = SFTConfig() if config is None else config
    check_kind(config, SFTConfig, "sft")
    if not config.init:
        check_at_least(config, SMALLEST_VOCAB, "vocab_size")  # a tokenizer is trained; shapes alone may be smaller
    given = Given(objective=objective, optimizer=optimizer, tracker=tracker)
    config = given.named_in(config)
    directory = open_run(config.out, config.init)
    if config.init:
        check_start(config.init, directory, "sft")
    run = functools.partial(_sft, config=config, given=given, mesh=mesh)
    return once("sft", directory, config, _made_of(config, given), run)


def _made_of(config: SFTConfig, given: Given, task: Task | None = None) -> Makers:
    found = {
        "data": of_data(config.data, "demonstrations", task),
        "objective": of_objective(given.objective, config.objective),
        **of_optimizers(given.optimizer, config),
    }
    return {**found, "init": lambda: of_model(config.init)} if config.init else found


def _sft(directory: Path, *, config: SFTConfig, given: Given, mesh: Mesh | None) -> RunResult:
    """Train, as nothing of the stage is complete."""
    mesh = parallel.make_mesh(config.mesh) if mesh is None else mesh
    check_attention(config.model, mesh)
    keep_compiled()
    bound = choose_objective(given.objective, config.objective, config.hyperparameters)
    try_objective(bound, config.objective, SFT, responses=1)
    check_own(bound, config, SFT, responses=1)
    watch = Attempt(directory, "sft", config, given.tracker)
    task = sources.find_task(config.data)
    rows = sources.demonstrations(config.data, task)
    start = _start(config, directory, rows.train, mesh)
    model_config, tokenizer = start.config, start.tokenizer
    warn_of_rates("sft", config, start.params)
    try_optimizer(given.optimizer, config.optimizer, {"policy": start.params})
    check_length(model_config, config.data.max_length, "data.max_length")
    used, training_set = sources.encode_usable(rows.train, tokenizer, config.data, task)
    used_held, held_rows = sources.encode_usable(rows.validation, tokenizer, config.data, task)
    model = models.build(model_config)
    made_of = collect({**_made_of(config, given, task), "tokenizer": lambda: of_tokenizer(tokenizer)})

    def epoch(number: int) -> list[Example]:
        return [training_set[i] for i in epoch_order(len(training_set), config.seed, number)]

    shape = config.packing(tokenizer.pad_id)
    loss_fn = make_loss_fn(bound, {"policy": model})
    heldout_batches = PackedEpochs(lambda _: held_rows, epochs=1, **shape)
    loss = jax.jit(parallel.traced_on(mesh, loss_fn))

    def evaluate(params: Params) -> Mapping[str, Any]:
        return heldout(lambda batch: loss(params, batch, None), heldout_batches)

    batches = PackedEpochs(epoch, epochs=config.epochs, **shape)
    say_updates("sft", len(training_set), batches, config)
    fitted = train(
        stage="sft",
        config=config,
        loss_fn=loss_fn,
        params={"policy": start.params},
        optimizer=config.optimizer,
        batches=batches,
        evaluate=evaluate,
        mesh=mesh,
        fingerprint={**fingerprint(config, made_of), **({"init_sha256": start.sha256} if config.init else {})},
        begin=lambda: folder.start(directory, "sft", config, tokenizer, made_of),
        watch=watch,
        own_optimizer=given.optimizer,
        show=("loss", "heldout_loss"),
    )
    summary = {
        **outcome("sft", config, fitted),
        "parameters": sum(x.size for x in jax.tree.leaves(fitted.best_params)),
        "trained_parameters": sum(x.size for x in jax.tree.leaves(models.split(start.params)[0])),
        "training_rows": len(training_set),
        "rows": sources.counted(rows.left_out, (rows.train, rows.validation), (used, used_held)),
        "warnings": list(rows.notes),
    }
    return watch.finish(
        params=fitted.best_params,
        model_config=model_config,
        tokenizer=tokenizer,
        metrics=fitted.history,
        summary=summary,
        base=start.base,
    )


def _start(config: SFTConfig, directory: Path, rows: Sequence[Demonstration], mesh: Mesh) -> Start:
    """Make or load the model and the tokenizer that the stage begins with."""
    asked = with_remat(config.model, config.remat)
    if not config.init:
        tokenizer = sources.tokenizer(directory, rows, config.vocab_size)
        model_config = with_tokens(dataclasses.replace(asked, vocab_size=tokenizer.vocab_size), tokenizer)
        params = jax.jit(models.build(model_config).init)(jax.random.key(config.seed))
        return Start(model_config, params, tokenizer, None)
    start = start_from(config.init, config.lora, mesh=mesh, seed=config.seed)
    tokenizer = start.tokenizer
    if config.chat is not None:
        try:
            tokenizer = tokenizer.with_format("chat" if config.chat else "plain")
        except ValueError as error:
            raise RunError(f"{config.init}: {error}") from error
    return start._replace(
        config=computed_as(asked, start.config),
        tokenizer=tokenizer,
    )


def sized(asked: models.ModelConfig, sizes: models.ModelConfig) -> models.ModelConfig:
    """Give a model the sizes that were asked for elsewhere, and compute as it says where it says anything."""
    default = models.ModelConfig()
    how = {name: vars(asked)[name] for name in ("compute_dtype", "attention", "remat")}
    return dataclasses.replace(sizes, **{name: value for name, value in how.items() if value != vars(default)[name]})


def computed_as(asked: models.ModelConfig, found: models.ModelConfig) -> models.ModelConfig:
    """Take a model that is there, and compute as was asked for: type, attention and what is computed again."""
    return dataclasses.replace(found, compute_dtype=asked.compute_dtype, attention=asked.attention, remat=asked.remat)

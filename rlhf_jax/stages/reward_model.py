"""Stage 2: a Bradley-Terry reward model from the SFT weights, and how well it ranks what it has not seen."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlhf_jax import evaluation, models, parallel, processes
from rlhf_jax.data import Example
from rlhf_jax.data.batches import Batches, MemberBatches, PackedEpochs
from rlhf_jax.data.config import DataConfig
from rlhf_jax.fields import check_at_least
from rlhf_jax.losses.checks import warn_outside
from rlhf_jax.models.ensemble import member_scores
from rlhf_jax.runs import folder
from rlhf_jax.runs.compilation_cache import keep_compiled
from rlhf_jax.runs.fingerprint import fingerprint
from rlhf_jax.runs.folder import RunResult
from rlhf_jax.runs.loading import check_length, start_from
from rlhf_jax.runs.made_of import collect, of_model, of_tokenizer
from rlhf_jax.runs.store import open_run
from rlhf_jax.stages import opinions, sources
from rlhf_jax.stages.attempt import Attempt
from rlhf_jax.stages.baselines import agreement
from rlhf_jax.stages.choose import REWARD, check_own, choose_objective, try_objective
from rlhf_jax.stages.config import PackedConfig, check_kind, check_named, check_positive, is_one_of
from rlhf_jax.stages.given import Given
from rlhf_jax.stages.held_out import pair_metrics
from rlhf_jax.stages.ingredients import Makers, of_data, of_objective, of_optimizers, once
from rlhf_jax.stages.model_sizes import warn_of_rates
from rlhf_jax.stages.objective_loss import make_loss_fn
from rlhf_jax.stages.opinions import Comparisons
from rlhf_jax.stages.optimizers import OwnOptimizer, try_optimizer
from rlhf_jax.stages.task import Task, remembering
from rlhf_jax.stages.train import outcome, train
from rlhf_jax.stages.updates import say_updates
from rlhf_jax.training import OptimizerConfig
from rlhf_jax.training.tracking import Tracker
from rlhf_jax.types import Array, Aux, LossFn, Model, Objective, Params, SequenceBatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig(PackedConfig):
    """A reward model: the SFT trunk, a scalar head at the last token, Bradley-Terry with soft labels."""

    out: str = "runs/reward"
    objective: str = "reward_model"
    """What is minimised: an objective on scores (`rlhf reward --help` lists ours; with `reward_model`,
    `--hyperparameters theta 1.5` makes ties a third outcome), or FILE.py:function for one of your own."""
    members: int = 1
    """Reward models in the ensemble, trained side by side in one program: each has a head of its own and sees the data
    in an order of its own. 1 is a single reward model; 3 to 5 are usual (Coste et al. 2023)."""
    init: str = "runs/sft"
    """Run folder of the SFT policy whose trunk and tokenizer it starts from, `RUN:preference` (or another policy stage)
    for that stage's; or a pretrained checkpoint, as in SFT. From `RUN:reward`, or a checkpoint that is a sequence
    classifier with one label, training goes on with the head that it has."""
    layers: int = 0
    """Blocks of the trunk that are used, from the first; 0: all. The middle blocks of a pretrained model
    often judge a text better than the last, and cost less."""
    data: DataConfig = DataConfig()
    """Comparisons: rows of `prompt`, `chosen`, `rejected`, or of rated responses."""
    group_size: int = 8
    """Rated responses of one prompt that are compared with each other: K forward passes give K(K-1)/2 comparisons.
    What is left of a prompt's responses makes a smaller group. Rows that are pairs already have K = 2."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-4, weight_decay=0.1)
    """For large models 1e-5 or less, and one epoch (Ouyang et al. 2022)."""
    center: float = 0.01
    """reward_model, plackett_luce: weight of the term that holds the mean reward near 0 (Eisenstein et al. 2023)."""
    margin: float = 0.0
    """reward_model: how much better the preferred response must score (Touvron et al. 2023); 0 is off."""
    epochs: int = 3
    """Passes over the training responses; each pass draws new groups."""
    pairs_per_response: int = 4
    """Held-out comparisons drawn for each rated held-out response."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_named(self, "init", "a run folder or a checkpoint")
        check_positive(self, "pairs_per_response", "members")
        check_at_least(self, 0, "center", "margin")
        if self.layers < 0:
            raise ValueError(f"layers must be 0 (all) or positive, found {self.layers}")
        if self.group_size < 2:
            raise ValueError(f"group_size must be at least 2, found {self.group_size}")
        warn_outside("epochs", self.epochs, 1, 5, "1 for large models, Ouyang et al. 2022; a few for small ones")
        warn_outside("members", self.members, 1, 10, "Coste et al. 2023 use 3 to 5")


def reward_model(
    config: RewardConfig | None = None,
    *,
    objective: Objective | None = None,
    optimizer: OwnOptimizer | None = None,
    tracker: Tracker | None = None,
    mesh: Mesh | None = None,
    task: Task | None = None,
) -> RunResult:
    """Train a reward model on comparisons, or return what the run folder already holds.

    A stage that was interrupted continues from its last checkpoint.

    Args:
        config: the quickstart's task by default.
        objective: any objective that reads ``outputs.scores``; what ``config.objective`` names by default.
        optimizer: any optax transformation, or a function that makes one (``stages.optimizers.make_own`` says of what);
            what ``config.optimizer`` describes by default.
        tracker: called with every row of metrics; what ``config.tracker`` names by default.
        mesh: devices; ``config.mesh`` over all of them by default.
        task: the data set, in place of what ``config.data.source`` names.

    Returns:
        ``RunResult`` with ``params["reward"]`` of the best held-out loss; where ``members`` is above 1, every leaf that
        is trained is [M, ...]. ``summary`` holds accuracy with its 95% interval, accuracy by domain, calibration,
        warnings and, for ``human_sentiment``, the baselines on the same pairs; in an ensemble these figures are for the
        mean of the members' scores.

    Raises:
        DataError: on a bad row.
        RunError: when a folder holds no SFT policy, or a run of another config.
        SkippedUpdates: when too many updates in a row were not finite.
        NothingTrained: when it came to its end without a result, all updates being skipped, say; it is written then.
        Interrupted: when a signal stopped it; the same call continues.
    """
    config = RewardConfig() if config is None else config
    check_kind(config, RewardConfig, "reward_model")
    given = Given(objective=objective, optimizer=optimizer, tracker=tracker)
    config = given.named_in(config)
    directory = open_run(config.out, config.init)
    task = None if task is None else remembering(task)
    run = functools.partial(_reward_model, config=config, given=given, mesh=mesh, task=task)
    return once("reward", directory, config, _made_of(config, given, task), run)


def _made_of(config: RewardConfig, given: Given, task: Task | None = None) -> Makers:
    return {
        "data": of_data(config.data, "opinions", task),
        "objective": of_objective(given.objective, config.objective),
        "init": lambda: of_model(config.init),
        **of_optimizers(given.optimizer, config),
    }


def _reward_model(
    directory: Path, *, config: RewardConfig, given: Given, mesh: Mesh | None, task: Task | None
) -> RunResult:
    """Train, as nothing of the stage is complete."""
    keep_compiled()
    watch = Attempt(directory, "reward", config, given.tracker)
    mesh = parallel.make_mesh(config.mesh) if mesh is None else mesh
    start = start_from(
        config.init, config.lora, mesh=mesh, seed=config.seed, layers=config.layers, remat=config.remat, scores=True
    )
    model_config, tokenizer = dataclasses.replace(start.config, scalar_head=True), start.tokenizer
    model = models.build(model_config)
    warn_of_rates("reward", config, start.params)
    check_length(model_config, config.data.max_length, "data.max_length")
    task = sources.find_task(config.data) if task is None else task
    data = opinions.comparisons(config.data, tokenizer, group_size=config.group_size, seed=config.seed, task=task)
    first = data.epoch(0)
    said = [field for field, there in (("votes", first[0].votes), ("rating", first[0].ratings)) if there is not None]
    fields = {**own_fields(config), **rating_scale(first, config.objective)}
    bound = choose_objective(given.objective, config.objective, config.hyperparameters, fields)
    filled, responses = (REWARD[0], tuple(said)), max(len(e.tokens) for e in first)
    try_objective(bound, config.objective, filled, responses=responses)
    check_own(bound, config, filled, responses=responses)
    try_optimizer(given.optimizer, config.optimizer, {"reward": start.params})
    made_of = collect({**_made_of(config, given, task), "tokenizer": lambda: of_tokenizer(tokenizer)})

    shape = config.packing(tokenizer.pad_id)
    loss_fn, params = make_loss_fn(bound, {"reward": model}), with_head(start.params, model_config, start.head)
    batches: Batches = PackedEpochs(data.epoch, epochs=config.epochs, **shape)
    members = config.members if config.members > 1 else 0
    if members:
        loss_fn, params = ensemble_loss(loss_fn), stacked_members(start.params, model_config, config, start.head)
        batches = side_by_side = MemberBatches(
            [_member_epochs(data, config, m) for m in range(members)], epochs=config.epochs, **shape
        )
        data = data._replace(warnings=(*data.warnings, *say_left_out(side_by_side)))
    rated = first[0].ratings is not None
    say_updates("reward", sum(len(group.tokens) if rated else 1 for group in first), batches, config)
    score = scorer(model, mesh, **shape)
    validation = data.heldout(config.pairs_per_response)

    def evaluate(params: Params) -> Mapping[str, Any]:
        each = score(params, validation.sequences)
        scores = each.mean(0)
        values = {"disagreement": float(each.std(0).mean())} if members else {}
        values |= {"reward_mean": float(scores.mean()), "reward_std": float(scores.std())}
        values |= pair_metrics(scores, validation)
        return {f"heldout_{name}": value for name, value in values.items()}

    fitted = train(
        stage="reward",
        config=config,
        loss_fn=loss_fn,
        params={"reward": params},
        optimizer=config.optimizer,
        batches=batches,
        evaluate=evaluate,
        mesh=mesh,
        fingerprint={**fingerprint(config, made_of), "init_sha256": start.sha256},
        begin=lambda: folder.start(directory, "reward", config, tokenizer, made_of),
        watch=watch,
        own_optimizer=given.optimizer,
        show=("loss", "accuracy", "heldout_accuracy"),
        members=members,
    )
    test = data.test(config.pairs_per_response)
    with watch.judging():
        each = score(fitted.best_params, test.sequences)
    summary = {
        **evaluation.reward_quality(
            each.mean(0), test.pairs, test.share, test.domains, [len(t) for t in test.sequences], golden=test.golden
        ),
        **outcome("reward", config, fitted),
    }
    if members:
        summary["member_accuracy"] = [pair_metrics(one, test).get("accuracy") for one in each]
        summary["disagreement"] = float(each.std(0).mean())
    summary["rows"] = data.rows()
    summary["warnings"] = [*data.warnings, *summary["warnings"]]
    if task.baselines is not None:
        beside = {"baselines": dict(task.baselines(test)), "agreement": agreement(test.ratings, test.domains)}
        folder.update_json(directory / "summary.json", beside)
    return watch.finish(
        params=fitted.best_params,
        model_config=model_config,
        tokenizer=tokenizer,
        metrics=fitted.history,
        summary=summary,
        base=start.base,
    )


def say_left_out(batches: MemberBatches) -> tuple[str, ...]:
    """Say how many groups the members' last batches hold that are not trained on, as one member has fewer batches."""
    if not batches.left_out:
        return ()
    text = (
        f"members are trained side by side, as many steps as the shortest has: {batches.left_out} of "
        f"{batches.examples} groups, from the end of the others' last epoch, are left out"
    )
    print(f"warning: {text}", file=sys.stderr)
    return (text,)


def ensemble_loss(loss_fn: LossFn) -> LossFn:
    """Turn a loss into an ensemble's, on stacked inputs [M, ...]; members have denominators of their own, [M]."""

    def summed(params: Params, batch: SequenceBatch, key: Array) -> tuple[Array, Aux]:
        count = batch.tokens.shape[0]
        axes = {role: models.member_axes(x) for role, x in params.items()}
        numerators, aux = jax.vmap(loss_fn, (axes, 0, 0))(params, batch, jax.random.split(key, count))
        return jnp.sum(numerators), Aux(aux.weight, jax.tree.map(jnp.sum, aux.metrics))

    return summed


def scorer(
    model: Model, mesh: Mesh, *, rows: int, row_length: int, pad_id: int
) -> Callable[[Params, Sequence[np.ndarray]], np.ndarray]:
    """Make a function ``(params, sequences) -> float32 [M, n]`` that scores token sequences with every member."""

    def scores(params: Params, batch: SequenceBatch) -> Array:
        return member_scores(model, params["reward"], batch)

    run_batch = jax.jit(parallel.traced_on(mesh, scores))

    def score(params: Params, sequences: Sequence[np.ndarray]) -> np.ndarray:
        examples = [Example((tokens,), (1,)) for tokens in sequences]
        batches = PackedEpochs(lambda _: examples, epochs=1, rows=rows, row_length=row_length, pad_id=pad_id)
        parts = [processes.fetch(run_batch(params, batches[i]))[:, : batches.count(i), 0] for i in range(len(batches))]
        return np.concatenate(parts, axis=1)

    return score


def rating_scale(examples: Sequence[Example], objective: str) -> dict[str, float]:
    """Compute mean and standard deviation of the training ratings for ``likert``; empty where it needs none."""
    ratings = [e.ratings for e in examples if e.ratings is not None]
    if not is_one_of(objective, "likert") or not ratings:
        return {}
    each = np.concatenate(ratings)
    return {"mean": float(each.mean()), "std": float(max(each.std(), 1e-6))}


def own_fields(config: RewardConfig) -> dict[str, float]:
    """The config's fields that the objective is given: with their defaults only if they were made for it.

    Another objective with a hyperparameter of the same name keeps its own default, unless somebody set the field.
    """
    fields = {
        "center": (config.center, RewardConfig.center, ("reward_model", "plackett_luce")),
        "margin": (config.margin, RewardConfig.margin, ("reward_model",)),
    }
    return {
        name: value
        for name, (value, default, objectives) in fields.items()
        if value != default or is_one_of(config.objective, *objectives)
    }


def with_head(
    policy: Params, model_config: models.ModelConfig, head: Params | None, key: Array | None = None
) -> Params:
    """Make the first weights: those of a reward model with its trained head, or a fresh head on a language model's."""
    params = models.with_scalar_head(policy, model_config, key)
    return params if head is None else {**params, "head": jax.tree.map(_own, head)}


def _own(x: Array) -> Array:
    return jnp.array(x, jnp.float32)  # a copy: what is trained is donated


def stacked_members(
    policy: Params, model_config: models.ModelConfig, config: RewardConfig, head: Params | None = None
) -> Params:
    """Make the members' first weights: one trunk, which is not stacked if frozen, and heads by keys of their own.

    Members that go on from one reward model share its head too, and come apart by the order in which they see the data.
    """
    keys = jax.random.split(jax.random.key(config.seed), config.members)
    parts = [models.split(with_head(policy, model_config, head, key)) for key in keys]
    return models.join(jax.tree.map(lambda *x: jnp.stack(x), *(own for own, _ in parts)), parts[0][1])


def _member_epochs(data: Comparisons, config: RewardConfig, member: int) -> Callable[[int], Sequence[Example]]:
    """Number a member's passes after those of the member before it, so that its groups and its order are its own."""
    return lambda number: data.epoch(number + member * config.epochs)

"""Preference optimisation: a policy straight from comparisons, without a reward model; any objective on pairs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rlhf_jax import models, parallel
from rlhf_jax.data import DataError, Example, chosen_first
from rlhf_jax.data.batches import PackedEpochs
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.order import evenly
from rlhf_jax.fields import check_at_least
from rlhf_jax.losses.checks import warn_outside
from rlhf_jax.models.forward import forward
from rlhf_jax.rewards import EnsembleConfig, TextReward
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs import folder
from rlhf_jax.runs.compilation_cache import keep_compiled
from rlhf_jax.runs.fingerprint import fingerprint
from rlhf_jax.runs.folder import RunResult
from rlhf_jax.runs.loading import check_length, place, start_from
from rlhf_jax.runs.made_of import collect, of_model, of_tokenizer
from rlhf_jax.runs.stage_path import check_start, policy_path
from rlhf_jax.runs.store import open_run
from rlhf_jax.stages import opinions, sources
from rlhf_jax.stages.attempt import Attempt
from rlhf_jax.stages.choose import PREFERENCE, check_own, choose_objective, try_objective, try_single
from rlhf_jax.stages.comparison import Judges, compare, heldout_metrics
from rlhf_jax.stages.config import (
    Offload,
    PackedConfig,
    check_kind,
    check_named,
    check_positive,
    check_reference,
    named_judges,
    parks_policy,
)
from rlhf_jax.stages.given import Given
from rlhf_jax.stages.implicit_reward import measured, sequence_logprobs
from rlhf_jax.stages.ingredients import Makers, of_data, of_judges, of_objective, of_optimizers, of_reward, once
from rlhf_jax.stages.judges import choose_judges, judge_names, judge_runs
from rlhf_jax.stages.model_sizes import warn_of_rates
from rlhf_jax.stages.names import beside
from rlhf_jax.stages.objective_loss import make_loss_fn
from rlhf_jax.stages.opinions import Comparisons, Labels
from rlhf_jax.stages.optimizers import OwnOptimizer, try_optimizer
from rlhf_jax.stages.reference import start_of_reference
from rlhf_jax.stages.reference_point import mismatched, reference_point
from rlhf_jax.stages.sampler import HELDOUT, TEST, Sampler
from rlhf_jax.stages.scoring import RolloutReward, load_reward
from rlhf_jax.stages.task import Task, remembering
from rlhf_jax.stages.titles import starting_policy
from rlhf_jax.stages.train import heldout, outcome, train
from rlhf_jax.stages.updates import say_updates
from rlhf_jax.stages.watcher import PolicyWatcher
from rlhf_jax.training import OptimizerConfig
from rlhf_jax.training.tracking import Tracker
from rlhf_jax.types import Array, Aux, LossFn, Model, Objective, Params, SequenceBatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceConfig(PackedConfig):
    """Preference optimisation from an SFT policy: DPO, IPO, KTO, ORPO, SimPO, ..."""

    out: str = "runs/preference"
    policy: str = "runs/sft"
    """Run folder of the SFT policy, or `RUN:ppo` (or another policy stage) for that stage's; a frozen copy of it is the
    reference."""
    reference: str = ""
    """Run folder of another reference, which has the policy's shape and tokenizer: to go on with a policy that was
    trained before, held to the one that it once started from."""
    objective: str = "dpo"
    """What is minimised: an objective on pairs (`rlhf preference --help` lists ours), or FILE.py:function for one of
    your own."""
    data: DataConfig = DataConfig()
    """Comparisons: rows of `prompt`, `chosen`, `rejected`, or of rated responses, which are drawn into pairs; for `kto`
    also single responses with a `label`."""
    min_share: float = 0.5
    """Pairs in which fewer than this share of people prefer the chosen response are left out of training and of the
    held-out loss; ties always are. The accuracy on test pairs counts all but ties."""
    epochs: int = 1
    """Passes over the training pairs; each draws new pairs of rated responses. Usually 1 to 3."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-4, weight_decay=0.0)
    """5e-7 for billions of parameters (Rafailov et al. 2023: 1e-6); a model of one million needs hundreds of times
    that."""
    pairs_per_response: int = 4
    """Held-out comparisons drawn for each rated held-out response."""
    eval_pairs: int = 512
    """Held-out pairs (or single responses) of an evaluation during training; the best checkpoint is chosen on them."""
    prompts: DataConfig = DataConfig(source="")
    """Prompts to judge the policy on, rows of `prompt`; those of `data` if its source is empty."""
    reward_model: str = ""
    """Run folder of a reward model that scores the samples beside the judges (`proxy`); none if empty."""
    sampling: SamplingConfig = SamplingConfig()
    max_prompt_length: int = 0
    """Longest prompt to judge on, in tokens; 0 takes the longest there is."""
    eval_prompts: int = 128
    """Held-out prompts that are sampled in an evaluation during training."""
    test_prompts: int = 512
    """Test prompts of the final comparison with the SFT policy."""
    offload: Offload = "none"
    """`frozen`: the reference and the reward model wait in the host's pinned memory. The reference is copied to the
    device in every step of an objective that reads it; the reward model only to evaluate. The trunk under adapters
    stays on the device."""
    judge: tuple[str, ...] = ()
    """What gives the samples scores that training never sees: `NAME=FILE.py:function` of (prompts, responses), or
    `NAME=RUN`, a run folder with a reward model; several with a `--judge` each. Without a name it is `gold`, the one
    that counts. If there are none, human_sentiment has judges of its own, and other data none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "judge", named_judges(self.judge))
        super().__post_init__()
        check_named(self, "policy", "a run folder or a checkpoint")
        check_reference(self)
        check_positive(self, "pairs_per_response", "eval_pairs", "eval_prompts", "test_prompts")
        check_at_least(self, 0, "max_prompt_length")
        if not 0.5 <= self.min_share <= 1:
            raise ValueError(f"min_share must lie between 0.5 and 1, found {self.min_share}")
        warn_outside("epochs", self.epochs, 1, 5, "Rafailov et al. 2023 and most since use 1 to 3")


def preference(
    config: PreferenceConfig | None = None,
    *,
    objective: Objective | None = None,
    judges: Mapping[str, TextReward] | None = None,
    optimizer: OwnOptimizer | None = None,
    tracker: Tracker | None = None,
    mesh: Mesh | None = None,
    task: Task | None = None,
) -> RunResult:
    """Train a policy on comparisons, or return what the run folder already holds.

    A stage that was interrupted continues from its last checkpoint.

    Args:
        config: DPO on the quickstart's task by default.
        objective: any objective of log-probabilities on pairs [B, 2], in which the chosen response is the first;
            where rows are single responses with a label it must take [B, 1], as ``kto`` does. By default it is what
            ``config.objective`` names. The batch holds ``votes``, ``label`` ([1, 0]), ``ref_logprobs`` and ``kl``
            (KTO's reference point); what the objective does not read is never computed.
        judges: callables ``(prompts, responses) -> numbers`` that measure the policy and never train it; those of
            ``stages.ppo`` by default.
        optimizer: any optax transformation, or a function that makes one (``stages.optimizers.make_own`` says of what);
            what ``config.optimizer`` describes by default.
        tracker: called with every row of metrics; what ``config.tracker`` names by default.
        mesh: devices; ``config.mesh`` over all of them by default.
        task: the data set, in place of what ``config.data.source`` names.

    Returns:
        ``RunResult`` with ``params["policy"]`` of the best held-out loss; ``summary`` has the accuracy of the implicit
        reward on test pairs (``label_auc`` where rows have a label each), and compares the policy with the SFT policy
        on test prompts.

    Raises:
        DataError: on a bad row, and when no pair has a majority.
        RunError: when a folder lacks the policy, the objective is unknown, the judge cannot be used, or the folder
            holds a run of another config.
        SkippedUpdates: when too many updates in a row were not finite.
        NothingTrained: when it came to its end without a result, all updates being skipped, say; it is written then.
        Interrupted: when a signal stopped it; the same call continues.

    Example:
        >>> from rlhf_jax import objectives
        >>> result = preference(objective=objectives.simpo)  # doctest: +SKIP
    """
    config = PreferenceConfig() if config is None else config
    check_kind(config, PreferenceConfig, "preference")
    given = Given(objective=objective, judges=judges, optimizer=optimizer, tracker=tracker)
    config = given.named_in(config)
    directory = open_run(config.out, config.policy, config.reference, config.reward_model, *judge_runs(config.judge))
    check_start(config.policy, directory, "preference")
    task = None if task is None else remembering(task)
    run = functools.partial(_preference, config=config, given=given, mesh=mesh, pairs_task=task)
    return once("preference", directory, config, _made_of(config, given, task), run)


def _made_of(
    config: PreferenceConfig, given: Given, task: Task | None = None, prompts_task: Task | None = None
) -> Makers:
    asked = config.prompts if config.prompts.source else config.data
    found = {
        "data": of_data(config.data, "opinions", task),
        "prompts": of_data(asked, "prompts", prompts_task),
        "objective": of_objective(given.objective, config.objective),
        "policy": lambda: of_model(config.policy),
        **of_judges(given.judges, config.judge, asked, prompts_task),
        **of_optimizers(given.optimizer, config),
    }
    if config.reference:
        found["reference"] = lambda: of_model(config.reference)
    return {**found, "reward_model": of_reward(None, "", config.reward_model)} if config.reward_model else found


def _preference(
    directory: Path, *, config: PreferenceConfig, given: Given, mesh: Mesh | None, pairs_task: Task | None
) -> RunResult:
    """Train, as nothing of the stage is complete."""
    keep_compiled()
    watch = Attempt(directory, "preference", config, given.tracker)
    bound = choose_objective(given.objective, config.objective, config.hyperparameters)
    try_objective(bound, config.objective, PREFERENCE, responses=2)
    check_own(bound, config, PREFERENCE, responses=2)
    mesh = parallel.make_mesh(config.mesh) if mesh is None else mesh
    start = start_from(config.policy, config.lora, mesh=mesh, seed=config.seed, remat=config.remat)
    model, tokenizer = models.build(start.config), start.tokenizer
    warn_of_rates("preference", config, start.params)
    try_optimizer(given.optimizer, config.optimizer, {"policy": start.params})
    check_length(start.config, config.data.max_length, "data.max_length")
    parked = parks_policy(config.offload, config.lora)
    start = start._replace(params=place(start.params, mesh, parked=parked))
    held = start_of_reference(config.reference, start, mesh=mesh, parked=parked)
    reference = {"policy": models.adapter_off(start.params) if held is None else held}
    task = pairs_task = sources.find_task(config.data) if pairs_task is None else pairs_task
    pairs = opinions.preferences(config.data, tokenizer, min_share=config.min_share, seed=config.seed, task=task)
    if isinstance(pairs, Labels):
        try_single(bound, config.objective, config.data.source)
    asked = config.prompts if config.prompts.source else config.data
    task = task if asked == config.data else sources.find_task(asked)
    prompt_rows, longest = sources.without(sources.prompts(asked, task), pairs.trained), config.max_prompt_length
    heldout_prompts, test_prompts = sources.prompts_to_sample(
        prompt_rows, ("validation", "test"), tokenizer, asked, task, max_prompt_length=longest
    )
    texts = [p.text for p in heldout_prompts]
    judges = choose_judges(given.judges, config.judge, task, prompts=texts, reward_model=config.reward_model)
    sampler = Sampler(
        model,
        tokenizer,
        config.sampling,
        reference=reference["policy"],
        mesh=mesh,
        seed=config.seed,
        prompt_columns=max(len(p.tokens) for p in (*heldout_prompts, *test_prompts)),
        parked=parked,
    )
    sampler.check((*heldout_prompts, *test_prompts))
    proxy = None
    if config.reward_model:
        proxy = RolloutReward(
            load_reward(config.reward_model, tokenizer), sampler, EnsembleConfig(), parked=config.offload == "frozen"
        )
    judged = Judges(sampler, proxy, judges)
    heldout_prompts = evenly(heldout_prompts, config.eval_prompts)
    test_prompts = evenly(test_prompts, config.test_prompts)
    shape = config.packing(tokenizer.pad_id)
    batches = PreferenceBatches(PackedEpochs(pairs.epoch, epochs=config.epochs, **shape), **shape)
    say_updates("preference", len(pairs.epoch(0)), batches, config)
    held = _heldout_examples(pairs, config)
    if not held:
        raise DataError(f"{config.data.source}: no held-out pair has a majority of min_share, {config.min_share}")
    held_batches = PreferenceBatches(PackedEpochs(lambda _: held, epochs=1, **shape), **shape)
    makers = _made_of(config, given, pairs_task, task)
    made_of = collect({**makers, "tokenizer": lambda: of_tokenizer(tokenizer)})

    loss_fn = with_reference(bound, model)
    compiled = jax.jit(parallel.traced_on(mesh, loss_fn))
    watcher = PolicyWatcher(directory, "preference", heldout_prompts, judges)

    def evaluate(params: Params) -> Mapping[str, Any]:
        values = heldout(lambda batch: compiled(params, (batch, reference), None), held_batches)
        measured = heldout_metrics(watcher.saw(judged(params["policy"], heldout_prompts, HELDOUT)))
        return beside(values, measured, "judges, and metrics of the objective on held-out pairs")

    fitted = train(
        stage="preference",
        config=config,
        loss_fn=loss_fn,
        params={"policy": start.params},
        optimizer=config.optimizer,
        batches=batches,
        evaluate=evaluate,
        mesh=mesh,
        fingerprint={**fingerprint(config, made_of), "policy_sha256": start.sha256},
        begin=lambda: folder.start(directory, "preference", config, tokenizer, made_of),
        watch=watch,
        own_optimizer=given.optimizer,
        show=("loss", "accuracy", "heldout_accuracy", "heldout_gold", "heldout_kl"),
        evaluate_first=True,
        frozen=reference,
        parked=parked,
        watcher=watcher,
    )
    policy = fitted.best_params["policy"]
    with watch.judging():
        before, after = (judged(p, test_prompts, TEST) for p in (sampler.reference, policy))
    summary, samples = compare(before, after, test_prompts, judged.names, domain=task.domain)
    test, quality = measured(pairs, config.pairs_per_response)
    with watch.judging():
        gained = [sequence_logprobs(model, p, test, mesh=mesh, **shape) for p in (policy, sampler.reference)]
    began = policy_path(config.reference or config.policy).stage or "pretrained"
    summary |= {
        "objective": config.objective,
        "started_from": began,
        "reward": config.reward_model,
        "judges": judge_names(judges, config.judge if given.judges is None else ()),
        "rows": pairs.rows(),
        "warnings": list(dict.fromkeys([*pairs.warnings, *prompt_rows.notes])),
        **watcher.compared(samples, fitted.best_step),
        **quality(gained[0] - gained[1]),
        **outcome("preference", config, fitted, f"the {starting_policy(began)}"),
    }
    return watch.finish(
        params=fitted.best_params,
        model_config=start.config,
        tokenizer=tokenizer,
        metrics=fitted.history,
        summary=summary,
        base=start.base,
    )


class PreferenceBatches:
    """Batches of pairs, each with its mismatched twin for KTO's reference point."""

    def __init__(self, batches: PackedEpochs, *, rows: int, row_length: int, pad_id: int):
        self._batches, self._shape = batches, {"rows": rows, "row_length": row_length, "pad_id": pad_id}

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> tuple[SequenceBatch, SequenceBatch]:
        batch = self._batches[step]
        return batch, mismatched(batch, **self._shape)


def with_reference(objective: Objective, model: Model) -> LossFn:
    """Lift an objective on pairs: the reference's log-probabilities and KTO's reference point come into the batch.

    Both are computed inside the compiled step, so that an objective which does not read one does not pay for it.

    Args:
        objective: hyperparameters bound.
        model: the policy's, and so the reference's.

    Returns:
        ``loss_fn(params, ((batch, mismatched), reference), key)``.
    """
    roles = {"policy": model}
    lifted = make_loss_fn(objective, roles)

    def loss_fn(params: Params, inputs: Any, key: Array) -> tuple[Array, Aux]:
        (batch, other), reference = inputs
        reference = parallel.bring(reference)
        known = forward(roles, reference, batch).logprobs
        point = reference_point(model, params, reference, other)
        filled = batch._replace(
            ref_logprobs=jax.lax.stop_gradient(known), kl=jnp.broadcast_to(point, batch.tokens.shape[:2])
        )
        return lifted(params, filled, key)

    return loss_fn


def _heldout_examples(pairs: Comparisons | Labels, config: PreferenceConfig) -> list[Example]:
    """Pick held-out examples, spread over all of them; the preferred response of a pair comes first, as in training."""
    if isinstance(pairs, Labels):
        return evenly(pairs.heldout, config.eval_pairs)
    held = pairs.heldout(config.pairs_per_response)
    examples = []
    for (i, j), votes in zip(held.pairs.tolist(), held.votes, strict=True):
        pair = Example((held.sequences[i], held.sequences[j]), (held.starts[i], held.starts[j]), votes)
        ordered = chosen_first(pair, config.min_share)
        if ordered is not None:
            examples.append(ordered)
    return evenly(examples, config.eval_pairs)

"""The loop that PPO and the group methods share: collect, prepare, update, evaluate, and the judgement at the end."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from rlhf_jax import data, evaluation, models, processes, training
from rlhf_jax.checkpoint import tree_sha256
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.data.order import evenly
from rlhf_jax.rewards import TextReward
from rlhf_jax.rollout.responses import response_tokens
from rlhf_jax.runs import folder
from rlhf_jax.runs.compilation_cache import keep_compiled
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.fingerprint import checkpoints, fingerprint
from rlhf_jax.runs.folder import RunResult
from rlhf_jax.runs.loading import place, start_from
from rlhf_jax.runs.made_of import collect, of_model, of_tokenizer
from rlhf_jax.runs.stage_path import check_start, policy_path
from rlhf_jax.runs.store import open_run
from rlhf_jax.stages import ending, sources
from rlhf_jax.stages.attempt import Attempt
from rlhf_jax.stages.comparison import Judges, compare, heldout_metrics
from rlhf_jax.stages.eval_tasks import Tasks, before_and_after, logged, read_tasks
from rlhf_jax.stages.given import Given
from rlhf_jax.stages.ingredients import (
    Makers,
    of_data,
    of_judges,
    of_objective,
    of_optimizers,
    of_reward,
    of_tasks,
    of_text,
    once,
)
from rlhf_jax.stages.judges import choose_judges, choose_reward, judge_names, judge_runs, reward_name, try_reward
from rlhf_jax.stages.model_sizes import warn_of_rates, warn_of_small_reward
from rlhf_jax.stages.online.beside import age_metrics, online_meshes
from rlhf_jax.stages.online.config import OnlineConfig
from rlhf_jax.stages.online.gap import Gate
from rlhf_jax.stages.online.guard import KLGuard
from rlhf_jax.stages.online.sample_ahead import SampleAhead
from rlhf_jax.stages.online.trainer import OnlineState, OnlineTrainer
from rlhf_jax.stages.reference import start_of_reference
from rlhf_jax.stages.sampler import HELDOUT, TEST
from rlhf_jax.stages.scoring import LoadedModel, load_reward
from rlhf_jax.stages.task import Task
from rlhf_jax.stages.titles import starting_policy
from rlhf_jax.stages.train import stopped
from rlhf_jax.stages.watcher import PolicyWatcher


def train_online(
    stage: str,
    config: OnlineConfig,
    given: Given,
    mesh: Mesh | None,
) -> RunResult:
    """Run a stage that trains on the policy's own samples; ``stages.ppo`` explains what is given."""
    config = given.named_in(config)
    directory = open_run(config.out, config.policy, config.reference, config.reward_model, *judge_runs(config.judge))
    check_start(config.policy, directory, stage)
    run = functools.partial(_train, stage=stage, config=config, given=given, mesh=mesh)
    return once(stage, directory, config, _made_of(config, given), run)


def _made_of(config: OnlineConfig, given: Given, task: Task | None = None) -> Makers:
    found = {
        "data": of_data(config.data, "prompts", task),
        "objective": of_objective(given.objective, config.objective),
        "policy": lambda: of_model(config.policy),
        "reward": of_reward(given.reward, config.reward, config.reward_model),
        **of_judges(given.judges, config.judge, config.data, task),
        **of_tasks(config.eval_tasks),
        **of_optimizers(given.optimizer, config),
    }
    if config.reference:
        found["reference"] = lambda: of_model(config.reference)
    return {**found, "ptx": of_text(config.ptx.data)} if config.ptx.coef else found


def _train(directory: Path, *, stage: str, config: OnlineConfig, given: Given, mesh: Mesh | None) -> RunResult:
    """Train, as nothing of the stage is complete."""
    keep_compiled()
    watch = Attempt(directory, stage, config, given.tracker)
    mesh, _ = online_meshes(config, mesh)
    start = start_from(config.policy, config.lora, mesh=mesh, seed=config.seed, remat=config.remat)
    tokenizer = start.tokenizer
    scored_by: LoadedModel | TextReward
    if given.reward is None and not config.reward:
        if not config.reward_model:
            raise RunError(f"{stage}: no reward was passed, and reward_model is empty: pass one, or name a run folder")
        scored_by = load_reward(config.reward_model, tokenizer, mesh)
    else:
        scored_by = choose_reward(given.reward, config.reward)
    if config.offload == "frozen":  # nobody else may hold them on the device
        start = start._replace(params=place(start.params, mesh, parked=not config.lora.rank))
        if isinstance(scored_by, LoadedModel):
            scored_by = LoadedModel(scored_by.config, place(scored_by.params, mesh, parked=True))
    reference = start_of_reference(config.reference, start, mesh=mesh, parked=config.offload == "frozen")
    warn_of_rates(stage, config, start.params)
    if isinstance(scored_by, LoadedModel):
        warn_of_small_reward(scored_by.params, start.params)
    task = sources.find_task(config.data)
    rows = sources.prompts(config.data, task)
    asked, longest = ("train", "validation", "test"), config.max_prompt_length
    train_prompts, found_heldout, found_test = sources.prompts_to_sample(
        rows, asked, tokenizer, config.data, task, max_prompt_length=longest
    )
    proxy = config.reward_model if isinstance(scored_by, LoadedModel) else ""
    texts = [p.text for p in found_heldout]
    judges = choose_judges(given.judges, config.judge, task, prompts=texts, reward_model=proxy)
    if given.reward is None and not isinstance(scored_by, LoadedModel):
        try_reward(scored_by, f"reward {config.reward}", texts)
    every = (*train_prompts, *found_heldout, *found_test)
    trainer = OnlineTrainer(
        config,
        policy=LoadedModel(start.config, start.params),
        reference=reference,
        tokenizer=tokenizer,
        reward=scored_by,
        objective=given.objective,
        optimizer=given.optimizer,
        prompt_columns=max(len(p.tokens) for p in every),
        mesh=mesh,
        phases=watch.phases,
    )
    trainer.sampler.check(every)
    heldout, test = evenly(found_heldout, config.eval_prompts), evenly(found_test, config.test_prompts)
    judged = Judges(trainer.sampler, trainer.reward, judges)
    tasks = Tasks(read_tasks(config.eval_tasks), models.build(start.config), tokenizer, mesh)
    gate = Gate(
        stage,
        config.max_logprob_gap,
        compute_dtype=start.config.compute_dtype,
        platform=mesh.devices.flat[0].platform,
        int8=config.sampling.int8 != "none",
    )
    ahead = None
    if config.staleness:
        ahead = SampleAhead(trainer, functools.partial(batch_of_prompts, train_prompts, config))
    guard = KLGuard(stage, config, watch.host)
    watcher = PolicyWatcher(directory, stage, heldout, judges, config.max_kl, config.iterations // 2, guard.check)

    seen: dict[str, Any] = {}  # what the last update was made from

    def update(state: OnlineState, i: int) -> tuple[OnlineState, dict[str, Any]]:
        if guard.pulls(i):
            state = trainer.pull_back(state)
        chosen = batch_of_prompts(train_prompts, config, i)
        sampled, gap = (trainer.collect(state, chosen, i), {}) if ahead is None else ahead.collect(state, i)
        batch, info = trainer.prepare(state, sampled, chosen)
        info = {**info, **gap, **age_metrics(config, i)}
        gate.check(i + 1, info, functools.partial(trainer.rounding, state, sampled))
        seen.update(batch=batch, rollout=sampled, prompts=[prompt.text for prompt in chosen])
        state, metrics = (trainer if ahead is None else ahead).update(state, batch, i)
        # From here on the device is at the update while the host looks at the responses.
        described = evaluation.describe_responses(
            response_tokens(sampled), processes.fetch(sampled.finished).reshape(-1)
        )
        watch.lap()
        return state, {**described, **info, **metrics}

    scored_sha256 = tree_sha256(models.split(scored_by.params)[0] if isinstance(scored_by, LoadedModel) else {})
    makers = {**_made_of(config, given, task), "tokenizer": lambda: of_tokenizer(tokenizer)}
    made_of = collect(makers)
    starts = {"policy": start.sha256, "reward": scored_sha256}
    known = {**fingerprint(config, made_of), "starts_sha256": starts}
    folder.start(directory, stage, config, tokenizer, made_of)
    with watch.writer() as writer, watch.watched():

        def evaluate(state: OnlineState) -> dict[str, float]:
            policy = trainer.with_trunk(state.train.params)["policy"]
            values = heldout_metrics(watcher.saw(judged(policy, heldout, HELDOUT)))
            eligible = values["heldout_kl"] <= config.max_kl
            values |= logged(tasks(policy))
            return {**values, "selection": values["heldout_proxy"] if eligible else float("-inf")}

        fitted = training.fit(
            stage=stage,
            state=(trainer if ahead is None else ahead).init(),
            total=config.iterations,
            update=update,
            writer=writer,
            checkpoints=checkpoints(directory, stage, config, known),
            checkpoint_every=config.checkpoint_every,
            evaluate=evaluate,
            eval_every=config.eval_every,
            evaluate_first=True,
            best="selection",
            mode="max",
            patience=config.patience,
            max_skipped_in_row=config.max_skipped,
            train_state=lambda state: state.train,
            host=watch.host,
            watcher=watcher,
            show=("proxy_mean", "kl", "length", "heldout_proxy", "heldout_gold"),
            phases=watch.phases,
            goodput=watch.goodput,
            dump=lambda last: watch.dump(last, seen),
        )
    best = trainer.with_trunk(fitted.best_params)
    with watch.judging():
        before, after = (judged(p, test, TEST) for p in (trainer.sampler.reference, best["policy"]))
        tasks_before, tasks_after = (tasks(p) for p in (trainer.sampler.reference, best["policy"]))
    summary, samples = compare(before, after, test, judged.names, domain=task.domain)
    began = policy_path(config.reference or config.policy).stage or "pretrained"
    summary |= {
        "objective": config.objective,
        "started_from": began,
        "reward": config.reward_model if isinstance(scored_by, LoadedModel) else reward_name(scored_by),
        "judges": judge_names(judges, config.judge if given.judges is None else ()),
        "rows": reached(
            sources.counted(rows.left_out, rows[:3], (train_prompts, found_heldout, found_test)),
            ending.last_step(fitted) * config.prompts,
        ),
        "warnings": list(rows.notes),
        "steps": ending.last_step(fitted),
        **stopped(fitted),
        **ending.counts(fitted.state.train),
        **ending.kept_by_reward(stage, fitted, max_kl=config.max_kl, start=f"the {starting_policy(began)}"),
        **watcher.compared(samples, fitted.best_step),
        **({"tasks": before_and_after(tasks_before, tasks_after)} if config.eval_tasks else {}),
        "curve": [
            {"step": row["step"], **{k.removeprefix(f"{stage}/heldout_"): v for k, v in row.items() if "heldout_" in k}}
            for row in fitted.history
            if f"{stage}/heldout_kl" in row
        ],
    }
    if why := ending.failure(summary, fitted.history, f"{stage}/heldout_kl"):
        summary["failed"] = why
    return watch.finish(
        params=best,
        model_config=start.config,
        tokenizer=tokenizer,
        metrics=fitted.history,
        summary=summary,
        base=start.base,
    )


def reached(rows: dict[str, int], drawn: int) -> dict[str, int]:
    """Count as trained on only the prompts that an iteration has drawn; the others, if any, are ``not_reached``.

    Example:
        >>> reached({"trained": 20, "left_out": 0}, 8)
        {'trained': 8, 'left_out': 0, 'not_reached': 12}
    """
    missing = rows["trained"] - drawn
    return {**rows, "trained": drawn, "not_reached": missing} if missing > 0 else rows


def batch_of_prompts(prompts: Sequence[EncodedPrompt], config: OnlineConfig, iteration: int) -> list[EncodedPrompt]:
    """Take the prompts of an iteration from shuffled epochs; they depend on seed and iteration alone."""
    positions = np.arange(iteration * config.prompts, (iteration + 1) * config.prompts)
    epochs = {e: data.epoch_order(len(prompts), config.seed, e) for e in np.unique(positions // len(prompts)).tolist()}
    return [prompts[epochs[p // len(prompts)][p % len(prompts)]] for p in positions.tolist()]

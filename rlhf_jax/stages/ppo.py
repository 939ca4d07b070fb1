"""Stage 3: KL-penalised PPO; the loop around collect, prepare and update, and the judgement at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from rlhf_jax import data, evaluation, parallel, rewards, training
from rlhf_jax.checkpoint import Checkpoints, tree_sha256
from rlhf_jax.data import Tokenizer, write_jsonl
from rlhf_jax.rewards import TextReward
from rlhf_jax.stages import run, sources
from rlhf_jax.stages.judges import human_sentiment_judges
from rlhf_jax.stages.ppo_config import PPOConfig
from rlhf_jax.stages.ppo_iteration import PPOState, PPOTrainer, Prompt, Trunk, response_tokens
from rlhf_jax.stages.run import RunResult
from rlhf_jax.stages.train import Stopwatch
from rlhf_jax.training import MetricsWriter
from rlhf_jax.types import Objective, Params

# Held-out prompts are sampled at a step of their own, always the same, so that evaluations differ by the policy only.
_EVALUATION, _TEST = 2**30, 2**30 + 1


class SamplerMismatch(RuntimeError):
    """The sampler and the trainer disagree about the log-probability of a token: the policy is not the one that
    sampled, and every ratio would be wrong."""


def ppo(
    config: PPOConfig | None = None,
    *,
    reward: TextReward | None = None,
    judges: Mapping[str, TextReward] | None = None,
    objective: Objective | None = None,
    mesh: Mesh | None = None,
) -> RunResult:
    """Train a policy against a reward; continues or returns what the run folder already holds.

    Args:
        config: the quickstart's task by default.
        reward: any callable ``(prompts, responses) -> numbers``; the model of ``config.reward_model`` by default.
        judges: callables like a reward that measure and never train; ``gold`` is the one that counts. For
            human_sentiment a ridge regression on the validation split's ratings, and VADER, by default.
        objective: ``objectives.ppo`` with the config's hyperparameters by default.
        mesh: devices; ``config.mesh`` over all of them by default.

    Returns:
        ``RunResult`` with ``params["policy"]`` and ``params["critic"]`` of the best held-out proxy reward whose KL is
        below ``config.max_kl``; ``summary`` compares it with the SFT policy on test prompts.

    Raises:
        DataError: on a bad row.
        RunError: when a folder lacks the policy or the reward model, or holds a run of another config.
        SamplerMismatch: when sampler and trainer disagree.
        SkippedUpdates: when too many updates in a row were not finite.
        Interrupted: when a signal stopped it; the same call continues.

    Example:
        >>> result = ppo(reward=lambda prompts, responses: [r.count("!") for r in responses])  # doctest: +SKIP
    """
    config = PPOConfig() if config is None else config
    directory = Path(config.out)
    if run.finished(directory, "ppo", config):
        return run.load_result(directory, "ppo", config)
    watch = Stopwatch()
    policy_params, policy_config, tokenizer = run.load_stage(config.policy, "sft")
    if reward is None:
        reward_params, reward_config, scored_with = run.load_stage(config.reward_model, "reward")
        if scored_with.to_json() != tokenizer.to_json():
            raise run.RunError(
                f"the reward model of {config.reward_model} and the policy of {config.policy} have different "
                "tokenizers: train the reward model from this policy (rlhf reward --init)"
            )
        scored_by: Trunk | TextReward = Trunk(reward_config, reward_params["reward"])
    else:
        scored_by = reward
    if judges is None:
        judges = human_sentiment_judges() if config.data.source == sources.HUMAN_SENTIMENT else {}
    train_prompts, heldout, test = (_prompts(config, tokenizer, split) for split in ("train", "validation", "test"))
    run.start(directory, "ppo", config, tokenizer)
    trainer = PPOTrainer(
        config,
        policy=Trunk(policy_config, policy_params["policy"]),
        tokenizer=tokenizer,
        reward=scored_by,
        objective=objective,
        prompt_columns=max(len(p.tokens) for p in (*train_prompts, *heldout, *test)),
        mesh=parallel.make_mesh(config.mesh) if mesh is None else mesh,
    )
    heldout, test = _evenly(heldout, config.eval_prompts), _evenly(test, config.test_prompts)

    def update(state: PPOState, i: int) -> tuple[PPOState, dict[str, Any]]:
        chosen = batch_of_prompts(train_prompts, config, i)
        sampled = trainer.collect(state, chosen, i)
        batch, info = trainer.prepare(state, sampled, chosen)
        state, metrics = trainer.update(state, batch, i)
        # From here on the device is at the update while the host looks at the responses.
        described = evaluation.describe_responses(response_tokens(sampled), np.asarray(sampled.finished).reshape(-1))
        gap = float(info["logprob_gap"][0])
        if not gap <= config.max_logprob_gap:
            raise SamplerMismatch(
                f"ppo: at iteration {i + 1} the sampler's and the trainer's log-probability of a token differ by "
                f"{gap:.3g} nats (max_logprob_gap is {config.max_logprob_gap}): the policy that is trained is not the "
                "one that sampled"
            )
        watch.lap()
        return state, {**described, **info, **metrics}

    starts = {"policy": policy_params, "reward": scored_by.params if isinstance(scored_by, Trunk) else {}}
    fingerprint = {**run.fingerprint(config), "starts_sha256": {k: tree_sha256(v) for k, v in starts.items()}}
    with MetricsWriter(directory, "ppo") as writer:
        alarms = _Alarms(writer)

        def evaluate(state: PPOState) -> dict[str, float]:
            seen = judge(trainer, state.train.params["policy"], heldout, judges, _EVALUATION)
            values = {f"heldout_{name}": float(np.mean(x)) for name, x in seen.items() if x.dtype != object}
            eligible = values["heldout_kl"] <= config.max_kl
            alarms.report()
            return {**values, "selection": values["heldout_proxy"] if eligible else float("-inf")}

        fitted = training.fit(
            stage="ppo",
            state=trainer.init(),
            total=config.iterations,
            update=update,
            writer=writer,
            checkpoints=Checkpoints(
                directory / "checkpoints" / "ppo", fingerprint=fingerprint, keep=config.keep_checkpoints
            ),
            checkpoint_every=config.checkpoint_every,
            evaluate=evaluate,
            eval_every=config.eval_every,
            evaluate_first=True,
            best="selection",
            mode="max",
            max_skipped_in_row=config.max_skipped,
            train_state=lambda state: state.train,
            host=watch.host,
            show=("proxy_mean", "kl", "length", "heldout_proxy", "heldout_gold"),
        )
        found = alarms.report()
    summary, samples = compare(trainer, fitted.best_params["policy"], test, judges)
    write_jsonl(directory / "samples.jsonl", samples)
    summary |= {
        "best_step": fitted.best_step,
        "steps": config.iterations,
        "alarms": [alarm._asdict() for alarm in found],
        "curve": [
            {"step": row["step"], **{k.removeprefix("ppo/heldout_"): v for k, v in row.items() if "heldout_" in k}}
            for row in fitted.history
            if "ppo/heldout_kl" in row
        ],
        "skipped_updates": int(fitted.state.train.skipped),
    }
    return run.finish(
        directory,
        "ppo",
        config,
        params=fitted.best_params,
        model_config=policy_config,
        tokenizer=tokenizer,
        metrics=fitted.history,
        summary=summary,
        seconds=watch.lap(),
    )


def batch_of_prompts(prompts: Sequence[Prompt], config: PPOConfig, iteration: int) -> list[Prompt]:
    """The prompts of an iteration: a walk through shuffled epochs, a function of the iteration alone."""
    positions = np.arange(iteration * config.prompts, (iteration + 1) * config.prompts)
    epochs = {e: data.epoch_order(len(prompts), config.seed, e) for e in np.unique(positions // len(prompts)).tolist()}
    return [prompts[epochs[p // len(prompts)][p % len(prompts)]] for p in positions.tolist()]


def judge(
    trainer: PPOTrainer, policy: Params, prompts: Sequence[Prompt], judges: Mapping[str, TextReward], step: int
) -> dict[str, np.ndarray]:
    """Sample one response to each prompt and measure it: proxy, KL, every judge, length, EOS; texts and tokens too."""
    sampled = trainer.sample(policy, prompts, step)
    texts = trainer.texts(sampled)
    asked = [p.text for p in prompts]
    tokens = np.empty(len(prompts), object)
    tokens[:] = response_tokens(sampled)
    return {
        **trainer.measure(policy, sampled, prompts),
        **{name: rewards.score_texts(score, asked, texts) for name, score in judges.items()},
        "length": np.array([len(t) for t in tokens], np.float32),
        "eos": np.asarray(sampled.finished, np.float32).reshape(-1),
        "text": np.array(texts, object),
        "tokens": tokens,
    }


def compare(
    trainer: PPOTrainer, policy: Params, prompts: Sequence[Prompt], judges: Mapping[str, TextReward]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The trained policy beside the reference on test prompts: figures for the summary, and rows of samples.

    Both sample with the same keys, so that a policy that has not changed wins exactly half.
    """
    before, after = (judge(trainer, p, prompts, judges, _TEST) for p in (trainer.reference, policy))
    described = [evaluation.describe_responses(list(x["tokens"]), x["eos"] > 0) for x in (before, after)]
    summary: dict[str, Any] = {
        "kl": float(after["kl"].mean()),
        "kl_ci": list(evaluation.bootstrap_mean(after["kl"], seed=0)),
        "test_prompts": len(prompts),
        **{f"{name}_before": described[0][name] for name in ("distinct_2", "length", "eos_rate", "unique_tokens")},
        **{name: described[1][name] for name in ("distinct_1", "distinct_2", "length", "eos_rate", "unique_tokens")},
    }
    for name in ("proxy", *judges):
        rate, interval = evaluation.win_rate(after[name], before[name])
        summary |= {
            f"{name}_before": float(before[name].mean()),
            f"{name}_after": float(after[name].mean()),
            f"{name}_win_rate": rate,
            f"{name}_win_rate_ci": list(interval),
        }
    rows = [
        {
            "prompt": prompt.text,
            "domain": sources.domain_of(prompt.text),
            "before": before["text"][i],
            "after": after["text"][i],
            **{
                f"{n}_{when}": float(x[n][i])
                for n in ("proxy", *judges)
                for when, x in (("before", before), ("after", after))
            },
        }
        for i, prompt in enumerate(prompts)
    ]
    return summary, rows


class _Alarms:
    """Says each alarm once, when it is first raised."""

    def __init__(self, writer: MetricsWriter):
        self._writer, self._said = writer, set[str]()

    def report(self) -> list[evaluation.Alarm]:
        found = evaluation.alarms(self._writer.rows())
        for alarm in found:
            if alarm.name not in self._said:
                print(f"ppo: warning: {alarm.message}", file=sys.stderr)
                self._said.add(alarm.name)
        return found


def _prompts(config: PPOConfig, tokenizer: Tokenizer, split: str) -> list[Prompt]:
    rows = sources.prompts(config.data, split)
    ours = config.data.source == sources.HUMAN_SENTIMENT
    encoded, kept, bad = data.encode_prompts(
        rows,
        tokenizer,
        length=config.max_prompt_length or config.data.max_length,
        on_bad_row="skip" if ours else config.data.on_bad_row,
    )
    if not ours:
        sources.list_bad(bad)
    if not encoded:
        raise data.DataError(f"{config.data.source}: none of {len(rows)} prompts is usable")
    return [Prompt(rows[i].prompt, tokens, i) for i, tokens in zip(kept, encoded, strict=True)]


def _evenly(prompts: list[Prompt], count: int) -> list[Prompt]:
    """``count`` prompts spread over the list, the same ones every time; all of them where there are fewer."""
    if len(prompts) <= count:
        return prompts
    return [prompts[i] for i in np.linspace(0, len(prompts) - 1, count).astype(int)]

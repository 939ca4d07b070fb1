"""Best-of-n, the baseline of every training method: nothing is trained, n responses are drawn, the reward keeps one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from rlhf_jax import losses, models, parallel
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.order import evenly
from rlhf_jax.rewards import EnsembleConfig, TextReward
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.arguments import checked_count
from rlhf_jax.runs.compilation_cache import keep_compiled
from rlhf_jax.runs.policy import Policy
from rlhf_jax.runs.stage_path import policy_path
from rlhf_jax.stages import sources
from rlhf_jax.stages.comparison import Judges, compare
from rlhf_jax.stages.judges import choose_judges, choose_reward, judge_names, reward_name
from rlhf_jax.stages.sampler import TEST, Sampler
from rlhf_jax.stages.scoring import LoadedModel, RolloutReward, load_reward


def best_of_n(
    policy: str,
    reward_model: str,
    *,
    n: int = 16,
    ensemble: EnsembleConfig | None = None,
    reward: TextReward | str | None = None,
    data: DataConfig | None = None,
    sampling: SamplingConfig | None = None,
    test_prompts: int = 512,
    max_prompt_length: int = 0,
    judges: Mapping[str, TextReward] | None = None,
    judge: str = "",
    seed: int = 0,
    mesh: Mesh | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compare the best of n samples of a policy with one sample of it, on test prompts.

    Args:
        policy: run folder of the SFT policy, ``RUN:STAGE`` for another stage's, or a pretrained checkpoint.
        reward_model: run folder of the reward model, or of an ensemble; it is not read when ``reward`` is given.
        n: responses to each prompt; usually 4 to 64.
        ensemble: how the members of an ensemble are combined; their mean by default.
        reward: any callable ``(prompts, responses) -> numbers`` that chooses in place of ``reward_model``, or what
            ``PPOConfig.reward`` may name, as ``judge:SPEC``. A judge that compares is asked about every two of the n,
            one that scores about each.
        data: where prompts come from; human_sentiment by default.
        sampling: how to draw.
        test_prompts: how many prompts of the test part are answered.
        max_prompt_length: longest prompt, in tokens; 0 takes the longest there is.
        judges: callables like a reward that measure the responses; those of ``stages.ppo`` by default.
        judge: FILE.py:function, or a run folder with a reward model, that gives the ``gold`` score where ``judges`` are
            not given.
        seed: the same seed draws the same responses.
        mesh: devices; all of them by default.

    Returns:
        The summary and the rows of samples, as stages that train a policy write them. ``kl`` is
        ``log n - (n - 1) / n``, the KL of the policy that choosing makes to the policy that sampled.

    Raises:
        RunError: when a folder lacks what is needed.
        ValueError: when n is below 1.

    Example:
        >>> summary, samples = best_of_n("runs/mine", "runs/mine", n=16)  # doctest: +SKIP
    """
    n = checked_count(n, "n")
    keep_compiled()
    data = data or DataConfig()
    at = policy_path(policy)
    from_policy = Policy.load(at.path, at.stage or None)
    tokenizer = from_policy.tokenizer
    task = sources.find_task(data)
    asked = sources.prompts(data, task)
    (found,) = sources.prompts_to_sample(asked, ("test",), tokenizer, data, task, max_prompt_length=max_prompt_length)
    prompts = evenly(found, test_prompts)
    proxy = "" if reward is not None else reward_model
    judges = choose_judges(judges, judge, task, prompts=[p.text for p in prompts], reward_model=proxy)
    sampler = Sampler(
        models.build(from_policy.config),
        tokenizer,
        sampling or SamplingConfig(),
        reference=from_policy.params,
        mesh=parallel.make_mesh(parallel.MeshConfig()) if mesh is None else mesh,
        seed=seed,
        prompt_columns=max(len(p.tokens) for p in prompts),
    )
    sampler.check(prompts)
    named = reward if isinstance(reward, str) else ""
    passed = None if isinstance(reward, str) else reward
    scored_by = load_reward(reward_model, tokenizer) if reward is None else choose_reward(passed, named)
    judged = Judges(sampler, RolloutReward(scored_by, sampler, ensemble), judges)
    before, after = (judged.best_of(sampler.reference, prompts, TEST, count) for count in (1, n))
    summary, rows = compare(before, after, prompts, judged.names, domain=task.domain)
    # The kept response has the likelihood it always had under the policy; the KL is that of choosing it.
    kl = float(losses.best_of_n_kl(n))
    about = {
        "reward": reward_model if isinstance(scored_by, LoadedModel) else reward_name(scored_by),
        "judges": judge_names(judges, judge),
        "started_from": at.stage or "pretrained",
    }
    return {**summary, **about, "n": n, "kl": kl, "kl_ci": [kl, kl]}, rows

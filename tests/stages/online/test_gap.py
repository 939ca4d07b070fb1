"""The gate between sampler and trainer: rounding passes, planted faults do not, in float32 and in bfloat16."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from rlhf_jax import models, rollout
from rlhf_jax.rollout.responses import as_batch
from rlhf_jax.runs.folder import fingerprint
from rlhf_jax.stages import EncodedPrompt, LoadedModel, OnlineTrainer, PPOConfig, SamplerMismatch, forward
from rlhf_jax.stages.online.gap import check_gap, gap_metrics, largest_gap

TYPES = ("float32", "bfloat16")
PADDED = 3  # columns of padding that a sampler with a wrong mask sees


def test_mean_percentile_and_maximum_by_hand():
    """250 tokens count: 1 in 100 may be above the percentile, so it is the third largest."""
    rng = np.random.default_rng(0)
    mask = np.zeros((2, 3, 80), bool)
    mask.reshape(-1)[rng.permutation(480)[:250]] = True
    sampled = -rng.exponential(size=mask.shape).astype(np.float32)
    trained = sampled + rng.normal(size=mask.shape).astype(np.float32)
    gap = np.sort(np.abs(trained - sampled)[mask])
    sampled[~mask] = np.nan  # whatever lies behind the mask
    found = {name: float(value / weight) for name, (value, weight) in gap_metrics(trained, sampled, mask).items()}
    assert found.keys() == {"logprob_gap", "logprob_gap_p99", "logprob_gap_max"}
    assert found["logprob_gap"] == pytest.approx(gap.mean(), rel=1e-5)
    assert found["logprob_gap_p99"] == pytest.approx(gap[-3])
    assert found["logprob_gap_max"] == pytest.approx(gap[-1])
    assert found["logprob_gap_p99"] == pytest.approx(np.quantile(gap, 0.99, method="inverted_cdf"))


def test_nothing_sampled_has_no_gap_and_a_gap_that_is_no_number_does_not_pass():
    ones = jnp.ones((1, 1, 4))
    assert [float(x) for x, _ in gap_metrics(ones, 0 * ones, ones < 0).values()] == [0.0, 0.0, 0.0]
    broken = gap_metrics(ones.at[0, 0, 2].set(jnp.nan), ones, ones > 0)
    with pytest.raises(SamplerMismatch, match="nan nats a token"):
        check_gap("ppo", 1, broken, limit=10.0, compute_dtype="float32", platform="cpu")


def test_the_default_is_by_the_precision_of_products():
    assert largest_gap(0.0, "float32", "cpu") == 1e-3
    assert largest_gap(0.0, "bfloat16", "cpu") == largest_gap(0.0, "float32", "gpu") == 0.06
    with jax.default_matmul_precision("highest"):
        assert largest_gap(0.0, "float32", "tpu") == 1e-3
        assert largest_gap(0.0, "bfloat16", "tpu") == 0.06
    assert largest_gap(0.5, "float32", "cpu") == 0.5  # a number is taken as it is
    assert PPOConfig().max_logprob_gap == 0.0
    with pytest.raises(ValueError, match=r"max_logprob_gap must be 0 \(its default\) or positive, found -1"):
        PPOConfig(max_logprob_gap=-1.0)


def test_the_error_says_what_was_found_what_is_allowed_and_where_to_look():
    gap = gap_metrics(jnp.full((1, 1, 2), 0.25), jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 2), bool))
    said = (
        r"group: at iteration 7 .* 0\.25 nats a token apart in the mean \(99th percentile 0\.25, maximum 0\.25\), and "
        r"max_logprob_gap is 0\.06, the default for bfloat16 on a gpu\. .*mask.*positions.*temperature.*another step"
    )
    with pytest.raises(SamplerMismatch, match=said):
        check_gap("group", 7, gap, limit=0.0, compute_dtype="bfloat16", platform="gpu")
    with pytest.raises(SamplerMismatch, match=r"max_logprob_gap is 0\.2\. The policy"):
        check_gap("group", 7, gap, limit=0.2, compute_dtype="bfloat16", platform="gpu")
    check_gap("group", 7, gap, limit=0.3, compute_dtype="bfloat16", platform="gpu")


def test_a_run_that_was_stopped_may_go_on_with_another_limit():
    """It has no say in the result, so it is no other run."""
    assert fingerprint(PPOConfig()) == fingerprint(PPOConfig(max_logprob_gap=0.1))
    assert fingerprint(PPOConfig()) != fingerprint(PPOConfig(critic="head"))


# ---- planted faults -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=TYPES)
def setting(request, tables, sft_run, one_device):
    """A policy to which the context matters, as it does to a trained one, and prompts of unequal length."""
    sizes = {"d_model": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "d_ff": 128}
    config = models.ModelConfig(vocab_size=sft_run.tokenizer.vocab_size, compute_dtype=request.param, **sizes)
    params = jax.jit(models.build(config).init)(jax.random.key(0))
    params = {**params, "blocks": jax.tree.map(lambda x: x * 4.0, params["blocks"])}
    params["embedding"] = params["embedding"] * 6.0
    trainer = OnlineTrainer(
        tiny_task.ppo_config(tables, "unused", policy="unused", critic="head"),
        policy=LoadedModel(config, params),
        tokenizer=sft_run.tokenizer,
        reward=tiny_task.count_a,
        mesh=one_device,
    )
    texts = [row["prompt"] for row in tiny_task.tables()["prompts"]][:16]
    prompts = [EncodedPrompt(t, sft_run.tokenizer.encode_prompt(t)[: 3 + i % 3], i) for i, t in enumerate(texts)]
    return trainer, prompts, config


def gap_of(setting, sampled, params=None, **wrong):
    """The gap of responses as the trainer measures it; ``wrong`` replaces functions of its model."""
    trainer = setting[0]
    model = trainer.models["policy"]._replace(**wrong)
    params = trainer.init().train.params["policy"] if params is None else params

    @jax.jit
    def gap(params, sampled):
        batch = as_batch(sampled)
        out = forward({"policy": model}, {"policy": params}, batch, temperature=trainer.config.sampling.temperature)
        return gap_metrics(out.logprobs, sampled.logprobs, sampled.mask)

    return jax.device_get(gap(params, sampled))


def is_caught(setting, info):
    trainer, _, config = setting
    with pytest.raises(SamplerMismatch, match=f"the default for {config.compute_dtype} on a cpu"):
        check_gap(
            "ppo", 1, info, limit=trainer.config.max_logprob_gap, compute_dtype=config.compute_dtype, platform="cpu"
        )


def test_rounding_passes(setting):
    trainer, prompts, config = setting
    info = gap_of(setting, trainer.collect(trainer.init(), prompts, 0))
    check_gap("ppo", 1, info, limit=0.0, compute_dtype=config.compute_dtype, platform="cpu")
    mean, p99, largest = (float(info[f"logprob_gap{name}"][0]) for name in ("", "_p99", "_max"))
    assert 0 < mean < p99 <= largest
    # There is room: a hundredth of the limit in float32, half of it in bfloat16.
    assert mean < {"float32": 1e-5, "bfloat16": 0.03}[config.compute_dtype]


@pytest.mark.parametrize("seen", [1, PADDED], ids=["one token too many", "padding of the prompt"])
def test_a_mask_that_lets_the_sampler_see_padding_is_caught(setting, seen):
    trainer, prompts, _ = setting
    pad = np.full(seen, trainer.sampler.tokenizer.pad_id, np.int32)
    sampled = trainer.collect(trainer.init(), [p._replace(tokens=np.concatenate([pad, p.tokens])) for p in prompts], 0)
    # What the trainer is told: those columns are padding, and positions begin after them.
    segments = np.asarray(sampled.segment_ids)
    segments = np.where(np.cumsum(segments, axis=-1) > seen, segments, 0)
    positions = np.maximum(np.cumsum(segments, axis=-1) - 1, 0)
    told = sampled._replace(segment_ids=jnp.asarray(segments), positions=jnp.asarray(positions))
    is_caught(setting, gap_of(setting, told))


def test_a_position_that_is_off_by_one_is_caught(setting):
    """From the response on, the trainer counts one position too far: distances to the prompt are wrong."""
    trainer, prompts, _ = setting
    apply = trainer.models["policy"].apply

    def shifted(params, tokens, positions, segment_ids):
        return apply(params, tokens, positions + (positions >= 5), segment_ids)

    is_caught(setting, gap_of(setting, trainer.collect(trainer.init(), prompts, 0), apply=shifted))


@pytest.mark.parametrize("cold", ["sampler", "trainer"])
def test_another_temperature_is_caught(setting, cold):
    """0.9 on one side and 1 on the other."""
    trainer, prompts, _ = setting
    if cold == "trainer":
        stats = trainer.models["policy"].token_stats

        def colder(params, hidden, targets, *, temperature, **rest):
            return stats(params, hidden, targets, temperature=0.9 * temperature, **rest)

        is_caught(setting, gap_of(setting, trainer.collect(trainer.init(), prompts, 0), token_stats=colder))
        return
    right, tokenizer = trainer.sampler.engine, trainer.sampler.tokenizer
    sampling = dataclasses.replace(trainer.config.sampling, temperature=0.9)
    ids = {"pad_id": tokenizer.pad_id, "eos_id": tokenizer.eos_id}
    trainer.sampler.engine = rollout.Engine(trainer.models["policy"], sampling, **ids)
    try:
        sampled = trainer.collect(trainer.init(), prompts, 0)
    finally:
        trainer.sampler.engine = right
    is_caught(setting, gap_of(setting, sampled))


def test_a_policy_that_is_one_iteration_old_is_caught(setting):
    """The sampler was not given the parameters of the last update."""
    trainer, prompts, _ = setting
    state = trainer.init()
    sampled = trainer.collect(state, prompts, 0)
    batch, _ = trainer.prepare(state, sampled, prompts)
    after, _ = trainer.update(state, batch, 0)
    is_caught(setting, gap_of(setting, trainer.collect(trainer.init(), prompts, 1), after.train.params["policy"]))

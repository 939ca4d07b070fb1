"""The gate between sampler and trainer: rounding passes, planted faults do not, in float32 and in bfloat16."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from rlhf_jax import models, rollout, stages
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.rollout.responses import as_batch
from rlhf_jax.runs.fingerprint import fingerprint
from rlhf_jax.stages import EncodedPrompt, LoadedModel, OnlineTrainer, PPOConfig, SamplerMismatch, forward
from rlhf_jax.stages.online.gap import Gate, gap_metrics, is_exact

TYPES = ("float32", "bfloat16", "int8")  # the last: what the sampler holds, computed with in float32
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
        Gate("ppo", 10.0, compute_dtype="float32", platform="cpu").check(1, broken, never)


def never():
    raise AssertionError("rounding is not asked for")


def of_size(gap):
    return gap_metrics(jnp.full((1, 1, 2), gap), jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 2), bool))


def test_the_default_is_by_the_precision_of_products():
    assert is_exact("float32", "cpu")
    assert not is_exact("bfloat16", "cpu")
    assert not is_exact("float32", "gpu")
    with jax.default_matmul_precision("highest"):
        assert is_exact("float32", "tpu")
        assert not is_exact("bfloat16", "tpu")
    assert PPOConfig().max_logprob_gap == 0.0
    with pytest.raises(ValueError, match=r"max_logprob_gap must be 0 \(its default\) or positive, found -1"):
        PPOConfig(max_logprob_gap=-1.0)


def test_exact_products_have_a_fixed_limit_and_others_twice_their_rounding():
    exact = Gate("ppo", 0.0, compute_dtype="float32", platform="cpu")
    exact.check(1, of_size(0.0009), never)
    with pytest.raises(SamplerMismatch, match=r"max_logprob_gap is 0\.001, the default for exact float32"):
        exact.check(2, of_size(0.0011), never)
    asked = []

    def measure():
        asked.append(1)
        return (0.01, 0.02)[len(asked) - 1]

    rounded = Gate("ppo", 0.0, compute_dtype="bfloat16", platform="gpu")
    rounded.check(1, of_size(0.015), measure)
    rounded.check(2, of_size(0.019), never)  # the first measurement goes on
    rounded.check(3, of_size(0.03), measure)  # until it does not explain the gap: the policy rounds otherwise now
    rounded.check(4, of_size(0.039), never)
    assert len(asked) == 2
    with pytest.raises(SamplerMismatch, match=r"max_logprob_gap is 0\.04, 2 times the 0\.02 that the trainer alone is"):
        rounded.check(5, of_size(0.05), lambda: 0.02)


def test_the_error_says_what_was_found_what_is_allowed_and_where_to_look():
    gap = of_size(0.25)
    said = (
        r"group: at iteration 7 .* 0\.25 nats a token apart in the mean \(99th percentile 0\.25, maximum 0\.25\), and "
        r"max_logprob_gap is 0\.2\. .*mask.*positions.*temperature.*another step.*--max-logprob-gap"
    )
    with pytest.raises(SamplerMismatch, match=said):
        Gate("group", 0.2, compute_dtype="bfloat16", platform="gpu").check(7, gap, never)
    Gate("group", 0.3, compute_dtype="float32", platform="cpu").check(7, gap, never)  # a number is taken as it is


def test_a_run_that_was_stopped_may_go_on_with_another_limit():
    """It has no say in the result, so it is no other run."""
    assert fingerprint(PPOConfig()) == fingerprint(PPOConfig(max_logprob_gap=0.1))
    assert fingerprint(PPOConfig()) != fingerprint(PPOConfig(critic="head"))


# ---- planted faults -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=TYPES)
def setting(request, tables, sft_run, one_device):
    """A policy to which the context matters, as it does to a trained one, and prompts of unequal length."""
    sizes = {"d_model": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "d_ff": 128}
    compute, int8 = ("float32", "weights_and_cache") if request.param == "int8" else (request.param, "none")
    config = models.ModelConfig(vocab_size=sft_run.tokenizer.vocab_size, compute_dtype=compute, **sizes)
    params = jax.jit(models.build(config).init)(jax.random.key(0))
    params = {**params, "blocks": jax.tree.map(lambda x: x * 4.0, params["blocks"])}
    params["embedding"] = params["embedding"] * 6.0
    trainer = OnlineTrainer(
        tiny_task.ppo_config(
            tables,
            "unused",
            policy="unused",
            critic="head",
            sampling=SamplingConfig(max_new_tokens=8, window=4, int8=int8),
        ),
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


def check(setting, info, sampled):
    """What ``stages.ppo`` does with the gap of an iteration, by default."""
    trainer, _, config = setting
    gate = Gate(
        "ppo",
        trainer.config.max_logprob_gap,
        compute_dtype=config.compute_dtype,
        platform="cpu",
        int8=in_int8(setting),
    )
    gate.check(1, info, lambda: trainer.rounding(trainer.init(), sampled))


def in_int8(setting):
    return setting[0].config.sampling.int8 != "none"


def is_caught(setting, info, sampled):
    said = {"float32": "the default for exact float32", "bfloat16": "2 times the .* that the trainer alone is from"}
    expected = "2 times the .* that a sampler in 8 bits is from" if in_int8(setting) else said[setting[2].compute_dtype]
    with pytest.raises(SamplerMismatch, match=expected):
        check(setting, info, sampled)


def test_rounding_passes(setting):
    trainer, prompts, config = setting
    sampled = trainer.collect(trainer.init(), prompts, 0)
    info = gap_of(setting, sampled)
    check(setting, info, sampled)
    mean, p99, largest = (float(info[f"logprob_gap{name}"][0]) for name in ("", "_p99", "_max"))
    assert 0 < mean < p99 <= largest
    # There is room: a hundredth of the limit in float32, half of it in bfloat16, a third of it in 8 bits.
    rounds = trainer.rounding(trainer.init(), sampled)
    exact = config.compute_dtype == "float32" and not in_int8(setting)
    assert mean < (1e-5 if exact else 1.3 * rounds if in_int8(setting) else rounds)
    assert (rounds == 0.0) if exact else (0.001 < rounds < 0.05)


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
    is_caught(setting, gap_of(setting, told), told)


def test_a_position_that_is_off_by_one_is_caught(setting):
    """From the response on, the trainer counts one position too far: distances to the prompt are wrong."""
    trainer, prompts, _ = setting
    apply = trainer.models["policy"].apply

    def shifted(params, tokens, positions, segment_ids):
        return apply(params, tokens, positions + (positions >= 5), segment_ids)

    sampled = trainer.collect(trainer.init(), prompts, 0)
    is_caught(setting, gap_of(setting, sampled, apply=shifted), sampled)


@pytest.mark.parametrize("cold", ["sampler", "trainer"])
def test_another_temperature_is_caught(setting, cold):
    """0.9 on one side and 1 on the other."""
    trainer, prompts, _ = setting
    if cold == "trainer":
        stats = trainer.models["policy"].token_stats

        def colder(params, hidden, targets, *, temperature, **rest):
            return stats(params, hidden, targets, temperature=0.9 * temperature, **rest)

        sampled = trainer.collect(trainer.init(), prompts, 0)
        is_caught(setting, gap_of(setting, sampled, token_stats=colder), sampled)
        return
    right, tokenizer = trainer.sampler.engine, trainer.sampler.tokenizer
    sampling = dataclasses.replace(trainer.config.sampling, temperature=0.9)
    ids = {"pad_id": tokenizer.pad_id, "eos_id": tokenizer.eos_id}
    trainer.sampler.engine = rollout.Engine(trainer.models["policy"], sampling, **ids)
    try:
        sampled = trainer.collect(trainer.init(), prompts, 0)
    finally:
        trainer.sampler.engine = right
    is_caught(setting, gap_of(setting, sampled), sampled)


def test_a_policy_that_is_one_iteration_old_is_caught(setting):
    """The sampler was not given the parameters of the last update."""
    trainer, prompts, _ = setting
    state = trainer.init()
    sampled = trainer.collect(state, prompts, 0)
    batch, _ = trainer.prepare(state, sampled, prompts)
    after, _ = trainer.update(state, batch, 0)
    stale = trainer.collect(trainer.init(), prompts, 1)
    is_caught(setting, gap_of(setting, stale, after.train.params["policy"]), stale)


def test_ppo_in_bfloat16_passes_the_gate_that_it_measures(tables, tmp_path, one_device, monkeypatch):
    model = dataclasses.replace(tiny_task.MODEL, compute_dtype="bfloat16")
    stages.sft(tiny_task.sft_config(tables, tmp_path, model=model, epochs=1), mesh=one_device)
    measured, rounding = [], OnlineTrainer.rounding

    def measure(self, state, sampled):
        measured.append(rounding(self, state, sampled))
        return measured[-1]

    monkeypatch.setattr(OnlineTrainer, "rounding", measure)
    config = tiny_task.ppo_config(tables, tmp_path, policy=tmp_path, critic="head", iterations=2)
    result = stages.ppo(config, reward=tiny_task.count_a, mesh=one_device)
    gaps = [row["ppo/logprob_gap"] for row in result.metrics if row["step"] > 0]
    assert all(0 < gap <= max(1e-3, 2 * measured[-1] if measured else 0.0) for gap in gaps)

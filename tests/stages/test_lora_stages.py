"""Stages that train adapters: what they leave on disk, what they hold in memory, and what stands still."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_task

from rlhf_jax import checkpoint, models, parallel, stages, training
from rlhf_jax.models import LoRAConfig
from rlhf_jax.runs import loading
from rlhf_jax.runs.export import export
from rlhf_jax.stages import EncodedPrompt, LoadedModel, OnlineTrainer, Policy, RunError, Scorer, forward

LORA = LoRAConfig(rank=2, alpha=16.0)
FAST = training.OptimizerConfig(learning_rate=1e-2, weight_decay=0.0)
ADAPTERS = {
    f"blocks/{part}/{name}/{half}"
    for part, names in {"attention": ("query", "key", "value", "out"), "mlp": ("gate", "up", "down")}.items()
    for name in names
    for half in ("lora_a", "lora_b")
}


@pytest.fixture(scope="module")
def base(sft_run, tmp_path_factory):
    """A tiny Llama that knows a little, as Hugging Face has it."""
    folder = tmp_path_factory.mktemp("pretrained") / "llama"
    models.save_pretrained(folder, sft_run.model_config, sft_run.params["policy"], tokenizer=sft_run.tokenizer)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder of the SFT and reward runs; read it, never write to it."""
    return tmp_path_factory.mktemp("lora") / "run"


@pytest.fixture(scope="module")
def adapted_state(tables, place, base, one_device):
    """SFT with adapters on the checkpoint, and the state it ended with."""
    states = []
    whole = training.fit

    def fit(**arguments):
        result = whole(**arguments)
        states.append(result.state)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "fit", fit)
        return short_sft(tables, place, base, one_device), states[0]


def short_sft(tables, out, base, mesh, **changes):
    settings = {"init": str(base), "lora": LORA, "optimizer": FAST, "epochs": 6, "patience": 0}
    return stages.sft(tiny_task.sft_config(tables, out, **{**settings, **changes}), mesh=mesh)


@pytest.fixture(scope="module")
def adapted(adapted_state):
    return adapted_state[0]


def short_reward(tables, out, init, mesh, **changes):
    settings = {"lora": LORA, "table": "ratings", "patience": 0, **changes}
    return stages.reward_model(tiny_task.reward_config(tables, out, init=init, **settings), mesh=mesh)


@pytest.fixture(scope="module")
def adapted_reward(tables, place, adapted, one_device):
    return short_reward(tables, place, place, one_device)


@pytest.fixture(scope="module")
def trainer(tables, place, adapted, adapted_reward, one_device):
    """PPO as ``stages.ppo`` sets it up: everything comes from the run folder."""
    return make_trainer(tables, place, one_device)


def make_trainer(tables, place, mesh, lora=LORA):
    config = tiny_task.ppo_config(tables, "unused", policy=place, reward=place, lora=lora, samples=2)
    start = loading.start_from(str(place), lora, mesh=mesh, seed=0)
    params, reward_config, _ = loading.load_stage(place, "reward", mesh)
    return OnlineTrainer(
        config,
        policy=LoadedModel(start.config, start.params),
        reward=LoadedModel(reward_config, params["reward"]),
        tokenizer=start.tokenizer,
        mesh=mesh,
    )


def some_prompts(trainer, count=16):
    texts = [row["prompt"] for row in tiny_task.tables()["prompts"]][:count]
    tokenizer = trainer.sampler.tokenizer
    return [EncodedPrompt(text, tokenizer.encode_prompt(text), i) for i, text in enumerate(texts)]


def paths(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }


def stored(place, stage):
    """What a stage left on disk, by role, and its metadata."""
    return checkpoint.load_params(Path(place) / "params" / stage)


def pointers(tree):
    """Where the arrays of a model on one device lie."""
    return {
        jax.tree_util.keystr(path): x.unsafe_buffer_pointer() for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def trunk(params):
    return models.split(params)[1]


def run_ppo(tables, place, out, mesh, **changes):
    config = tiny_task.ppo_config(tables, out, policy=place, reward=place, lora=LORA, **changes)
    return stages.ppo(config, mesh=mesh, judges={"gold": tiny_task.count_a})


# ---- what is trained, and what is kept ------------------------------------------------------------------------------


def test_sft_trains_the_adapters_alone_and_learns(adapted_state, base):
    run, state = adapted_state
    assert paths(state.params["policy"]) == ADAPTERS
    size = sum(x.size for x in jax.tree.leaves(state.params))
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert sum(x.size for x in moments) == 2 * size  # Adam's two, of the adapters
    assert run.summary["trained_parameters"] == size < 0.5 * run.summary["parameters"]
    config, before = models.load_pretrained(base)
    assert trunk(run.params["policy"]).keys() == before.keys()
    jax.tree.map(np.testing.assert_array_equal, trunk(run.params["policy"]), before)
    losses = [row["sft/heldout_loss"] for row in run.metrics if "sft/heldout_loss" in row]
    assert losses[-1] < losses[0] - 0.01
    assert run.model_config == dataclasses.replace(config, lora=LORA)


def test_a_stage_leaves_its_adapters_and_its_head_on_disk_and_nothing_else(place, adapted, adapted_reward):
    params, metadata = stored(place, "sft")
    assert paths(params) == {f"policy/{path}" for path in ADAPTERS}
    assert metadata["base"]["stage"] == ""
    params, metadata = stored(place, "reward")
    assert paths(params) == {f"reward/{path}" for path in {*ADAPTERS, "head/kernel"}}
    assert (metadata["base"]["path"], metadata["base"]["stage"]) == (".", "sft")
    assert np.abs(params["reward"]["head"]["kernel"]).max() > 0


def test_a_reward_model_stands_on_the_sft_policy_with_its_adapters_folded_in(adapted, adapted_reward):
    merged = models.merge(adapted.model_config, adapted.params["policy"])[1]
    jax.tree.map(np.testing.assert_array_equal, trunk(adapted_reward.params["reward"]), merged)
    assert adapted_reward.summary["accuracy"] > 0.6


def test_what_was_saved_loads_as_it_was(tables, place, adapted, adapted_reward, idle, one_device):
    """``load_stage``, ``Policy``, ``Scorer`` and the same call again."""
    for stage, run in (("sft", adapted), ("reward", adapted_reward)):
        params, config, tokenizer = loading.load_stage(place, stage)
        assert config == run.model_config
        assert tokenizer.to_json() == run.tokenizer.to_json()
        jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(run.params))
    again = short_reward(tables, place, place, one_device)
    jax.tree.map(np.testing.assert_array_equal, again.params, jax.device_get(adapted_reward.params))

    policy, scorer = Policy.load(place), Scorer.load(place)
    assert policy.stage == "sft"
    rows = list(policy.sample(["The cat and", "The dog or"], n=2))
    assert len(rows) == 4
    assert all(np.isfinite(row["logprob"]) for row in rows)
    merged_config, merged, _ = loading.load_merged(place, "reward")
    assert not merged_config.lora.rank
    folded = Scorer(merged_config, {"reward": merged}, scorer.tokenizer)
    prompts, responses = ["The cat and"] * 2, ["sat far", "fell low"]
    np.testing.assert_allclose(scorer(prompts, responses), folded(prompts, responses), atol=1e-5)


def test_a_merged_policy_goes_out_as_a_plain_checkpoint(place, adapted, tmp_path):
    config, params, tokenizer = loading.load_merged(place, "sft")
    models.save_pretrained(tmp_path / "out", config, params, tokenizer=tokenizer)
    again_config, again = models.load_pretrained(tmp_path / "out")
    assert again_config == config
    tokens, mask = np.arange(8)[None] + 3, np.ones((1, 8), bool)
    one = models.logits(adapted.model_config, adapted.params["policy"], tokens, mask)
    np.testing.assert_allclose(models.logits(again_config, again, tokens, mask), one, atol=1e-5)


def test_an_adapter_on_an_adapter_goes_out_as_one_for_the_checkpoint(place, adapted_reward, base, tmp_path):
    """The SFT policy's is folded into what the reward model stands on; PEFT's file holds both, and can be replaced."""
    for _ in range(2):
        folder = export(place, tmp_path / "adapter", stage="reward", adapter=True)
    said = json.loads((folder / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"], said["base_model_name_or_path"]) == (4, 4, str(base))
    assert (folder / "tokenizer.json").exists()
    config, params = models.load_peft(folder, *models.load_pretrained(base))
    scorer, prompts, responses = Scorer.load(place), ["The cat and"] * 2, ["sat far", "fell low"]
    again = Scorer(config, {"reward": params}, scorer.tokenizer)
    want = scorer(prompts, responses)
    assert np.ptp(want) > 1e-2
    np.testing.assert_allclose(again(prompts, responses), want, atol=1e-5)


def test_an_adapter_on_a_stage_that_trained_all_weights_has_no_checkpoint(place, adapted_reward, tmp_path, monkeypatch):
    noted = loading.base_of(place, "reward")
    monkeypatch.setattr("rlhf_jax.runs.export.base_of", lambda _, stage: noted if stage == "reward" else None)
    with pytest.raises(RunError, match=r"stands on the sft stage of .* which trained all weights: export the whole"):
        export(place, tmp_path / "adapter", stage="reward", adapter=True)


# ---- one trunk for four models --------------------------------------------------------------------------------------


def test_policy_reference_critic_and_reward_model_hold_one_trunk(trainer):
    whole = trainer.with_trunk(trainer.init().train.params)
    policy = pointers(trunk(whole["policy"]))
    assert len(policy) == 11  # 7 matrices, 2 norms, the embedding and the last norm
    assert pointers(trunk(whole["critic"])) == policy
    assert pointers(trunk(trainer.sampler.reference)) == policy
    assert pointers(trunk(trainer.reward.params)) == policy
    # What is trained is nobody else's, because it is donated.
    trained = list(pointers(trainer.init().train.params).values())
    others = pointers(models.split(trainer.sampler.reference)[0]) | pointers(models.split(trainer.reward.params)[0])
    assert not set(trained) & set(others.values())
    assert len(set(trained)) == len(trained)


def test_the_reference_is_the_sft_policy_and_the_first_kl_is_zero(trainer, adapted):
    state, prompts = trainer.init(), some_prompts(trainer)
    rollout = trainer.collect(state, prompts, 0)
    batch, info = trainer.prepare(state, rollout, prompts)
    np.testing.assert_array_equal(batch.old_logprobs, batch.ref_logprobs)
    assert float(info["kl"][0]) == 0.0
    assert float(info["logprob_gap"][0]) < 1e-4
    # Here its adapters are folded in, there they stand beside.
    there = forward({"policy": models.build(adapted.model_config)}, {"policy": adapted.params["policy"]}, batch)
    np.testing.assert_allclose(batch.ref_logprobs[batch.mask], there.logprobs[batch.mask], atol=1e-4)
    out = forward(trainer.models, trainer.with_trunk(state.train.params), batch)
    ratio = np.exp(out.logprobs - batch.old_logprobs)[batch.mask]
    np.testing.assert_allclose(ratio, 1.0, atol=1e-5)
    # The critic starts where the reward model is: its adapters, and a head of zeros.
    own = models.split(trainer.with_trunk(state.train.params)["critic"])[0]
    assert np.abs(own["blocks"]["mlp"]["up"]["lora_b"]).max() > 0
    np.testing.assert_array_equal(batch.old_values, 0.0)


def test_updates_move_adapters_and_leave_trunk_and_reference(trainer):
    state, prompts = trainer.init(), some_prompts(trainer)
    before = jax.device_get((trainer.with_trunk(state.train.params), trainer.sampler.reference))
    for step in range(2):
        rollout = trainer.collect(state, prompts, step)
        batch, info = trainer.prepare(state, rollout, prompts)
        state, metrics = trainer.update(state, batch, step)
    assert abs(float(info["kl"][0])) > 1e-4  # of the second iteration
    assert float(metrics["grad_norm"][0]) > 0
    after = jax.device_get((trainer.with_trunk(state.train.params), trainer.sampler.reference))
    for role in ("policy", "critic"):
        jax.tree.map(np.testing.assert_array_equal, trunk(before[0][role]), trunk(after[0][role]))
        own = [models.split(x[0][role])[0] for x in (before, after)]
        moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), *own)
        assert all(amount > 0 for amount in jax.tree.leaves(moved)), role
    jax.tree.map(np.testing.assert_array_equal, before[1], after[1])


def test_an_eight_bit_trunk_is_shared_and_learns(tables, place, adapted, tmp_path, one_device):
    """The reward model has to stand on the same eight bits to share them."""
    eight = dataclasses.replace(LORA, int8_trunk=True)
    reward = short_reward(tables, tmp_path / "reward", place, one_device, lora=eight)
    assert reward.model_config.int8
    kernel = reward.params["reward"]["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.dtype == np.int8
    assert paths(stored(tmp_path / "reward", "reward")[0]) == {f"reward/{p}" for p in {*ADAPTERS, "head/kernel"}}
    losses = [row["reward/loss"] for row in reward.metrics if "reward/loss" in row]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])

    config = tiny_task.ppo_config(
        tables, tmp_path / "ppo", policy=place, reward=tmp_path / "reward", lora=eight, iterations=2
    )
    result = stages.ppo(config, mesh=one_device, judges={"gold": tiny_task.count_a})
    assert trunk(result.params["policy"])["blocks"]["mlp"]["up"]["kernel"].dtype == np.int8
    assert next(row["ppo/kl"] for row in result.metrics if "ppo/kl" in row) == 0.0
    params = loading.load_stage(tmp_path / "ppo", "ppo")[0]
    jax.tree.map(np.testing.assert_array_equal, params["policy"], jax.device_get(result.params["policy"]))
    start = loading.start_from(str(place), eight, mesh=one_device, seed=0)
    _, reward_config, _ = loading.load_stage(tmp_path / "reward", "reward", one_device)
    assert reward_config.int8
    shared = loading.load_stage(tmp_path / "reward", "reward", one_device)[0]["reward"]
    assert pointers(trunk(start.params)) == pointers(trunk(shared))


# ---- every stage ----------------------------------------------------------------------------------------------------


def test_ppo_from_start_to_end(tables, place, adapted_reward, tmp_path, one_device):
    result = run_ppo(tables, place, tmp_path / "ppo", one_device)
    rows = [row for row in result.metrics if "ppo/kl" in row]
    assert rows[0]["ppo/kl"] == 0.0
    params, metadata = stored(tmp_path / "ppo", "ppo")
    assert paths(params) == {f"policy/{path}" for path in ADAPTERS} | {
        f"critic/{path}" for path in {*ADAPTERS, "head/kernel"}
    }
    assert (metadata["base"]["path"], metadata["base"]["stage"]) == (str(place.resolve()), "sft")
    policy = Policy.load(tmp_path / "ppo")
    assert policy.stage == "ppo"
    jax.tree.map(np.testing.assert_array_equal, policy.params, jax.device_get(result.params["policy"]))


def test_a_head_on_the_policy_is_trained_beside_its_adapters(tables, place, adapted_reward, tmp_path, one_device):
    result = run_ppo(tables, place, tmp_path, one_device, critic="head", iterations=2)
    params = stored(tmp_path, "ppo")[0]
    assert paths(params) == {f"policy/{path}" for path in ADAPTERS} | {"critic/head/kernel"}
    assert next(row["ppo/kl"] for row in result.metrics if "ppo/kl" in row) == 0.0
    # The best policy may be the one before any update; values moved all the same.
    assert [row["ppo/value_loss"] > 0 for row in result.metrics if row["step"] > 0] == [True, True]
    jax.tree.map(np.testing.assert_array_equal, params["critic"], jax.device_get(result.params["critic"]))
    before = models.merge(*loading.start_from(str(place), LORA, mesh=one_device, seed=0)[:2])[1]
    jax.tree.map(np.testing.assert_array_equal, trunk(result.params["policy"]), before)


def test_a_group_method_without_a_critic(tables, place, adapted_reward, tmp_path, one_device):
    config = tiny_task.group_config(tables, tmp_path, policy=place, reward=place, lora=LORA, iterations=2)
    result = stages.group(config, mesh=one_device, judges={})
    assert paths(stored(tmp_path, "group")[0]) == {f"policy/{path}" for path in ADAPTERS}
    assert next(row["group/kl"] for row in result.metrics if "group/kl" in row) == 0.0


def test_preference_optimisation_against_the_adapter_switched_off(tables, place, adapted, tmp_path, one_device):
    config = tiny_task.preference_config(tables, tmp_path, policy=place, lora=LORA, epochs=3, optimizer=FAST)
    result = stages.preference(config, judges={"gold": tiny_task.count_a}, mesh=one_device)
    assert paths(stored(tmp_path, "preference")[0]) == {f"policy/{path}" for path in ADAPTERS}
    rows = result.metrics
    assert rows[0]["preference/heldout_loss"] == pytest.approx(np.log(2), abs=1e-6)  # policy and reference are one
    assert rows[-1]["preference/heldout_loss"] < 0.66
    assert result.summary["accuracy"] > 0.6


def test_an_ensemble_has_a_trunk_once_and_adapters_and_heads_for_each(tables, place, adapted, tmp_path, one_device):
    result = short_reward(tables, tmp_path, place, one_device, members=2)
    params, _ = stored(tmp_path, "reward")
    assert params["reward"]["blocks"]["mlp"]["up"]["lora_a"].shape == (2, 2, 16, 2)
    assert params["reward"]["head"]["kernel"].shape == (2, 16, 1)
    whole = result.params["reward"]
    assert whole["blocks"]["mlp"]["up"]["kernel"].shape == (2, 16, 32)
    assert not np.array_equal(*params["reward"]["blocks"]["mlp"]["up"]["lora_b"])  # they saw the data in other orders
    scorer = Scorer.load(tmp_path)
    sequences = [scorer.tokenizer.encode_prompt(text) for text in ("The cat and", "The dog or")]
    each = scorer.score_members(sequences)
    for m in range(2):
        own, shared = models.split(whole)
        alone = models.join(jax.tree.map(lambda x: x[m], own), shared)  # noqa: B023
        single = Scorer(scorer.config, {"reward": alone}, scorer.tokenizer)
        np.testing.assert_allclose(each[m], single.score_members(sequences)[0], atol=1e-5)
    ppo = stages.ppo(
        tiny_task.ppo_config(tables, tmp_path / "ppo", policy=place, reward=tmp_path, lora=LORA, iterations=1),
        mesh=one_device,
        judges={},
    )
    assert ppo.params["critic"]["head"]["kernel"].shape == (16, 1)


def test_adapters_on_a_policy_trained_whole_and_the_other_way_round(tables, place, adapted, tmp_path, one_device):
    """A stage without adapters trains the merged model, and one with them stands on a stage without."""
    whole = short_reward(tables, tmp_path / "whole", place, one_device, lora=LoRAConfig(), epochs=1)
    assert not models.has_adapters(whole.params["reward"])
    assert "base" not in stored(tmp_path / "whole", "reward")[1]
    config = tiny_task.ppo_config(tables, tmp_path / "ppo", policy=place, reward=tmp_path / "whole", iterations=1)
    result = stages.ppo(dataclasses.replace(config, lora=LORA), mesh=one_device, judges={})
    assert models.has_adapters(result.params["critic"])
    assert not np.array_equal(
        trunk(result.params["critic"])["embedding"], trunk(result.params["policy"])["embedding"]
    )  # the critic stands on the reward model, which has weights of its own
    full = dataclasses.replace(config, out=str(tmp_path / "full"))
    assert not models.has_adapters(stages.ppo(full, mesh=one_device, judges={}).params["policy"])


# ---- what can go wrong ----------------------------------------------------------------------------------------------


def copied(tables, base, tmp_path, mesh):
    """A run of its own on a checkpoint of its own."""
    own = tmp_path / "checkpoint"
    shutil.copytree(base, own)
    short_sft(tables, tmp_path / "run", own, mesh, epochs=1, eval_every=99, checkpoint_every=99)
    return own, tmp_path / "run"


def test_a_checkpoint_that_changed_or_went_away_is_noticed(tables, base, tmp_path, one_device):
    own, run = copied(tables, base, tmp_path, one_device)
    weights = own / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RunError, match=r"the sft stage of .*run holds adapters for .*checkpoint, which has changed"):
        loading.load_stage(run, "sft")
    weights.unlink()
    with pytest.raises(RunError, match=r"holds adapters for .*checkpoint, which is gone or damaged .*no weights"):
        loading.load_stage(run, "sft")
    shutil.rmtree(own)
    with pytest.raises(RunError, match=r"checkpoint, which is gone or damaged .*bring it back to where it was"):
        Policy.load(run)
    shutil.copytree(base, own)
    assert Policy.load(run).stage == "sft"


def test_a_stage_below_that_changed_or_went_away_is_noticed(
    tables, place, adapted, adapted_reward, base, tmp_path, one_device
):
    run = tmp_path / "moved"
    shutil.copytree(place, run)
    short_sft(tables, tmp_path / "other", base, one_device, epochs=1, seed=1)
    shutil.rmtree(run / "params" / "sft")
    with pytest.raises(
        RunError, match=r"holds adapters for .*moved, which is gone or damaged .*params/sft does not exist"
    ):
        loading.load_stage(run, "reward")
    shutil.copytree(tmp_path / "other" / "params" / "sft", run / "params" / "sft")
    with pytest.raises(RunError, match=r"the reward stage of .*moved holds adapters for .*moved, which has changed"):
        loading.load_stage(run, "reward")


def test_a_run_folder_that_moves_with_its_base_still_loads(place, adapted_reward, tmp_path):
    moved = tmp_path / "elsewhere" / "run"
    shutil.copytree(place, moved)
    params, _, _ = loading.load_stage(moved, "reward")
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(adapted_reward.params))


def test_a_start_that_is_neither_a_run_nor_a_checkpoint_is_refused(tables, tmp_path, one_device):
    with pytest.raises(RunError, match="holds no finished stage, and is no checkpoint"):
        short_sft(tables, tmp_path / "run", tmp_path, one_device)
    with pytest.raises(ValueError, match=r"lora.rank needs --init"):
        short_sft(tables, tmp_path / "run", "", one_device)


# ---- any mesh, any interruption -------------------------------------------------------------------------------------


def figures(tables, place, mesh):
    """The tokens of two iterations of PPO with adapters, and what was measured."""
    trainer = make_trainer(tables, place, mesh)
    state, prompts, tokens, rows = trainer.init(), some_prompts(trainer), [], []
    for step in range(2):
        rollout = trainer.collect(state, prompts, step)
        batch, info = trainer.prepare(state, rollout, prompts)
        state, metrics = trainer.update(state, batch, step)
        tokens.append(jax.device_get(rollout.tokens))
        rows.append(training.fetch({**info, **metrics}))
    return trainer, tokens, rows


@pytest.fixture(scope="module")
def alone(tables, place, adapted_reward, one_device):
    return figures(tables, place, one_device)


@pytest.mark.parametrize(
    "layout",
    [parallel.MeshConfig(), parallel.MeshConfig(data=2, fsdp=2, tensor=2)],
    ids=["data=8", "data=2, fsdp=2, tensor=2"],
)
def test_eight_devices_give_the_same_tokens_and_figures(tables, place, alone, layout):
    trainer, tokens, rows = figures(tables, place, parallel.make_mesh(layout))
    np.testing.assert_array_equal(tokens, alone[1])
    for one, eight in zip(alone[2], rows, strict=True):
        for name in ("loss", "policy_loss", "value_loss", "kl", "proxy_mean", "entropy", "ratio"):
            assert eight[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5), name
    whole = trainer.with_trunk(trainer.init().train.params)["policy"]
    kernel, a = (whole["blocks"]["mlp"]["up"][name] for name in ("kernel", "lora_a"))
    if layout.fsdp > 1:
        assert kernel.addressable_shards[0].data.size == kernel.size // 4
        assert a.addressable_shards[0].data.size == a.size // 2  # its rank stays whole
    reference = trainer.sampler.reference["blocks"]["mlp"]["up"]["kernel"]
    shards = [[shard.data.unsafe_buffer_pointer() for shard in x.addressable_shards] for x in (kernel, reference)]
    assert shards[0] == shards[1]


def test_an_interrupted_run_ends_bit_for_bit_like_one_that_never_stopped(
    tables, place, adapted_reward, tmp_path, one_device, monkeypatch
):
    """Stopped after an update of the second iteration, PPO and its adapters go on from the first."""
    whole = run_ppo(tables, place, tmp_path / "whole", one_device)
    update, calls = OnlineTrainer.update, []

    def stopped(self, state, batch, step):
        calls.append(step)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return update(self, state, batch, step)

    monkeypatch.setattr(OnlineTrainer, "update", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_ppo(tables, place, tmp_path / "stopped", one_device)
    assert not (tmp_path / "stopped" / "params").exists()
    again = run_ppo(tables, place, tmp_path / "stopped", one_device)
    assert calls[3:] in ([2], [1, 2])  # not from the start
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    hashes = [
        json.loads((tmp_path / name / "summary.json").read_text())["params_sha256"] for name in ("whole", "stopped")
    ]
    assert hashes[0] == hashes[1]
    assert again.metrics == whole.metrics
    saved = tmp_path / "stopped" / "checkpoints" / "ppo"
    assert sum(f.stat().st_size for f in saved.rglob("*") if f.is_file()) < 4 * 2**20

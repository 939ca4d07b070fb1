"""Sampling beside training: the same numbers on 4 + 4 devices as on 4, and with staleness 1 the same curve."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from rlhf_jax import losses, models, parallel, stages, training
from rlhf_jax.models import LoRAConfig
from rlhf_jax.parallel import MeshConfig, MeshError
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import EncodedPrompt, GroupConfig, LoadedModel, OnlineTrainer, RunError
from rlhf_jax.stages.online.beside import age_metrics, online_meshes
from rlhf_jax.stages.online.sample_ahead import SampleAhead
from rlhf_jax.stages.online.trainer import OnlineState

LEARNS = {
    "iterations": 10,
    "prompts": 32,
    "eval_every": 10,
    "checkpoint_every": 99,
    "policy_optimizer": training.OptimizerConfig(learning_rate=1e-2, weight_decay=0.0),
}


def logged(run, stage="group"):
    """The rows of the updates, without those names that only a rollout mesh has."""
    return [{k.removeprefix(f"{stage}/"): v for k, v in row.items()} for row in run.metrics if row["step"] > 0]


def trained(tables, tmp_path_factory, folder, **changes):
    config = tiny_task.group_config(tables, tmp_path_factory.mktemp("out"), policy=folder, **LEARNS)
    four = parallel.make_mesh(MeshConfig(), jax.devices()[:4])
    return stages.group(dataclasses.replace(config, **changes), reward=tiny_task.count_a, mesh=four)


@pytest.fixture(scope="module")
def plain(tables, tmp_path_factory, folder, sft_run):
    """Four devices that do both."""
    return trained(tables, tmp_path_factory, folder)


def test_staleness_0_is_the_plain_loop_bit_for_bit(tables, tmp_path_factory, folder, plain):
    """4 + 4 devices against 4: the parameters and everything that was logged."""
    beside = trained(tables, tmp_path_factory, folder, rollout_mesh="data=4")
    jax.tree.map(np.testing.assert_array_equal, beside.params, plain.params)
    rows = logged(beside)
    assert {row.pop("staleness") for row in rows} == {0.0}
    assert rows == logged(plain)
    assert beside.summary == plain.summary


def test_one_update_behind_the_curve_is_the_same(tables, tmp_path_factory, folder, plain):
    """4 + 4 devices: at every update the policy's reward is within its sampling error of the plain loop's.

    The responses of an iteration are those of the policy before the last update, so the rows lie one apart.
    """
    ahead = logged(trained(tables, tmp_path_factory, folder, rollout_mesh="data=4", staleness=1))
    both = list(zip(logged(plain)[:-1], ahead[1:], strict=True))
    responses = LEARNS["prompts"] * 4
    for one, other in both:
        error = np.sqrt((one["proxy_std"] ** 2 + other["proxy_std"] ** 2) / responses)
        assert abs(one["proxy_mean"] - other["proxy_mean"]) < 3 * error
    assert ahead[-1]["proxy_mean"] > 3 * ahead[0]["proxy_mean"]  # and it is a curve
    assert [row["staleness"] for row in ahead] == [0.0] + [1.0] * 9
    sizes = [row["effective_sample_size"] for row in ahead]
    assert sizes[0] == pytest.approx(1.0, abs=1e-5)
    assert all(0.9 < size < 1 for size in sizes[1:])
    assert all(row["importance_weight"] == pytest.approx(1.0, abs=0.05) for row in ahead)
    # The sampler is compared with a pass of its own weights: what an update has changed is no mismatch.
    assert max(row["logprob_gap"] for row in ahead) < 1e-5


# ---- by hand, on one device beside another ---------------------------------------------------------------------------


def by_hand(run, one_device, lora=0, **changes):
    config = tiny_task.group_config("unused", "unused", policy="unused", **changes)
    model = dataclasses.replace(tiny_task.MODEL, vocab_size=run.tokenizer.vocab_size)
    params = run.params["policy"]
    if lora:
        adapters = LoRAConfig(rank=lora)
        model, params = models.add_adapters(model, params, adapters, jax.random.key(0))
        config = dataclasses.replace(config, lora=adapters)
    texts = [row["prompt"] for row in tiny_task.tables()["prompts"]][: config.prompts]
    prompts = [EncodedPrompt(text, run.tokenizer.encode_prompt(text), i) for i, text in enumerate(texts)]
    trainer = OnlineTrainer(
        config,
        policy=LoadedModel(model, params),
        tokenizer=run.tokenizer,
        reward=tiny_task.count_a,
        prompt_columns=max(len(p.tokens) for p in prompts),
        mesh=one_device,
    )
    return trainer, prompts


AHEAD = {"rollout_mesh": "data=1", "staleness": 1}


def test_responses_come_from_the_weights_before_the_last_update_and_weigh_what_the_ratio_says(sft_run, one_device):
    trainer, prompts = by_hand(sft_run, one_device, **AHEAD)
    ahead = SampleAhead(trainer, lambda step: prompts)
    state, policies = ahead.init(), []
    for step in range(3):
        policies.append(jax.tree.map(jnp.copy, state.train.params["policy"]))
        sampled, gap = ahead.collect(state, step)
        behaviour = policies[max(step - 1, 0)]
        want = trainer.sampler(behaviour, prompts, step, samples=trainer.config.samples)
        np.testing.assert_array_equal(sampled.tokens, want.tokens)
        np.testing.assert_allclose(sampled.logprobs, want.logprobs, atol=1e-5)
        assert float(gap["logprob_gap"][0]) < 1e-5
        batch, info = trainer.prepare(state, sampled, prompts)
        assert "logprob_gap" not in info  # of the policy and of older weights, which are not meant to agree
        np.testing.assert_array_equal(batch.behaviour_logprobs, sampled.logprobs)
        apart = np.asarray(batch.old_logprobs - want.logprobs)[np.asarray(sampled.mask)]
        weights = np.minimum(np.exp(apart.astype(np.float64)), 2.0)
        assert training.fetch(info)["importance_weight"] == pytest.approx(weights.mean(), rel=1e-4)
        size = weights.sum() ** 2 / (len(weights) * (weights**2).sum())
        assert training.fetch(info)["effective_sample_size"] == pytest.approx(size, rel=1e-4)
        summed = np.where(sampled.mask, batch.old_logprobs - want.logprobs, 0).sum(-1, dtype=np.float64)
        whole = np.minimum(np.exp(summed), 2.0)
        size = whole.sum() ** 2 / (whole.size * (whole**2).sum())
        assert training.fetch(info)["effective_responses"] == pytest.approx(size, rel=1e-4)
        assert (np.abs(apart).max() > 1e-3) == (step > 0)
        state, _ = ahead.update(state, batch, step)
    assert not np.asarray(state.waiting.sampled.mask).any()  # three iterations, and nothing is sampled for a fourth


@pytest.mark.parametrize("shape", ["data=2,fsdp=2", "data=1,tensor=2"])
def test_a_rollout_mesh_of_any_shape_draws_the_same(sft_run, one_device, shape):
    trainer, prompts = by_hand(sft_run, one_device, rollout_mesh=shape)
    prompts = [*prompts[:-2], *prompts[:2]]  # two come again, in the other copy's share
    state = trainer.init()
    found = trainer.collect(state, prompts, 5)
    want = trainer.sampler(state.train.params["policy"], prompts, 5, samples=4)
    assert (np.asarray(want.tokens[:2]) != np.asarray(want.tokens[-2:])).any(axis=(1, 2)).all()
    assert trainer.beside.mesh.size == (4 if "fsdp" in shape else 2)
    assert not set(trainer.beside.mesh.devices.flat) & set(trainer.mesh.devices.flat)
    for name, x in want._asdict().items():
        own = getattr(found, name)
        assert own.sharding.device_set == x.sharding.device_set
        np.testing.assert_allclose(own, x, atol=1e-5 if name == "logprobs" else 0)


def test_slots_are_shared_by_the_copies(sft_run, one_device):
    sampling = SamplingConfig(max_new_tokens=8, window=4, slots=2)
    trainer, prompts = by_hand(sft_run, one_device, rollout_mesh="data=2", sampling=sampling)
    without, _ = by_hand(sft_run, one_device)
    want = without.collect(without.init(), prompts, 1)
    np.testing.assert_array_equal(trainer.collect(trainer.init(), prompts, 1).tokens, want.tokens)


def test_of_a_policy_with_adapters_the_adapters_alone_are_copied(sft_run, one_device, monkeypatch):
    trainer, prompts = by_hand(sft_run, one_device, lora=2, rollout_mesh="data=1")
    state, copied = trainer.init(), []
    before = trainer.beside.copy(state.train.params["policy"])[0]
    put = parallel.put

    def watched(tree, shardings):
        copied.extend(parallel.path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0])
        return put(tree, shardings)

    monkeypatch.setattr(parallel, "put", watched)
    weights = trainer.beside.copy(state.train.params["policy"])[0]
    assert copied
    assert all("lora_" in name for name in copied)
    trunks = [models.split(x)[1] for x in (before, weights)]
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, trunks), strict=True))  # it lies there from the start
    assert {d for x in jax.tree.leaves(weights) for d in x.devices()} == {jax.devices()[-1]}
    monkeypatch.undo()
    want = trainer.sampler(trainer.with_trunk(state.train.params)["policy"], prompts, 0, samples=4)
    np.testing.assert_array_equal(trainer.collect(state, prompts, 0).tokens, want.tokens)


class Recorder:
    """A trainer and a rollout mesh that do nothing but note what they are asked, in order."""

    def __init__(self, config, home):
        self.config, self.sampler, self.mesh, self.beside, self.events = config, home, home.mesh, self, []

    def copy(self, policy):
        self.events.append(("copy", policy))
        return policy

    def update(self, state, batch, step):
        assert state.waiting is None  # what waits is not donated
        self.events.append(("update", step))
        return state._replace(train=state.train._replace(params={"policy": f"after {step}"})), {}

    def ahead(self, weights, prompts, step):
        self.events.append(("sample", weights, prompts, step))
        return (f"responses {step}", {})


def test_the_next_iteration_is_sampled_after_the_update_is_dispatched_and_before_it_is_waited_for(sft_run, one_device):
    """Nothing here could be waited for: the update gives no arrays at all."""
    real, _ = by_hand(sft_run, one_device, iterations=3)
    fake = Recorder(real.config, real.sampler)
    ahead = SampleAhead(fake, lambda step: f"prompts {step}")
    state = OnlineState(training.TrainState({"policy": "start"}, None, None, None, None), None, None)
    assert ahead.collect(state, 0)[0] == "responses 0"
    for step in range(3):
        state, _ = ahead.update(state, "batch", step)
        if step < 2:
            assert ahead.collect(state, step + 1)[0] == f"responses {step + 1}"
    assert fake.events == [
        ("copy", "start"),
        ("sample", "start", "prompts 0", 0),
        ("copy", "start"),  # before the update takes what is copied
        ("update", 0),
        ("sample", "start", "prompts 1", 1),
        ("copy", "after 0"),
        ("update", 1),
        ("sample", "after 0", "prompts 2", 2),
        ("copy", "after 1"),
        ("update", 2),
    ]


# ---- a run that is stopped -------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def stops_at(call):
    """A reward that ends the run at the given call."""
    calls = []

    def reward(prompts, responses):
        calls.append(1)
        if len(calls) == call:
            raise Stopped
        return tiny_task.count_a(prompts, responses)

    return reward


@pytest.mark.parametrize("call", [4, 5])
def test_a_run_that_was_stopped_ends_like_one_that_never_was_bit_for_bit(
    tables, tmp_path, folder, sft_run, one_device, uninterrupted, call
):
    """What waits is in the checkpoint, whenever one is made: it was sampled with weights that are gone."""
    config = dataclasses.replace(uninterrupted.config, out=str(tmp_path), checkpoint_every=1)
    with pytest.raises(Stopped):
        stages.group(config, reward=stops_at(call), mesh=one_device)
    mended = dataclasses.replace(config, accept_changed=("reward",))  # by content, the one that stops is another
    again = stages.group(mended, reward=tiny_task.count_a, mesh=one_device)
    jax.tree.map(np.testing.assert_array_equal, again.params, uninterrupted.params)
    assert again.metrics == uninterrupted.metrics
    assert {row["staleness"] for row in logged(again)[1:]} == {1.0}


@pytest.fixture(scope="module")
def uninterrupted(tables, tmp_path_factory, folder, sft_run, one_device):
    out = tmp_path_factory.mktemp("whole")
    config = tiny_task.group_config(tables, out, policy=folder, iterations=4, eval_every=4, checkpoint_every=99)
    return stages.group(dataclasses.replace(config, **AHEAD), reward=tiny_task.count_a, mesh=one_device)


def test_weights_that_are_not_the_policys_own_stop_a_run(tables, tmp_path, folder, sft_run, one_device, monkeypatch):
    """The gate looks at a pass of the weights that sampled, so a sampler with a wrong temperature is found."""
    from rlhf_jax.stages.sampler import Sampler

    original = Sampler.__call__

    def off(self, *given, **named):
        sampled = original(self, *given, **named)
        return sampled._replace(logprobs=sampled.logprobs * 0.9)

    config = tiny_task.group_config(tables, tmp_path, policy=folder, eval_every=9, **AHEAD)
    monkeypatch.setattr(Sampler, "__call__", off)
    with pytest.raises(stages.SamplerMismatch, match="group: at iteration 1 "):
        stages.group(config, reward=tiny_task.count_a, mesh=one_device)


# ---- what is refused -------------------------------------------------------------------------------------------------


def refused(match, kind=ValueError):
    return pytest.raises(kind, match=match)


def test_what_does_not_fit_together_is_refused_by_the_config():
    config = functools.partial(tiny_task.ppo_config, "unused", "unused", policy="unused")
    with refused(r"staleness is 1, and rollout_mesh is empty.*--rollout-mesh data=4, say, or --staleness 0"):
        config(staleness=1)
    with refused("staleness must be 0 or 1 updates, found 2"):
        config(rollout_mesh="data=4", staleness=2)
    with refused("rollout_mesh sequence=2: no axis is called 'sequence'"):
        config(rollout_mesh="sequence=2")
    with refused(r"importance_cap \(3\) does nothing while staleness is 0.*--staleness 1"):
        config(rollout_mesh="data=4", importance_cap=3.0)
    with refused("importance_cap must be above 0, found 0"):
        config(rollout_mesh="data=4", staleness=1, importance_cap=0.0)
    with pytest.warns(losses.checks.UnusualHyperparameter, match="importance_cap is 50, outside the usual 1 to 10"):
        config(rollout_mesh="data=4", staleness=1, importance_cap=50.0)


def test_meshes_beside_each_other():
    def sizes(mesh, rollout_mesh):
        config = tiny_task.group_config("x", "x", policy="x", mesh=MeshConfig.parse(mesh), rollout_mesh=rollout_mesh)
        both = online_meshes(config)
        assert [d for mesh in both for d in mesh.devices.flat] == jax.devices()  # first those that train
        return tuple(tuple(mesh.shape.values()) for mesh in both)

    assert sizes("data=4", "data=4") == ((4, 1, 1), (4, 1, 1))
    assert sizes("fsdp=2", "data=2") == ((3, 2, 1), (2, 1, 1))
    assert sizes("data=2", "tensor=2") == ((2, 1, 1), (3, 1, 2))
    with refused(r"mesh and rollout_mesh both take what the other leaves.*--rollout-mesh data=4", MeshError):
        sizes("fsdp=2", "tensor=2")
    with refused(r"ask for 4 and 2 of 8 devices: .*use all of them", MeshError):
        sizes("data=4", "data=2")
    with refused(r"ask for the rest and 8 of 8 devices", MeshError):
        sizes("fsdp=1", "data=8")
    with refused(r"fsdp=4.* does not fit 6 devices", MeshError):
        sizes("fsdp=4", "data=2")
    alone = tiny_task.group_config("x", "x", policy="x")
    assert online_meshes(alone)[1] is None
    assert age_metrics(alone, 3) == {}


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with refused(r"rollout_mesh is data=4, and this run has 2 processes.*Leave --rollout-mesh out", RunError):
        online_meshes(tiny_task.group_config("x", "x", policy="x", rollout_mesh="data=4"))


def test_copies_share_prompts_and_slots_evenly(sft_run, one_device):
    with refused(r"prompts is 8, and data of the rollout mesh is 3: take a multiple", RunError):
        by_hand(sft_run, one_device, rollout_mesh="data=3")
    with refused(r"sampling\.slots is 5, and data of the rollout mesh is 2", RunError):
        by_hand(sft_run, one_device, rollout_mesh="data=2", sampling=SamplingConfig(slots=5))


def test_prompts_that_the_copies_cannot_share_are_refused_and_not_left_out(sft_run, one_device):
    trainer, prompts = by_hand(sft_run, one_device, rollout_mesh="data=2")
    with refused("3 prompts are no multiple of the 2 copies that sample"):
        trainer.collect(trainer.init(), prompts[:3], 0)


def test_what_describes_one_mesh_refuses_two():
    from rlhf_jax.parallel.hardware import hardware
    from rlhf_jax.stages.inspect import arrays_of
    from rlhf_jax.stages.plan import plan

    config = GroupConfig(rollout_mesh="data=4", staleness=1)
    said = r"rollout_mesh is data=4, and rlhf inspect, plan and aot look at one mesh: pass --rollout-mesh ''"
    with refused(said, RunError):
        arrays_of("group", config, mesh=parallel.described_mesh(MeshConfig(), 8))
    with refused(said, RunError):
        plan("group", config, hardware("h100x8"))


def test_the_command_line_takes_a_rollout_mesh_as_it_takes_a_mesh(capsys):
    from rlhf_jax.cli.parsing import override

    config = override(GroupConfig(), "group", ["--mesh", "data=4", "--rollout-mesh", "data=4", "--staleness", "1"])
    assert (config.mesh, config.rollout_mesh, config.staleness) == (MeshConfig(data=4), "data=4", 1)
    with pytest.raises(SystemExit):
        override(GroupConfig(), "group", ["--rollout-mesh", "data=x"])
    assert "rollout_mesh data=x: data takes a whole number" in capsys.readouterr().err

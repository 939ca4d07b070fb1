"""PPO-ptx: pretraining text beside the policy's own samples, as a second loss with a denominator of its own."""

import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_task

from rlhf_jax import stages, training
from rlhf_jax.data import DataError
from rlhf_jax.stages import EncodedPrompt, LoadedModel, OnlineTrainer, PTXConfig, sources
from rlhf_jax.stages.sampler import Sampler

COEF = 0.25


@pytest.fixture(scope="module")
def prompts(tables, sft_run):
    rows = [json.loads(line)["prompt"] for line in (tables / "prompts.jsonl").read_text().splitlines()]
    return [EncodedPrompt(text, sft_run.tokenizer.encode_prompt(text), i) for i, text in enumerate(rows[:8])]


@pytest.fixture(scope="module")
def policy(sft_run):
    return LoadedModel(sft_run.model_config, sft_run.params["policy"])


@pytest.fixture(scope="module")
def sampler(sft_run, policy, one_device):
    """One for all trainers of this file, so that its programs are compiled once."""
    sampling = tiny_task.ONLINE["sampling"]
    return Sampler(sft_run.model, sft_run.tokenizer, sampling, reference=policy.params, mesh=one_device)


@pytest.fixture
def make(tables, sft_run, policy, sampler, one_device, monkeypatch):
    """Makes a trainer of a config's changes."""
    monkeypatch.setattr(sys.modules["rlhf_jax.stages.online.trainer"], "Sampler", lambda *_, **__: sampler)

    def trainer(coef=COEF, rows=2, source="text", config=tiny_task.group_config, **changes):
        ptx = PTXConfig(coef=coef, data=tiny_task.data(tables, source), rows=rows)
        return OnlineTrainer(
            config(tables, "unused", policy="unused", ptx=ptx, **changes),
            policy=policy,
            tokenizer=sft_run.tokenizer,
            reward=tiny_task.count_a,
            mesh=one_device,
        )

    return trainer


def iterate(trainer, prompts, step=0):
    state = trainer.init()
    rollout = trainer.collect(state, prompts, step)
    batch, info = trainer.prepare(state, rollout, prompts)
    before = jax.device_get(state.train.params)
    after, metrics = trainer.update(state, batch, step)
    return batch, before, jax.device_get(after.train.params), training.fetch({**info, **metrics})


def test_the_gradient_is_the_sum_of_two_losses_each_with_its_own_denominator(make, prompts, sft_run, monkeypatch):
    """REINFORCE and cross entropy of the text, differentiated by hand; plain gradient descent shows the gradient."""
    monkeypatch.setattr(training, "make_optimizer", lambda config, steps: optax.sgd(1.0))
    trainer = make(objective="reinforce", epochs=1, minibatches=1)
    batch, before, after, figures = iterate(trainer, prompts)
    text = jax.tree.map(lambda x: jnp.asarray(x[0]), trainer._text_batches(0))
    forward = functools.partial(stages.forward, {"policy": sft_run.model})

    def by_hand(params):
        own = jnp.where(batch.mask, forward(params, batch).logprobs, 0.0)
        response = -jnp.sum(batch.reward * own.sum(-1)) / batch.reward.size  # a mean over 32 responses
        written = -jnp.sum(jnp.where(text.mask, forward(params, text).logprobs, 0.0)) / jnp.sum(text.mask)
        return response + COEF * written, (response, written)

    (_, (response, written)), gradient = jax.jit(jax.value_and_grad(by_hand, has_aux=True))(before)
    assert int(text.mask.sum()) not in (0, batch.reward.size, int(batch.mask.sum()))
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(gradient))
    moved = jax.tree.map(np.subtract, before, after)
    jax.tree.map(lambda m, g: np.testing.assert_allclose(m, g, atol=1e-5 * largest), moved, gradient)
    # The log shows them apart: what is optimised does not look worse because of the text.
    assert figures["loss"] == pytest.approx(float(response), rel=1e-5)
    assert figures["ptx_loss"] == pytest.approx(float(written), rel=1e-5)
    assert figures["grad_norm"] == pytest.approx(float(optax.global_norm(gradient)), rel=1e-4)


def test_every_update_has_a_text_batch_that_is_a_function_of_the_step_alone(make):
    trainer, again = (make(epochs=2, minibatches=2) for _ in range(2))
    config = trainer.config
    first = [trainer._text_batches(step) for step in range(config.iterations)]
    for step in reversed(range(config.iterations)):  # in whatever order they are asked for
        jax.tree.map(np.testing.assert_array_equal, again._text_batches(step), first[step])
    assert first[0].tokens.shape[0] == 4  # one for each update of an iteration
    seen = [x.packing.tokens[i].tobytes() for x in first for i in range(4)]
    assert len(seen) == config.updates == len(set(seen))
    assert len({tuple(x.shape for x in jax.tree.leaves(batch)) for batch in first}) == 1


def test_another_seed_reads_the_text_in_another_order(make):
    orders = [make(seed=seed)._text_batches(0).packing.tokens.tobytes() for seed in (0, 1)]
    assert orders[0] != orders[1]


@pytest.mark.parametrize(("iterations", "seed"), [(1, 0), (36, 7), (44, 7)])
def test_the_text_lasts_to_the_last_update(make, iterations, seed):
    """Two rows hold the text in nine batches in the first epoch of seed 7, in fewer in most others: as many epochs as
    the first one promises, and one to spare, would be short of these updates."""
    trainer = make(rows=2, iterations=iterations, minibatches=2, seed=seed)
    last = trainer._text_batches(iterations - 1)
    assert last.mask.any((1, 2, 3)).tolist() == [True, True]


def test_the_text_is_what_the_file_holds(make, tables, sft_run):
    batch = jax.tree.map(lambda x: x[0], make()._text_batches(0))
    rows = {json.loads(line)["text"] for line in (tables / "text.jsonl").read_text().splitlines()}
    read = []
    for b in range(batch.tokens.shape[0]):
        real, mask = batch.segment_ids[b, 0] > 0, batch.mask[b, 0]
        if real.any():
            assert batch.tokens[b, 0][real & ~mask].tolist() == [sft_run.tokenizer.bos_id]  # no prompt
            read.append(sft_run.tokenizer.decode_response(batch.tokens[b, 0][mask]))
    assert len(read) > 1
    assert set(read) <= rows
    used = sources.pretraining_text(tiny_task.data(tables, "text"))
    assert {row.response for row in used} == rows  # nothing is held out, as nothing is measured on it


def test_text_with_prompts_leaves_out_what_the_stage_may_measure_with(tables, tmp_path, capsys):
    used = sources.pretraining_text(tiny_task.data(tables, "demonstrations"))
    parts = sources.demonstrations(tiny_task.data(tables, "demonstrations"))
    assert used == parts.train
    assert parts.test
    assert "only the rows to train on are used" in capsys.readouterr().err
    (tmp_path / "some.jsonl").write_text("".join(f'{{"text": "Number {i}."}}\n' for i in range(3)))
    assert len(sources.pretraining_text(tiny_task.data(tmp_path, "some", limit=2))) == 2
    assert "2 rows of text to train on" in capsys.readouterr().err
    held = tiny_task.data(tmp_path, "some", heldout=str(tables / "text.jsonl"))
    assert len(sources.pretraining_text(held)) == 3


def test_ppo_takes_text_too_and_its_critic_sees_none_of_it(make, prompts, monkeypatch):
    monkeypatch.setattr(training, "make_optimizer", lambda config, steps: optax.sgd(1.0))
    steps = {}
    for coef in (0.0, COEF):
        trainer = make(coef=coef, config=tiny_task.ppo_config, prompts=8, epochs=1, minibatches=1)
        _, before, after, figures = iterate(trainer, prompts)
        steps[coef] = jax.tree.map(np.subtract, before, after)
        assert ("ptx_loss" in figures) == (coef > 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), steps[0.0]["critic"], steps[COEF]["critic"])
    assert np.abs(steps[0.0]["policy"]["embedding"] - steps[COEF]["policy"]["embedding"]).max() > 1e-3


def test_a_weight_of_zero_reads_no_data(make):
    trainer = make(coef=0.0, source="there is no such file")
    assert trainer._text is None
    assert trainer._text_batches(0) is None
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        make(coef=COEF, source="there is no such file")


def test_rows_that_are_no_text_are_named(make, tables, tmp_path, sft_run, policy, one_device):
    with pytest.raises(DataError, match=r"prompts\.jsonl:1: field 'response'"):
        make(source="prompts")
    demonstrations = make(source="demonstrations")._text_batches(0)  # prompt and response do as well
    assert demonstrations.mask.any()


@pytest.mark.parametrize(
    ("change", "says"),
    [({"coef": -0.1}, "ptx.coef must not be negative"), ({"rows": 0}, "rows must be at least 1")],
    ids=str,
)
def test_a_config_that_cannot_run_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        PTXConfig(**change)


def test_a_very_large_weight_is_warned_of():
    with pytest.warns(UserWarning, match=r"ptx.coef is 100, outside the usual 0 to 30"):
        dataclasses.replace(PTXConfig(), coef=100.0)

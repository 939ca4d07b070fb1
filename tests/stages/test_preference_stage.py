"""Preference optimisation on a tiny task: what it learns, what its numbers are, and what it never computes."""

import dataclasses
import functools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from rlhf_jax import cli, objectives, stages, testing
from rlhf_jax.data import DataError, Demonstration, write_jsonl
from rlhf_jax.data.batches import PackedEpochs
from rlhf_jax.stages import DataConfig, Policy, RunError, find_objective, make_loss_fn, opinions
from rlhf_jax.stages.preference import PreferenceBatches, with_reference

OBJECTIVES = ("dpo", "robust_dpo", "ipo", "kto", "orpo", "simpo", "cpo", "slic")
# DPO once more, written by somebody who knows arrays and nothing of this package but its types.
OWN = """
import jax
import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.types import Loss


def mine(outputs, batch, *, beta=0.1):
    gained = jnp.where(batch.mask, outputs.logprobs - batch.ref_logprobs, 0.0).sum(-1)
    there = batch.mask.any(-1).all(-1)
    return Loss(-jax.nn.log_sigmoid(beta * (gained[:, 0] - gained[:, 1])), there, losses.token_mean)
"""


@pytest.fixture(scope="module")
def dpo_run(tables, tmp_path_factory, folder, sft_run, one_device):
    config = tiny_task.preference_config(tables, tmp_path_factory.mktemp("dpo"), policy=folder)
    return stages.preference(config, mesh=one_device, judges={"gold": tiny_task.count_a})


@pytest.fixture(scope="module")
def simpo_run(tables, tmp_path_factory, folder, sft_run, one_device):
    """A function that is passed, bound by hand; no judges, and no prompts but those of the comparisons."""
    own = DataConfig(source="")
    config = tiny_task.preference_config(tables, tmp_path_factory.mktemp("simpo"), policy=folder, prompts=own)
    bound = functools.partial(objectives.simpo, beta=2.0, margin=0.5)
    return stages.preference(config, objective=bound, mesh=one_device)


def logprobs_alone(run, params, prompts, responses):
    """Log-probability of each response given its prompt, one unpadded sequence at a time, nats."""
    totals = []
    for prompt, response in zip(prompts, responses, strict=True):
        first, rest = run.tokenizer.encode_prompt(prompt), run.tokenizer.encode_response(response)
        tokens = np.concatenate([first, rest])
        length = 32  # one compiled shape
        padded = np.zeros((1, length), np.int32)
        padded[0, : len(tokens)] = tokens
        segments = (np.arange(length) < len(tokens)).astype(np.int32)[None]
        logits = np.asarray(_logits(run.model)(params, padded, segments)[0], np.float64)
        each = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        totals.append(sum(each[t - 1, tokens[t]] for t in range(len(first), len(tokens))))
    return np.array(totals)


@functools.cache
def _logits(model):
    positions = jnp.arange(32)[None]
    return jax.jit(lambda p, tokens, segments: model.logits(p, model.apply(p, tokens, positions, segments)))


@pytest.mark.parametrize("name", ["dpo_run", "simpo_run"])
def test_pairs_that_were_not_trained_on_are_told_apart(name, sft_run, tables, request):
    """By the implicit reward: the chosen response gained more log-probability than the rejected one."""
    run = request.getfixturevalue(name)
    assert run.summary["accuracy"] >= 0.9
    rows = tiny_task.half(tables / "unseen.jsonl", 1)
    assert run.summary["pairs"] == len(rows) == 18
    low, high = run.summary["accuracy_ci"]
    assert 0.7 < low <= run.summary["accuracy"] <= high <= 1
    # The same figure from unpadded sequences.
    prompts = [row["prompt"] for row in rows]
    gained = {}
    for side in ("chosen", "rejected"):
        both = [
            logprobs_alone(run, p["policy"], prompts, [row[side] for row in rows]) for p in (run.params, sft_run.params)
        ]
        gained[side] = both[0] - both[1]
    assert np.mean(gained["chosen"] > gained["rejected"]) == run.summary["accuracy"]


def test_evaluate_finds_the_implicit_reward_of_a_run(dpo_run, simpo_run, sft_run, tables, tmp_path):
    """By the metrics that the objective logs: DPO's on the pairs that the stage itself was measured on."""
    from rlhf_jax.stages.evaluate.find import find_scorer

    rows = tiny_task.half(tables / "unseen.jsonl", 1)
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    found = stages.evaluate(dpo_run.directory, tmp_path / "pairs.jsonl")
    assert found.what == f"the implicit reward of {dpo_run.directory} (dpo)"
    assert (found.quality.n, found.quality.accuracy) == (dpo_run.summary["pairs"], dpo_run.summary["accuracy"])
    prompts, responses = [row["prompt"] for row in rows], [row["chosen"] for row in rows]
    asked = [Demonstration(*each, "") for each in zip(prompts, responses, strict=True)]
    dpo, simpo, sft = (
        logprobs_alone(sft_run, run.params["policy"], prompts, responses) for run in (dpo_run, simpo_run, sft_run)
    )
    lengths = np.array([len(sft_run.tokenizer.encode_response(text)) for text in responses])
    # beta (log p - log p_ref); and beta times the mean, without a reference
    for run, by_hand in ((dpo_run, 0.1 * (dpo - sft)), (simpo_run, 2.0 * simpo / lengths)):
        scorer = find_scorer(f"{run.directory}:preference")
        assert (scorer.reference is None) == (run is simpo_run)
        scores = scorer.score([scorer.ready(one) for one in asked], lambda done: None).scores
        np.testing.assert_allclose(scores, by_hand, atol=2e-4)


def test_an_implicit_reward_needs_the_reference_that_it_began_with(dpo_run, sft_run, tables, tmp_path):
    """It is noted by content: neither is a policy that is gone replaced, nor one that is another now taken for it."""
    from rlhf_jax.stages.evaluate.preference_run import load_implicit

    copied = tmp_path / "run"
    shutil.copytree(dpo_run.directory, copied)
    config = json.loads((copied / "config.json").read_text())
    for named, says in (
        (str(tmp_path / "gone"), "is gone or damaged"),
        (f"{copied}:preference", "holds another one now"),
    ):
        config["preference"]["policy"] = named
        (copied / "config.json").write_text(json.dumps(config))
        with pytest.raises(RunError, match=says):
            load_implicit(copied)


def test_before_the_first_update_dpo_knows_nothing(dpo_run):
    start, first, last = dpo_run.metrics[0], dpo_run.metrics[1], dpo_run.metrics[-1]
    assert start["preference/heldout_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert start["preference/heldout_kl"] == 0.0
    assert [row["step"] for row in dpo_run.metrics] == list(range(dpo_run.summary["steps"] + 1))
    assert first["preference/loss"] == pytest.approx(math.log(2), abs=1e-6)
    for name in ("chosen_reward", "rejected_reward", "reward_margin"):
        assert first[f"preference/{name}"] == pytest.approx(0.0, abs=1e-6)
    assert last["preference/loss"] < 0.5
    assert last["preference/reward_margin"] > 0.5
    assert all(row["preference/skipped"] == 0 for row in dpo_run.metrics[1:])


def test_the_reference_is_where_the_policy_started(dpo_run, simpo_run, sft_run):
    """DPO's step 0 has no gradient through the reference, and the SFT run is as it was."""
    from rlhf_jax.runs.folder import load_stage

    again = load_stage(sft_run.directory, "sft")[0]
    jax.tree.map(np.testing.assert_array_equal, again, sft_run.params)
    for run in (dpo_run, simpo_run):
        assert run.params.keys() == {"policy"}
        assert not np.array_equal(run.params["policy"]["embedding"], sft_run.params["policy"]["embedding"])
        assert run.tokenizer.to_json() == sft_run.tokenizer.to_json()


def test_the_best_parameters_are_those_of_the_lowest_held_out_loss(dpo_run, sft_run, tables):
    held = {row["step"]: row["preference/heldout_loss"] for row in dpo_run.metrics if "preference/heldout_loss" in row}
    assert len(held) > 2
    assert dpo_run.summary["heldout_loss"] == held[dpo_run.summary["best_step"]] == min(held.values())
    # And they have that loss: all pairs that are held out for it, one unpadded sequence at a time.
    rows = tiny_task.half(tables / "unseen.jsonl", 0)
    gained = []
    for side in ("chosen", "rejected"):
        texts = [row["prompt"] for row in rows], [row[side] for row in rows]
        new, old = (logprobs_alone(dpo_run, p["policy"], *texts) for p in (dpo_run.params, sft_run.params))
        gained.append(new - old)
    loss = np.logaddexp(0, -0.1 * (gained[0] - gained[1])).mean()
    assert dpo_run.summary["heldout_loss"] == pytest.approx(loss, abs=1e-5)


def test_the_policy_is_compared_with_the_one_it_started_from(dpo_run, simpo_run):
    summary = dpo_run.summary
    assert summary["kl"] > 0.1
    samples = tiny_task.compared(dpo_run)
    assert len(samples) == summary["test_prompts"] == 3
    for when in ("before", "after"):
        assert all(row[f"gold_{when}"] == row[when].count("a") for row in samples)
        assert summary[f"gold_{when}"] == pytest.approx(np.mean([row[f"gold_{when}"] for row in samples]))
    evaluated = [row for row in dpo_run.metrics if "preference/heldout_loss" in row]
    assert all({"preference/heldout_gold", "preference/heldout_kl", "preference/heldout_accuracy"} <= row.keys()
               for row in evaluated)  # fmt: skip
    # Without judges there is nobody to win against, and everything else is there.
    assert not [name for name in simpo_run.summary if "win_rate" in name]
    assert simpo_run.summary["kl"] > 0.1


def test_the_run_says_what_it_minimised(dpo_run, simpo_run):
    assert dpo_run.summary["objective"] == dpo_run.config.objective == "dpo"
    named = "rlhf_jax.objectives.simpo.simpo(beta=2.0, margin=0.5)"
    assert simpo_run.summary["objective"] == simpo_run.config.objective == named
    assert json.loads((simpo_run.directory / "config.json").read_text())["preference"]["objective"] == named


def test_a_finished_stage_is_returned_without_work(dpo_run, simpo_run, idle):
    for run in (dpo_run, simpo_run):
        again = stages.preference(run.config)
        jax.tree.map(np.testing.assert_array_equal, again.params, run.params)
        assert again.summary == run.summary
        assert again.metrics == run.metrics
    bound = functools.partial(objectives.simpo, beta=2.0, margin=0.5)
    assert stages.preference(simpo_run.config, objective=bound).summary == simpo_run.summary
    assert Policy.load(dpo_run.directory).stage == "preference"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"objective": "ipo"}, "objective"),
        ({"hyperparameters": {"beta": 0.2}}, "hyperparameters"),
        ({"min_share": 0.75}, "min_share"),
        ({"seed": 1}, "seed"),
    ],
    ids=["objective", "hyperparameters", "min_share", "seed"],
)
def test_another_config_in_the_same_folder_is_refused(dpo_run, idle, change, field):
    with pytest.raises(RunError, match=rf"preference stage of another config.*{field}.*--out"):
        stages.preference(dataclasses.replace(dpo_run.config, **change))


def test_another_function_in_the_same_folder_is_refused(dpo_run, simpo_run, idle):
    for run, other in (
        (dpo_run, objectives.simpo),
        (simpo_run, objectives.simpo),
        (simpo_run, functools.partial(objectives.simpo, beta=2.0, margin=0.25)),
    ):
        with pytest.raises(RunError, match=r"preference stage of another config \(objective"):
            stages.preference(run.config, objective=other)


def test_an_objective_in_a_file_trains_like_one_of_ours(tables, tmp_path, folder, dpo_run, one_device):
    (tmp_path / "own.py").write_text(OWN)
    config = dataclasses.replace(
        dpo_run.config,
        out=str(tmp_path / "run"),
        objective=f"{tmp_path / 'own.py'}:mine",
        hyperparameters={"beta": 0.1},
    )
    result = stages.preference(config, mesh=one_device, judges={"gold": tiny_task.count_a})
    assert len(result.metrics) == len(dpo_run.metrics)
    for ours, own in zip(dpo_run.metrics, result.metrics, strict=True):
        for name in {"preference/loss", "preference/grad_norm", "preference/heldout_loss"} & ours.keys():
            assert own[name] == pytest.approx(ours[name], rel=1e-3, abs=1e-5)
    assert result.summary["accuracy"] == dpo_run.summary["accuracy"]
    assert result.summary["heldout_loss"] == pytest.approx(dpo_run.summary["heldout_loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"objective": "sipmo"}, "did you mean 'simpo'"),
        ({"objective": "simpo", "hyperparameters": {"gamma": 1.0}}, "objective simpo has no hyperparameter 'gamma'"),
        ({"hyperparameters": {"beta": -1.0}}, "objective dpo: beta must be above 0, found -1"),
        ({"objective": "grpo"}, "objective grpo: batch.reward is None"),
        ({"objective": "reward_model"}, "objective reward_model: outputs.scores is None"),
    ],
    ids=["name", "hyperparameter", "value", "of samples", "of scores"],
)
def test_an_objective_that_does_not_fit_is_named_before_anything_is_written(
    tables, tmp_path, folder, sft_run, change, says
):
    config = tiny_task.preference_config(tables, tmp_path / "run", policy=folder, **change)
    with pytest.raises(RunError, match=says):
        stages.preference(config)
    assert not (tmp_path / "run").exists()


def test_prompts_are_those_of_the_comparisons_unless_others_are_named(dpo_run, simpo_run, tables):
    samples = {}
    for run in (dpo_run, simpo_run):
        samples[run.config.prompts.source] = {row["prompt"] for row in tiny_task.compared(run)}
    assert len(samples[str(tables / "prompts.jsonl")]) == 3  # a tenth of the file is held out
    # The held-out comparisons are a file of their own; of the half for the final figures eight prompts are taken.
    assert len(samples[""]) == simpo_run.config.test_prompts == 8
    assert samples[""] < {row["prompt"] for row in tiny_task.half(tables / "unseen.jsonl", 1)}


def test_its_command_continues_from_its_folder_and_writes_the_report(dpo_run, tables, folder, tmp_path, idle, capsys):
    config = tmp_path / "tiny.py"
    config.write_text(
        f"import sys\nsys.path.insert(0, {str(tiny_task.__file__.rsplit('/', 1)[0])!r})\nimport tiny_task\n"
        f"config = tiny_task.preference_config({str(tables)!r}, {str(dpo_run.directory)!r}, policy={str(folder)!r})\n"
    )
    assert cli.run(["preference", "--config", str(config)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(dpo_run.directory / "report.html")
    assert "preference" in (dpo_run.directory / "report.html").read_text()
    assert cli.run(["preference", "--config", str(config), "--hyperparameters", "beta", "0.2"]) == 2
    assert "preference stage of another config (hyperparameters" in capsys.readouterr().err
    assert cli.run(["sample", str(dpo_run.directory), "The cat and", "--max-new-tokens", "3"]) == 0


# ---- the loss, by itself --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tables, sft_run):
    """The first batch of the task, with its mismatched twin, and its shape."""
    config = tiny_task.data(tables, "chosen")
    chosen = opinions.preferences(config, sft_run.tokenizer, min_share=0.5, seed=0)
    shape = {"rows": 4, "row_length": 32, "pad_id": sft_run.tokenizer.pad_id}
    batches = PreferenceBatches(PackedEpochs(chosen.epoch, epochs=1, **shape), **shape)
    return batches[0]


@pytest.fixture(scope="module")
def moved(sft_run):
    rng = np.random.default_rng(0)
    policy = jax.tree.map(
        lambda x: x + 0.1 * np.std(x) * rng.normal(size=x.shape).astype(np.float32), sft_run.params["policy"]
    )
    return {"policy": policy}


def flops(loss_fn, params, *inputs):
    """Of the loss and its gradient, as compiled; a loop's body counts once."""
    graded = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    return graded.lower(params, *inputs, jax.random.key(0)).compile().cost_analysis()["flops"]


def test_what_an_objective_does_not_read_is_not_computed(sft_run, pairs, moved):
    model, reference = sft_run.model, sft_run.params

    def cost(objective):
        return flops(with_reference(objective, model), moved, (pairs, reference))

    simpo, dpo, kto = cost(objectives.simpo), cost(objectives.dpo), cost(objectives.kto)
    bare = flops(make_loss_fn(objectives.simpo, {"policy": model}), moved, pairs[0])
    forward = jax.jit(lambda p, b: stages.forward({"policy": model}, p, b).logprobs)
    once = forward.lower(reference, pairs[0]).compile().cost_analysis()["flops"]
    twin = forward.lower(reference, pairs[1]).compile().cost_analysis()["flops"]
    assert simpo == pytest.approx(bare, rel=0.01)  # no reference at all
    assert dpo - simpo == pytest.approx(once, rel=0.1)  # the reference once, forward only
    assert kto - dpo == pytest.approx(2 * twin, rel=0.1)  # policy and reference on the mismatched pairs


def test_every_preference_objective_runs_through_the_stages_loss(quick_models, pairs):
    """Each by its name, on a policy away from its reference: finite, with a gradient, and none for the reference."""
    roles, params = testing.tiny_models()
    reference = {"policy": params["policy"]}
    policy = {"policy": jax.tree.map(lambda x: x * 1.1, params["policy"])}
    batches = jax.tree.map(lambda x: x % testing.VOCAB if x.dtype == np.int32 else x, pairs)

    @jax.jit
    def run(policy, reference, batches):
        def one(name):
            loss_fn = with_reference(find_objective(name, {}), roles["policy"])

            def loss(policy, reference):
                numerator, aux = loss_fn(policy, (batches, reference), jax.random.key(0))
                return numerator / aux.weight, aux

            return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(policy, reference)

        return {name: one(name) for name in OBJECTIVES}

    found = run(policy, reference, batches)
    groups = int(np.asarray(batches[0].mask).any(-1).all(-1).sum())
    for name, ((loss, aux), (gradient, through_reference)) in found.items():
        assert np.isfinite(float(loss)), name
        assert float(aux.weight) == (2 * groups if name == "kto" else groups), name
        sizes = [float(np.abs(g).max()) for g in jax.tree.leaves(gradient)]
        assert np.isfinite(sizes).all(), name
        assert max(sizes) > 1e-4, name
        assert all(not np.asarray(g).any() for g in jax.tree.leaves(through_reference)), name
    assert len({round(float(loss), 5) for (loss, _), _ in found.values()}) == len(OBJECTIVES)


def test_kto_moves_away_from_a_reference_point_that_is_above_zero(sft_run, pairs, moved):
    """The point is the batch's, the same number for every response."""
    seen = {}

    def spy(outputs, batch):
        seen.update(kl=batch.kl, label=batch.label, ref=batch.ref_logprobs)
        return objectives.kto(outputs, batch)

    def run(params):
        numerator, _ = with_reference(spy, sft_run.model)(params, (pairs, sft_run.params), jax.random.key(0))
        return numerator, dict(seen)

    seen = jax.jit(run)(moved)[1]
    assert seen["kl"].shape == pairs[0].tokens.shape[:2]
    assert len(set(np.asarray(seen["kl"]).ravel().tolist())) == 1
    real = np.asarray(pairs[0].mask).any(-1)
    assert (np.asarray(seen["label"])[real].reshape(-1, 2) == [1, 0]).all()
    assert np.asarray(seen["ref"])[np.asarray(pairs[0].mask)].max() < 0


# ---- the pairs ------------------------------------------------------------------------------------------------------


def texts(example, tokenizer):
    return [tokenizer.decode_response(t[s:]) for t, s in zip(example.tokens, example.starts, strict=True)]


def words(text):
    return set(text.split())


@pytest.mark.parametrize("table", ["chosen", "preference", "ratings"])
def test_the_response_that_people_prefer_comes_first(tables, sft_run, table):
    drawn = opinions.preferences(tiny_task.data(tables, table), sft_run.tokenizer, min_share=0.6, seed=0)
    examples = drawn.epoch(0)
    assert len(examples) > 8
    for example in examples:
        good, bad = texts(example, sft_run.tokenizer)
        if table != "ratings":
            assert words(good) <= set(tiny_task.GOOD)
            assert words(bad) <= set(tiny_task.BAD)
        assert example.votes[0, 1] > example.votes[1, 0]
        assert example.labels.tolist() == [1.0, 0.0]
    again = drawn.epoch(0)
    for a, b in zip(examples, again, strict=True):
        np.testing.assert_array_equal(a.tokens[0], b.tokens[0])
    if table == "ratings":  # pairs are drawn anew in every epoch
        pairs = [{tuple(texts(e, sft_run.tokenizer)) for e in drawn.epoch(n)} for n in range(2)]
        assert pairs[0] != pairs[1]


def test_a_small_majority_teaches_nothing_when_a_larger_one_is_asked_for(tables, sft_run):
    """Half of the rows have a share of 0.9, the other half of 1."""
    config = tiny_task.data(tables, "preference")
    sizes = {
        share: len(opinions.preferences(config, sft_run.tokenizer, min_share=share, seed=0).epoch(0))
        for share in (0.5, 0.9, 0.95, 1.0)
    }
    assert sizes[0.5] == sizes[0.9] == 30
    assert sizes[0.95] == sizes[1.0]
    assert 10 < sizes[1.0] < 23


@pytest.mark.parametrize(
    ("train", "heldout", "says"),
    [
        ("ties", "unseen", r"ties\.jsonl: every comparison to train on is a tie"),
        ("chosen", "ties", r"chosen\.jsonl: no held-out pair has a majority"),
    ],
)
def test_data_without_a_majority_is_an_error_and_nothing_is_written(
    tables, tmp_path, folder, sft_run, one_device, train, heldout, says
):
    rows = [{"prompt": f"The cat {i}", "a": "sat", "b": "ran", "preference": "tie"} for i in range(20)]
    (tmp_path / "ties.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {name: str((tmp_path if name == "ties" else tables) / f"{name}.jsonl") for name in (train, heldout)}
    data = dataclasses.replace(tiny_task.data(tables, "chosen"), source=files[train], heldout=files[heldout])
    config = tiny_task.preference_config(tables, tmp_path / "run", policy=folder, data=data, min_share=0.75)
    with pytest.raises(DataError, match=says):
        stages.preference(config, mesh=one_device)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"min_share": 0.4}, "min_share must lie between 0.5 and 1, found 0.4"),
        ({"min_share": 1.1}, "min_share"),
        ({"eval_pairs": 0}, "eval_pairs must be at least 1"),
        ({"pairs_per_response": 0}, "pairs_per_response must be at least 1"),
    ],
    ids=str,
)
def test_a_config_that_cannot_run_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        tiny_task.preference_config("unused", "unused", policy="unused", **change)

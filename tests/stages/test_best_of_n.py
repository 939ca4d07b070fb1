"""Best-of-n: the reward keeps one of n samples; nothing is trained."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from rlhf_jax import stages
from rlhf_jax.rollout.responses import as_batch
from rlhf_jax.stages import EncodedPrompt, Judges, RolloutReward, RunError, keep_best
from rlhf_jax.stages.sampler import Sampler
from rlhf_jax.types import Rollout


@pytest.fixture(scope="module")
def run(tables, folder, sft_run, one_device):
    """Best-of-n of the tiny policy by the letter a, on all 36 prompts."""
    data = tiny_task.data(tables, "prompts", heldout=str(tables / "prompts.jsonl"))

    def best_of_n(n, reward_model="there is none", reward=tiny_task.count_a, **changes):
        settings = {"sampling": tiny_task.ONLINE["sampling"], "judges": {"letters": lambda _, r: [len(x) for x in r]}}
        return stages.best_of_n(
            str(folder), str(reward_model), n=n, reward=reward, data=data, mesh=one_device, **{**settings, **changes}
        )

    return best_of_n


@pytest.fixture(scope="module")
def one(run):
    return run(1)


@pytest.fixture(scope="module")
def eight(run):
    return run(8)


def test_the_best_of_one_is_the_sample_itself_and_wins_exactly_half(one):
    summary, rows = one
    assert summary["n"] == 1
    assert summary["kl"] == 0.0
    assert len(rows) == summary["test_prompts"] == 18
    for name in ("proxy", "letters"):
        assert summary[f"{name}_win_rate"] == 0.5
        assert summary[f"{name}_before"] == summary[f"{name}_after"]
    assert all(row["before"] == row["after"] for row in rows)


def test_the_best_of_eight_is_never_worse_than_one(one, eight):
    summary, rows = eight
    assert all(row["proxy_after"] >= row["proxy_before"] for row in rows)
    assert summary["proxy_after"] > summary["proxy_before"]
    assert summary["proxy_win_rate"] > 0.5
    # One of the eight is the sample that best-of-one has.
    assert [row["before"] for row in rows] == [row["before"] for row in one[1]]
    for row in rows:
        assert row["proxy_after"] == row["after"].count("a")
        assert row["letters_after"] == len(row["after"])


def test_the_kl_is_that_of_choosing(eight):
    want = math.log(8) - 7 / 8
    assert eight[0]["kl"] == pytest.approx(want)
    assert eight[0]["kl_ci"] == [eight[0]["kl"]] * 2


def test_the_seed_decides_what_is_drawn(run, eight):
    again, other = run(8, test_prompts=4), run(8, test_prompts=4, seed=1)
    samples = {row["prompt"]: row for row in eight[1]}
    assert [row["prompt"] for row in again[1]] == [row["prompt"] for row in other[1]]
    assert all(samples[row["prompt"]] == row for row in again[1])
    assert again[1] != other[1]


def test_a_reward_model_chooses_too(run, folder, reward_run):
    summary, rows = run(4, reward_model=folder, reward=None, test_prompts=8)
    assert all(row["proxy_after"] >= row["proxy_before"] for row in rows)
    assert summary["proxy_after"] > summary["proxy_before"]


def test_what_is_kept_is_the_best_of_all_that_were_drawn(tables, sft_run, one_device, monkeypatch):
    texts = [row["prompt"] for row in tiny_task.tables()["prompts"]][:6]
    prompts = [EncodedPrompt(text, sft_run.tokenizer.encode_prompt(text), i) for i, text in enumerate(texts)]
    sampling, reference = tiny_task.ONLINE["sampling"], sft_run.params["policy"]
    sampler = Sampler(sft_run.model, sft_run.tokenizer, sampling, reference=reference, mesh=one_device)
    judges = Judges(sampler, RolloutReward(tiny_task.count_a, sampler), {})
    drawn = np.array(sampler.texts(sampler(sampler.reference, prompts, 5, samples=8))).reshape(6, 8)
    kept = judges.best_of(sampler.reference, prompts, 5, 8)
    for every, text, score in zip(drawn, kept.texts, kept.scores["proxy"], strict=True):
        counts = [t.count("a") for t in every]
        assert score == max(counts)
        assert text == every[int(np.argmax(counts))]
    assert not kept.scores["kl"].any()  # the reference's own samples
    # In parts, and with a prompt that comes again in another part: it is answered anew, the others as before.
    monkeypatch.setattr("rlhf_jax.stages.comparison._AT_ONCE", 32)
    in_parts = judges.best_of(sampler.reference, [*prompts, prompts[0]], 5, 8)
    assert in_parts.texts[:6] == kept.texts
    assert in_parts.tokens[6].tolist() != in_parts.tokens[0].tolist()
    with pytest.raises(ValueError, match="best-of-n needs a reward to choose by"):
        Judges(sampler, None, {}).best_of(sampler.reference, prompts, 5, 8)


def rollout(groups, responses, length=5):
    """Every entry says whose it is."""
    name = 10 * np.arange(groups)[:, None] + np.arange(responses)
    per_token = np.broadcast_to(name[..., None], (groups, responses, length))
    mask = np.arange(length) < 1 + (name[..., None] % 4)
    fields = (per_token, mask, per_token, per_token, per_token.astype(np.float32), name % 2 == 0)
    return Rollout(*map(jnp.asarray, fields))


def test_keep_best_keeps_the_first_of_equals():
    sampled = rollout(4, 3)
    reward = jnp.array([[1.0, 2.0, 0.0], [5.0, 5.0, 5.0], [-1.0, -1.0, -3.0], [0.0, 1.0, 1.0]])
    kept = keep_best(sampled, reward)
    want = [1, 10, 20, 31]
    assert kept.tokens[:, 0, 0].tolist() == want
    assert kept.finished[:, 0].tolist() == [n % 2 == 0 for n in want]
    for name, full, one in zip(Rollout._fields, sampled, kept, strict=True):
        assert one.shape == (4, 1, *full.shape[2:]), name
        for b, n in enumerate(want):
            np.testing.assert_array_equal(one[b, 0], full[b, n % 10], err_msg=name)
    assert jax.tree.structure(as_batch(kept)) == jax.tree.structure(as_batch(sampled))


def test_what_cannot_be_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="n must be at least 1, found 0"):
        run(0)
    with pytest.raises(RunError, match="no finished reward stage"):
        run(2, reward_model=tmp_path, reward=None)
    with pytest.raises(RunError, match="no finished sft stage"):
        stages.best_of_n(str(tmp_path), "none", reward=tiny_task.count_a)

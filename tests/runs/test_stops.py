"""``SamplingConfig.stop``: a response ends with the token that completes a stop string, and is shown without it."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_task

from rlhf_jax import cli, models, parallel, stages
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.data.rows import Message
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.rollout.responses import response_tokens
from rlhf_jax.runs.chat import Conversation, without_beginning
from rlhf_jax.stages import Policy, RunError
from rlhf_jax.stages.sampler import Sampler

PROMPTS = ["The cat and", "The fox or", "The owl with", "The dog near", "A bird", "The cat with a dog", "One", "Two"]
FREE = SamplingConfig(max_new_tokens=24, window=5, temperature=1.2)


@pytest.fixture(scope="module")
def policy(sft_run):
    return Policy(sft_run.model_config, sft_run.params["policy"], sft_run.tokenizer, "sft")


@pytest.fixture(scope="module")
def free(policy):
    return list(policy.sample(PROMPTS, n=2, sampling=FREE))


@pytest.fixture(scope="module")
def stop(policy, free):
    """Two strings that the policy writes: one begins in one token and ends in another, one is a common letter."""
    for row in free:
        cut = [policy.tokenizer.decode_response(row["tokens"][:n]) for n in (3, 4, 5)]
        if len(cut[2]) > len(cut[1]) + 1 > len(cut[0]) + 2:
            crossing = cut[2][len(cut[1]) - 1 : len(cut[1]) + 1]
            return (crossing, "t")
    raise AssertionError("no response of five tokens")


def ended(policy, tokens, stop):
    """The tokens of a response up to the first with which its text holds a stop string; all of them where none does."""
    for n in range(1, len(tokens) + 1):
        if any(end in policy.tokenizer.decode([*policy.tokenizer.encode("a"), *tokens[:n]]) for end in stop):
            return tokens[:n], True
    return tokens, tokens[-1] == policy.tokenizer.eos_id


def test_responses_are_those_without_stops_up_to_the_token_that_completes_one(policy, free, stop):
    rows = list(policy.sample(PROMPTS, n=2, sampling=dataclasses.replace(FREE, stop=stop)))
    want = [ended(policy, row["tokens"], stop)[0] for row in free]
    assert [row["tokens"] for row in rows] == want
    shorter = sum(len(a) < len(b["tokens"]) for a, b in zip(want, free, strict=True))
    assert 2 <= shorter < len(free)
    for row, all_of in zip(rows, free, strict=True):
        assert not any(end in row["response"] for end in stop)
        assert all_of["response"].startswith(row["response"])


@pytest.mark.parametrize(("slots", "window", "order"), [(0, 1, 1), (0, 16, -1), (2, 3, 1), (5, 16, -1)])
def test_batch_slots_windows_and_order_change_no_response(policy, free, stop, slots, window, order, one_device):
    sampling = dataclasses.replace(FREE, stop=stop, slots=slots, window=window)
    sampler = Sampler(
        models.build(policy.config), policy.tokenizer, sampling, reference=policy.params, mesh=one_device, seed=3
    )
    prompts = [EncodedPrompt(text, policy.tokenizer.encode_prompt(text), i) for i, text in enumerate(PROMPTS)][::order]
    sampler._key = jax.random.key(0)  # that of ``Policy.sample``
    sampled = sampler(policy.params, prompts, 0, samples=2)
    want = [ended(policy, row["tokens"], stop) for row in free]
    want = [pair for i in range(len(PROMPTS))[::order] for pair in want[2 * i : 2 * i + 2]]
    assert [x.tolist() for x in response_tokens(sampled)] == [tokens for tokens, _ in want]
    assert np.asarray(sampled.finished).reshape(-1).tolist() == [done for _, done in want]
    assert not any(end in text for end in stop for text in sampler.texts(sampled))


def test_slots_on_a_mesh_whose_matrices_are_cut_change_no_response(policy, free, stop):
    mesh = parallel.make_mesh(parallel.MeshConfig(data=2, fsdp=2, tensor=2))
    sampling = dataclasses.replace(FREE, stop=stop, slots=8)
    sampler = Sampler(models.build(policy.config), policy.tokenizer, sampling, reference=policy.params, mesh=mesh)
    sampler._key = jax.random.key(0)
    prompts = [EncodedPrompt(text, policy.tokenizer.encode_prompt(text), i) for i, text in enumerate(PROMPTS)]
    sampled = sampler(sampler.reference, prompts, 0, samples=2)
    want = [ended(policy, row["tokens"], stop)[0] for row in free]
    assert [x.tolist() for x in response_tokens(sampled)] == want


def test_a_chat_shows_no_stop_string_and_no_beginning_of_one(policy):
    first = "".join(Conversation(policy, FREE, seed=1).ask("The cat and"))
    assert len(first) > 8
    stop = (first[5:8], "never\n")
    conversation = Conversation(policy, dataclasses.replace(FREE, window=1, stop=stop), seed=1)
    shown = ""
    for piece in conversation.ask("The cat and"):
        shown += piece
        assert first.startswith(shown)
        assert len(shown) <= first.index(stop[0])
    assert shown == first[: first.index(stop[0])]
    assert conversation.turns[-1] == Message("assistant", shown)
    # What only looked like one is shown in the end.
    almost = Conversation(policy, dataclasses.replace(FREE, stop=(first[-3:] + "@#",)), seed=1)
    assert "".join(almost.ask("The cat and")) == first


def test_the_longest_beginning_of_a_stop_string_is_held_back():
    assert without_beginning("a#", ["##", "#\n"]) == "a"
    assert without_beginning("abab", ["ababc", "bx"]) == ""
    assert without_beginning("ab", ["ab"]) == "ab"  # whole ones are found elsewhere
    assert without_beginning("ab", []) == "ab"


def test_a_stop_string_that_the_tokenizer_cannot_write_is_named(policy):
    with pytest.raises(RunError, match=r"sampling\.stop: no tokens of this tokenizer write the stop string '\\udcff'"):
        list(policy.sample(PROMPTS, sampling=SamplingConfig(stop=("\n", "\udcff"))))


def test_the_command_line_takes_several(policy, free, stop, sft_run, capsys):
    words = ["--max-new-tokens", "24", "--temperature", "1.2", "--stage", "sft", "--stop", *stop]
    assert cli.run(["sample", str(sft_run.directory), PROMPTS[0], "--n", "2", *words]) == 0
    want = [ended(policy, row["tokens"], stop)[0] for row in free[:2]]
    assert capsys.readouterr().out == "".join(f"{policy.tokenizer.decode_response(x, stop)}\n" for x in want)
    assert cli.run(["sample", str(sft_run.directory), PROMPTS[0], "--stop", ""]) == 2
    assert "none of them empty" in capsys.readouterr().err


def test_ppo_trains_on_the_tokens_of_a_stop_string_and_scores_the_text_before_it(tables, ppo_run, tmp_path, one_device):
    seen = []

    def reward(prompts, responses):
        seen.extend(responses)
        return tiny_task.count_a(prompts, responses)

    sampling = SamplingConfig(max_new_tokens=12, stop=("a",))
    config = tiny_task.ppo_config(tables, tmp_path, policy=ppo_run.directory, sampling=sampling, iterations=1)
    result = stages.ppo(config, reward=reward, mesh=one_device)
    assert seen
    assert not any("a" in text for text in seen)
    assert result.summary["proxy_after"] == 0.0  # no "a" is left to be counted
    assert result.metrics[-1]["ppo/logprob_gap"] < 1e-4
    again = stages.ppo(config, reward=reward, mesh=one_device)  # the config is the one that the folder holds
    assert again.summary == result.summary

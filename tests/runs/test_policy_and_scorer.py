"""``rlhf sample`` and ``rlhf score`` on a tiny run: rows, fields, and nothing half-written."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_task

from rlhf_jax import cli, models
from rlhf_jax.data import Message
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs import pretrained
from rlhf_jax.runs.policy import SAMPLED
from rlhf_jax.runs.scorer import scorable
from rlhf_jax.stages import Policy, RunError, Scorer

PROMPTS = ["The cat and", "The fox or", "The owl with"]
SHORT = SamplingConfig(max_new_tokens=4)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sample(folder, *words):
    return cli.run(["sample", str(folder), "--max-new-tokens", "6", *map(str, words)])


def test_sample_prints_responses_to_one_prompt(ppo_run, folder, capsys):
    assert sample(folder, "The cat and", "--n", 3) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_several_responses_have_a_line_each_whatever_is_in_them(ppo_run, folder, monkeypatch, capsys):
    texts = ["One.\nTwo.", r"a \n b", "plain", ""]
    monkeypatch.setattr(Policy, "sample", lambda *_, n, **how: iter([{"response": text} for text in texts[:n]]))
    assert sample(folder, "The cat and", "--n", 4) == 0
    printed = capsys.readouterr()
    assert printed.out == "One.\\nTwo.\na \\\\n b\nplain\n\n"
    assert [line.encode().decode("unicode_escape") for line in printed.out.splitlines()] == texts
    assert "line breaks inside responses are written" in printed.err
    assert sample(folder, "The cat and") == 0  # one response is its text, as somebody pipes it on
    assert capsys.readouterr().out == texts[0] + "\n"


def test_sample_writes_a_row_for_every_response(ppo_run, folder, tmp_path, capsys):
    prompts = write(tmp_path / "p.jsonl", [{"prompt": p} for p in PROMPTS])
    to = tmp_path / "new" / "folder" / "out.jsonl"
    assert sample(folder, "--prompts", prompts, "--n", 2, "--to", to) == 0
    rows = read(to)
    assert [row["prompt"] for row in rows] == [p for p in PROMPTS for _ in range(2)]
    tokenizer = ppo_run.tokenizer
    for row in rows:
        assert row.keys() == {"prompt", "response", "tokens", "logprob"}
        assert 1 <= len(row["tokens"]) <= 6
        assert row["response"] == tokenizer.decode_response(np.array(row["tokens"]))
        assert row["logprob"] < 0
    assert len({tuple(row["tokens"]) for row in rows}) > 3
    # The same seed gives the same rows, another one others.
    again, other = tmp_path / "again.jsonl", tmp_path / "other.jsonl"
    sample(folder, "--prompts", prompts, "--n", 2, "--to", again)
    sample(folder, "--prompts", prompts, "--n", 2, "--to", other, "--seed", 1)
    assert again.read_bytes() == to.read_bytes() != other.read_bytes()


def test_the_log_probability_of_a_row_is_that_of_its_tokens(ppo_run, folder):
    """Greedy responses: what the policy itself says, computed from the whole sequence."""
    import jax
    import jax.numpy as jnp

    from rlhf_jax import losses, models

    policy = Policy.load(folder)
    assert policy.stage == "ppo"
    (row,) = policy.sample(PROMPTS[:1], sampling=SamplingConfig(max_new_tokens=5, temperature=0.5))
    prompt = policy.tokenizer.encode_prompt(PROMPTS[0])
    tokens = jnp.asarray(np.concatenate([prompt, row["tokens"]]))[None]
    logits = jax.jit(models.logits, static_argnums=0)(policy.config, policy.params, tokens, tokens >= 0)
    each = losses.token_logprobs(logits[:, :-1], tokens[:, 1:])[0, len(prompt) - 1 :]
    assert row["logprob"] == pytest.approx(float(each.sum()), abs=1e-4)


def test_many_prompts_sample_as_few_do(ppo_run):
    """More prompts than are sampled at once; the last, smaller part is filled up and leaves no extra row."""
    policy = Policy.load(ppo_run.directory, "sft")
    assert policy.stage == "sft"
    short = SamplingConfig(max_new_tokens=2)
    texts = [f"The cat {'and ' * (i % 2)}" for i in range(SAMPLED + 5)]
    rows = list(policy.sample(texts, sampling=short))
    assert [row["prompt"] for row in rows] == texts
    few = list(policy.sample(texts[:4], sampling=short))
    assert [row["tokens"] for row in few] == [row["tokens"] for row in rows[:4]]


def test_best_of_keeps_the_response_that_the_reward_model_scores_highest(ppo_run, folder, tmp_path, capsys):
    prompts = write(tmp_path / "p.jsonl", [{"prompt": p} for p in PROMPTS])
    every, best = tmp_path / "every.jsonl", tmp_path / "best.jsonl"
    assert sample(folder, "--prompts", prompts, "--n", 8, "--to", every) == 0
    assert sample(folder, "--prompts", prompts, "--n", 2, "--best-of", 4, "--to", best) == 0
    drawn, kept = read(every), read(best)
    assert [row["prompt"] for row in kept] == [p for p in PROMPTS for _ in range(2)]
    scorer = Scorer.load(folder)
    for i, row in enumerate(kept):
        four = drawn[4 * i : 4 * i + 4]  # the same seed draws the same: two fours of the eight
        asked = [np.append(scorer.tokenizer.encode_prompt(r["prompt"]), r["tokens"]) for r in four]
        scores = scorer.score_tokens(asked)
        assert row == {**four[int(np.argmax(scores))], "score": pytest.approx(float(scores.max()), abs=1e-5)}
    assert any(row != drawn[4 * i] for i, row in enumerate(kept))


def test_best_of_scores_a_response_that_did_not_end_as_it_is(ppo_run, folder):
    """Its text encoded again would get an end-of-sequence token, and other tokens besides."""
    policy, scorer = Policy.load(folder), Scorer.load(folder)
    from rlhf_jax.runs.scorer import best_of

    rows = list(policy.sample(PROMPTS, n=4, sampling=SamplingConfig(max_new_tokens=3)))
    unfinished = [row["tokens"][-1] != policy.tokenizer.eos_id for row in rows]
    assert any(unfinished)
    for kept in best_of(rows, scorer, 4):
        asked = np.append(scorer.tokenizer.encode_prompt(kept["prompt"]), kept["tokens"])
        assert kept["score"] == pytest.approx(float(scorer.score_tokens([asked])[0]), abs=1e-5)


def test_best_of_needs_a_reward_model(tables, tmp_path, sft_run, capsys):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "sft").symlink_to(sft_run.directory / "params" / "sft")
    (tmp_path / "tokenizer.json").symlink_to(sft_run.directory / "tokenizer.json")
    to = tmp_path / "out.jsonl"
    assert sample(tmp_path, "x", "--best-of", 2, "--to", to) == 2
    assert "no finished reward stage" in capsys.readouterr().err
    assert not to.exists()


def test_score_adds_a_score_to_every_row(reward_run, folder, tmp_path, capsys):
    single = [{"prompt": p, "response": r, "id": i} for i, (p, r) in enumerate(zip(PROMPTS, "abc", strict=True))]
    to = tmp_path / "scored.jsonl"
    assert cli.run(["score", str(folder), "--input", write(tmp_path / "in.jsonl", single), "--to", str(to)]) == 0
    rows = read(to)
    assert [{k: v for k, v in row.items() if k != "score"} for row in rows] == single
    want = Scorer.load(folder)([r["prompt"] for r in single], [r["response"] for r in single])
    np.testing.assert_allclose([row["score"] for row in rows], want, atol=1e-5)


def test_score_takes_pairs_and_its_scores_do_not_depend_on_the_company(reward_run, folder, tmp_path):
    pairs = [{"prompt": p, "chosen": "sat a far", "rejected": "rose the low and fell"} for p in PROMPTS]
    to = tmp_path / "scored.jsonl"
    assert cli.run(["score", str(folder), "--input", write(tmp_path / "in.jsonl", pairs), "--to", str(to)]) == 0
    scorer = Scorer.load(folder)
    for row, pair in zip(read(to), pairs, strict=True):
        assert row.keys() == {*pair, "chosen_score", "rejected_score"}
        assert row["chosen_score"] > row["rejected_score"]
        alone = scorer([row["prompt"]], [row["chosen"]])[0]
        assert row["chosen_score"] == pytest.approx(float(alone), abs=1e-5)


CHAT = [{"role": "user", "content": "The cat and"}]
ROWS = {  # of several layouts; the responses to the same prompt, the preferred one first
    "hh": {
        "chosen": "\n\nHuman: The cat and\n\nAssistant: sat",
        "rejected": "\n\nHuman: The cat and\n\nAssistant: fell",
    },
    "ultrafeedback": {
        "prompt": "The cat and",
        "chosen": [*CHAT, {"role": "assistant", "content": "sat"}],
        "rejected": [*CHAT, {"role": "assistant", "content": "fell"}],
        "score_chosen": 8.0,
        "score_rejected": 3.0,
    },
    "votes": {"prompt": CHAT, "a": "fell", "b": "sat", "preference": 0.25},
}


def test_a_ranking_has_a_score_for_each_of_its_responses():
    row = {"prompt": "P", "responses": ["x", "y", "z"], "ranking": [2, 1, 3]}
    found = scorable(row, "r:1")
    assert {name: one.response for name, one in found.responses.items()} == {
        "score_1": "x",
        "score_2": "y",
        "score_3": "z",
    }


def test_score_reads_any_layout_and_keeps_the_rows(reward_run, folder, tmp_path):
    to = tmp_path / "scored.jsonl"
    file = write(tmp_path / "in.jsonl", [*ROWS.values(), {"messages": ROWS["ultrafeedback"]["rejected"]}])
    assert cli.run(["score", str(folder), "--input", file, "--to", str(to)]) == 0
    *pairs, chat = read(to)
    scorer = Scorer.load(folder)
    asked = (Message("user", "The cat and"),)
    sat, fell = scorer([asked, asked], ["sat", "fell"]).tolist()
    for row, given in zip(pairs, ROWS.values(), strict=True):
        scores = (row.pop("chosen_score"), row.pop("rejected_score"))
        assert scores == (pytest.approx(sat, abs=1e-5), pytest.approx(fell, abs=1e-5))
        assert row == given
    assert chat == {"messages": ROWS["ultrafeedback"]["rejected"], "score": pytest.approx(fell, abs=1e-5)}
    assert abs(sat - scorer(["The cat and"], ["sat"])[0]) > 1e-4  # a chat is not the bare text


def test_sample_reads_any_layout_and_best_of_scores_chats(ppo_run, folder, tmp_path):
    file = write(tmp_path / "in.jsonl", [*ROWS.values(), {"prompt": "The cat and"}])
    to = tmp_path / "out.jsonl"
    assert sample(folder, "--prompts", file, "--best-of", 3, "--to", to) == 0
    rows = read(to)
    assert [row["prompt"] for row in rows] == [CHAT, CHAT, CHAT, "The cat and"]
    scorer = Scorer.load(folder)
    asked = [scorer.tokenizer.encode_prompt(p) for p in [(Message("user", "The cat and"),)] * 3 + ["The cat and"]]
    want = scorer.score_tokens([np.append(p, row["tokens"]) for p, row in zip(asked, rows, strict=True)])
    np.testing.assert_allclose([row["score"] for row in rows], want, atol=1e-5)


def test_scores_are_those_the_stage_measured(reward_run, folder):
    table = tiny_task.tables()["chosen"]
    scorer = Scorer.load(folder)
    gap = scorer([r["prompt"] for r in table], [r["chosen"] for r in table])
    gap -= scorer([r["prompt"] for r in table], [r["rejected"] for r in table])
    assert (gap > 0).mean() >= 0.9


@pytest.mark.parametrize("command", ["sample", "score"])
def test_a_bad_row_is_an_error_and_nothing_is_written(ppo_run, folder, tmp_path, capsys, command):
    good = {"prompt": "The cat and", "response": "sat"}
    file = write(tmp_path / "in.jsonl", [good, {"prompt": 7, "response": "x"}, good])
    to = tmp_path / "out.jsonl"
    words = ["--prompts" if command == "sample" else "--input", file, "--to", str(to)]
    assert cli.run([command, str(folder), *words]) == 2
    said = capsys.readouterr().err
    assert "in.jsonl:2: field 'prompt'" in said
    assert "Traceback" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]
    assert cli.run([command, str(folder), *words, "--on-bad-row", "skip"]) == 0
    assert len(read(to)) == 2
    assert "in.jsonl:2" in capsys.readouterr().err


def test_an_old_file_stays_when_the_command_fails(reward_run, folder, tmp_path, capsys):
    to = tmp_path / "out.jsonl"
    to.write_text("precious\n")
    file = write(tmp_path / "in.jsonl", [{"prompt": "x"}])
    assert cli.run(["score", str(folder), "--input", file, "--to", str(to)]) == 2
    assert to.read_text() == "precious\n"


def test_the_stages_own_commands_continue_from_their_folder(ppo_run, folder, tables, tmp_path, capsys):
    """``rlhf sft --config FILE``: here all is done already, so that only the report is written."""
    config = tmp_path / "tiny.py"
    config.write_text(
        f"import sys\nsys.path.insert(0, {str(tiny_task.__file__.rsplit('/', 1)[0])!r})\nimport tiny_task\n"
        f"config = tiny_task.sft_config({str(tables)!r}, {str(folder)!r})\n"
    )
    assert cli.run(["sft", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert out.strip().endswith("report.html")
    assert "<html" in (folder / "report.html").read_text()
    assert cli.run(["sft", "--config", str(config), "--seed", "5"]) == 2
    assert "another config (seed" in capsys.readouterr().err
    assert cli.run(["report", str(folder)]) == 0


def test_what_the_model_cannot_read_is_refused(ppo_run, folder):
    policy, scorer = Policy.load(folder), Scorer.load(folder)
    narrow = dataclasses.replace(policy.config, max_length=32)
    with pytest.raises(RunError, match=r"prompt 1 has \d+ tokens, and the model reads 32, which leaves 28 beside"):
        next(dataclasses.replace(policy, config=narrow).sample(["One", "The cat and " * 20], sampling=SHORT))
    with pytest.raises(RunError, match="the reward model reads 32; shorten it"):
        dataclasses.replace(scorer, config=narrow)(["The cat and"], ["far " * 40])


def test_a_checkpoint_is_sampled_from_but_has_no_stages(sft_run, tmp_path, capsys):
    models.save_pretrained(
        tmp_path / "model", sft_run.model_config, sft_run.params["policy"], tokenizer=sft_run.tokenizer
    )
    words = ["sample", str(tmp_path / "model"), "The cat and", "--max-new-tokens", "4"]
    assert cli.run(words) == 0
    for more, says in (
        (["--stage", "sft"], "it is a pretrained checkpoint, no run folder"),
        (["--best-of", "2"], "is a language model, which has no score"),
    ):
        assert cli.run([*words, *more]) == 2
        assert says in capsys.readouterr().err


def test_tokens_without_an_embedding_are_named(sft_run, recwarn):
    config, own = sft_run.model_config, sft_run.tokenizer
    pretrained.warn_of_unknown_tokens(Path("here"), config, own)
    assert not recwarn.list
    smaller = dataclasses.replace(config, vocab_size=config.vocab_size - 3)
    with pytest.warns(UserWarning, match=f"^here: the tokenizer has 3 tokens, from id {config.vocab_size - 3} on"):
        pretrained.warn_of_unknown_tokens(Path("here"), smaller, own)
    padded = SimpleNamespace(pad_id=config.vocab_size, vocab_size=config.vocab_size + 1)  # added, never resized
    pretrained.warn_of_unknown_tokens(Path("here"), config, padded)
    assert not recwarn.list


def test_a_run_without_the_stage_says_what_it_holds(tables, tmp_path, sft_run, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert cli.run(["sample", str(tmp_path), "x"]) == 2
    assert "no finished sft stage" in capsys.readouterr().err
    with pytest.raises(RunError, match="stage 'reward' has no policy"):
        Policy.load(tmp_path, "reward")


def test_rows_without_a_response_are_nothing_to_score(ppo_run, tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "The cat and"}\n')
    words = [
        "score",
        str(ppo_run.directory),
        "--input",
        str(tmp_path / "prompts.jsonl"),
        "--to",
        str(tmp_path / "out.jsonl"),
    ]
    assert cli.run([*words, "--on-bad-row", "skip"]) == 2
    assert "no row has a response to score; rlhf sample" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()

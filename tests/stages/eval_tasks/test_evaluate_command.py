"""``rlhf evaluate --tasks`` prints figures and writes them, and refuses what does not go with tasks."""

import json

import pytest

from rlhf_jax.cli.evaluate import evaluate
from rlhf_jax.cli.parsing import UsageError


def test_two_policies_on_a_task(sft_run, ppo_run, tables, tmp_path, capsys):
    to = tmp_path / "figures.json"
    words = [f"{ppo_run.directory}:ppo", "--tasks", str(tables / "text.jsonl"), f"--tasks=again={tables}/text.jsonl"]
    evaluate([*words, "--against", f"{sft_run.directory}:sft", "--json", str(to)])
    printed, written = capsys.readouterr().out, json.loads(to.read_text())
    assert "perplexity" in printed
    assert "the first less the second" in printed
    assert list(written["tasks"]) == ["text", "again"]
    assert written["differences"]["text"] == written["differences"]["again"]
    low, high = written["differences"]["text"]["bits_per_byte_ci"]
    assert low <= written["differences"]["text"]["bits_per_byte"] <= high


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "a.jsonl", "--data", "b.jsonl"], "--data is not for --tasks"),
        (["--tasks", "a.jsonl", "--golden", "b.jsonl"], "--golden is not for --tasks"),
        ([], "--data FILE, or a policy's tasks, --tasks FILE"),
        (["--tasks"], "--tasks needs FILE or NAME=FILE"),
    ],
)
def test_what_does_not_go_together_is_refused(words, said):
    with pytest.raises(UsageError, match=said):
        evaluate(["runs/mine", *words])

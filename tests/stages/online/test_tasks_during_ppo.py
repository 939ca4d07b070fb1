"""Tasks are measured before, during and after training on the policy's own samples, and change nothing of it."""

import json

import pytest
import tiny_task

from rlhf_jax import stages
from rlhf_jax.data import write_jsonl
from rlhf_jax.report.panels import stage_panels
from rlhf_jax.runs.errors import RunError
from rlhf_jax.stages.eval_tasks import evaluate_tasks_beside

FIGURES = {"tasks/text/perplexity", "tasks/text/word_perplexity", "tasks/text/bits_per_byte"}
FIGURES |= {"tasks/sums/exact_match"}


@pytest.fixture(scope="module")
def tasks(tables, tmp_path_factory):
    sums = tmp_path_factory.mktemp("tasks") / "sums.jsonl"
    write_jsonl(sums, [{"prompt": f"The {animal} and", "answer": "sat"} for animal in tiny_task.ANIMALS])
    return (str(tables / "text.jsonl"), f"sums={sums}")


@pytest.fixture(scope="module")
def run(tables, tmp_path_factory, sft_run, tasks, one_device):
    out = tmp_path_factory.mktemp("measured")
    config = tiny_task.ppo_config(tables, out, policy=sft_run.directory, reward="", eval_tasks=tasks)
    return config, stages.ppo(config, reward=tiny_task.count_a, mesh=one_device)


def test_every_evaluation_logs_the_figures(run):
    rows = [json.loads(line) for line in (run[1].directory / "metrics.jsonl").read_text().splitlines()]
    measured = [row for row in rows if "ppo/heldout_kl" in row]
    assert [row["step"] for row in measured] == [0, 2, 3]
    for row in measured:
        assert {f"ppo/{name}" for name in FIGURES} <= set(row)
    main, other = stage_panels("ppo", rows)
    assert {"text: bits a byte", "sums: answered exactly"} <= {panel.title for panel in main}
    assert not [panel.title for panel in other if "tasks" in panel.title]


def test_the_summary_has_the_change_that_evaluate_finds(run, sft_run, tasks):
    found = run[1].summary["tasks"]["text"]
    beside = evaluate_tasks_beside(f"{run[1].directory}:ppo", f"{sft_run.directory}:sft", tasks)
    first, change = beside.first.tasks[0].figures["perplexity"], beside.differences["text"]["perplexity"]
    assert found["perplexity_after"] == pytest.approx(first.value, rel=1e-5)
    assert found["perplexity_change"] == pytest.approx(change.value, rel=1e-3, abs=1e-4)
    assert found["perplexity_change_ci"] == pytest.approx(list(change.ci), rel=1e-2, abs=1e-3)


def test_rows_of_a_task_are_part_of_what_a_run_is_made_of(run, tables, tmp_path, idle):
    config, _ = run
    other = tmp_path / "text.jsonl"
    write_jsonl(other, [{"text": "Another text."}])
    changed = tiny_task.ppo_config(
        tables, config.out, policy=config.policy, reward="", eval_tasks=(str(other), config.eval_tasks[1])
    )
    with pytest.raises(RunError, match=r"tasks.text was .*text.jsonl .* and is now other content"):
        stages.ppo(changed, reward=tiny_task.count_a)


def test_two_tasks_of_one_name_are_refused_at_once():
    with pytest.raises(ValueError, match="two tasks are called a"):
        stages.PPOConfig(eval_tasks=("x/a.jsonl", "y/a.jsonl"))

"""What a judge is, by content: what it votes by, and not where it lies or how fast it is asked."""

import dataclasses

import pytest

from rlhf_jax.judges import JudgeConfig
from rlhf_jax.judges.endpoint import EndpointConfig
from rlhf_jax.judges.made_of import of_judge, rater_name, short_name
from rlhf_jax.runs.errors import RunError

SERVED = JudgeConfig(judge="http://127.0.0.1:8000/v1#small")


def content(config):
    return of_judge(config)["sha256"]


def test_what_is_asked_is_a_part_of_a_judge_and_what_it_costs_is_not(tmp_path):
    rubric = tmp_path / "kind.toml"
    rubric.write_text('[[criteria]]\ntext = "The response is kind."\n')
    by_rubric = dataclasses.replace(SERVED, rubric=str(rubric))
    moved = tmp_path / "moved.toml"
    moved.write_text(rubric.read_text())
    every = [
        SERVED,
        dataclasses.replace(SERVED, judge="http://127.0.0.1:8000/v1#large"),
        dataclasses.replace(SERVED, how="scores"),
        dataclasses.replace(SERVED, criterion="The response is kind."),
        dataclasses.replace(SERVED, endpoint=EndpointConfig(temperature=1.0)),
        by_rubric,
    ]
    assert len({content(config) for config in every}) == len(every)
    cheap = EndpointConfig(price_in=1.0, concurrency=2, timeout=5.0, cache=str(tmp_path / "answers.sqlite"))
    assert content(dataclasses.replace(SERVED, endpoint=cheap)) == content(SERVED)
    assert content(dataclasses.replace(SERVED, seed=3)) == content(SERVED)  # no principle is drawn by it
    assert content(dataclasses.replace(SERVED, rubric=str(moved))) == content(by_rubric)
    before = content(by_rubric)
    rubric.write_text('[[criteria]]\ntext = "The response is short."\n')
    assert content(by_rubric) != before


def test_a_file_of_fields_is_the_judge_that_it_names(tmp_path):
    file = tmp_path / "judge.toml"
    file.write_text('judge = "http://127.0.0.1:8000/v1#small"\nhow = "scores"\n')
    assert content(JudgeConfig(judge=str(file))) == content(dataclasses.replace(SERVED, how="scores"))


def test_a_function_is_what_it_computes(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def longer(prompts, responses):\n    return [1.0 for _ in responses]\n")
    before = content(JudgeConfig(judge=f"{file}:longer"))
    file.write_text("def longer(prompts, responses):\n    return [0.0 for _ in responses]\n")
    assert content(JudgeConfig(judge=f"{file}:longer")) != before


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError, match=r"judge .*gone: there is no such run folder, checkpoint or file"):
        of_judge(JudgeConfig(judge=str(tmp_path / "gone")))
    with pytest.raises(RunError, match=r"rubric .*gone.toml: it cannot be read"):
        of_judge(dataclasses.replace(SERVED, rubric=str(tmp_path / "gone.toml")))


def test_raters_are_told_apart_by_what_they_are_asked():
    assert rater_name(SERVED) == "small"
    assert rater_name(dataclasses.replace(SERVED, how="ranking")) == "small/ranking"
    assert short_name("scores:judges/mine.py:count") == "scores:mine.py:count"

"""From a run or a file to a store, gone on with by the same command; the command line, and ``rlhf data``."""

import sys
import types

import pytest

from rlhf_jax import cli, compare, stages
from rlhf_jax.compare import CompareError, Session
from rlhf_jax.data import DataError, layouts, read_jsonl, write_jsonl
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.errors import RunError
from rlhf_jax.stages.people.prompts import prompts_of_run

PAIRS = [{"prompt": f"Question {i}?", "a": f"good {i}", "b": f"bad {i}"} for i in range(8)]
GOLDEN = [{"prompt": f"Which {i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(3)]


@pytest.fixture
def files(tmp_path):
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    write_jsonl(tmp_path / "golden.jsonl", GOLDEN)
    (tmp_path / "rubric.md").write_text("Which one answers?\n")
    return tmp_path


def config(folder, **fields):
    named = {"source": folder / "pairs.jsonl", "golden": folder / "golden.jsonl", "to": folder / "said.sqlite"}
    return stages.CompareConfig(**{**named, **fields})


def test_a_file_and_golden_items_are_a_store(files):
    store, settings = stages.open_store(config(files, raters=["ann", "bo"], rubric=files / "rubric.md"))
    assert [item.golden for item in store.items.values()] == ["a"] * 3 + [None] * 8
    assert [rater.name for rater in store.raters()] == ["ann", "bo"]
    assert {name: store.rater_of(token).name for name, token in settings.tokens.items()} == {"ann": "ann", "bo": "bo"}
    assert (settings.rubric, settings.next) == ("Which one answers?\n", "random")


def test_the_same_command_goes_on_and_adds_raters(files):
    store, first = stages.open_store(config(files, raters=["ann"]))
    ann = store.rater_of(first.tokens["ann"])
    shown = Session(store, first).next(ann)
    again, settings = stages.open_store(config(files, raters=["ann", "bo"], hidden=0.2))
    assert list(settings.tokens) == ["bo"]  # ann's link is the one that she has
    assert again.rater_of(first.tokens["ann"]) == ann
    assert settings.port == first.port > 0  # or her link would lead nowhere
    assert Session(again, settings).next(ann) == shown
    assert again.settings().hidden == 0.2
    _, renewed = stages.open_store(config(files, raters=["ann"], new_links=True))
    assert again.rater_of(first.tokens["ann"]) is None
    assert again.rater_of(renewed.tokens["ann"]) == ann


def test_other_pairs_are_refused_and_the_same_ones_elsewhere_are_not(files):
    store, _ = stages.open_store(config(files))
    write_jsonl(files / "moved.jsonl", PAIRS)
    assert stages.open_store(config(files, source=files / "moved.jsonl"))[0].items == store.items
    write_jsonl(files / "pairs.jsonl", [*PAIRS, {"prompt": "More?", "a": "1", "b": "2"}])
    with pytest.raises(CompareError, match=r"said.sqlite holds the pairs of .*what it holds now"):
        stages.open_store(config(files))
    with pytest.raises(CompareError, match=r"with other ones, from .*moved.jsonl: name another file"):
        stages.open_store(config(files, source=files / "moved.jsonl", golden=""))


def test_at_most_so_many_pairs_spread_over_the_file(files):
    store, _ = stages.open_store(config(files, pairs=3, golden=""))
    assert [item.prompt for item in store.items.values()] == ["Question 0?", "Question 3?", "Question 7?"]


def test_what_cannot_be_compared_is_refused(files, tmp_path):
    with pytest.raises(CompareError, match="no such run folder or file"):
        stages.open_store(config(files, source="nothing.jsonl"))
    with pytest.raises(CompareError, match="a file of pairs, and no run"):
        stages.open_store(config(files, against="runs/other"))
    with pytest.raises(ValueError, match="needs a reward model"):
        config(files, next="disputed")
    with pytest.raises(ValueError, match="'ann' twice"):
        config(files, raters=["ann", "ann"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(RunError, match="--prompts FILE"):
        stages.open_store(config(files, source=tmp_path / "run"))
    with pytest.raises(ValueError, match="takes CompareConfig"):
        stages.open_store("runs/mine")
    assert not (files / "said.sqlite").exists()


def test_two_samples_of_a_run_scored_by_its_reward_model(tmp_path, folder, reward_run):
    """Held-out prompts, two samples of each, and the difference of their scores as ``Scorer`` gives them."""
    asked = stages.CompareConfig(
        source=folder, to=tmp_path / "said.sqlite", reward=folder, pairs=4, sampling=SamplingConfig(max_new_tokens=6)
    )
    store, settings = stages.open_store(asked)
    assert settings.next == "disputed"
    items = list(store.items.values())
    prompts, _ = prompts_of_run(str(folder), "test")
    assert {item.prompt for item in items} <= set(prompts)
    assert len(items) > 1
    scorer = stages.Scorer.load(folder)
    for item in items:
        first, second = scorer([item.prompt] * 2, [item.a, item.b])
        assert item.gap == pytest.approx(float(first - second), abs=1e-5)
        assert item.spread is None  # a single model disputes nothing with itself
    ann = store.rater_of(settings.tokens["rater"])
    nearest = min(items, key=lambda item: abs(item.gap))
    assert Session(store, settings).next(ann).prompt == nearest.prompt
    assert stages.open_store(asked)[0].items == store.items  # without sampling again
    with pytest.raises(CompareError, match="what it holds now"):
        stages.open_store(stages.CompareConfig(**{**vars(asked), "seed": 1}))


def test_a_sample_of_each_of_two_runs_is_blind_and_exported_by_name(tmp_path, folder, sft_run, files, monkeypatch):
    """The policies are stand-ins that say their run's name backwards."""

    class Backwards:
        def __init__(self, run):
            self.run = run

        @classmethod
        def load(cls, run):
            return cls(run)

        def sample(self, prompts, *, n=1, sampling, seed):
            assert (n, sampling) == (1, SamplingConfig(max_new_tokens=6))
            return ({"response": f"{self.run[::-1]} {prompt}"} for prompt in prompts)

    monkeypatch.setattr("rlhf_jax.stages.people.opening.Policy", Backwards)
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"The {animal}"} for animal in ("cat", "dog", "hen")])
    runs = f"{folder}:sft", str(folder)
    store, settings = stages.open_store(
        config(
            files,
            source=runs[0],
            against=runs[1],
            golden="",
            prompts=tmp_path / "prompts.jsonl",
            sampling=SamplingConfig(max_new_tokens=6),
        )
    )
    session, rater = Session(store, settings), store.rater_of(settings.tokens["rater"])
    while shown := session.next(rater):
        assert not any(run in repr(shown) for run in runs)
        session.answer(rater, shown.id, "left" if shown.left.startswith(runs[0][::-1]) else "right", 1, 1.0)
    compare.export(store.path, tmp_path / "rows.jsonl")
    rows, _ = read_jsonl(tmp_path / "rows.jsonl", lambda row, where: row)
    assert {(row["model_a"], row["model_b"], row["preference"]) for row in rows} == {(*runs, "a")}
    assert {row["prompt"] for row in rows} == {"The cat", "The dog", "The hen"}


def test_held_out_prompts_that_are_gone_say_what_to_do(tmp_path, folder, sft_run):
    from rlhf_jax.runs.folder import read_record, write_json

    record = read_record(folder / "config.json")
    for source, error in (("nowhere.jsonl", DataError), ("task.py:task", RunError)):
        write_json(tmp_path / "config.json", {"sft": {**record["sft"], "data": {"source": source}}})
        with pytest.raises(error, match="--prompts FILE"):
            prompts_of_run(f"{tmp_path}:sft", "test")


def test_the_command_serves_and_rlhf_data_writes_rows(files, monkeypatch, capsys):
    """``compare.serve`` is the page's; here it is two raters who prefer what is good."""
    asked = []

    def serve(store, settings):
        asked.append(settings)
        for rater in store.raters():
            session = Session(store, settings)
            while shown := session.next(rater):
                session.answer(rater, shown.id, "left" if shown.left.startswith("good") else "right", 3, 1.0)

    page = types.ModuleType("rlhf_jax.compare.serve")
    page.serve = serve
    monkeypatch.setitem(sys.modules, "rlhf_jax.compare.serve", page)
    monkeypatch.setattr("rlhf_jax.compare.packages.check_packages", lambda: None)
    where = [str(files / "pairs.jsonl"), "--golden", str(files / "golden.jsonl"), "--to", str(files / "x.sqlite")]
    assert cli.run(["compare", *where, "--raters", "ann, bo", "--port", "8123", "--calibrate", "1"]) == 0
    (settings,) = asked
    assert (sorted(settings.tokens), settings.port, settings.calibrate) == (["ann", "bo"], 8123, 1)
    assert cli.run(["data", str(files / "x.sqlite"), "--to", str(files / "rows.jsonl")]) == 0
    rows, _ = read_jsonl(files / "rows.jsonl", layouts.comparison)
    assert len(rows) >= 2 * (1 + len(PAIRS))
    assert all(row.responses[0].startswith("good") and row.votes[0, 1] == 1 for row in rows)
    capsys.readouterr()
    assert cli.run(["data", "human_sentimemt", "--to", str(files / "rows.jsonl")]) == 2
    assert "expected human_sentiment, or a file that rlhf compare has made" in capsys.readouterr().err
    assert cli.run(["compare", *where, "--next", "disputed"]) == 2
    assert "needs a reward model" in capsys.readouterr().err


def test_missing_packages_are_said_before_anything_is_sampled(files, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.run(["compare", str(files / "pairs.jsonl"), "--to", str(files / "x.sqlite")]) == 2
    assert "needs starlette and uvicorn: pip install starlette uvicorn" in capsys.readouterr().err
    assert not (files / "x.sqlite").exists()

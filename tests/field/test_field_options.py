"""What a newcomer asks of the command line: a reward, judges, an optimiser and a tracker of one's own, in one file."""

import contextlib
import json
import shutil
import sys
import types

import jax
import numpy as np
import optax
import pytest
import tiny_task

from rlhf_jax import cli, objectives, stages, training
from rlhf_jax.cli import first_help
from rlhf_jax.cli.stage_options import stage_and_config
from rlhf_jax.runs.errors import RunError
from rlhf_jax.stages.config import named_judges
from rlhf_jax.stages.fitting import objectives_of
from rlhf_jax.stages.given import Given
from rlhf_jax.stages.optimizers import choose_optimizer, try_optimizer
from rlhf_jax.stages.trackers import find_tracker
from rlhf_jax.training.tracking import Tracking, start_service

MINE = """
import json, pathlib
import optax

def vowels(prompts, responses):
    return [float(sum(map(r.count, "aeiou"))) for r in responses]

def short(prompts, responses):
    return [-float(len(r)) for r in responses]

def dicts(prompts, responses):
    return [{"score": 1.0} for r in responses]

def lion(learning_rate):
    return optax.lion(learning_rate, b1=0.8)

def counted(steps, config):
    return optax.sgd(config.learning_rate / steps)

plain = optax.sgd(0.1)

def wants_more(momentum):
    return optax.sgd(0.1, momentum)

def nothing(learning_rate):
    return None

def broken(steps):
    raise KeyError("no such schedule")

def wrong_shape():
    return optax.GradientTransformation(lambda p: (), lambda u, s, p=None: ({}, s))

def log(row):
    with open(pathlib.Path(__file__).with_name("rows.jsonl"), "a") as file:
        file.write(json.dumps(row) + "\\n")
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    file = tmp_path_factory.mktemp("mine") / "mine.py"
    file.write_text(MINE)
    return file


def test_everything_of_ones_own_on_one_command_line(mine, tables, folder, sft_run, one_device, tmp_path):
    """One run of PPO: what trains, what judges, what updates and what is told come from a file of the user's."""
    words = ["--reward", f"{mine}:vowels", "--optimizer", f"{mine}:lion", "--tracker", f"{mine}:log"]
    words += ["--judge", f"{mine}:short", "--judge", f"fair={mine}:vowels", "--iterations", "2"]
    default = tiny_task.ppo_config(tables, tmp_path, policy=folder, reward="")
    config = cli.override(default, "ppo", words)
    result = stages.ppo(config, mesh=one_device)
    kept = json.loads((tmp_path / "config.json").read_text())["ppo"]
    assert kept["reward"] == f"{mine}:vowels"
    assert kept["judge"] == [f"gold={mine}:short", f"fair={mine}:vowels"]
    assert kept["policy_optimizer"]["function"] == kept["critic_optimizer"]["function"] == f"{mine}:lion"
    # The judge that is the same function as the reward says the same as the proxy.
    assert result.summary["fair_after"] == pytest.approx(result.summary["proxy_after"])
    assert result.summary["gold_after"] < 0
    rows = [json.loads(line) for line in mine.with_name("rows.jsonl").read_text().splitlines()]
    assert rows == result.metrics
    assert stages.ppo(config, mesh=one_device).summary == result.summary  # read back, not trained again


FLAGS = {
    "sft": ("--optimizer", ["optimizer"]),
    "reward": ("--optimizer", ["optimizer"]),
    "preference": ("--optimizer", ["optimizer"]),
    "group": ("--optimizer", ["policy_optimizer"]),
    "ppo": ("--critic-optimizer", ["critic_optimizer"]),
}


@pytest.mark.parametrize("command", FLAGS)
def test_every_stage_takes_an_optimizer_and_a_tracker(command):
    flag, names = FLAGS[command]
    for words in ([flag, "mine.py:lion"], [f"{flag}=mine.py:lion"]):
        config = cli.override(stage_and_config(command, "")[1], command, [*words, "--tracker", "wandb", "--no-check"])
        named = {n for n, v in vars(config).items() if isinstance(v, training.OptimizerConfig) and v.function}
        assert named == set(names)
        assert (config.tracker, config.check) == ("wandb", False)


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ((), ()),
        ("", ()),
        ("mine.py:f", ("gold=mine.py:f",)),
        (["runs/other", "fair=mine.py:f"], ("gold=runs/other", "fair=mine.py:f")),
        (["a/b=c.py:f"], ("gold=a/b=c.py:f",)),
        (["gold=a.py:f", "b.py:g"], "two of them are called gold"),
    ],
    ids=str,
)
def test_judges_have_names(given, right):
    if isinstance(right, str):
        with pytest.raises(ValueError, match=right):
            named_judges(given)
    else:
        assert named_judges(given) == right
        assert stages.PPOConfig(judge=given).judge == right


@pytest.mark.parametrize(
    "words",
    [["--judge", "a=x.py:f", "b=y"], ["--judge", "a=x.py:f", "--judge", "b=y"], ["--judge=a=x.py:f", "--judge=b=y"]],
    ids=str,
)
def test_several_judges_are_given_as_one_likes(words):
    config = cli.override(stages.GroupConfig(), "group", ["--seed", "3", *words, "--samples", "2"])
    assert (config.judge, config.seed, config.samples) == (("a=x.py:f", "b=y"), 3, 2)


def test_judges_of_an_earlier_version_are_still_the_same_run():
    from rlhf_jax.runs import folder as run_folder

    config = stages.PPOConfig(judge="mine.py:f")
    saved = {**json.loads(json.dumps(run_folder.fingerprint(config))), "judge": "mine.py:f"}
    assert run_folder.brought_up(saved, config) == run_folder.fingerprint(config)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--reward", "{}:vowel"], r"reward .*has no function 'vowel': did you mean 'vowels'"),
        (["--reward", "runs/x"], r"reward runs/x: expected FILE.py:function; a run folder is --reward-model runs/x"),
        (["--reward", "{}:dicts"], r"reward .*:dicts: "),
        (["--reward", "{}:vowels", "--judge", "kl={}:short"], r"'kl' is the name of a figure of ours"),
        (["--reward", "{}:vowels", "--judge", "a={}:short", "--judge", "b={}:dicts"], r"judge .*mine.py:dicts: "),
        (
            ["--reward", "{}:vowels", "--optimizer", "{}:wants_more"],
            "asks for 'momentum': it may ask for learning_rate",
        ),
        (["--reward", "{}:vowels", "--optimizer", "{}:nothing"], "is no optax transformation but NoneType"),
        (["--reward", "{}:vowels", "--optimizer", "{}:broken"], "KeyError: 'no such schedule'"),
        (["--reward", "{}:vowels", "--optimizer", "{}:wrong_shape"], "other shapes than the parameters"),
        (["--reward", "{}:vowels", "--optimizer", "lion"], "optimizer lion: expected FILE.py:function"),
        (["--reward", "{}:vowels", "--optimizer", "gone.py:lion"], "optimizer gone.py:lion: no such file gone.py"),
        (["--tracker", "tensorboard"], "tracker 'tensorboard': it is wandb, mlflow or FILE.py:function"),
        (["--tracker", "{}:logg"], "has no function 'logg': did you mean 'log'"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)
def test_what_cannot_be_used_ends_the_stage_before_anything_is_written(
    mine, tables, folder, sft_run, one_device, tmp_path, words, says
):
    default = tiny_task.group_config(tables, tmp_path / "run", policy=folder, reward="")
    config = cli.override(default, "group", [word.format(mine) for word in words])
    with pytest.raises(RunError, match=says):
        stages.group(config, mesh=one_device)
    assert not (tmp_path / "run").exists()


def test_a_reward_and_a_reward_model_are_one_too_many():
    with pytest.raises(ValueError, match="leave one of them out"):
        stages.GroupConfig(reward="mine.py:f", reward_model="runs/other")


@pytest.mark.parametrize(
    "own",
    [
        optax.lion,
        optax.sgd(0.1),
        lambda learning_rate: optax.adafactor(learning_rate),
        optax.contrib.muon,
        optax.chain(optax.clip(1.0), optax.adam(1e-3)),
    ],
    ids=["function of optax", "transformation", "lambda", "muon", "chain"],
)
def test_any_optax_transformation_does(own):
    params = {"policy": {"x": jax.numpy.ones((2, 3)), "bias": jax.numpy.ones(3)}}
    config = Given(optimizer=own).named_in(stages.SFTConfig()).optimizer
    assert config.function
    try_optimizer(own, config, params)
    rule = choose_optimizer(own, config, 10)
    updates, _ = rule.update(params, rule.init(params), params)
    assert float(updates["policy"]["x"][0, 0]) < 0


def test_a_function_is_given_what_it_asks_for(mine):
    config = training.OptimizerConfig(learning_rate=0.5, warmup_fraction=0.0, function=f"{mine}:counted")
    rule = choose_optimizer(None, config, 5)
    assert rule.update({"x": 1.0}, rule.init({"x": 1.0}), {"x": 1.0})[0]["x"] == pytest.approx(-0.1)
    plain = training.OptimizerConfig(learning_rate=0.5, function=f"{mine}:plain")
    rule = choose_optimizer(None, plain, 5)
    assert rule.update({"x": 1.0}, rule.init({"x": 1.0}), {"x": 1.0})[0]["x"] == pytest.approx(-0.1)


def test_sgd_of_ones_own_is_the_update_by_hand(tables, tmp_path, one_device, capsys):
    """A rate of 0 leaves the parameters where they were, and no learning rate is logged that nobody used."""
    seen = []
    config = tiny_task.sft_config(tables, tmp_path, epochs=1)
    run = stages.sft(config, optimizer=optax.sgd(0.0), tracker=seen.append, mesh=one_device)
    losses = [row["sft/heldout_loss"] for row in run.metrics if "sft/heldout_loss" in row]
    assert len(set(losses)) == 1
    assert seen == run.metrics
    assert "sft/learning_rate" not in seen[0]
    assert f"sft: report.write_report('{tmp_path}') writes its page" in capsys.readouterr().err
    assert json.loads((tmp_path / "config.json").read_text())["sft"]["optimizer"]["function"] == "optax transformation"


def test_a_tracker_that_fails_is_said_and_ends_nothing(capsys):
    def fails(row):
        raise ConnectionError("no network")

    tracking = Tracking(fails, "mine")
    for step in (1, 2, 3):
        tracking({"stage": "sft", "step": step})
    tracking.close()
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "warning: tracker mine: ConnectionError: no network (step 1); "
        "training goes on, and metrics.jsonl has every row",
        "warning: tracker mine: 3 rows were not taken; metrics.jsonl has them",
    ]


def test_a_service_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match="tracker mlflow: its package is not installed: pip install mlflow"):
        find_tracker("mlflow")


class FakeRun:
    def __init__(self, calls, **said):
        self.info, self.calls = types.SimpleNamespace(run_id="r1"), calls
        calls.append(("init", said))

    def log(self, values, step):
        self.calls.append((step, values))

    def finish(self):
        self.calls.append("finish")


@pytest.fixture
def services(monkeypatch):
    """The two packages as far as they are used; neither is installed for the tests."""
    calls = []
    wandb = types.SimpleNamespace(init=lambda **said: FakeRun(calls, **said))
    mlflow = types.SimpleNamespace(
        set_experiment=lambda name: None,
        start_run=lambda **said: FakeRun(calls, **said),
        log_params=lambda fields: calls.append(("params", fields)),
        log_metrics=lambda values, step: calls.append((step, values)),
        end_run=lambda: calls.append("finish"),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return calls


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_is_given_rows_and_goes_on_with_its_run(services, name, tmp_path):
    row = {"stage": "sft", "step": 3, "sft/loss": 2.5, "sft/kl": None}
    for _ in range(2):
        tracking = start_service(name, tmp_path / "run", "sft", {"epochs": 2, "data.source": "x.jsonl"})
        tracking(row)
        tracking.close()
    assert services.count((3, {"sft/loss": 2.5})) == services.count("finish") == 2
    begun = [said for call, said in (c for c in services if isinstance(c, tuple)) if call == "init"]
    ids = [said.get("id") or said.get("run_id") for said in begun]
    assert ids[1]
    assert ids[0] in (ids[1], None)  # MLflow gives the id, W&B takes one
    kept = json.loads((tmp_path / "run" / "tracking.json").read_text())
    assert kept == {f"{name}/sft": ids[1]}
    fields = begun[0]["config"] if name == "wandb" else dict(c for c in services if c[0] == "params")["params"]
    assert fields["data.source"] == "x.jsonl"
    assert np.isfinite(list(training.tracking.numbers(row).values())).all()


# ---- help ------------------------------------------------------------------------------------------------------------

STAGES = ("sft", "reward", "preference", "ppo", "group")


def said_by(argv, capsys):
    """What a command prints that ends with its help."""
    with contextlib.suppress(SystemExit):
        assert cli.run(argv) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("stage", STAGES)
def test_help_is_what_one_needs_first(stage, capsys):
    default = stage_and_config(stage, "")[1]
    paths = [path for group in first_help.FIRST[stage].values() for path in group]
    assert 12 <= len(paths) <= 18
    for path in paths:
        owner, field, _ = first_help.find(default, "seed" if path == "mesh" else path)
        assert first_help.field_doc(owner, field.name), path
    said = said_by([stage, "--help"], capsys)
    assert all(f"  --{path}" in said for path in paths)
    assert len(said.splitlines()) < 90
    assert f"rlhf {stage} --help-all" in said
    words = " ".join(said.split())
    assert f"objectives: {', '.join(objectives_of(stage))}; one of your own is FILE.py:function" in words


def test_the_rest_is_one_word_away(capsys):
    said = said_by(["sft", "--help-all"], capsys)
    missing = [path for path in first_help.leaves(stages.SFTConfig()) if f"--{path}" not in said]
    assert not missing
    assert "Objectives: sft; one of your own is FILE.py:function" in said


def test_every_objective_is_in_the_help_of_one_stage():
    listed = [name for stage in STAGES for name in objectives_of(stage)]
    assert sorted(listed) == list(objectives.NAMES)


def test_a_command_that_looks_at_a_stage_has_both(capsys):
    first, whole = (said_by(["plan", "group", word], capsys) for word in ("-h", "--help-all"))
    for said in (first, whole):
        assert "--hardware" in said
        assert "--data.source" in said
    assert "--kl.low" in whole
    assert "--kl.low" not in first


def test_rlhf_alone_says_what_comes_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = said_by([], capsys)
    assert len(said.splitlines()) < 16
    assert "rlhf quickstart --fast" in said
    assert "Next:" not in said
    for held, done, says in (
        (["sft"], [], "the same rlhf sft command again"),
        (["sft"], ["sft"], "rlhf reward --init runs/mine"),
        (["sft", "reward"], ["sft", "reward"], "rlhf ppo --policy runs/mine --reward-model runs/mine --out runs/mine"),
        (["sft", "reward", "ppo"], ["sft", "reward", "ppo"], "rlhf chat runs/mine"),
    ):
        for stage in done:
            (tmp_path / "runs/mine/params" / stage).mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs/mine").mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs/mine/config.json").write_text(json.dumps({stage: {} for stage in held}))
        assert f"Next: {says}" in said_by([], capsys)
    # After rows of one's own the next stage is not sent to the quickstart's.
    shutil.rmtree(tmp_path / "runs/mine/params/ppo")
    (tmp_path / "runs/mine/config.json").write_text(
        json.dumps({"sft": {"data": {"source": "demos.jsonl"}}, "reward": {"data": {"source": "pairs.jsonl"}}})
    )
    assert "Next: rlhf ppo --data.source prompts.jsonl --policy runs/mine" in said_by([], capsys)
    (tmp_path / "runs/mine/config.json").write_text("{")
    assert "Next:" not in said_by([], capsys)

"""Errors at the edge: whatever is given, a sentence that names the option, field or file, and a status; no traceback.

Each table is of inputs that once ended in a traceback or were taken without a word, and of what is right.
"""

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax import cli, rewards, stages
from rlhf_jax.cli import errors
from rlhf_jax.evaluation import reward_quality
from rlhf_jax.models import LoRAConfig, ModelConfig, RopeScaling
from rlhf_jax.parallel import MeshConfig
from rlhf_jax.rewards import ShapingConfig
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.errors import RunError
from rlhf_jax.stages import DataConfig, GroupConfig, PPOConfig, PreferenceConfig, RewardConfig, SFTConfig
from rlhf_jax.stages.names import check_judges, check_metrics
from rlhf_jax.training import OptimizerConfig


def ends(argv):
    """The exit status, whether the command returns it or ends the program itself."""
    try:
        return cli.run(argv)
    except SystemExit as stop:
        return stop.code


def said(capsys):
    """All that was printed, in one line: boxes are drawn around some of it."""
    both = capsys.readouterr()
    assert "Traceback" not in both.err
    return " ".join((both.err + both.out).replace("│", " ").split())


OPTIONS = [
    (["sft", "--seed", "-1"], "seed must be from 0 to 4294967295, found -1"),
    (["sft", "--seed", "4294967296"], "seed must be from 0 to 4294967295"),  # a key that is the one of seed 0
    (["sft", "--out", ""], "out must name a folder"),
    (["ppo", "--policy", ""], "policy must name a run folder or a checkpoint, found nothing"),
    (["reward", "--init", ""], "init must name a run folder or a checkpoint, found nothing"),
    (["sft", "--data.source", ""], "data.source is empty: name a file, a folder or a data set"),
    (["sft", "--vocab-size", "10"], "vocab_size must be at least 259, found 10"),
    (["sft", "--model.family", "x"], "model.family must be one of llama, mistral"),
    (["sft", "--patience", "-1"], "patience must be at least 0, found -1"),
    (["sft", "--epochs", "1e3"], "invalid literal"),
    (["sft", "--rows", "9999999999999999999"], "rows must be a whole number of at most"),
    (["sft", "--optimizer.learning-rate", "inf"], "learning_rate must be a finite number, found inf"),
    (["sft", "--optimizer.learning-rate", "nan"], "learning_rate must be a finite number, found nan"),
    (["sft", "--optimizer.max-grad-norm", "inf"], "give a large number, 1e9 say"),
    (["sft", "--watchdog-seconds", "inf"], "watchdog_seconds must be a finite number"),
    (["sft", "--hyperparameters", "label_smoothing", "nan"], "hyperparameters['label_smoothing'] must be a finite"),
    (["sft", "--model.rope-theta", "0"], "rope_theta must be above 0, found 0"),
    (["sft", "--model.rope-scaling.factor", "-1"], "factor must be above 0"),
    (["sft", "--mesh.data", "7"], "mesh data=7, fsdp=1, tensor=1 does not fit 8 devices"),
    (["reward", "--margin", "-1"], "margin must be at least 0, found -1"),
    (["reward", "--center", "nan"], "center must be a finite number"),
    (["preference", "--max-prompt-length", "-1"], "max_prompt_length must be at least 0"),
    (["ppo", "--kl.coef", "nan"], "coef must be a finite number"),
    (["ppo", "--max-kl", "inf"], "max_kl must be a finite number"),
    (["ppo", "--shaping.clip", "inf"], "clip must be a finite number"),
    (["ppo", "--loss.value-clip", "nan"], "value_clip must be a finite number"),
    (["group", "--kl.low", "-3"], "low must be at least 0"),
    (["group", "--sampling.temperature", "inf"], "temperature must be a finite number"),
    (["sample", "run", "Hello", "--seed", "-1"], "--seed must be from 0"),
    (["chat", "run", "--seed", "-1"], "--seed must be from 0"),
    (["doctor", "--min-disk-gib", "nan"], "--min-disk-gib must be a finite number"),
    (["plan", "sft", "--price", "inf"], "price must be a finite number"),
]


@pytest.mark.parametrize(("argv", "says"), OPTIONS, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_a_value_that_cannot_be_is_refused_by_its_name(argv, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ends(argv) == 2
    assert says in said(capsys)
    assert not list(tmp_path.iterdir())


FILES = [
    ('config = SFTConfig(out="x")\n', "line 1: NameError: name 'SFTConfig' is not defined"),
    ("rows = 3\nconfig = (1\n", "line 2: SyntaxError: '(' was never closed"),
    ("import no_such_package\n", "line 1: ModuleNotFoundError: No module named 'no_such_package'"),
    ("from rlhf_jax.stages import SFTConfig\n\nconfig = SFTConfig(rows=0)\n", "line 3: rows must be at least 1"),
    ("from rlhf_jax.stages import SFTConfig\nconfig = SFTConfig(rows='a')\n", "line 2: rows must be a whole number"),
    ("raise SystemExit(3)\n", "line 1: SystemExit: 3"),
    ("if __name__ == '__main__':\n    print(1)\n", "found no `config`; it is a program by itself: python"),
]


@pytest.mark.parametrize(("text", "says"), FILES, ids=[says[:30] for _, says in FILES])
def test_a_slip_in_a_config_file_names_file_and_line(text, says, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert ends(["sft", "--config", str(path)]) == 2
    found = said(capsys)
    assert f"--config {path}" in found
    assert says in found


def test_a_config_file_may_import_its_neighbours(tmp_path, capsys):
    (tmp_path / "doors_neighbour.py").write_text("ROWS = 0\n")
    path = tmp_path / "mine.py"
    path.write_text("import doors_neighbour\nfrom rlhf_jax.stages import SFTConfig\n")
    path.write_text(path.read_text() + "config = SFTConfig(rows=doors_neighbour.ROWS)\n")
    assert ends(["sft", "--config", str(path)]) == 2
    assert "line 3: rows must be at least 1, found 0" in said(capsys)


@pytest.fixture
def places(tmp_path):
    """A file, and what looks like a run folder."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    return tmp_path


TARGETS = [
    (["sft", "--out", "{}/file"], "out {}/file: is a file; name a folder"),
    (["sft", "--out", "{}/file/run"], "out {}/file/run: {}/file is a file, and nothing can lie in it"),
    (["sample", "{}/run", "Hello", "--to", "{}"], "--to {}: is a folder; name a file"),
    (["sample", "{}/run", "Hello", "--to", "{}/file/x"], "--to {}/file/x: {}/file is a file"),
    (["score", "{}/run", "--input", "{}/file", "--to", "/dev/null"], "--to /dev/null: is a device or a pipe"),
    (["report", "{}/run"], "{}/run is not a run folder: its config.json has no stage's config"),
    (["export", "{}/run", "--to", "{}/file"], "--to {}/file: is a file; name a folder"),
    (["data", "human_sentiment", "--to", "{}"], "--to {}: is a folder; name a file"),
    (["fetch", "smollm2-135m", "--to", "{}/file"], "--to {}/file: is a file; name a folder"),
    (["inspect", "sft", "--json", "{}"], "--json {}: is a folder; name a file"),
    (["plan", "sft", "--hardware", "h100x1", "--json", "{}"], "--json {}: is a folder; name a file"),
    (["aot", "sft", "--topology", "v5e-256", "--hlo", "{}/file"], "--hlo {}/file: is a file; name a folder"),
    (["profile", "sft", "--trace", "{}/file"], "--trace {}/file: is a file; name a folder"),
]


@pytest.mark.parametrize(("argv", "says"), TARGETS, ids=lambda x: " ".join(x[:1]) if isinstance(x, list) else "")
def test_where_it_goes_is_looked_at_before_the_work(argv, says, places, monkeypatch, capsys):
    """Samples of an hour are not lost to a name: nothing is loaded, read or made before."""
    monkeypatch.setattr("rlhf_jax.runs.policy.Policy.load", pytest.fail)
    monkeypatch.setattr("rlhf_jax.runs.scorer.Scorer.load", pytest.fail)
    monkeypatch.setattr("rlhf_jax.stages.sources.find_task", pytest.fail)
    before = sorted(places.rglob("*"))
    assert ends([word.replace("{}", str(places)) for word in argv]) == 2
    assert says.replace("{}", str(places)) in said(capsys)
    assert sorted(places.rglob("*")) == before


def test_a_full_disk_and_one_that_cannot_be_written_to_are_said_before_the_work(places, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 4096}))
    assert ends(["sft", "--out", str(places / "new")]) == 2
    assert f"the disk of {places} is full (4,096 bytes are free); make room there" in said(capsys)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert ends(["sft", "--out", str(places / "new")]) == 2
    assert f"{places} cannot be written to" in said(capsys)


RAISED = [
    (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 74, "runs/a: no space left on device: make room"),
    (OSError(errno.ENOSPC, "No space left on device"), 74, "no space left on device: make room on that disk"),
    (OSError(errno.EROFS, "Read-only file system", "runs/a"), 2, "runs/a: read-only file system: name a folder that"),
    (
        OSError(errno.EMFILE, "Too many open files", "rows"),
        74,
        "rows: too many open files: raise the limit of open",
    ),
    (OSError(errno.EIO, "Input/output error", "rows"), 74, "rows: input/output error: look at the disk"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 9), 2, "is this a text where a path is expected?"),
    (FileNotFoundError(errno.ENOENT, "No such file", "rows.jsonl"), 2, "rows.jsonl: no such file or folder"),
    (PermissionError(errno.EACCES, "Permission denied", "rows"), 2, "rows: permission denied"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "rows"), 2, "rows: is a directory"),
    (FileExistsError(errno.EEXIST, "File exists", "rows"), 2, "rows: file exists"),
    (MemoryError("Unable to allocate 7 TiB"), 74, "out of memory (Unable to allocate 7 TiB): smaller models, fewer"),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nwhile trying"), 74, "out of memory (RESOURCE_EXHAUSTED: Out"),
    (ModuleNotFoundError("No module named 'trackers'", name="trackers"), 2, "the package trackers is missing"),
    (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), 2, "a name or a text is not UTF-8"),
    (KeyError("score"), 70, "KeyError: 'score'"),
    (ZeroDivisionError(), 70, "ZeroDivisionError"),
    (RecursionError("maximum recursion depth exceeded"), 70, "RecursionError: maximum recursion depth exceeded"),
    (AssertionError("a\nb\nc"), 70, "AssertionError: a"),
    (RunError("a sentence"), 2, "rlhf: error: report: a sentence"),
]


@pytest.mark.parametrize(("error", "status", "says"), RAISED, ids=lambda x: type(x).__name__)
def test_no_error_ends_in_a_traceback(error, status, says, monkeypatch, capsys):
    def command(argv):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "report", command)
    assert ends(["report", "run"]) == status
    found = said(capsys)
    assert says in found
    assert ("--debug shows the whole traceback" in found) == (status == errors.UNEXPECTED)


def test_debug_shows_where_an_error_comes_from(monkeypatch, capsys):
    def command(argv):
        assert argv == ["run"]
        raise KeyError("score")

    monkeypatch.setitem(cli.COMMANDS, "report", command)
    assert ends(["report", "run", "--debug"]) == 70
    found = capsys.readouterr().err
    assert "Traceback" in found
    assert found.splitlines()[-1].startswith("rlhf: error: report: KeyError: 'score'")


def test_an_error_in_a_file_of_ones_own_names_its_line(tmp_path):
    path = tmp_path / "reward.py"
    path.write_text("def score(prompts, responses):\n    return [r['score'] for r in responses]\n")
    from rlhf_jax.runs.user_code import load_function

    score = load_function(f"{path}:score", "reward")
    with pytest.raises(TypeError) as caught:
        rewards.score_texts(score, ["a"], ["x"])
    caught.value.add_note("what was done up to step 7 is saved, and the same command continues from there")
    message, status = errors.explain(caught.value, "the same command continues from the last checkpoint")
    assert status == 70
    assert f"({path}, line 2, in " in message
    assert "; what was done up to step 7 is saved, and the same command continues from there; --debug" in message
    assert "last checkpoint" not in message  # the note knows better


def test_ctrl_c_and_a_reader_that_has_gone_are_no_errors(monkeypatch, capfd):
    def stops(error):
        def command(argv):
            raise error

        return command

    monkeypatch.setattr(cli, "_let_go_of", lambda stream: None)  # pytest's own
    for error, name, status in (
        (KeyboardInterrupt(), "sft", 130),
        (BrokenPipeError(), "inspect", 0),
        (BrokenPipeError(), "sft", 141),
    ):
        monkeypatch.setitem(cli.COMMANDS, name, stops(error))
        assert ends([name]) == status
    found = capfd.readouterr().err
    assert "Traceback" not in found
    assert "the same command continues from the last checkpoint" in found


def test_the_beginning_of_the_help_can_be_read_alone():
    """``rlhf --help | head -1``, and a disk that takes nothing of it."""
    program = f"{sys.executable} -c 'from rlhf_jax.cli import main; main()' --help"
    script = f"{program} | head -1; echo ${{PIPESTATUS[0]}}; {program} > /dev/full; echo $?"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["usage: rlhf COMMAND [options]", "0", "74"]
    assert "no space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


PYTHON = [
    (lambda: SFTConfig(out=3), "out must be text, found 3 (int)"),
    (lambda: SFTConfig(epochs="3"), "epochs must be a whole number, found '3' (str)"),
    (lambda: SFTConfig(epochs=2.5), "epochs must be a whole number, found 2.5 (float)"),
    (lambda: SFTConfig(epochs=True), "epochs must be a whole number, found True (bool)"),
    (lambda: SFTConfig(epochs=None), "epochs must be a whole number, found None"),
    (lambda: SFTConfig(chat="yes"), "chat must be True or False, found 'yes' (str)"),
    (lambda: SFTConfig(data="rows.jsonl"), "data must be a DataConfig, found 'rows.jsonl' (str)"),
    (lambda: SFTConfig(optimizer={"learning_rate": 1}), "optimizer must be an OptimizerConfig, found {'learn"),
    (lambda: SFTConfig(model=LoRAConfig()), "model must be a ModelConfig, found LoRAConfig("),
    (lambda: SFTConfig(mesh="data=2"), "mesh must be a MeshConfig, found 'data=2' (str)"),
    (lambda: SFTConfig(keep="first"), "keep must be best or last, found 'first'"),
    (lambda: SFTConfig(hyperparameters=[1]), "hyperparameters must be a dict from names to values, found [1] (list)"),
    (lambda: SFTConfig(hyperparameters={"beta": None}), "hyperparameters['beta'] must be a number, found None"),
    (lambda: RewardConfig(members="3"), "members must be a whole number"),
    (lambda: PPOConfig(kl=0.1), "kl must be a KLConfig, found 0.1 (float)"),
    (lambda: PPOConfig(gamma="1"), "gamma must be a number, found '1' (str)"),
    (lambda: PPOConfig(gamma=float("nan")), "gamma must be a finite number, found nan"),
    (lambda: PPOConfig(judge=len), "judge must be texts, NAME=FILE.py:function or NAME=RUN, found <built-in"),
    (lambda: DataConfig(source=["a.jsonl"]), "source must be text, found ['a.jsonl'] (list)"),
    (lambda: DataConfig(on_bad_row="ignore"), "on_bad_row must be error or skip, found 'ignore'"),
    (lambda: SamplingConfig(stop="end"), "stop must be a tuple, found 'end' (str)"),
    (lambda: SamplingConfig(stop=("end", 3)), "stop[1] must be text, found 3 (int)"),
    (lambda: OptimizerConfig(learning_rate=[1e-3]), "learning_rate must be a number, found [0.001] (list)"),
    (lambda: OptimizerConfig(learning_rate=1, max_grad_norm="1"), "max_grad_norm must be a number, found '1' (str)"),
    (lambda: ModelConfig(n_layers=2.0), "n_layers must be a whole number, found 2.0 (float)"),
    (lambda: ModelConfig(norm="batch"), "norm must be rms or layer, found 'batch'"),
    (lambda: RopeScaling(factor=0), "factor must be above 0, found 0"),
    (lambda: LoRAConfig(targets=3), "targets must be text"),
    (lambda: ShapingConfig(normalise="no"), "normalise must be True or False, found 'no' (str)"),
    (lambda: MeshConfig(data="2"), "mesh: data must be a whole number, found '2' (str)"),
    (lambda: stages.sft(RewardConfig()), "stages.sft takes SFTConfig(...), found RewardConfig("),
    (lambda: stages.reward_model(SFTConfig()), "stages.reward_model takes RewardConfig(...)"),
    (lambda: stages.preference(PPOConfig()), "stages.preference takes PreferenceConfig(...)"),
    (lambda: stages.ppo(GroupConfig()), "stages.ppo takes PPOConfig(...), found GroupConfig("),
    (lambda: stages.group(PPOConfig()), "stages.group takes GroupConfig(...), found PPOConfig("),
    (lambda: stages.quickstart(SFTConfig()), "stages.quickstart takes QuickstartConfig(...)"),
    (lambda: stages.sft({"epochs": 3}), "stages.sft takes SFTConfig(...), found {'epochs': 3} (dict)"),
]


@pytest.mark.parametrize(("make", "says"), PYTHON, ids=[says[:40] for _, says in PYTHON])
def test_what_python_passes_is_checked_at_the_door(make, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        make()
    assert says in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_is_meant_is_taken():
    """A path where a folder is named, numpy's numbers, a list where an order is wanted."""
    config = SFTConfig(
        out=Path("runs/mine"),
        seed=np.int64(3),
        epochs=np.int32(2),
        optimizer=OptimizerConfig(learning_rate=np.float32(1)),
    )
    assert (config.out, config.seed, config.epochs) == ("runs/mine", 3, 2)
    assert [type(x) for x in (config.out, config.seed, config.epochs)] == [str, int, int]
    assert type(config.optimizer.learning_rate) is float
    assert PreferenceConfig(policy=Path("runs/sft")).policy == "runs/sft"
    assert SamplingConfig(stop=["a", "b"]).stop == ("a", "b")
    assert SFTConfig(hyperparameters={"beta": np.float64(0.5), "on": True}).hyperparameters == {"beta": 0.5, "on": True}


REWARDS = [
    ([{"score": 1.0}, {"score": 2.0}], "it must return one number for each response, found {'score': 1.0} (dict) for"),
    ([1.0, "good"], "found 'good' (str) for response 1"),
    ([1.0, [2.0]], "found [2.0] (list) for response 1"),
    ({"x": 1.0}, "found {'x': 1.0} (dict)"),
    (None, "it returned shape ()"),
    ([1.0], "it returned shape (1,) for 2 responses"),
    ([[1.0, 2.0]], "it returned shape (1, 2) for 2 responses"),
    ([1.0, float("nan")], "it gave nan to response 1, 'y'"),
    ([float("inf"), 0.0], "it gave inf to response 0, 'x'"),
]


@pytest.mark.parametrize(("returned", "says"), REWARDS, ids=[says[:30] for _, says in REWARDS])
def test_a_reward_that_returns_something_else_is_told_what(returned, says):
    with pytest.raises(ValueError) as caught:
        rewards.score_texts(lambda prompts, responses: returned, ["a", "b"], ["x", "y"], called="it")
    assert says in str(caught.value)


JUDGES = [
    ({"kl": len}, "'kl' is the name of a figure of ours, which a judge of that name would replace"),
    ({"proxy": len}, "give it another one, my_proxy say"),
    ({"length": len}, "'length' is the name of a figure"),
    ({"selection": len}, "'selection' is the name"),
    ({"heldout_kl": len}, "'heldout_kl' is the name"),
    ({"": len}, "a judge must have a name of letters"),
    ({"a/b": len}, "found 'a/b'"),
    ({3: len}, "found 3"),
    ({"gold": "judge.py:score"}, "'gold' must be a function of (prompts, responses), found 'judge.py:score'"),
    ([len], "judges must be a dict from names to functions"),
    (len, "judges must be a dict from names to functions"),
]


@pytest.mark.parametrize(("judges", "says"), JUDGES, ids=[says[:30] for _, says in JUDGES])
def test_a_judge_does_not_take_the_place_of_a_figure(judges, says):
    with pytest.raises(RunError) as caught:
        check_judges(judges)
    assert says in str(caught.value)
    check_judges({"gold": len, "gold-2": len, "helpful at all": len})


@pytest.mark.parametrize("name", ["loss", "kl", "skipped", "proxy_mean", "heldout_loss", "", "a/b"])
def test_a_metric_does_not_take_the_place_of_a_figure(name):
    with pytest.raises(RunError, match=r"objective mine\.py:f: "):
        check_metrics([name], "mine.py:f")


def test_alarms_need_enough_different_pairs():
    """Two responses, compared again and again, say nothing of a reward model; twenty pairs do."""
    few = reward_quality([9.0, -9.0], [[0, 1]] * 50, [0.99] * 50, ["a"] * 2, [3, 3])
    assert (few["accuracy"], few["warnings"]) == (1.0, [])
    scores, pairs = np.tile([9.0, -9.0], 20), np.arange(40).reshape(20, 2)
    many = reward_quality(scores, pairs, [0.99] * 20, ["a"] * 40, [3] * 40)
    assert [text.split(":")[0][:16] for text in many["warnings"]] == ["Accuracy is 100.", "Rewards are satu"]

"""The command line without a run: help, mistakes a person makes, config files."""

import json
import runpy
import subprocess
import sys

import pytest

from rlhf_jax import cli
from rlhf_jax.cli.parsing import SUMMARIES

COMMANDS = (
    *("quickstart", "sft", "reward", "ppo", "group", "preference", "report", "sample", "score", "data"),
    *("doctor", "launch", "evaluate", "label"),
)
STAGES = ("sft", "reward", "ppo", "group", "preference")


def ends(argv):
    """The exit status, whether the command returns it or ends the program itself."""
    try:
        return cli.run(argv)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize("argv", [["--help"], ["-h"]], ids=str)
def test_the_overview_names_every_command(argv, capsys):
    assert ends(argv) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert list(cli.COMMANDS) == list(SUMMARIES)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("quickstart", ["--seed", "--out", "--fast"]),
        ("sft", ["--config", "--data.source", "--data.on-bad-row", "--model.n-layers", "--optimizer.learning-rate"]),
        ("reward", ["--config", "--init", "--group-size", "--center", "--members", "--objective"]),
        (
            "ppo",
            [
                *(
                    "--config",
                    "--policy",
                    "--reward-model",
                    "--kl.target",
                    "--shaping.clip",
                    "--sampling.max-new-tokens",
                ),
                *("--judge", "--stop-kl", "--patience"),
            ],
        ),
        (
            "group",
            [
                *("--config", "--policy", "--reward-model", "--objective", "--hyperparameters", "--samples"),
                *("--kl.kind", "--kl.placement", "--kl.low", "--ensemble.combine", "--ptx.coef", "--ptx.data.source"),
                *("expert_iteration", "online_dpo", "FILE.py:function"),
            ],
        ),
        (
            "preference",
            [
                *("--config", "--policy", "--objective", "--hyperparameters", "--min-share", "--prompts.source"),
                *("--reward-model", "robust_dpo", "simpo", "kto", "FILE.py:function"),
            ],
        ),
        ("report", ["A run folder"]),
        (
            "sample",
            ["A run folder", "--prompts", "--n", "--to", "--seed", "--temperature", "--best-of", "--on-bad-row"],
        ),
        ("score", ["A run folder", "--input", "--to", "--on-bad-row"]),
        ("data", ["human_sentiment", "--split", "--to"]),
        ("doctor", ["--out", "--min-disk-gib", "--min-memory-gib", "--json"]),
        ("launch", ["--processes", "--devices-per-process", "--grace", "--restarts", "--"]),
        (
            "evaluate",
            ["RUN:preference", "--data", "--by", "--json", "--golden", "--against", "--judge", "--on-bad-row"],
        ),
        ("label", ["RUN|FILE", "--judge", "--to", "--how", "--rubric", "--part", "--samples", "--endpoint.rate"]),
    ],
    ids=COMMANDS,
)
def test_help_explains_every_option(name, says, capsys):
    assert ends([name, "--help-all" if name in STAGES else "--help"]) == 0
    out = capsys.readouterr().out
    assert f"rlhf {name}" in out
    assert [word for word in says if word not in out] == []


@pytest.mark.parametrize(("name", "joins"), [("sft", True), ("doctor", True), ("launch", False), ("data", False)])
def test_commands_that_join_others_say_how(name, joins, capsys):
    ends([name, "--help"])
    out = capsys.readouterr().out
    assert ("--distributed auto|off|manual" in out) == joins
    assert ("--distributed off keeps a command alone" in " ".join(out.split())) == joins


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--processes", "2", "rlhf", "sft"], "-- is missing between the options and the command"),
        (["--processes", "2", "--"], "there is no command after --"),
        (["--processes", "0", "--", "rlhf", "sft"], "--processes must be at least 1, found 0"),
        (["--processes", "2", "--", "no-such-program"], "no-such-program: no such program in the PATH"),
        (["--processes", "2", "--restarts", "-1", "--", "rlhf", "sft"], "--restarts cannot be negative"),
        (["--", "rlhf", "sft"], "--processes"),
    ],
    ids=["no dashes", "no command", "none", "no program", "negative", "no number"],
)
def test_launch_says_what_it_needs(words, says, capsys):
    assert ends(["launch", *words]) == 2
    said = capsys.readouterr()
    assert says in said.err + said.out
    assert "Traceback" not in said.err


def test_the_version_is_the_packages(capsys):
    import rlhf_jax

    assert ends(["--version"]) == 0
    assert capsys.readouterr().out.strip().endswith(rlhf_jax.__version__)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("quickstrat", "did you mean 'quickstart'"),
        ("rewards", "did you mean 'reward'"),
        ("dance", "quickstart, sft, reward"),
    ],
)
def test_an_unknown_command_names_the_nearest(name, near, capsys):
    assert ends([name]) == 2
    said = capsys.readouterr().err
    assert f"unknown command {name!r}" in said
    assert near in said


@pytest.mark.parametrize(
    ("argv", "nearest"),
    [
        (["sft", "--epocs", "3"], "--epochs"),
        (["sft", "--model.n-layer", "3"], "--model.n-layers"),
        (["ppo", "--kl.targt", "3"], "--kl.target"),
        (["sample", "run", "x", "--temprature", "1"], "--temperature"),
        (["group", "--sample", "3"], "--samples"),
        (["preference", "--min-shar", "0.7"], "--min-share"),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_an_unknown_field_names_the_nearest(argv, nearest, capsys):
    assert ends(argv) == 2
    said = capsys.readouterr()
    assert nearest in said.err + said.out
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["sft", "--epochs", "many"], "many"),
        (["sft", "--epochs", "0"], "epochs must be at least 1, found 0"),
        (["sft", "--model.n-heads", "3", "--model.n-kv-heads", "2"], "n_heads 3 is not a multiple of n_kv_heads 2"),
        (["ppo", "--prompts", "10", "--minibatches", "4"], "must be a multiple of minibatches"),
        (["ppo", "--sampling.top-p", "2"], "top_p"),
        (["reward", "--data.on-bad-row", "ignore"], "skip"),
        (["reward", "--members", "0"], "members must be at least 1"),
        (["group", "--kl.kind", "elastic"], "banded"),
        (["group", "--kl.kind", "banded", "--kl.low", "9", "--kl.high", "3"], "need 0 <= low < high"),
        (["group", "--ensemble.combine", "max"], "lower_bound"),
        (["preference", "--min-share", "0.3"], "min_share must lie between 0.5 and 1"),
        (["preference", "--hyperparameters", "beta", "much"], "--hyperparameters"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_says_why(argv, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ends(argv) == 2
    said = capsys.readouterr()
    assert says in said.err + said.out
    assert "Traceback" not in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "expected an object with fields of ModelConfig"),
        ('{"n_layers": 1.5}', "n_layers must be a whole number, found 1.5"),
        ('{"n_layer": 1}', "n_layer"),
        ("{", "Expecting"),
    ],
)
def test_sizes_that_cannot_be_name_their_file(text, says, tmp_path, capsys):
    path = tmp_path / "sizes.json"
    path.write_text(text)
    for command in (["inspect", "sft"], ["plan", "sft", "--hardware", "h100x1"]):
        assert ends([*command, "--random", str(path)]) == 2
        said = capsys.readouterr().err
        assert str(path) in said
        assert says in said
        assert "Traceback" not in said
    assert ends(["plan", "sft", "--hardware", "h100x1", "--random", str(tmp_path)]) == 2
    assert f"{tmp_path}: is a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stored", "computed"), [("bfloat16", "bfloat16"), ("float16", "bfloat16"), ("float32", "float32")]
)
def test_a_checkpoints_config_says_what_is_computed_in(stored, computed, tmp_path):
    """And what a stage's own options say of it counts more."""
    from rlhf_jax.cli.stage_options import sizes
    from rlhf_jax.models import ModelConfig
    from rlhf_jax.stages.sft import sized

    fields = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "torch_dtype": stored}
    fields |= {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 64, "rms_norm_eps": 1e-5}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**fields, "max_position_embeddings": 64, "tie_word_embeddings": False}))
    found = sizes(path)
    assert (found.compute_dtype, found.d_model) == (computed, 32)
    asked = sized(ModelConfig(compute_dtype="bfloat16", remat="block"), found)
    assert (asked.compute_dtype, asked.remat, asked.d_model) == ("bfloat16", "block", 32)


def test_a_run_folder_that_cannot_be_read_is_named(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"sft": {"rows": 0}}')
    assert ends(["plan", f"{tmp_path}:sft", "--hardware", "h100x1"]) == 2
    said = capsys.readouterr().err
    assert "config.json, sft: rows must be at least 1" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"objective": "{}/mine.py:loss"}, "--objective"),
        ({"data": {"source": "{}/mine.py:task"}}, "--data.source"),
    ],
)
def test_code_that_a_run_folder_names_is_not_run_unless_the_command_line_names_it(fields, named, tmp_path, capsys):
    """A run folder may be anybody's; looking at it must not run what lies in it."""
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(3)\n")
    (tmp_path / "config.json").write_text(json.dumps({"sft": fields}).replace("{}", str(tmp_path)))
    code = next(iter(fields["data"].values() if "data" in fields else fields.values())).format(tmp_path)
    assert ends(["inspect", f"{tmp_path}:sft"]) == 2
    said = capsys.readouterr().err
    assert f"names code in a file, {named.removeprefix('--')} {code!r}" in said
    assert f"add {named} {code}" in said
    assert not (tmp_path / "ran").exists()
    ends(["inspect", f"{tmp_path}:sft", named, code, "--devices", "0"])  # which is refused for another reason
    assert "names code" not in capsys.readouterr().err


def config_file(tmp_path, text):
    (tmp_path / "mine.py").write_text(text)
    return str(tmp_path / "mine.py")


SFT = "from rlhf_jax.stages import DataConfig, SFTConfig\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such file"),
        ("x = 1\n", "expected `config = SFTConfig(...)`, found no `config`"),
        ("config = {'epochs': 3}\n", "found a `config` of type dict"),
        ("from rlhf_jax.stages import PPOConfig\nconfig = PPOConfig()\n", "found a `config` of type PPOConfig"),
        (SFT + "config = SFTConfig(epochs=0)\n", "epochs must be at least 1"),
        (SFT + "config = SFTConfig(epoch=3)\n", "epoch"),
    ],
    ids=["no file", "no config", "dict", "another stage's", "out of range", "unknown field"],
)
def test_a_config_file_that_cannot_be_used_is_named(text, says, tmp_path, capsys):
    path = str(tmp_path / "gone.py") if text is None else config_file(tmp_path, text)
    assert ends(["sft", "--config", path]) == 2
    said = capsys.readouterr().err
    assert path in said
    assert says in said
    assert "Traceback" not in said


def test_config_needs_a_path(capsys):
    assert ends(["sft", "--config"]) == 2
    assert "--config needs the path" in capsys.readouterr().err


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]], ids=["two words", "one word"])
def test_the_command_line_overrides_the_file_and_the_file_the_defaults(tmp_path, form):
    from rlhf_jax.stages import SFTConfig

    path = config_file(tmp_path, SFT + "config = SFTConfig(epochs=7, rows=24, data=DataConfig(source='mine.jsonl'))\n")
    argv = [word.format(path) for word in form]
    config = cli.override(SFTConfig(), "sft", [*argv, "--rows", "8", "--optimizer.learning-rate", "0.5"])
    assert (config.epochs, config.rows, config.data.source) == (7, 8, "mine.jsonl")
    assert config.optimizer.learning_rate == 0.5
    assert config.optimizer.weight_decay == SFTConfig().optimizer.weight_decay
    assert config.model == SFTConfig().model


def test_the_flag_that_error_messages_name_works(tmp_path):
    from rlhf_jax.stages import SFTConfig

    for words in (["--on-bad-row", "skip"], ["--on-bad-row=skip"], ["--data.on-bad-row", "skip"]):
        assert cli.override(SFTConfig(), "sft", words).data.on_bad_row == "skip"


@pytest.mark.parametrize("command", ["sft", "reward", "ppo", "group", "preference"])
def test_every_stage_takes_an_objective_and_its_hyperparameters(command):
    from rlhf_jax import stages

    kinds = {
        "sft": stages.SFTConfig,
        "reward": stages.RewardConfig,
        "ppo": stages.PPOConfig,
        "group": stages.GroupConfig,
        "preference": stages.PreferenceConfig,
    }
    default = kinds[command]()
    assert default.hyperparameters == {}
    words = ["--objective", "mine.py:own", "--hyperparameters", "beta", "0.05", "label_smoothing", "1"]
    config = cli.override(default, command, words)
    assert config.objective == "mine.py:own"
    assert config.hyperparameters == {"beta": 0.05, "label_smoothing": 1.0}


@pytest.mark.parametrize("command", ["sft", "reward", "ppo", "group", "preference"])
@pytest.mark.parametrize("form", [["--mesh", "data=2,fsdp=4"], ["--mesh=data=2,fsdp=4"]], ids=["two words", "one"])
def test_every_stage_takes_a_mesh_in_one_word(command, form, capsys):
    from rlhf_jax.cli.stage_options import stage_and_config
    from rlhf_jax.parallel import MeshConfig

    default = stage_and_config(command, "")[1]
    assert cli.override(default, command, form).mesh == MeshConfig(data=2, fsdp=4)
    # An axis that is named beside it has the last word, wherever it stands.
    changed = MeshConfig(data=2, fsdp=2, tensor=2)
    assert cli.override(default, command, ["--mesh.fsdp", "2", *form, "--mesh.tensor", "2"]).mesh == changed
    assert ends([command, "--help"]) == 0
    assert "--mesh data=2,fsdp=2,tensor=2" in capsys.readouterr().out


def test_a_mesh_in_one_word_replaces_the_files(tmp_path):
    from rlhf_jax.parallel import MeshConfig
    from rlhf_jax.stages import SFTConfig

    lines = "from rlhf_jax.parallel import MeshConfig\nconfig = SFTConfig(mesh=MeshConfig.parse('tensor=8'))\n"
    path = config_file(tmp_path, SFT + lines)
    assert cli.override(SFTConfig(), "sft", ["--config", path]).mesh == MeshConfig(tensor=8)
    assert cli.override(SFTConfig(), "sft", ["--config", path, "--mesh", "fsdp=8"]).mesh == MeshConfig(fsdp=8)


@pytest.mark.parametrize("command", [["sft"], ["profile", "ppo"], ["aot", "group"]], ids=str)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--mesh", "sequence=2"], "--mesh sequence=2: no axis is called 'sequence'; they are data, fsdp, tensor"),
        (["--mesh", "data=2,data=2"], "--mesh data=2,data=2: data is given twice"),
        (["--mesh"], "--mesh needs sizes of axes, as in data=2,fsdp=2,tensor=2"),
    ],
    ids=["unknown axis", "twice", "nothing"],
)
def test_a_mesh_that_cannot_be_says_why(command, words, says, capsys):
    assert ends([*command, *words]) == 2
    assert says in capsys.readouterr().err


def test_a_mesh_that_does_not_fit_names_the_devices(capsys):
    assert ends(["sft", "--mesh", "data=3,tensor=2"]) == 2
    said = capsys.readouterr().err
    assert "data=3, fsdp=1, tensor=2 does not fit 8 devices: the sizes multiply to 6" in said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory):
    """A run folder with an untrained policy in it, which is all that a stage looks at before its objective."""
    import dataclasses

    import jax

    from rlhf_jax import checkpoint, data, models

    folder = tmp_path_factory.mktemp("policy")
    tokenizer = data.train_tokenizer(["a good film", "a bad film"] * 4, 280)
    tokenizer.save(folder / "tokenizer.json")
    sizes = {"d_model": 8, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "head_dim": 8, "d_ff": 8}
    config = models.ModelConfig(vocab_size=tokenizer.vocab_size, **sizes)
    params = {"policy": jax.jit(models.build(config).init)(jax.random.key(0))}
    checkpoint.save_params(folder / "params" / "sft", jax.device_get(params), {"model": dataclasses.asdict(config)})
    return folder


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--objective", "dpa"], "preference: there is no objective 'dpa': did you mean 'dpo'?"),
        (["--objective", "gone.py:own"], "preference: objective gone.py:own: no such file gone.py"),
        (["--hyperparameters", "btea", "0.1"], "objective dpo has no hyperparameter 'btea': did you mean 'beta'?"),
        (["--objective", "dr_grpo"], "objective dr_grpo needs --hyperparameters max_length VALUE"),
    ],
    ids=["name", "file", "hyperparameter", "missing"],
)
def test_an_objective_that_cannot_be_found_is_named(policy_folder, words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ends(["preference", "--policy", str(policy_folder), *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "more", "says"),
    [
        ("report", [], "none is not a run folder"),
        ("score", ["--input", "x.jsonl", "--to", "y.jsonl"], "none: there is no such folder; a model on a hub has to"),
        ("export", ["--to", "model"], "none is not a run folder"),
        ("sample", ["hello"], "none: there is no such folder; a model on a hub has to be downloaded"),
        ("chat", [], "none: there is no such folder; a model on a hub has to be downloaded"),
    ],
)
def test_a_folder_that_is_no_run_is_named(command, more, says, tmp_path, capsys):
    assert ends([command, str(tmp_path / "none"), *more]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "goes_on"), [("sft", True), ("export", False)])
def test_a_command_that_is_stopped_says_whether_it_can_continue(command, goes_on, monkeypatch, capsys):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, command, stop)
    assert cli.run([command]) == 130
    said = capsys.readouterr().err
    assert said.startswith(f"rlhf {command}: stopped")
    assert ("continues from the last checkpoint" in said) == goes_on


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give one prompt"),
        (["hello", "--prompts", "p.jsonl"], "give one prompt"),
        (["--prompts", "p.jsonl"], "--prompts needs --to"),
        (["hello", "--n", "0"], "--n must be at least 1"),
        (["hello", "--best-of", "0"], "--best-of must be at least 1, found 0"),
    ],
    ids=["nothing", "both", "no output", "none", "best of none"],
)
def test_sample_says_what_it_needs(words, says, tmp_path, capsys):
    assert ends(["sample", str(tmp_path), *words]) == 2
    assert says in capsys.readouterr().err


def test_a_data_file_that_is_not_there_is_an_error_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ends(["sft", "--data.source", "gone.jsonl"]) == 2
    said = capsys.readouterr().err
    assert "gone.jsonl" in said
    assert "Traceback" not in said


def test_data_writes_the_rows_of_a_split(prepared, tmp_path, capsys):
    to = tmp_path / "deep" / "test.jsonl"
    assert ends(["data", "human_sentiment", "--split", "test", "--to", str(to)]) == 0
    rows = [json.loads(line) for line in to.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(prepared)
    assert all(row.keys() == {"id", "domain", "text", "ratings"} for row in rows)
    assert {row["domain"] for row in rows} == {"movie", "amazon", "tweets", "nyt"}
    for row, sentence in zip(rows, prepared, strict=True):
        assert (row["id"], row["text"]) == (sentence.id, sentence.text)
        assert row["ratings"] == list(sentence.ratings)
        assert all(type(r) is int and -4 <= r <= 4 for r in row["ratings"])
    assert [p.name for p in to.parent.iterdir()] == ["test.jsonl"]


def test_a_warning_is_one_line_without_code(tmp_path):
    """In a process of its own: pytest takes warnings away before they are written."""
    rows = tmp_path / "rows.jsonl"
    long = [{"prompt": f"The cat {i} and", "response": "sat down on 0 1 2 3 4 5 6 7 8 9"} for i in range(40)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in long))
    words = ["sft", "--optimizer.learning-rate", "0.5", "--data.source", str(rows), "--data.max-length", "16"]
    words += ["--vocab-size", "300", "--model.n-layers", "1", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-c", "from rlhf_jax.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()
    (warned,) = (line for line in said if "learning_rate" in line)
    assert warned.startswith("warning: optimizer.learning_rate is 0.5, outside the usual")
    assert said[said.index(warned) + 1].startswith("rlhf: error: sft:")
    assert done.returncode == 2


def test_the_package_is_a_program_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rlhf_jax", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("rlhf_jax", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("rlhf_jax ")

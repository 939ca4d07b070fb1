"""Profiles of tiny stages: which phases there are, and that their work is counted as by hand. No time is asserted."""

import dataclasses
import json

import pytest
import tiny_task

from rlhf_jax import cli, models
from rlhf_jax.cli.parsing import UsageError
from rlhf_jax.cli.stage_options import from_record, sizes
from rlhf_jax.models import costs
from rlhf_jax.parallel import MeshConfig
from rlhf_jax.parallel.limits import Limits
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import DataConfig, GroupConfig, KLConfig, PPOConfig, PreferenceConfig, RewardConfig, SFTConfig
from rlhf_jax.stages.profile import Phase, profile_online, profile_packed

SIZES = {"vocab_size": 40, "d_model": 12, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "head_dim": 4, "d_ff": 16}
MODEL = models.ModelConfig(**SIZES)
CRITIC = models.ModelConfig(**SIZES, scalar_head=True)
LIMITS = Limits(1e9, 1e8, "a machine of our own")


@pytest.fixture(autouse=True)
def known_machine(monkeypatch):
    for module in ("online", "packed"):
        monkeypatch.setattr(f"rlhf_jax.stages.profile.{module}.limits", lambda _: LIMITS)


def online(kind, **changes):
    sampling = SamplingConfig(max_new_tokens=4, window=4)
    return kind(prompts=4, minibatches=2, epochs=2, max_prompt_length=6, sampling=sampling, **changes)


def test_the_phases_of_ppo_and_what_each_has_to_do(one_device):
    """4 prompts of 6 tokens and responses of 4, on random weights, which nothing ends: 40 tokens, 16 of them new."""
    config = online(PPOConfig, policy="nowhere", reward_model="nowhere")
    found = profile_online("ppo", config, random=MODEL, repeats=1, mesh=one_device)
    phases = {phase.name: phase for phase in found.phases}
    assert list(phases) == ["rollout", "score", "reference", "update", "host"]
    assert [phase.tokens for phase in found.phases] == [16, 40, 40, 80, 0]
    forward = costs.forward_flops(MODEL, 40, 10, logits=16)
    critic = costs.forward_flops(CRITIC, 40, 10)
    assert phases["score"].flops == critic
    assert phases["reference"].flops == 2 * forward + critic
    assert phases["update"].flops == 2 * 3 * (forward + critic)
    assert phases["update"].least == phases["update"].flops / LIMITS.flops
    prefill = costs.forward_flops(MODEL, 24, 6, logits=4)
    read = costs.decode_bytes(MODEL, 4, 6, 4)
    assert phases["rollout"].least == prefill / LIMITS.flops + read / LIMITS.bandwidth  # reading takes longer
    assert phases["host"].least == 0
    assert found.kernels == {"attention": "xla", "compute_dtype": "float32", "decoding": "xla"}
    assert found.programs > 0
    assert found.compile_seconds > 0
    assert found.peak_bytes > 0
    assert found.to_json()["phases"][3]["tokens_per_second"] == 80 / phases["update"].seconds


def test_a_rollout_in_8_bits_reads_less_and_random_weights_have_no_stop_strings(one_device):
    """A byte a number of the blocks, four of the head; a byte a number of the cache, and four bytes a column of 4."""
    config = online(GroupConfig, policy="nowhere", reward_model="nowhere", samples=2)
    sampling = dataclasses.replace(config.sampling, int8="weights_and_cache", stop=("\n",))
    config = dataclasses.replace(config, sampling=sampling)
    found = profile_online("group", config, random=MODEL, repeats=1, mesh=one_device)
    # Blocks: 4 x 12 x 8 and 3 x 12 x 16 numbers; keys and values of 2 heads in 7 to 10 columns, 8 responses.
    read = 4 * (960 + 4 * 480) + costs.decode_bytes(MODEL, 8, 6, 4, weight_size=0.0, cache_size=2.0)
    prefill = costs.forward_flops(MODEL, 24, 6, logits=4)
    assert found.phases[0].least == pytest.approx(prefill / LIMITS.flops + read / LIMITS.bandwidth)
    assert found.phases[0].tokens == 32


def test_a_rollout_mesh_has_limits_of_its_own_and_the_trace_is_of_iterations_that_overlap(one_device, tmp_path):
    """Two devices sample, one trains; with random weights and responses of full length, as above."""
    beside = {"rollout_mesh": "data=2", "staleness": 1}
    config = online(GroupConfig, policy="nowhere", reward_model="nowhere", samples=2, iterations=1, **beside)
    found = profile_online("group", config, random=MODEL, repeats=1, mesh=one_device, trace=tmp_path)
    prefill, read = costs.forward_flops(MODEL, 24, 6, logits=4), costs.decode_bytes(MODEL, 8, 6, 4)
    assert found.phases[0].least == prefill / (2 * LIMITS.flops) + read / (2 * LIMITS.bandwidth)
    assert found.phases[3].flops == 2 * 3 * costs.forward_flops(MODEL, 80, 10, logits=32)
    assert found.phases[3].least == found.phases[3].flops / LIMITS.flops
    assert list(tmp_path.glob("plugins/profile/*/perfetto_trace.json.gz"))
    assert found.trace == str(tmp_path)


def test_group_methods_have_no_critic(one_device):
    config = online(GroupConfig, policy="nowhere", reward_model="nowhere", samples=2)
    phases = profile_online("group", config, random=MODEL, repeats=1, mesh=one_device).phases
    assert phases[2].flops == 2 * costs.forward_flops(MODEL, 80, 10, logits=32)
    assert phases[3].flops == 2 * 3 * costs.forward_flops(MODEL, 80, 10, logits=32)


PACKED = {"rows": 2, "row_length": 16, "data": DataConfig(max_length=8)}


@pytest.mark.parametrize(
    ("stage", "config", "tokens", "flops"),
    [
        ("sft", SFTConfig(**PACKED, model=MODEL, vocab_size=40), 32, costs.train_flops(MODEL, 32, 8, logits=16)),
        ("reward", RewardConfig(**PACKED, init="nowhere"), 32, costs.train_flops(CRITIC, 32, 8)),
        ("reward", RewardConfig(**PACKED, init="nowhere", members=2), 64, 2 * costs.train_flops(CRITIC, 32, 8)),
        (
            "preference",
            PreferenceConfig(**PACKED, policy="nowhere"),
            32,
            4 / 3 * costs.train_flops(MODEL, 32, 8, logits=16),  # and the reference's forward pass
        ),
    ],
    ids=["sft", "reward", "ensemble", "preference"],
)
def test_a_step_of_the_packed_stages(one_device, stage, config, tokens, flops):
    found = profile_packed(stage, config, random=MODEL, repeats=1, mesh=one_device)
    assert [phase.name for phase in found.phases] == ["update", "host"]
    assert found.phases[0].tokens == tokens
    assert found.phases[0].flops == pytest.approx(flops)


def test_the_fraction_is_what_is_possible_by_what_it_took():
    assert Phase("update", seconds=4.0, least=1.0).fraction == 0.25
    assert Phase("host", seconds=4.0).to_json()["fraction_of_limit"] is None


def sizes_file(folder):
    file = folder / "sizes.json"
    file.write_text(json.dumps(SIZES))
    return str(file)


WORDS = ("--prompts", "4", "--minibatches", "1", "--epochs", "1", "--max-prompt-length", "6", "--samples", "2")


def test_the_command_prints_a_table_or_json_and_writes_a_trace(tmp_path, capsys):
    words = ["profile", "group", *WORDS, "--policy", "none", "--sampling.max-new-tokens", "4", "--repeats", "1"]
    words += ["--random", sizes_file(tmp_path), "--mesh.data", "1", "--mesh.fsdp", "8"]
    assert cli.run([*words, "--trace", str(tmp_path / "trace")]) == 0
    said = capsys.readouterr().out
    for word in ("rollout", "score", "reference", "update", "host", "of the limit", "compilation:", "kernels:"):
        assert word in said
    assert list((tmp_path / "trace").rglob("perfetto_trace.json.gz"))
    assert cli.run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [phase["name"] for phase in found["phases"]] == ["rollout", "score", "reference", "update", "host"]
    assert found["devices"] == 8
    assert found["seconds"] == pytest.approx(sum(phase["seconds"] for phase in found["phases"]))


def test_a_run_folder_gives_its_config_and_its_weights(tables, folder, sft_run, monkeypatch):
    """What config.json holds becomes the config again, field by field, and the command line changes it."""
    seen = []
    monkeypatch.setattr("rlhf_jax.stages.profile.profile_packed", lambda *said, **how: seen.append((*said, how)))
    monkeypatch.setattr("rlhf_jax.cli.profile.show", lambda _: None)
    assert cli.run(["profile", f"{folder}:sft", "--rows", "4", "--repeats", "2"]) == 0
    ((stage, config, how),) = seen
    assert stage == "sft"
    expected = tiny_task.sft_config(tables, folder, rows=4)
    assert config == expected
    assert how["repeats"] == 2


@pytest.mark.parametrize(
    "config",
    [
        SFTConfig(model=models.ModelConfig(**SIZES, sliding_window=2, local_layers=(True,))),
        RewardConfig(members=3),
        PreferenceConfig(hyperparameters={"beta": 0.2}, offload="frozen"),
        PPOConfig(kl=KLConfig(kind="fixed"), mesh=MeshConfig(fsdp=2)),
        GroupConfig(lora=models.LoRAConfig(rank=4), sampling=SamplingConfig(stop=("a", "b"))),
    ],
    ids=lambda config: type(config).__name__,
)
def test_a_config_comes_back_from_its_record(config):
    written = json.loads(json.dumps(dataclasses.asdict(config)))
    assert from_record(type(config)(), written) == config
    del written["seed"]  # a field that an earlier version did not have
    assert from_record(type(config)(), written) == config


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "rlhf profile STAGE"),
        (["dance"], "neither a stage nor a run folder"),
        (["sft", "--repeats", "0"], "--repeats must be at least 1"),
        (["sft", "--rows", "0"], "rows"),
    ],
    ids=["nothing", "no stage", "no repeats", "a bad field"],
)
def test_mistakes_are_named(words, says, capsys):
    assert cli.run(["profile", *words]) == 2
    assert says in capsys.readouterr().err


def test_the_models_of_a_run_folder_are_used(tables, folder, sft_run, one_device):
    config = online(GroupConfig, policy=str(folder), reward_model="nowhere")
    found = profile_online("group", config, repeats=1, mesh=one_device)
    assert found.phases[0].tokens <= 4 * 4 * 4  # its policy may end a response
    assert found.phases[1].tokens == 4 * 4 * 6 + found.phases[0].tokens
    weights = 2 * costs.matrix_parameters(sft_run.model_config) * found.phases[1].tokens
    assert weights < found.phases[1].flops < 1.2 * weights  # the run's sizes, and a little attention


def test_help_shows_the_profiles_options_beside_the_stages(capsys):
    with pytest.raises(SystemExit) as left:
        cli.run(["profile", "--help"])
    assert left.value.code == 0
    assert "rlhf profile RUN:STAGE" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.run(["profile", "ppo", "--help-all"])
    said = capsys.readouterr().out
    for option in ("--repeats", "--trace", "--json", "--random", "--kl.target", "--offload {none,frozen}"):
        assert option in said


@pytest.mark.parametrize("fields", [SIZES, {"d_model": 12, "no_such": 1}, {"model_type": "llama"}], ids=str)
def test_sizes_come_from_fields_of_either_kind(tmp_path, fields):
    file = tmp_path / "config.json"
    llama = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    held = {**fields, **llama, "vocab_size": 40} if "model_type" in fields else fields
    file.write_text(json.dumps(held))
    if "no_such" in fields:
        with pytest.raises(UsageError, match="no_such"):
            sizes(file)
    else:
        found = sizes(file)
        assert (found.d_model, found.n_layers, found.d_ff, found.vocab_size) == (12, 1, 16, 40)

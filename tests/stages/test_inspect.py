"""The list of a stage's arrays: worked numbers, the real arrays, and what the compiler does with its own."""

import dataclasses
import json

import jax
import pytest

from rlhf_jax import cli, models, parallel, rollout, stages
from rlhf_jax.data.config import DataConfig
from rlhf_jax.stages.ahead.online import online_work, prompt_shapes, row_keys
from rlhf_jax.stages.inspect import arrays_of
from rlhf_jax.stages.profile.packed import packed_work

SIZES = models.ModelConfig(
    vocab_size=64, d_model=64, n_layers=3, n_heads=8, n_kv_heads=8, head_dim=8, d_ff=128, tie_embeddings=False
)
TWO = parallel.MeshConfig(data=2, fsdp=2, tensor=2)
PACKED = {"rows": 8, "row_length": 32, "data": DataConfig(max_length=32)}
SAMPLING = rollout.SamplingConfig(max_new_tokens=16, window=16)
ONLINE = {"prompts": 8, "minibatches": 1, "max_prompt_length": 16, "sampling": SAMPLING}
SFT = stages.SFTConfig(**PACKED, model=SIZES, vocab_size=64)
CONFIGS = {
    "sft": SFT,
    "parts": dataclasses.replace(SFT, micro_batches=2),
    "reward": stages.RewardConfig(**PACKED, init="nowhere"),
    "members": stages.RewardConfig(**PACKED, init="nowhere", members=2),
    "preference": stages.PreferenceConfig(**PACKED, policy="nowhere"),
    "ppo": stages.PPOConfig(**ONLINE),
    "group": stages.GroupConfig(**ONLINE, samples=2),
}
STAGES = {"parts": "sft", "members": "reward"}


def listed(name, sizes=SIZES, mesh=None, **changes):
    config = dataclasses.replace(CONFIGS[name], **changes)
    return arrays_of(
        STAGES.get(name, name), config, mesh=parallel.make_mesh(TWO) if mesh is None else mesh, sizes=sizes
    )


def test_the_bytes_of_a_known_model():
    """Matrices and tables, 131,072 numbers, lie over fsdp and tensor, 4 devices; norms, 448 numbers, are whole."""
    found = listed("sft").groups
    matrices, tables, norms = 3 * (4 * 64 * 64 + 3 * 64 * 128), 2 * 64 * 64, (2 * 3 + 1) * 64
    assert (matrices + tables, norms) == (131_072, 448)
    whole, device = 4 * (131_072 + 448), 131_072 + 4 * 448
    assert found["parameters: policy"] == (whole, device)
    assert found["optimiser"] == (2 * whole + 8, 2 * device + 8)  # two moments, two counters
    assert found["counters"] == (12, 12)
    # 8 rows of 32 tokens: tokens, segments and positions; where each token went is a number more.
    assert found["packed rows"] == (4 * 4 * 8 * 32, 4 * 4 * 2 * 32)
    assert found["logits"] == (4 * 8 * 32 * 64, 4 * 2 * 32 * 32)  # rows over data and fsdp, vocabulary over tensor


def test_the_bytes_of_a_cache():
    """Keys and values of 3 layers: 8 rows over data and fsdp, 8 heads over tensor, 16 + 16 columns of 8 numbers."""
    found = listed("ppo").groups
    assert found["KV cache"] == (2 * 3 * 4 * 8 * 8 * 32 * 8 + 4 * 8, 2 * 3 * 4 * 2 * 4 * 32 * 8 + 4 * 2)
    assert found["weights laid out for decoding"] == found["parameters: policy"]
    slots = dataclasses.replace(SAMPLING, slots=4)
    assert listed("ppo", sampling=slots).groups["KV cache"][0] == found["KV cache"][0] / 2
    short = dataclasses.replace(SAMPLING, int8="weights_and_cache")  # a byte a number, and 4 a column of 8
    assert listed("ppo", sampling=short).groups["KV cache"] == (
        2 * 3 * 8 * 8 * 32 * 12 + 32,
        2 * 3 * 2 * 4 * 32 * 12 + 8,
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_the_groups_add_up(name):
    found = listed(name)
    for at in (0, 1):
        assert sum(both[at] for both in found.groups.values()) == found.total[at]
    assert all(one.device_bytes <= one.bytes <= 8 * one.device_bytes for one in found.arrays)
    assert len({(one.group, one.path) for one in found.arrays}) == len(found.arrays)
    if STAGES.get(name, name) in ("ppo", "group"):
        ours = {"parameters: policy", "parameters: reference", "parameters: reward model"}
        assert ours | ({"parameters: critic"} if name == "ppo" else set()) <= set(found.groups)


def leaves(tree):
    return {parallel.path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def of_first(x):
    """Bytes that the first device has of a real array."""
    return x.addressable_shards[0].data.nbytes


@pytest.mark.parametrize("name", ["sft", "parts", "members", "preference"])
def test_every_real_array_of_a_packed_stage_is_listed_as_it_lies(name):
    """The same stage with weights, on eight devices."""
    config, found = CONFIGS[name], listed(name)
    program = packed_work(config, SIZES, parallel.make_mesh(TWO)).program
    groups = {"optimiser": program.state.opt_state}
    groups |= {f"parameters: {role}": {role: own} for role, own in program.state.params.items()}
    if program.reference:
        groups["parameters: reference"] = {"reference": program.reference["policy"]}
    for group, tree in groups.items():
        there = {one.path: one.device_bytes for one in found.arrays if one.group == group}
        assert there == {path: of_first(x) for path, x in leaves(tree).items()}


@pytest.fixture(scope="module")
def work():
    """A PPO stage as shapes, for what the compiler has a say in."""
    return online_work(CONFIGS["ppo"], SIZES, parallel.make_mesh(TWO))


def test_every_leaf_of_the_state_is_listed(work):
    found = listed("ppo")
    train = work.state.train
    for group, tree in (
        ("parameters: policy", {"policy": train.params["policy"]}),
        ("parameters: critic", {"critic": train.params["critic"]}),
        ("optimiser", train.opt_state),
    ):
        there = {one.path: (one.shape, one.spec) for one in found.arrays if one.group == group}
        assert there == {path: (x.shape, x.sharding.spec) for path, x in leaves(tree).items()}
    counters = {one.path for one in found.arrays if one.group == "counters"}
    assert counters == {*leaves(train._replace(params=None, opt_state=None)._asdict()), "controller/coef"} | {
        f"moments/{name}" for name in work.state.moments._fields
    }


def test_the_compiler_lays_cache_and_decoding_weights_where_the_list_says(work):
    """Both are made inside programs, so where they lie is decided when these are compiled."""
    trainer, config = work.trainer, work.config
    programs, rows = trainer.sampler.engine.programs, trainer.sampler.sharding(config.prompts)

    def compiled(program, *arguments, **static):
        lowered = program.lower(*arguments, sharding=rows, **static)
        return parallel.shaped(lowered.out_info, lowered.compile().output_shardings)

    laid = compiled(programs.lay_out, work.state.train.params["policy"])
    asked = prompt_shapes(config.prompts, work.columns, trainer.sampler.sharding(config.prompts))
    keys = row_keys(trainer, config.prompts)
    state = compiled(programs.start, laid, *asked, keys, samples=1, columns=work.columns + 16)
    found = listed("ppo")
    for group, tree in (("weights laid out for decoding", laid), ("KV cache", state.cache._asdict())):
        there = {one.path: one.device_bytes for one in found.arrays if one.group == group}
        assert there == {path: parallel.device_bytes(x) for path, x in leaves(tree).items()}


@pytest.mark.parametrize("name", ["sft", "ppo"])
def test_devices_need_not_be_there(name):
    """A description of eight devices gives the same list as eight devices; one of 256 gives a list as well."""
    assert listed(name, mesh=parallel.described_mesh(TWO, 8)) == listed(name)
    many = listed(name, mesh=parallel.described_mesh(parallel.MeshConfig(fsdp=8, tensor=8), 256))
    assert many.mesh == {"data": 4, "fsdp": 8, "tensor": 8}
    matrices, norms = 131_072, 448
    assert many.groups["parameters: policy"][1] == 4 * (matrices // 64 + norms)


def test_a_large_array_that_stays_whole_is_warned_of():
    assert not listed("sft").warnings
    odd = dataclasses.replace(SIZES, vocab_size=65)
    said = listed("sft", sizes=odd).warnings
    table = (
        "policy/embedding [65, 64]: dimension 0 (65) stays whole on every device, because tensor=2 does not divide it"
    )
    assert table + "; 2 more arrays of this shape" in said  # its moments
    assert any(line.startswith("policy/unembedding [64, 65]: dimension 1 (65)") for line in said)
    assert any(line.startswith("update, all, kept") and "dimension 2 (65)" in line for line in said)


def test_rows_and_heads_that_devices_cannot_share_are_warned_of():
    """6 rows among data=2 and fsdp=2; one head of keys among tensor=2."""
    said = [line for line in listed("ppo", prompts=6).warnings if line.startswith("k/0 ")]
    where = "dimension 0 (6) stays whole on every device, because data=2 x fsdp=2 does not divide it"
    assert said == [f"k/0 [6, 8, 32, 8]: {where}; 5 more arrays of this shape"]
    one = listed("ppo", sizes=dataclasses.replace(SIZES, n_kv_heads=1), prompts=64)
    (said,) = [line for line in one.warnings if line.startswith("k/0 ")]
    assert said.startswith("k/0 [64, 1, 32, 8]: dimension 1 (1) stays whole on every device, because tensor=2")


def test_a_trunk_that_roles_share_counts_once():
    found = listed("ppo", lora=models.LoRAConfig(rank=2))
    trunk = next(one for one in found.arrays if one.path == "policy/embedding")
    assert (trunk.group, trunk.shared, trunk.bytes) == ("parameters: frozen trunks", "", 4 * 64 * 64)
    again = [one for one in found.arrays if one.shared == "parameters: frozen trunks: policy/embedding"]
    assert {one.path for one in again} == {"critic/embedding", "reference/embedding", "reward_model/embedding"}
    assert all(one.bytes == one.device_bytes == 0 for one in again)
    # Three roles stand on one trunk; without adapters each has weights of its own.
    assert not any(one.shared for one in listed("ppo").arrays if one.group.startswith("parameters"))


def test_parked_models_take_nothing_of_the_devices():
    for name in ("ppo", "preference"):
        on, parked = listed(name), listed(name, offload="frozen")
        whole, device = parked.groups["parameters: reference"]
        assert (whole, device) == (on.groups["parameters: reference"][0], 0)
        assert on.groups["parameters: reference"][1] > 0
        assert all(one.waits for one in parked.arrays if one.group == "parameters: reference")


def test_only_an_update_keeps_logits():
    paths = [one.path for one in listed("ppo").arrays if one.group == "logits"]
    assert paths == ["log-probabilities, a chunk", "update, all, kept for the backward pass"]
    assert "logits" not in listed("reward").groups


WORDS = ("--prompts", "8", "--minibatches", "1", "--max-prompt-length", "16", "--sampling.max-new-tokens", "16")


def test_the_command_prints_tables_and_writes_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # paths are folded where the terminal is narrow
    file, sizes = tmp_path / "arrays.json", tmp_path / "sizes.json"
    sizes.write_text(json.dumps(dataclasses.asdict(SIZES)))
    words = ["--mesh", "fsdp=2,tensor=2", "--random", str(sizes), "--json", str(file), *WORDS]
    assert cli.run(["inspect", "ppo", *words]) == 0
    said = capsys.readouterr().out
    for word in ("data 2 x fsdp 2 x tensor 2", "policy/embedding", "64x64", "tensor, fsdp", "k/*  (3 of them)"):
        assert word in said
    assert "whole:" not in said
    found = json.loads(file.read_text())
    expected = listed("ppo")
    assert (found["bytes"], found["device_bytes"]) == expected.total
    assert found["groups"]["KV cache"]["device_bytes"] == expected.groups["KV cache"][1]
    embedding = next(one for one in found["arrays"] if one["path"] == "policy/embedding")
    assert (embedding["shape"], embedding["spec"], embedding["device_bytes"]) == ([64, 64], ["tensor", "fsdp"], 4096)


def test_a_file_names_the_stage_by_its_config(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from rlhf_jax.stages import RewardConfig\nfrom rlhf_jax.parallel import MeshConfig\n"
        "config = RewardConfig(mesh=MeshConfig.parse('fsdp=4'))\n"
    )
    assert cli.run(["inspect", str(file), "--devices", "16"]) == 0
    said = capsys.readouterr().out
    assert "reward on cpu: data 4 x fsdp 4 x tensor 1" in said


def test_what_stays_whole_is_said_and_is_no_error(tmp_path, capsys):
    words = ["--devices", "8", "--mesh", "tensor=8", "--model.n-heads", "4", "--model.n-kv-heads", "4"]
    assert cli.run(["inspect", "sft", "--vocab-size", "4097", *words]) == 0
    said = capsys.readouterr().out
    assert (
        "whole: policy/embedding [4097, 128]: dimension 0 (4,097) stays whole on every device, because tensor=8" in said
    )


def test_a_topology_stands_in_for_devices(capsys):
    pytest.importorskip("libtpu")
    assert cli.run(["inspect", "ppo", "--topology", "v5e:2x4", "--mesh", "fsdp=2,tensor=2"]) == 0
    assert "ppo on tpu: data 2 x fsdp 2 x tensor 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "rlhf inspect STAGE"),
        (["dance"], "neither a stage nor a run folder"),
        (["sft", "--devices", "12", "--mesh", "fsdp=8"], "does not fit 12 devices: 8 does not divide 12"),
        (["sft", "--devices", "8", "--topology", "v5e-256"], "--devices N, 1 to 1048576, or --topology"),
        (["sft", "--topology", "v9-8"], "topology 'v9-8'"),
        (["sft", "--mesh", "sequence=2"], "no axis is called 'sequence'"),
    ],
    ids=["nothing", "no stage", "devices", "both", "topology", "axis"],
)
def test_mistakes_are_named(words, says, capsys):
    assert cli.run(["inspect", *words]) == 2
    assert says in capsys.readouterr().err


def test_help_shows_the_options(capsys):
    with pytest.raises(SystemExit):
        cli.run(["inspect", "--help"])
    assert "rlhf inspect RUN:STAGE" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.run(["inspect", "ppo", "--help-all"])
    said = capsys.readouterr().out
    for option in ("--devices", "--topology", "--json", "--random", "--mesh data=2,fsdp=2,tensor=2", "--mesh.fsdp"):
        assert option in said

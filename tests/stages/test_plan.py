"""Plans by arithmetic: worked numbers, what has to hold for any numbers, and the plan beside compiled programs."""

import dataclasses
import functools
import itertools
import json

import jax
import pytest
from llama3 import LLAMA3_8B

from rlhf_jax import cli, models, parallel, rollout
from rlhf_jax.models import costs
from rlhf_jax.parallel import MeshConfig
from rlhf_jax.parallel.hardware import Hardware, hardware, planned_mesh
from rlhf_jax.parallel.limits import Limits
from rlhf_jax.stages import DataConfig, GroupConfig, PPOConfig, PreferenceConfig, RewardConfig, SFTConfig
from rlhf_jax.stages.ahead import compile_ahead
from rlhf_jax.stages.plan import Run, beside, chosen_mesh, plan
from rlhf_jax.stages.plan.activations import Rows, kept_bytes
from rlhf_jax.stages.plan.passes import recomputed
from rlhf_jax.stages.plan.weights import ring, weights_of
from rlhf_jax.stages.profile.packed import packed_work

LLAMA = dataclasses.replace(LLAMA3_8B, remat="block")
PARAMETERS = 8_030_261_248
NORMS = (2 * 32 + 1) * 4096  # numbers that every device holds whole
LONG = {"row_length": 2048, "data": DataConfig(max_length=2048)}
SMALL = models.ModelConfig(
    vocab_size=64, d_model=64, n_layers=2, n_heads=8, n_kv_heads=8, head_dim=8, d_ff=128, tie_embeddings=False
)
SHORT = {"rows": 32, "row_length": 32, "data": DataConfig(max_length=32)}
CPUS = Hardware("eight cores", "cpu", "cpu", 8, 2**30, Limits(1e9, 1e9, "a machine of our own"), 1e9, None)
MESHES = {"8x1x1": (8, 1, 1), "1x8x1": (1, 8, 1), "1x1x8": (1, 1, 8), "2x2x2": (2, 2, 2)}
PPO = PPOConfig(
    prompts=8,
    max_prompt_length=16,
    epochs=1,
    minibatches=1,
    sampling=rollout.SamplingConfig(max_new_tokens=16, window=16),
)


def meshed(config, data=1, fsdp=1, tensor=1):
    return dataclasses.replace(config, mesh=MeshConfig(data=data, fsdp=fsdp, tensor=tensor))


def on(name, config, sizes=LLAMA, stage="sft", run=None):
    """Plan on hardware whose devices all share the weights."""
    wanted = hardware(name)
    return plan(
        stage, dataclasses.replace(config, mesh=chosen_mesh(config.mesh, wanted.devices)), wanted, sizes=sizes, run=run
    )


def llama(name, rows, **options):
    return on(name, SFTConfig(rows=rows, **LONG), **options)


def test_llama_3_8b_by_hand():
    """12 bytes a parameter are held, float32 weights and two moments; 64 chips share all but the norms."""
    found = llama("v5p-128", rows=64)
    assert found.parameters == PARAMETERS
    (update,) = found.phases
    share = (PARAMETERS - NORMS) // 64 + NORMS
    assert update.memory["weights"] == 4 * share
    assert update.memory["optimiser state"] == 8 * share + 4 * 5  # five counters: three of ours, two of the optimiser's
    assert update.memory["gradients"] == 4 * share
    assert found.held == 12 * share + 20
    # The stream before each of 32 blocks, in bfloat16: one row of 2,048 tokens a chip.
    assert update.memory["activations for the backward pass"] == 32 * 2048 * 4096 * 2
    blocks = costs.matrix_parameters(LLAMA)
    assert blocks == 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336)
    # Whole in the forward pass, again but for each block's last product, and in the backward pass; the head twice.
    gathered = 2 * (3 * blocks - 32 * 4096 * 14_336 + 2 * 128_256 * 4096) * 63 / 64
    assert update.sent["weights over fsdp"] == pytest.approx(gathered)
    # To their parts once: the blocks' in bfloat16, the head's in float32. The norms' are summed everywhere.
    reduced = (2 * blocks + 4 * 128_256 * 4096 + 2 * 4 * NORMS) * 63 / 64
    assert update.sent["gradients over fsdp"] == pytest.approx(reduced)
    tokens = 64 * 2048
    flops = costs.train_flops(LLAMA, tokens, 2048, logits=tokens / 2) + recomputed(LLAMA, rows(64, 2048))
    flops += 2 * 128_256 * 4096 * tokens / 2  # logits are made again
    assert update.flops == pytest.approx(flops / 64)
    assert update.least["compute"] == pytest.approx(flops / 64 / 459e12)
    assert update.least["interconnect"] == sum(update.sent.values()) / 600e9
    assert found.fits


def rows(number, length):
    return Rows(number, length, float(number * length), length, number * length / 2)


def test_what_the_backward_pass_computes_again():
    """Of 6 products of 8 x 8 and the MLP's three of 8 x 16: all of a block's but the last, and attention."""
    sizes = {"d_model": 8, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "head_dim": 4, "d_ff": 16}
    attention = 4 * 8 * 6 * 1.5
    for remat, flops in (("none", 0), ("dots", attention), ("block", 2 * (4 * 64 + 2 * 128) * 6 + attention)):
        assert recomputed(models.ModelConfig(**sizes, remat=remat), rows(2, 3)) == flops


def test_hours_and_cost():
    """A billion tokens, 131,072 an update; at two fifths of the roofline it takes two and a half times as long."""
    least = llama("v5p-128", rows=64)
    found = llama("v5p-128", rows=64, run=Run(tokens=10**9, efficiency=0.4, price=4.2))
    assert found.steps == 7630  # 7,629.4
    assert found.seconds == pytest.approx(least.seconds / 0.4)
    assert found.hours == pytest.approx(7630 * found.seconds / 3600)
    assert found.cost == pytest.approx(64 * found.hours * 4.2)
    assert found.tokens / found.seconds == pytest.approx(0.4 * 131_072 / least.seconds)
    assert least.hours is None
    assert llama("v5p-128", rows=64, run=Run(steps=10)).cost is None  # no price is built in
    assert llama("v5p-128", rows=64, run=Run(steps=10, price=0.0)).cost == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"efficiency": 0.0}, "efficiency"),
        ({"efficiency": 1.1}, "efficiency"),
        ({"price": -1.0}, "price"),
        ({"price": float("nan")}, "price"),
        ({"steps": -1}, "steps"),
        ({"steps": 1, "tokens": 1}, "one of them"),
    ],
    ids=str,
)
def test_a_run_that_cannot_be(options, says):
    with pytest.raises(ValueError, match=says):
        Run(**options)


def test_more_devices_never_hold_more_each():
    for remat in ("none", "dots", "block"):
        sizes = dataclasses.replace(LLAMA, remat=remat)
        totals = [
            llama(name, rows=256, sizes=sizes).phases[0].memory for name in ("v5p-8", "v5p-32", "v5p-128", "v5p-512")
        ]
        for few, many in itertools.pairwise(totals):
            assert all(many[part] <= few[part] for part in few), remat
    config = PPOConfig(prompts=256, max_prompt_length=256)
    few, many = (on(name, config, stage="ppo") for name in ("v5p-32", "v5p-128"))
    assert all(b.total <= a.total for a, b in zip(few.phases, many.phases, strict=True))


def test_rows_that_cannot_be_divided_are_done_by_every_device():
    fitting, odd = (llama("h100x8", rows=n) for n in (8, 9))
    assert not fitting.notes
    assert "rows of a part (9) cannot be divided among the 8 devices" in odd.notes[0]
    assert odd.phases[0].flops == pytest.approx(9 * fitting.phases[0].flops)


def test_a_plan_says_what_its_sizes_are():
    assert "quickstart's model" in on("h100x1", PPO, None, "ppo").notes[0]
    assert "model.*" in on("h100x1", SFTConfig(init="checkpoint", **SHORT), None).notes[0]
    assert not [note for note in on("h100x1", SFTConfig(**SHORT), None).notes if "sizes" in note]


def test_recomputation_takes_memory_for_time():
    kept = {}
    for remat in ("none", "dots", "block"):
        sizes = dataclasses.replace(LLAMA, remat=remat)
        mesh = planned_mesh(MeshConfig(fsdp=64), hardware("v5p-128"))
        kept[remat] = kept_bytes(sizes, rows(64, 2048), mesh)
    # A token in a layer keeps the stream and seven matrices' results: 2 x 4096 + 4096 + 2 x 1024 + 2 x 14,336 numbers.
    assert kept["dots"] == 32 * 2048 * (4096 * 3 + 2 * 1024 + 2 * 14_336) * 2
    assert kept["none"] > kept["dots"] > kept["block"]


def test_micro_batches_hold_a_part_and_send_weights_for_each():
    whole, halves = (on("h100x8", SFTConfig(rows=32, micro_batches=n, **LONG)).phases[0] for n in (1, 2))
    part = "activations for the backward pass"
    assert halves.memory[part] == whole.memory[part] / 2
    assert halves.memory["gradients"] == 2 * whole.memory["gradients"]  # the sum, and those of a part
    assert halves.sent["weights over fsdp"] == 2 * whole.sent["weights over fsdp"]
    assert halves.tokens == whole.tokens
    assert halves.flops == pytest.approx(whole.flops)


def test_a_reference_and_an_ensemble_are_counted():
    one = on("h100x8", RewardConfig(**SHORT), SMALL, "reward")
    two = on("h100x8", RewardConfig(members=2, **SHORT), SMALL, "reward", Run(tokens=2048))
    assert (two.steps, two.tokens) == (2, 1024)  # an update is of 1,024 tokens of the data, which both members see
    assert two.phases[0].flops == 2 * one.phases[0].flops
    assert two.phases[0].memory["weights"] == 2 * one.phases[0].memory["weights"]
    pair = on("h100x8", PreferenceConfig(**SHORT), SMALL, "preference")
    assert pair.phases[0].memory["reference"] == pair.phases[0].memory["weights"]
    alone = on("h100x8", SFTConfig(**SHORT), SMALL)
    tokens = 32 * 32
    forward = costs.forward_flops(SMALL, tokens, 32, logits=tokens / 2)
    assert pair.phases[0].flops == pytest.approx(alone.phases[0].flops + forward / 8)


def online(config, name="h100x8", sizes=LLAMA, stage="ppo"):
    return {phase.name: phase for phase in on(name, config, sizes, stage).phases}


def test_a_rollout_by_the_formulas_of_the_models():
    """64 prompts of 512 tokens and as many new ones on 8 GPUs: each writes 8 rows and reads its part of the weights."""
    sampling = rollout.SamplingConfig(max_new_tokens=512, window=128)
    config = PPOConfig(prompts=64, max_prompt_length=512, sampling=sampling)
    phases = online(config)
    prefill, decode = phases["prefill"], phases["decode 512 tokens"]
    assert prefill.flops == pytest.approx(costs.forward_flops(LLAMA, 64 * 512, 512, logits=64) / 8)
    assert decode.flops == pytest.approx(costs.decode_flops(LLAMA, 64, 512, 512) / 8)
    # Decoding reads the cache of a GPU's own rows, and once a token its part of all that is laid out: in bfloat16 but
    # for the norms. The table that tokens are looked up in lies there as well, beyond what the formula has to read.
    laid = 2 * (PARAMETERS - NORMS) / 8 + 4 * NORMS
    assert decode.memory["weights laid out"] == laid
    cache = costs.decode_bytes(LLAMA, 8, 512, 512, weight_size=0.0)
    assert decode.read == pytest.approx(512 * laid + cache)
    assert decode.memory["cache"] == 8 * 1024 * 32 * 2 * 8 * 128 * 2
    assert decode.runs == 4
    assert decode.tokens == 64 * 512
    assert prefill.sent["weights over fsdp"] == pytest.approx(
        2 * (costs.matrix_parameters(LLAMA) + costs.head_parameters(LLAMA)) * 7 / 8
    )


def test_a_cache_in_8_bits_and_slots_take_less():
    sampling = rollout.SamplingConfig(max_new_tokens=64, slots=16, int8="weights_and_cache")
    config = PPOConfig(prompts=64, max_prompt_length=64, sampling=sampling)
    lean = online(config)["decode 64 tokens"].memory
    plain = online(dataclasses.replace(config, sampling=rollout.SamplingConfig(max_new_tokens=64)))[
        "decode 64 tokens"
    ].memory
    assert lean["cache"] == plain["cache"] / 4 * (1 + 4 / 128) / 2
    assert lean["weights laid out"] < 0.6 * plain["weights laid out"]


def test_models_that_wait_in_the_hosts_memory_are_there_only_while_they_score():
    there, parked = online(PPO, sizes=SMALL), online(dataclasses.replace(PPO, offload="frozen"), sizes=SMALL)
    for name, phase in parked.items():
        gone = {part for part in ("reference", "reward model") if part not in phase.memory}
        brought = {"reference": {"reward model"}, "score": {"reference"}}
        assert gone == brought.get(name, {"reference", "reward model"}), name
        assert phase.total == there[name].total - sum(there[name].memory[part] for part in gone)


def test_group_methods_have_no_critic_and_a_head_is_next_to_none():
    group = online(GroupConfig(prompts=8, max_prompt_length=16), sizes=SMALL, stage="group")
    own, head = (online(dataclasses.replace(PPO, critic=kind), sizes=SMALL)["update"] for kind in ("own", "head"))
    assert "critic's weights" not in group["update"].memory
    assert head.memory["critic's weights"] == 4 * 64 / 8
    assert own.memory["critic's weights"] > own.memory["policy's weights"]
    assert head.flops < 0.6 * own.flops


def test_adapters_hold_one_trunk_and_send_no_gradient_of_it():
    lora = dataclasses.replace(PPO, lora=models.LoRAConfig(rank=4))
    found, whole = online(lora, sizes=SMALL)["update"], online(PPO, sizes=SMALL)["update"]
    assert found.memory["frozen trunk"] == whole.memory["policy's weights"]
    for part in ("policy's weights", "optimiser state", "reference", "reward model"):
        assert found.memory[part] < 0.5 * whole.memory[part]
    assert found.sent["gradients over fsdp"] < 0.5 * whole.sent["gradients over fsdp"]


@functools.cache
def pairs(stage, mesh, remat="block"):
    data, fsdp, tensor = MESHES[mesh]
    config = {"sft": SFTConfig(**SHORT), "ppo": PPO}[stage]
    config, sizes = meshed(config, data, fsdp, tensor), dataclasses.replace(SMALL, remat=remat)
    made = compile_ahead(stage, config, mesh=parallel.make_mesh(config.mesh, jax.devices()), sizes=sizes)
    planned = plan(stage, config, CPUS, sizes=sizes)
    assert planned.held == made.held
    assert planned.parameters == made.parameters
    return planned, made, {(x.program, x.figure): x for x in beside(planned, made.to_json())}


@pytest.mark.parametrize("remat", ["none", "dots", "block"])
def test_weights_are_gathered_as_often_as_compiled_programs_do(remat):
    """Within 2%: packed rows' masks and targets are gathered as well, which no plan counts."""
    planned, made, _ = pairs("sft", "1x8x1", remat)
    gathered = made.programs[0].collectives["all-gather"][1]
    assert planned.phases[0].sent["weights over fsdp"] == pytest.approx(gathered, rel=0.02)


def test_gradients_are_summed_once_as_compiled_programs_do():
    planned, made, _ = pairs("sft", "8x1x1")
    summed = made.programs[0].collectives["all-reduce"][1]
    assert planned.phases[0].sent["gradients over data"] == pytest.approx(summed, rel=0.02)


@pytest.mark.parametrize("mesh", ["1x8x1", "2x2x2"])
@pytest.mark.parametrize("program", ["prefill", "log-probabilities", "reference", "score"])
def test_forward_passes_send_what_compiled_programs_send(program, mesh):
    """Over one axis and over all three, within 2%."""
    assert abs(pairs("ppo", mesh)[2][program, "bytes sent"].difference) < 0.02


@pytest.mark.parametrize(("stage", "mesh"), [*(("sft", mesh) for mesh in MESHES), ("ppo", "1x8x1"), ("ppo", "2x2x2")])
def test_the_plan_is_a_lower_bound_of_what_is_sent_and_near_what_is_held(stage, mesh):
    """XLA for CPUs sums whole gradients where a plan sends parts, and each product's where a plan sends their sum."""
    for (program, figure), pair in pairs(stage, mesh)[2].items():
        if figure == "bytes on a device":
            assert 0.7 * pair.planned < pair.compiled < 1.6 * pair.planned, program
        elif figure == "bytes sent":
            assert 0.98 * pair.planned <= pair.compiled < 1.7 * pair.planned + 2000, program


def test_no_weight_is_gathered_where_nothing_is_shared():
    mesh = planned_mesh(MeshConfig(), hardware("h100x1"))
    work = packed_work(meshed(SFTConfig(**SHORT, model=SMALL, vocab_size=64)), SMALL, mesh, shapes=True)
    found = weights_of(SMALL, work.program.state.params["policy"])
    assert (found.gathered, found.head_gathered, found.exchanges, ring(1)) == (0, 0, 0, 0)
    assert found.read == 4 * costs.matrix_parameters(SMALL)


def test_figures_of_something_else_are_refused():
    planned, made, _ = pairs("sft", "8x1x1")
    for field, other in (("stage", "ppo"), ("topology", "v5e:4x4"), ("mesh", {"data": 1}), ("parameters", 7)):
        with pytest.raises(ValueError, match=f"another {field}"):
            beside(planned, {**made.to_json(), field: other})
    with pytest.raises(ValueError, match="rlhf aot --json"):
        beside(planned, {})


def words(tmp_path, stage="sft", name="v5e-16", *more):
    file = tmp_path / "sizes.json"
    file.write_text(json.dumps(dataclasses.asdict(SMALL)))
    said = ["plan", stage, "--hardware", name, "--random", str(file), *more]
    return said + (["--rows", "32", "--row-length", "32", "--data.max-length", "32"] if stage == "sft" else [])


def test_the_command_prints_a_plan_beside_compiled_figures(tmp_path, capsys):
    ahead, out = tmp_path / "ahead.json", tmp_path / "plan.json"
    assert cli.run(words(tmp_path, "sft", "v5e-16", "--json", str(out), "--steps", "100", "--price", "1.5")) == 0
    said = capsys.readouterr().out
    for word in ("optimiser state", "gradients", "bound by", "tokens/s", "USD at 1.5", "fsdp takes all 16 devices"):
        assert word in said
    assert "nothing was run" in said
    found = json.loads(out.read_text())
    assert found["mesh"] == {"data": 1, "fsdp": 16, "tensor": 1}
    assert found["cost"] == pytest.approx(16 * found["hours"] * 1.5)
    memory, seconds = found["phases"][0]["memory"]["total"], max(found["phases"][0]["least_seconds"].values())
    program = {
        "name": "update",
        "memory": {"total": 2 * memory},
        "collectives": None,
        "least_seconds": {"compute": seconds / 2},
    }
    same = {name: found[name] for name in ("stage", "mesh", "parameters")}
    ahead.write_text(json.dumps({**same, "topology": "v5e:4x4", "programs": [program]}))
    assert cli.run(words(tmp_path, "sft", "v5e-16", "--aot-json", str(ahead))) == 0
    said = capsys.readouterr().out
    assert "+100%" in said
    assert "-50%" in said
    assert "USD" not in said
    assert "--steps or --tokens" in said


def test_the_command_plans_an_iteration(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    more = ("--prompts", "8", "--minibatches", "1", "--max-prompt-length", "16", "--mesh.data", "2", "--mesh.fsdp", "4")
    assert cli.run(words(tmp_path, "ppo", "h100x8", *more)) == 0
    said = capsys.readouterr().out
    for word in ("lay out", "prefill", "decode 32 tokens", "score", "responses/s", "30 iterations", "data 2 x fsdp 4"):
        assert word in said
    assert "none was asked for" not in said


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "rlhf plan STAGE"),
        (["sft"], "--hardware is missing"),
        (["sft", "--hardware", "abacus"], "h100x8, h200x8"),
        (["sft", "--hardware", "h100x8", "--mesh.fsdp", "3"], "does not fit 8 devices"),
        (["sft", "--hardware", "h100x8", "--aot"], "TPU slices"),
        (["sft", "--hardware", "h100x8", "--efficiency", "2"], "efficiency"),
        (["ppo", "--hardware", "h100x8", "--tokens", "5"], "iterations"),
        (["sft", "--hardware", "h100x8", "--aot-json", "no-such.json"], "no-such.json"),
    ],
    ids=str,
)
def test_mistakes_are_named(argv, says, capsys):
    assert cli.run(["plan", *argv]) == 2
    assert says in capsys.readouterr().err


def test_help_shows_the_plans_options_beside_the_stages(capsys):
    with pytest.raises(SystemExit):
        cli.run(["plan", "--help"])
    assert "rlhf plan RUN:STAGE" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.run(["plan", "ppo", "--help-all"])
    said = capsys.readouterr().out
    for option in ("--hardware", "--efficiency", "--price", "--aot-json", "--mesh.fsdp", "--kl.target"):
        assert option in said

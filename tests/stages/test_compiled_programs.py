"""What the compiled programs of the stages do on eight devices: who holds what, what is exchanged, and how often.

Equal numbers cannot show this. A program in which every device holds the whole batch gives the same losses as one in
which each holds its share.
"""

import dataclasses
import functools
import math

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from rlhf_jax import models, parallel, rollout, stages
from rlhf_jax.data.config import DataConfig
from rlhf_jax.models import ambient, layers, logit_chunks, lookup, output_gradient
from rlhf_jax.stages.ahead import compile_ahead

ROWS, LENGTH, NEW = 32, 32, 16
RESPONSES = 4 * ROWS  # an iteration's
# Wide enough that a stream of the whole batch is larger than any matrix, and than one device's scores of attention.
SIZES = models.ModelConfig(
    vocab_size=64,
    d_model=64,
    n_layers=3,
    n_heads=8,
    n_kv_heads=8,
    head_dim=8,
    d_ff=128,
    tie_embeddings=False,
    remat="block",
)
STREAM = ROWS * LENGTH * SIZES.d_model
MESHES = {"1x1x1": (1, 1, 1), "8x1x1": (8, 1, 1), "1x8x1": (1, 8, 1), "1x1x8": (1, 1, 8), "2x2x2": (2, 2, 2)}
SHARED = ["8x1x1", "1x8x1", "2x2x2"]  # meshes on which devices share the rows
DATA = DataConfig(max_length=LENGTH)
CONFIGS = {
    "sft": stages.SFTConfig(rows=ROWS, row_length=LENGTH, data=DATA),
    "reward": stages.RewardConfig(rows=ROWS, row_length=LENGTH, data=DATA),
    "members": stages.RewardConfig(rows=ROWS, row_length=LENGTH, data=DATA, members=2),
    "preference": stages.PreferenceConfig(rows=ROWS, row_length=LENGTH, data=DATA),
    "ppo": stages.PPOConfig(
        prompts=RESPONSES,
        max_prompt_length=LENGTH - NEW,
        epochs=1,
        minibatches=1,
        sampling=rollout.SamplingConfig(max_new_tokens=NEW, window=16),
    ),
}
# So few rows that a matrix is larger than anything of theirs.
CONFIGS["few"] = dataclasses.replace(CONFIGS["ppo"], prompts=8)
CONFIGS["slots"] = dataclasses.replace(CONFIGS["ppo"], sampling=dataclasses.replace(CONFIGS["ppo"].sampling, slots=8))
STAGES = {"members": "reward", "few": "ppo", "slots": "ppo"}  # what these are configs of


def mesh_of(name):
    data, fsdp, tensor = MESHES[name]
    devices = jax.devices()[: math.prod(MESHES[name])]
    return parallel.make_mesh(parallel.MeshConfig(data=data, fsdp=fsdp, tensor=tensor), devices)


@functools.cache
def compiled(stage, mesh):
    found = compile_ahead(STAGES.get(stage, stage), CONFIGS[stage], mesh=mesh_of(mesh), sizes=SIZES)
    return {program.name: program for program in found.programs}


def update(stage, mesh):
    return compiled(stage, mesh)["update"]


def gradients(program):
    """Numbers that are summed over devices, by the exchange that runs most numbers in all its turns."""
    summed = [one for one in program.program.collectives if one.kind in ("all-reduce", "reduce-scatter")]
    return sum(one.turns * sum(array.size for array in one.arrays) for one in summed)


def streams(program, rows=ROWS):
    """Arrays as wide as the stream with as many tokens as the whole batch; those of all layers count as one."""

    def tokens(array):
        return array.size // array.shape[-1] // (SIZES.n_layers if array.shape[0] == SIZES.n_layers else 1)

    found = program.program.as_large_as(rows * LENGTH * SIZES.d_model)
    return [x for x in found if x.shape[-1] == SIZES.d_model and tokens(x) >= rows * LENGTH]


@pytest.mark.parametrize("stage", ["sft", "reward", "members", "preference"])
@pytest.mark.parametrize("mesh", SHARED)
def test_no_device_holds_the_stream_of_the_whole_batch(stage, mesh):
    assert not streams(update(stage, mesh))


@pytest.mark.parametrize("mesh", SHARED)
def test_nor_while_ppo_scores_prepares_and_updates(mesh):
    for name, program in compiled("ppo", mesh).items():
        assert not streams(program, RESPONSES), name


def test_one_device_does():
    """Or the two tests above would look for something that is not there."""
    assert streams(update("sft", "1x1x1"))


def planted(monkeypatch, *modules):
    """Compile the step of SFT where these files of models/ ask for nothing."""
    for module in modules:
        for name in {"constrained", "by_width"} & set(vars(module)):  # by_width is as it was in a file that imports it
            monkeypatch.setattr(module, name, lambda x, *axes: x)


def test_without_constraints_every_device_holds_the_whole_batch(monkeypatch):
    """The plant: this is what the tests above are there to find."""
    planted(monkeypatch, ambient, layers, logit_chunks, lookup, output_gradient)
    assert streams(*compile_ahead("sft", CONFIGS["sft"], mesh=mesh_of("1x8x1"), sizes=SIZES).programs)


@pytest.fixture
def compiled_anew():
    """Without programs kept from before: a program that is read back warns of nothing."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.mark.parametrize("mends", [True, False])
def test_an_embedding_is_looked_up_without_making_every_row_on_every_device(mends, compiled_anew, monkeypatch, capfd):
    """XLA says itself when it finds no better way than to make an array whole on every device and to cut it."""
    if not mends:
        planted(monkeypatch, lookup)
    compile_ahead("sft", CONFIGS["sft"], mesh=mesh_of("2x2x2"), sizes=SIZES)
    assert ("Involuntary full rematerialization" in capfd.readouterr().err) != mends


def test_a_tensor_axis_divides_what_is_inside_a_block():
    """Every device has all rows, but neither all heads nor the whole inner width of the MLP."""
    alone, among = (update("sft", mesh).program.as_large_as(STREAM) for mesh in ("1x1x1", "1x1x8"))
    inner = ROWS * LENGTH * SIZES.d_ff

    def wide(found):
        return [x for x in found if x.shape[-1] == SIZES.d_ff and x.size >= inner]

    assert wide(alone)
    assert not wide(among)


def test_weights_are_gathered_by_fsdp_and_by_nothing_else():
    def gathers(mesh):
        return [one for one in update("sft", mesh).program.collectives if one.kind == "all-gather"]

    most = ROWS * LENGTH  # what a packed row says of its tokens, which are few bytes, is brought to the objective
    assert all(array.size <= most for one in gathers("8x1x1") for array in one.arrays)
    gathered = gathers("1x8x1")
    inside = sum(array.size for one in gathered if one.depth for array in one.arrays)
    block = models.costs.matrix_parameters(SIZES) // SIZES.n_layers
    assert inside >= 2 * block  # a layer at a time, in the forward pass and again in the backward pass
    assert max(array.size for one in gathered for array in one.arrays) <= SIZES.d_model * SIZES.d_ff


@pytest.mark.parametrize("stage", ["sft", "reward", "preference"])
def test_gradients_are_summed_over_devices_once_an_update(stage):
    program = update(stage, "8x1x1")
    assert all(one.counted for one in program.program.collectives)
    parameters = models.costs.matrix_parameters(SIZES) + SIZES.vocab_size * SIZES.d_model
    parameters += SIZES.vocab_size * SIZES.d_model if stage != "reward" else 0
    assert parameters <= gradients(program) <= 1.05 * parameters


def test_no_token_of_decoding_waits_for_another_device_where_they_share_the_batch_alone():
    program = compiled("ppo", "8x1x1")["decode 16 tokens"].program
    assert program.deepest >= 2  # tokens, inside the window
    assert [(one.kind, one.depth, one.bytes) for one in program.collectives] == [("all-reduce", 1, 4)]
    # That one asks, every few tokens, whether all rows have ended.


def test_decoding_on_fsdp_moves_tokens_and_no_weights():
    program = compiled("few", "1x8x1")["decode 16 tokens"].program
    of_tokens = CONFIGS["few"].prompts * max(SIZES.d_ff, SIZES.vocab_size)
    assert program.collectives
    assert all(array.size <= of_tokens < SIZES.d_model**2 for one in program.collectives for array in one.arrays)


@pytest.mark.parametrize(("mesh", "share"), [("8x1x1", 1.01), ("1x8x1", 0.2), ("1x1x8", 0.2), ("2x2x2", 0.35)])
def test_a_device_holds_less_of_the_models_where_more_share_them(mesh, share):
    alone = update("sft", "1x1x1").memory
    assert update("sft", mesh).memory.arguments <= share * alone.arguments


@pytest.mark.parametrize("mesh", ["8x1x1", "1x8x1", "1x1x8", "2x2x2"])
@pytest.mark.parametrize("stage", ["sft", "reward", "preference"])
def test_a_device_takes_less_memory_where_there_are_more(stage, mesh):
    alone, among = update(stage, "1x1x1").memory, update(stage, mesh).memory
    assert among.temporaries < 0.5 * alone.temporaries
    assert among.total < 0.5 * alone.total


def test_the_cache_is_divided_by_rows_and_heads():
    alone = compiled("ppo", "1x1x1")["decode 16 tokens"].memory.arguments
    for mesh in ("8x1x1", "1x8x1", "1x1x8", "2x2x2"):
        among = compiled("ppo", mesh)["decode 16 tokens"].memory.arguments
        weights = models.costs.matrix_parameters(SIZES) + 2 * SIZES.vocab_size * SIZES.d_model
        assert among < alone / 8 + 4 * weights * (1 if mesh == "8x1x1" else 0.3), mesh


def test_slots_are_what_is_decoded_at_once():
    found = compiled("slots", "1x1x1")
    assert list(found)[:4] == ["lay out", "prefill", "empty rows", "decode 16 tokens"]
    slots, alone = (one["decode 16 tokens"] for one in (found, compiled("ppo", "1x1x1")))
    cache = 4 * 2 * SIZES.n_layers * SIZES.n_kv_heads * SIZES.head_dim * LENGTH  # bytes a row
    assert alone.memory.arguments - slots.memory.arguments >= (RESPONSES - 8) * cache
    assert slots.work.tokens == 8 * 16

"""Stages compiled for slices of TPUs that are not there: nothing is run, and libtpu says what each chip would do."""

import dataclasses
import importlib.util
import json

import pytest

from rlhf_jax import models, parallel, rollout, stages
from rlhf_jax.cli.aot import aot
from rlhf_jax.data.config import DataConfig
from rlhf_jax.models import LoRAConfig
from rlhf_jax.parallel.topologies import topology, topology_devices
from rlhf_jax.stages.ahead import compile_ahead

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e '.[tpu]'"
)
ROWS, LENGTH = 64, 256
SIZES = models.ModelConfig(
    vocab_size=1024,
    d_model=256,
    n_layers=4,
    n_heads=4,
    n_kv_heads=4,
    head_dim=128,
    d_ff=512,
    tie_embeddings=False,
    compute_dtype="bfloat16",
    remat="block",
)
SFT = stages.SFTConfig(rows=ROWS, row_length=LENGTH, data=DataConfig(max_length=LENGTH))
PPO = stages.PPOConfig(
    prompts=ROWS,
    max_prompt_length=LENGTH // 2,
    epochs=1,
    minibatches=1,
    sampling=rollout.SamplingConfig(max_new_tokens=LENGTH // 2, window=16),
    lora=LoRAConfig(rank=4),
)


def compiled(stage, config, slice_, data, fsdp, tensor):
    wanted = topology(slice_)
    mesh = parallel.make_mesh(parallel.MeshConfig(data=data, fsdp=fsdp, tensor=tensor), topology_devices(wanted))
    return compile_ahead(stage, config, mesh=mesh, sizes=SIZES, topology=wanted)


def whole_batches(program, dtype):
    """Streams of all rows on one chip."""
    found = program.program.as_large_as(ROWS * LENGTH * SIZES.d_model)
    return [x for x in found if x.dtype == dtype and x.shape[-1] == SIZES.d_model and SIZES.n_layers not in x.shape[:1]]


def test_an_update_on_sixteen_chips_shares_rows_and_gathers_weights():
    found = compiled("sft", SFT, "v5e:4x4", 1, 16, 1)
    (update,) = found.programs
    assert found.fits
    assert found.refused is None
    assert not whole_batches(update, "bf16")
    assert not whole_batches(update, "f32")
    # Gathered in one piece, or passed on from chip to chip while the pieces are multiplied: forward and backward.
    moved = [one for one in update.program.collectives if one.kind in ("all-gather", "collective-permute")]
    assert sum(one.sent for one in moved) >= 2 * 2 * models.costs.matrix_parameters(SIZES) * 15 / 16
    assert update.least["interconnect"] > 0


def test_every_program_of_ppo_is_compiled_with_all_its_layers():
    found = compiled("ppo", PPO, "v5p:2x2x2", 8, 1, 1)
    names = [program.name for program in found.programs]
    assert names == [
        "lay out",
        "prefill",
        "decode 16 tokens",
        "log-probabilities",
        "reference",
        "score",
        "prepare",
        "update",
    ]
    assert found.fits
    assert all(program.program is not None for program in found.programs)
    decode = found.programs[2].program
    inside = [one for one in decode.collectives if one.depth]
    assert [(one.kind, one.bytes) for one in inside] == [("all-reduce", 4)]  # whether all rows have ended


def test_a_program_that_a_chip_cannot_hold_is_reported():
    llama = models.ModelConfig(
        vocab_size=128_256, d_model=4096, n_layers=4, n_heads=32, n_kv_heads=8, head_dim=128, d_ff=14_336
    )
    wanted = topology("v5e:2x2")
    mesh = parallel.make_mesh(parallel.MeshConfig(data=4), topology_devices(wanted))
    found = compile_ahead("sft", SFT, mesh=mesh, sizes=llama, topology=wanted)
    assert found.fits is False
    assert not found.programs
    assert found.refused.name == "update"
    assert found.refused.needed > 15.75 * 2**30
    assert "exceeds available HBM" in found.refused.said
    assert found.to_json()["refused"]["name"] == "update"


def test_the_command_prints_tables_and_writes_figures_and_texts(tmp_path, capsys):
    sizes, figures, texts = tmp_path / "sizes.json", tmp_path / "figures.json", tmp_path / "hlo"
    sizes.write_text(json.dumps(dataclasses.asdict(SIZES)))
    words = f"sft --topology v5e-4 --mesh.data 1 --mesh.fsdp 4 --rows 16 --row-length {LENGTH} --data.max-length"
    aot([*words.split(), str(LENGTH), "--random", str(sizes), "--json", str(figures), "--hlo", str(texts)])
    shown = capsys.readouterr().out
    assert "on v5e:2x2: data 1 x fsdp 4 x tensor 1" in shown
    assert "all-gather" in shown
    assert "fits: " in shown
    found = json.loads(figures.read_text())
    assert found["programs"][0]["collectives"]["all-gather"]["sent_bytes"] > 0
    assert "ENTRY" in (texts / "update.hlo.txt").read_text()

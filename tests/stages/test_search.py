"""The search for a mesh, a batch and a remat: what is proposed fits, can be asked for, and comes the fastest first."""

import dataclasses
import json

import pytest
from llama3 import LLAMA3_8B as LLAMA

from rlhf_jax import cli, parallel, rollout, stages
from rlhf_jax.data.config import DataConfig
from rlhf_jax.parallel.hardware import hardware
from rlhf_jax.stages.ahead import Ahead
from rlhf_jax.stages.plan.search import meshes, search

SFT = stages.SFTConfig(rows=20, row_length=2048, data=DataConfig(max_length=2048))
PPO = stages.PPOConfig(prompts=20, max_prompt_length=64, minibatches=4)


@pytest.mark.parametrize("devices", [1, 6, 8, 16])
def test_meshes_use_every_device_and_none_comes_twice(devices):
    found = [(mesh.data, mesh.fsdp, mesh.tensor) for mesh in meshes(devices)]
    assert all(data * fsdp * tensor == devices for data, fsdp, tensor in found)
    assert len(set(found)) == len(found)
    assert (devices, 1, 1) in found
    assert all(tensor <= 8 for *_, tensor in found)


@pytest.fixture(scope="module")
def found():
    return search("sft", SFT, hardware("v5e-16"), sizes=LLAMA)


def test_what_is_proposed_fits_and_the_fastest_comes_first(found):
    assert len(found) > 1
    assert all(one.plan.fits for one in found)
    speeds = [one.tokens_per_second for one in found]
    assert speeds == sorted(speeds, reverse=True)


def test_the_batch_is_one_that_the_devices_can_share_and_no_smaller(found):
    for one in found:
        shares = one.config.mesh.data * one.config.mesh.fsdp
        assert 20 <= one.config.rows < 20 + shares
        assert one.config.rows % (shares * one.config.micro_batches) == 0


def test_the_options_ask_for_what_was_planned(found, tmp_path):
    best = found[0]
    words = best.options.split()
    assert parallel.MeshConfig.parse(words[words.index("--mesh") + 1]) == best.config.mesh
    random, out = tmp_path / "sizes.json", tmp_path / "plan.json"
    random.write_text(json.dumps(dataclasses.asdict(LLAMA)))
    asked = ["--random", str(random), "--row-length", "2048", "--data.max-length", "2048", "--json", str(out)]
    assert cli.run(["plan", "sft", "--hardware", "v5e-16", *words, *asked]) == 0
    said = json.loads(out.read_text())
    assert said["most"] == best.plan.fullest.total
    assert said["tokens_per_second"] == pytest.approx(best.tokens_per_second)


def test_where_nothing_fits_nothing_is_proposed_and_the_command_says_what_to_do(tmp_path, capsys):
    large = dataclasses.replace(LLAMA, d_model=8192, n_layers=80, n_heads=64, d_ff=28_672)
    random = tmp_path / "sizes.json"
    random.write_text(json.dumps(dataclasses.asdict(large)))
    assert cli.run(["aot", "sft", "--topology", "v5e-4", "--random", str(random), "--search"]) != 0
    assert "adapters (--lora.rank 16)" in capsys.readouterr().err


def test_an_iteration_of_ppo_is_searched_by_its_prompts():
    for best in search("ppo", PPO, hardware("h100x2")):
        shares = best.config.mesh.data * best.config.mesh.fsdp
        assert best.config.prompts // best.config.minibatches % (shares * best.config.micro_batches) == 0
        assert 20 <= best.config.prompts < 20 + shares * best.config.minibatches
        assert f"--prompts {best.config.prompts} " in best.options


def test_what_is_given_is_kept_and_what_a_mesh_cannot_do_is_left_out():
    given = dataclasses.replace(PPO, mesh=parallel.MeshConfig(tensor=4), remat="dots", micro_batches=1)
    found = search("ppo", given, hardware("h100x8"))
    assert {(one.plan.mesh["data"], one.plan.mesh["tensor"], one.config.remat) for one in found} == {(2, 4, "dots")}
    few = dataclasses.replace(PPO, sampling=rollout.SamplingConfig(slots=2))  # eight devices cannot share two
    assert {one.plan.mesh["data"] * one.plan.mesh["fsdp"] for one in search("ppo", few, hardware("h100x8"))} == {1, 2}


def test_the_command_compiles_until_something_fits(tmp_path, monkeypatch, capsys):
    """A try that does not fit is followed by one that was planned smaller."""
    from rlhf_jax.cli import aot

    tried = []

    def compiled(stage, config, wanted, random, options):
        tried.append(config)
        return Ahead(
            stage=stage,
            topology=wanted.name,
            device="",
            mesh={},
            device_memory=1,
            limits=hardware("v5e-16").limits,
            held=2 if len(tried) == 1 else 0,
            parameters=1,
            programs=(),
            refused=None,
            versions={},
        )

    monkeypatch.setattr(aot, "_compiled", compiled)
    monkeypatch.setattr(Ahead, "most", property(lambda self: self.held))
    random = tmp_path / "sizes.json"
    random.write_text(json.dumps(dataclasses.asdict(LLAMA)))
    words = ["--rows", "64", "--row-length", "2048", "--data.max-length", "2048", "--random", str(random)]
    assert cli.run(["aot", "sft", "--topology", "v5e-64", *words, "--search"]) == 0
    assert len(tried) == 2
    assert tried[0] != tried[1]
    said = capsys.readouterr()
    assert "what fits by arithmetic" in said.out
    assert "try 2: --mesh" in said.err

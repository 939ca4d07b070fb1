"""Recipes for pods: each is a config that its stage takes, for a mesh of all chips of its slice; none is compiled."""

import importlib
import sys
from pathlib import Path

import pytest

from rlhf_jax.parallel.hardware import hardware
from rlhf_jax.parallel.topologies import topology
from rlhf_jax.stages.plan import plan

FOLDER = Path(__file__).parents[2] / "experiments" / "pods"
sys.path.insert(0, str(FOLDER))  # as `python experiments/pods/llama3_8b_v5p_64.py` has it
NAMES = sorted(path.stem for path in FOLDER.glob("llama3_*.py"))
pod = importlib.import_module("pod")


@pytest.fixture(params=NAMES)
def recipe(request):
    return importlib.import_module(request.param)


def test_the_mesh_takes_every_chip_and_shares_every_minibatch(recipe):
    chips = topology(recipe.POD.topology).chips
    data, fsdp, tensor = recipe.POD.mesh.sizes(chips)
    assert data * fsdp * tensor == chips
    assert recipe.POD.prompts // recipe.POD.minibatches % (data * fsdp) == 0


def test_a_plan_says_that_it_fits_as_the_compiler_did(recipe):
    found = plan("ppo", pod.config(recipe.POD, pod.Options()), hardware(recipe.POD.topology), sizes=recipe.POD.sizes)
    assert found.fits
    assert "Result:   fits: " in recipe.__doc__
    assert found.parameters > (7e10 if "70b" in recipe.__name__ else 8e9)


def test_all_the_slices_that_are_promised_are_there():
    promised = {"v5e-16", "v5p-64", "v5e-256", "v5p-128", "v6e-256"}
    assert {importlib.import_module(name).POD.topology for name in NAMES} == promised

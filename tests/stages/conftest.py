"""One tiny run of every stage, on one device, shared by all tests of this folder: read it, never write to it."""

import jax
import pytest
import tiny_task

from rlhf_jax import parallel, stages


@pytest.fixture(scope="session")
def one_device():
    return parallel.make_mesh(parallel.MeshConfig(), devices=jax.devices()[:1])


@pytest.fixture
def idle(monkeypatch):
    """A finished stage does no work: it looks for no objective."""

    def never(*_):
        raise AssertionError("a finished stage does no work")

    monkeypatch.setattr("rlhf_jax.stages.choose.bind_objective", never)


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    return tiny_task.write_data(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="session")
def sft_run(tables, folder, one_device):
    return stages.sft(tiny_task.sft_config(tables, folder), mesh=one_device)


@pytest.fixture(scope="session")
def reward_run(tables, folder, sft_run, one_device):
    return stages.reward_model(tiny_task.reward_config(tables, folder, init=folder), mesh=one_device)


@pytest.fixture(scope="session")
def ppo_run(tables, folder, reward_run, one_device):
    """Against the reward model, all three stages in one folder."""
    config = tiny_task.ppo_config(tables, folder, policy=folder, reward=folder)
    return stages.ppo(config, mesh=one_device, judges={"gold": tiny_task.count_a})

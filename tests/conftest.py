"""The whole session runs on 8 simulated CPU devices, with JAX's own checks on: set before JAX starts."""

import functools
import os

from several import COMPILES_FAST

os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8", COMPILES_FAST]
)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import pytest
import tiny_task
from jax.experimental.compilation_cache import compilation_cache

from rlhf_jax import parallel, stages

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory, worker_id):
    """Programs that several tests need, those in processes of their own included, are compiled once a session.

    Half of the session's time was compilation. Nothing is read from an earlier session. Where pytest-xdist runs the
    session in several processes, each has a folder inside the session's, and this one lies beside them.
    """
    base = tmp_path_factory.getbasetemp()
    folder = str((base if worker_id == "master" else base.parent) / "compiled")
    settings = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.05,  # writing the smallest costs more than compiling them
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    compilation_cache.reset_cache()  # what was compiled while tests were collected has settled that there is none


@pytest.fixture
def quick_models(monkeypatch):
    """Models that compile in no time, in place of ``testing.tiny_models``, for tests and for ``check_objective``.

    What is looked for with them is faults in objectives, which any model that obeys segments and order brings to light.
    """
    from rlhf_jax import testing
    from rlhf_jax.testing import check

    for module in (testing, check):  # each holds the name by itself
        monkeypatch.setattr(module, "tiny_models", lambda seed=0: _quick_models())


@functools.cache
def _quick_models():
    """A token's state is the sum of the embeddings of its segment up to it; built once, so compiled once."""
    from rlhf_jax import models, testing

    def state(params, tokens, positions, segment_ids):
        seen = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids[:, None, :] > 0)
        seen &= jnp.tril(jnp.ones((1, tokens.shape[1], tokens.shape[1]), bool))
        turned = params["embedding"][tokens] * jnp.cos(0.3 * positions)[..., None]
        return jnp.tanh(seen.astype(jnp.float32) @ turned)

    def quick(role):
        sizes = {"vocab_size": testing.VOCAB, "d_model": 8, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "head_dim": 2}
        return models.build(models.ModelConfig(**sizes, d_ff=1, scalar_head=role != "policy"))._replace(apply=state)

    roles = {role: quick(role) for role in ("policy", "critic", "reward")}
    key = jax.random.key(0)
    params = {}
    for i, role in enumerate(roles):
        embedding_key, head_key = jax.random.split(jax.random.fold_in(key, i))
        shapes = jax.eval_shape(roles[role].init, key)
        params[role] = jax.tree.map(lambda x: jnp.ones(x.shape), shapes)
        params[role]["embedding"] = jax.random.normal(embedding_key, (testing.VOCAB, 8))
        if role != "policy":
            params[role]["head"]["kernel"] = jax.random.normal(head_key, (8, 1))
    return roles, params


@pytest.fixture(scope="session")
def prepared():
    """The real data, or the reason why it is not here."""
    from rlhf_jax.data import DataError, human_sentiment

    try:
        return human_sentiment.load("test")
    except DataError as error:
        pytest.skip(f"human_sentiment cannot be had here: {error}")


# One tiny run of every stage, on one device, shared by all tests of a session: read it, never write to it.


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

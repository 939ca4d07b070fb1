"""Where compiled programs are kept, who decides it, and that a program read back is the program."""

import dataclasses
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from rlhf_jax import cli, stages, training
from rlhf_jax.data import DataConfig, DataError
from rlhf_jax.runs.compilation_cache import _drop_oldest, compiled_folder, keep_compiled
from rlhf_jax.runs.errors import RunError
from rlhf_jax.types import Aux

NAMES = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_enable_compilation_cache")


@pytest.fixture
def untold(monkeypatch, tmp_path):
    """JAX as it is where nobody has said anything about its cache; what the session said is brought back after."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    for name in NAMES:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("RLHF_JAX_CACHE", str(tmp_path / "cache"))
    for name, value in zip(NAMES, (None, 1.0, True), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield tmp_path / "cache" / "compiled"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def hits():
    seen = []

    def listen(event, **_):
        if event == "/jax/compilation_cache/cache_hits":
            seen.append(event)

    jax.monitoring.register_event_listener(listen)
    yield seen
    jax.monitoring.unregister_event_listener(listen)


def test_they_are_kept_in_the_users_cache_folder(untold, monkeypatch, tmp_path):
    assert keep_compiled() == compiled_folder()
    assert compiled_folder().parent == untold
    assert compiled_folder().stat().st_mode & 0o077 == 0  # nobody else may put programs there
    assert jax.config.jax_compilation_cache_dir == str(compiled_folder())
    assert keep_compiled() == compiled_folder()  # a second call changes nothing
    monkeypatch.delenv("RLHF_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert compiled_folder().parent == tmp_path / "xdg" / "rlhf_jax" / "compiled"


def test_commands_switch_it_on_and_help_does_not(untold, capsys):
    with pytest.raises(SystemExit):
        cli.run(["report", "--help"])
    assert jax.config.jax_compilation_cache_dir is None
    cli.run(["report", "nowhere"])
    assert jax.config.jax_compilation_cache_dir == str(compiled_folder())
    capsys.readouterr()
    cli.run(["--help"])
    assert "JAX_ENABLE_COMPILATION_CACHE=0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        (stages.sft, stages.SFTConfig(init="nowhere")),
        (stages.reward_model, stages.RewardConfig(init="nowhere")),
        (stages.preference, stages.PreferenceConfig(policy="nowhere")),
        (stages.ppo, stages.PPOConfig(policy="nowhere")),
    ],
    ids=["sft", "reward", "preference", "ppo"],
)
def test_stages_switch_it_on_before_they_compile_anything(untold, tmp_path, stage, config):
    small = DataConfig(source=str(tmp_path / "rows.jsonl"))
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises((RunError, DataError)):
        stage(dataclasses.replace(config, out=str(tmp_path / "run"), data=small))
    assert jax.config.jax_compilation_cache_dir == str(compiled_folder())


def test_best_of_n_switches_it_on_too(untold):
    with pytest.raises(RunError):
        stages.best_of_n("nowhere", "nowhere", n=2)
    assert jax.config.jax_compilation_cache_dir == str(compiled_folder())


def test_who_has_said_where_is_obeyed(untold, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 1.0
    assert not untold.exists()


def test_who_has_switched_it_off_is_obeyed(untold):
    jax.config.update("jax_enable_compilation_cache", False)
    assert keep_compiled() is None
    assert not untold.exists()


def test_a_threshold_that_was_set_stays(untold, monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    keep_compiled()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 1.0


def test_a_folder_that_cannot_be_made_is_a_warning(untold):
    untold.parent.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="RLHF_JAX_CACHE"):
        assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir is None


def trained():
    """Three donated steps in a program that is compiled anew, or read from the cache."""

    def loss_fn(params, batch, key):
        del key
        error = jnp.tanh(batch @ params["a"]) @ params["b"] - 1.0
        return jnp.sum(jnp.square(error)), Aux(jnp.float32(error.size), {})

    jax.clear_caches()
    optimizer = optax.adamw(1e-2)
    rng = np.random.default_rng(0)
    params = {
        "a": jnp.asarray(rng.normal(size=(8, 16)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=(16,)), "float32"),
    }
    batch = jnp.asarray(rng.normal(size=(32, 8)), jnp.float32)
    state = training.init_state(params, optimizer)
    step = jax.jit(training.make_train_step(loss_fn, optimizer), donate_argnums=0)
    for i in range(3):
        state, _ = step(state, batch, jax.random.key(i))
    return [np.asarray(x) for x in jax.tree.leaves(state)]


def test_a_program_that_is_read_back_computes_the_same_bits(untold, hits):
    jax.block_until_ready(jnp.ones(3) + 1)  # something is compiled already when the cache is switched on
    plain = trained()
    keep_compiled()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    written = trained()
    assert not hits
    read = trained()
    assert hits
    for a, b, c in zip(plain, written, read, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_a_damaged_program_is_compiled_again(untold, hits):
    keep_compiled()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    first = trained()
    for file in compiled_folder().glob("*-cache"):
        file.write_bytes(file.read_bytes()[:-20])  # as if it had been killed while it wrote
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        again = trained()
    assert any("compilation cache" in str(w.message) for w in said)
    assert not hits
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_was_not_read_for_longest_goes_first(tmp_path):
    for age, name in enumerate(("new", "older", "oldest")):
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    _drop_oldest(tmp_path, 20)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "older"]
    _drop_oldest(tmp_path, 9)
    assert not list(tmp_path.iterdir())

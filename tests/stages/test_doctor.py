"""The doctor: all is well here; and each answer that it has to give, with the fault put in by the test."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import cli
from rlhf_jax.stages.doctor import Finding, Needs, examine, exchange, machine, sample, storage, versions
from rlhf_jax.stages.doctor.finding import asked, together

ALL = [
    *("versions", "devices", "device memory", "host memory", "disk", "clocks", "all-reduce", "run folder"),
    *("checkpoint", "compiled programs", "known sample"),
]


def ends(argv):
    try:
        return cli.run(argv)
    except SystemExit as stop:
        return stop.code


def test_all_is_well_here_and_nothing_is_left_behind(tmp_path, capsys):
    assert ends(["doctor", "--out", str(tmp_path / "runs"), "--min-disk-gib", "0.1", "--min-memory-gib", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[8:].partition(":")[0] for line in lines] == ALL
    assert all(line.startswith("ok ") for line in lines)
    assert "8 x cpu, one process" in lines[1]
    assert "over 8 devices" in lines[6]
    assert "12 tokens on 8 devices" in lines[-1]
    assert list((tmp_path / "runs").iterdir()) == []


def test_what_fails_is_said_with_what_to_do_and_the_rest_is_still_asked(tmp_path, capsys):
    words = ["doctor", "--json", "--out", str(tmp_path), "--min-disk-gib", "1e9", "--min-memory-gib", "1e9"]
    assert ends(words) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert [each["what"] for each in found["findings"]] == ALL
    bad = {each["what"]: each for each in found["findings"] if not each["ok"]}
    assert set(bad) == {"disk", "host memory"}
    assert "1e+09 wanted" in bad["disk"]["figure"]
    assert "--out" in bad["disk"]["advice"]


def test_a_folder_that_cannot_be_written_fails_and_what_needs_it_is_not_tried(tmp_path):
    (tmp_path / "file").write_text("")
    found = {each.what: each for each in examine(Needs(out=tmp_path / "file" / "runs", memory=0, disk=0))}
    assert not found["run folder"].ok
    assert "NotADirectoryError" in found["run folder"].figure
    assert "--out" in found["run folder"].advice
    assert "not tried" in found["checkpoint"].figure
    assert found["known sample"].ok


def test_an_out_that_is_a_file_is_a_mistake_in_the_command(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert ends(["doctor", "--out", str(tmp_path / "file")]) == 2
    assert "is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("0.10.2", ">=0.10.2,!=0.11.1", True),
        ("0.11.1", ">=0.10.2,!=0.11.1", False),
        ("0.10.10", ">=0.10.2", True),  # ten is more than two
        ("0.9.9", ">=0.10", False),
        ("1.0.0", "==1", True),
        ("2.0.0rc1", ">=2.0", True),
        ("3.10", ">=3.11", False),
    ],
)
def test_versions_are_compared_as_numbers(version, wanted, fits):
    assert versions.fits(version, wanted) == fits


def test_an_old_package_is_named(monkeypatch):
    monkeypatch.setattr(versions, "demands", lambda: {"jax": ">=99", "python": ">=3.11", "torch": ">=1"})
    found = versions.versions()
    assert not found.ok
    assert found.figure == f"jax {jax.__version__} is not >=99"


def test_what_this_package_asks_for_is_what_its_pyproject_says():
    """Where it is installed; the minimums of ``pyproject.toml`` are what pip keeps."""
    import tomllib
    from pathlib import Path

    demands = versions.demands()
    if "flax" not in demands:
        pytest.skip("the package is not installed")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert demands["flax"] in "".join(project["dependencies"])
    assert demands["python"] == project["requires-python"]
    assert demands["jaxlib"].count("=") >= 1  # which jax asks for, not we


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(versions, "PACKAGES", ("jax", "no-such-package"))
    assert versions.versions().figure == "no-such-package missing"


def test_an_accelerator_that_is_not_used_is_noticed(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    assert machine.devices(tmp_path).ok
    (tmp_path / "nvidia0").touch()
    found = machine.devices(tmp_path)
    assert not found.ok
    assert "has a GPU" in found.figure
    assert "[cuda]" in found.advice
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert machine.devices(tmp_path).ok


def test_processes_with_other_devices_are_named(monkeypatch):
    monkeypatch.setattr(machine.processes, "exchange_json", lambda own: [[["NVIDIA H100 80GB HBM3", 8]], own])
    found = machine.devices()
    assert not found.ok
    assert found.figure == "8 x cpu, and process 0 has 8 x NVIDIA H100 80GB HBM3"


class Device:
    """As much of a ``jax.Device`` as says how full it is."""

    platform = "gpu"

    def __init__(self, used):
        self.used = used

    def memory_stats(self):
        return {"bytes_limit": 80 * 2**30, "bytes_in_use": int(self.used * 2**30)}

    def __str__(self):
        return f"cuda{self.used}"


def test_a_device_that_somebody_else_uses_is_named(monkeypatch):
    monkeypatch.setattr(machine.jax, "local_devices", lambda: [Device(0), Device(1)])
    assert machine.device_memory() == Finding("device memory", True, "79.0 of 80.0 GiB free on cuda1")
    monkeypatch.setattr(machine.jax, "local_devices", lambda: [Device(0), Device(30)])
    found = machine.device_memory()
    assert not found.ok
    assert "50.0 of 80.0 GiB free on cuda30" in found.figure


def test_the_hosts_memory_is_what_linux_calls_available(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text("MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable: 3145728 kB\n")
    assert machine.host_memory(2.0, path) == Finding("host memory", True, "3.0 GiB free")
    assert not machine.host_memory(3.5, path).ok
    assert machine.host_memory(3.5, tmp_path / "none").ok  # not Linux


def test_clocks_that_differ_name_the_one_that_is_behind(monkeypatch):
    assert "one process" in machine.clocks().figure
    monkeypatch.setattr(machine.processes, "several", lambda: True)
    monkeypatch.setattr(machine.processes, "meet", lambda what: None)
    monkeypatch.setattr(machine.processes, "exchange_json", lambda own: [100.0, 100.5, 91.0])
    found = machine.clocks()
    assert not found.ok
    assert found.figure == "9.5 s apart, process 2 is behind"
    assert machine.clocks(most=10.0).ok


def test_a_sum_over_all_devices_has_its_value():
    rows = exchange.spread(8, 3)
    assert len({shard.device for shard in rows.addressable_shards}) == 8
    assert np.asarray(exchange.summed(rows)).tolist() == [36.0, 36.0, 36.0]  # 1 + 2 + ... + 8
    assert exchange.all_reduce(0.01).ok


def test_a_wrong_sum_is_noticed():
    found = exchange.all_reduce(0.001, lambda rows: jnp.sum(rows, axis=0).at[7].add(1))
    assert not found.ok
    assert "was 37 in 1 places, 36 is right" in found.figure


def test_a_checkpoint_that_comes_back_changed_is_noticed(tmp_path, monkeypatch):
    assert storage.round_trip(tmp_path, 0.01).ok
    load = storage.checkpoint.load_params

    def damaged(path, shardings):
        params, metadata = load(path, shardings)
        return {"spread": params["spread"].at[3, 5].add(1)}, metadata

    monkeypatch.setattr(storage.checkpoint, "load_params", damaged)
    found = storage.round_trip(tmp_path, 0.01)
    assert not found.ok
    assert "1 of" in found.figure


def test_a_flipped_bit_in_a_file_is_noticed(tmp_path, monkeypatch):
    """Orbax restores it without a word; the hash of the leaf tells."""
    save = storage.checkpoint.save_params

    def damaging(path, params, metadata):
        save(path, params, metadata)
        largest = max((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 1
        largest.write_bytes(data)

    monkeypatch.setattr(storage.checkpoint, "save_params", damaging)
    found = asked("checkpoint", lambda: storage.round_trip(tmp_path), "Look.")
    assert not found.ok
    assert found.figure.startswith("CheckpointError") or "Damaged" in found.figure


def test_a_folder_that_others_do_not_see_is_noticed(tmp_path, monkeypatch):
    elsewhere = tmp_path / "of-process-0"
    elsewhere.mkdir()

    def written_elsewhere(make, what):
        make()
        (tmp_path / "from-process-0").rename(elsewhere / "from-process-0")
        return "text"

    monkeypatch.setattr(storage.processes, "from_first", written_elsewhere)
    found = storage.shared_folder(tmp_path, wait=0.01)
    assert not found.ok
    assert "is not the folder that process 0 writes to" in found.figure


@pytest.fixture
def cache(monkeypatch):
    """JAX's settings of its cache, put back afterwards."""
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = {name: jax.config._read(name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    storage.jax.experimental.compilation_cache.compilation_cache.reset_cache()


def test_programs_that_are_not_found_again_are_noticed(cache, monkeypatch):
    assert "found again" in storage.compiled_programs().figure

    class Nothing(storage.Compilations):
        def _happened(self, event, **kwargs):
            self.read_back = 0

    monkeypatch.setattr(storage, "Compilations", Nothing)
    found = storage.compiled_programs()
    assert not found.ok
    assert "JAX_COMPILATION_CACHE_DIR" in found.advice


def test_a_cache_that_is_off_or_nowhere_is_said(cache):
    jax.config.update("jax_compilation_cache_dir", None)
    assert storage.compiled_programs() == Finding("compiled programs", False, "kept in no folder", storage.CACHE_ADVICE)
    jax.config.update("jax_enable_compilation_cache", False)
    found = storage.compiled_programs()
    assert found.ok
    assert "switched off" in found.figure


def test_the_known_sample_is_no_close_call():
    """So that rounding, which differs from device to device, changes no token."""
    rng = np.random.default_rng(0)
    for _ in range(3):
        near = jax.tree.map(
            lambda x: (x * (1 + 0.003 * rng.standard_normal(x.shape))).astype(np.float32), sample.weights()
        )
        tokens, logprobs = sample.draw(near)
        assert tokens.tolist() == [list(sample.KNOWN_TOKENS)] * 8
        # The log-probabilities tell even this little apart, so they are the finer test.
        assert np.abs(logprobs - sample.KNOWN_LOGPROBS).max() > 2 * sample.TOLERANCE


@pytest.mark.parametrize("fault", ["tokens", "logprobs", "nan"])
def test_a_device_that_computes_wrongly_is_named(fault, monkeypatch):
    tokens = np.tile(sample.KNOWN_TOKENS, (8, 1))
    logprobs = np.tile(np.asarray(sample.KNOWN_LOGPROBS), (8, 1))
    if fault == "tokens":
        tokens[5, 2] += 1
    else:
        logprobs[5, 2] += {"logprobs": 2 * sample.TOLERANCE, "nan": np.nan}[fault]
    monkeypatch.setattr(sample, "draw", lambda params: (tokens, logprobs))
    found = sample.known_sample()
    assert not found.ok
    assert "1 of 8 devices differ" in found.figure
    assert "id=5" in found.figure or "cpu:5" in found.figure or "_5" in found.figure


def test_one_answer_of_many_names_the_process_that_failed():
    good, bad = Finding("disk", True, "9 GiB"), Finding("disk", False, "1 GiB", "Make room.")
    assert together([good, good]) == good
    assert str(together([good, bad, bad])) == "FAILED  disk: process 1: 1 GiB (and 1 more). Make room."
    assert str(together([bad])) == "FAILED  disk: 1 GiB. Make room."


def test_two_processes_are_examined_together(tmp_path):
    words = ["launch", "--processes", "2", "--devices-per-process", "2", "--", "rlhf", "doctor", "--out", str(tmp_path)]
    words += ["--min-disk-gib", "0.1", "--min-memory-gib", "0.1"]
    done = subprocess.run(
        [sys.executable, "-c", "from rlhf_jax.cli import main; main()", *words],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("ok ")]  # gloo prints, too
    assert [line[8:].partition(":")[0] for line in lines] == ALL
    assert "2 x cpu a process, 2 processes, 4 devices in all" in lines[1]
    assert "4 MiB over 4 devices" in lines[6]
    assert "all see it" in lines[7]
    assert "4 MiB saved" in lines[8]
    assert "12 tokens on 4 devices" in lines[10]
    assert "[1] ok" not in done.stdout
    assert list(tmp_path.iterdir()) == []

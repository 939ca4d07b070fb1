"""A real server on the loopback, ``transformers serve``, with a model that always answers A: asked as any judge is."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chat_families import FAMILIES, write_folder

from rlhf_jax import models
from rlhf_jax.data import Tokenizer
from rlhf_jax.data.rows import Message
from rlhf_jax.feedback.judges import judged
from rlhf_jax.judges import EndpointConfig, JudgeConfig, find_judge

PINNED = "5.23.0"
INSTALL = "pip install -e '.[parity]'"
pytestmark = pytest.mark.timeout(900)
STARTS_WITHIN = 600.0  # seconds; it imports torch


@pytest.fixture(scope="module")
def program():
    """The program, of this environment or of the one that TRANSFORMERS_CLI names."""
    if named := os.environ.get("TRANSFORMERS_CLI"):
        return named
    for package in ("transformers", "torch", "fastapi", "openai"):  # the last two are what its serving needs
        try:
            found = version(package)
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed: {INSTALL}, or name the program in TRANSFORMERS_CLI")
        if package == "transformers" and found != PINNED:
            pytest.skip(f"transformers is {found}, this is written for {PINNED}: {INSTALL}")
    found = shutil.which("transformers", path=str(Path(sys.executable).parent))
    assert found is not None, "transformers has no program beside this Python"
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model whose every next token is A: nothing of the text reaches its last layer, which A's row fits best."""
    folder = tmp_path_factory.mktemp("served") / "always-a"
    write_folder(folder.with_name("tokenizer"), FAMILIES["chatml"])
    tokenizer = Tokenizer.load(folder.with_name("tokenizer"))
    sizes = {"d_model": 16, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "head_dim": 4, "d_ff": 24, "max_length": 512}
    config = models.ModelConfig(vocab_size=tokenizer.vocab_size, tie_embeddings=False, **sizes)
    params = jax.tree.map(jnp.zeros_like, models.build(config).init(jax.random.key(0)))
    params["embedding"] = jnp.ones_like(params["embedding"])
    params["final_norm"]["scale"] = jnp.ones_like(params["final_norm"]["scale"])
    [a] = tokenizer.encode_response("A")[:1]
    params["unembedding"] = params["unembedding"].at[:, int(a)].set(1.0)
    models.save_pretrained(folder, config, params)
    write_folder(folder, FAMILIES["chatml"])
    return folder


@pytest.fixture(scope="module")
def served(program, model, tmp_path_factory):
    """Its address, as a judge is named."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [program, "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    quiet = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**quiet, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        )
    try:
        deadline = time.monotonic() + STARTS_WITHIN
        while not answers(port):
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1#{model}"
    finally:
        process.terminate()
        process.wait(30)


def answers(port):
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        direct.open(f"http://127.0.0.1:{port}/health", timeout=5).close()
    except urllib.error.HTTPError:
        return True  # it is there, whatever it says of this path
    except OSError:
        return False
    return True


def judge(served, tmp_path, **fields):
    endpoint = EndpointConfig(cache=str(tmp_path / "answers.sqlite"), answer_tokens=1, price_in=1.0, timeout=120.0)
    return find_judge(JudgeConfig(judge=served, endpoint=endpoint, **fields))


def test_a_real_server_votes(served, tmp_path):
    asked = judge(served, tmp_path)
    found = judged(asked, ["What is two and two?"], [["It is four.", "It is six.", "Thank you!"]], called="it")
    # Whatever stands first is better, so that nothing is left of it in the mean of both orders.
    off = ~np.eye(3, dtype=bool)
    assert (found.shown[0][off] == 1).all()
    assert (found.votes[0][off] == 0.5).all()
    counts = asked.model.counts
    assert (counts.questions, counts.tries, counts.failed, counts.unreadable, counts.soft) == (6, 6, 0, 0, 0)
    assert counts.tokens_out == 6
    assert asked.model.cost == pytest.approx(counts.tokens_in / 1e6)
    again = judge(served, tmp_path)
    assert judged(again, ["What is two and two?"], [["It is four.", "It is six."]], called="it").votes[0, 0, 1] == 0.5
    assert (again.model.counts.cached, again.model.counts.tries) == (2, 0)


def test_what_a_real_server_says_that_is_no_answer_is_an_abstention(served, tmp_path):
    asked = judge(served, tmp_path, how="scores")
    found = asked(["What is two and two?"], [["It is four.", "It is six."]])
    assert np.isnan(found.scores).all()
    assert np.isnan(found.votes[0, 0, 1])
    assert asked.model.counts.unreadable == 2


def test_a_real_server_counts_the_tokens_that_our_template_makes(served, model, tmp_path):
    """The same words are asked there and here: as many tokens as our own tokenizer makes of the chat."""
    question = (Message("user", "What is two and two?"),)
    asked = judge(served, tmp_path).model
    asked.choose([question], "AB")
    assert asked.counts.tokens_in == len(Tokenizer.load(model).encode_prompt(question))


def test_a_text_that_goes_on_is_served_too(served, tmp_path):
    assert judge(served, tmp_path).model.choose(["The answer is"], "AB").tolist() == [[1.0, 0.0]]

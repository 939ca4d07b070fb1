"""``import rlhf_jax`` is quick and pulls in nothing optional; the core works on a machine that lacks all of it."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

# What only some work needs; a machine lent for its accelerator has none of it.
HEAVY = (
    "tensorflow_datasets",
    "grain",
    "tokenizers",
    "jinja2",
    "datasets",
    "pyarrow",
    "gguf",
    "safetensors",
    "sklearn",
)
HEAVY += ("matplotlib", "tensorboardX", "vaderSentiment", "tyro", "starlette", "uvicorn")
FOREIGN = ("tensorflow", "torch", "transformers", "peft")
CORE = ("losses", "objectives", "models", "rollout", "training", "parallel", "rewards", "evaluation", "types")


def python(code):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_loads_nothing_heavy():
    loaded = python(f"""
import json, sys
import rlhf_jax
assert len(dir(rlhf_jax)) > 10
first = [m for m in sys.modules if m.startswith("rlhf_jax.")]
print(json.dumps([first, [m for m in {HEAVY + FOREIGN!r} + ("jax", "flax", "orbax") if m in sys.modules]]))
""")
    assert json.loads(loaded) == [[], []]


def test_the_package_is_there_in_less_than_two_seconds():
    """By ``-X importtime``: what Python itself spends, whatever the machine does to start it."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-X", "importtime", "-c", "import rlhf_jax"]
    said = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=True).stderr
    _, cumulative, name = said.splitlines()[-1].removeprefix("import time:").split("|")
    assert name.strip() == "rlhf_jax"
    assert int(cumulative) < 2_000_000  # microseconds


def test_the_core_loads_nothing_heavy_either():
    loaded = python(f"""
import importlib, json, sys
for name in {(*CORE, "checkpoint", "data", "feedback", "compare", "stages", "report")!r}:
    importlib.import_module(f"rlhf_jax.{{name}}")
print(json.dumps([m for m in {HEAVY + FOREIGN!r} if m in sys.modules]))
""")
    assert json.loads(loaded) == []


def test_the_core_works_where_optional_packages_are_absent():
    said = python(f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {(*HEAVY, *FOREIGN, "array_record")!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (absent in this test)", name=name)

sys.meta_path.insert(0, Absent())
import importlib
for name in {(*CORE, "stages")!r}:
    importlib.import_module(f"rlhf_jax.{{name}}")

import jax
from rlhf_jax import losses, models, objectives, rollout, training
config = models.ModelConfig(vocab_size=16, d_model=8, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=4, d_ff=16)
model = models.build(config)
engine = rollout.Engine(model, rollout.SamplingConfig(max_new_tokens=3), pad_id=0, eos_id=2)
print(engine(model.init(jax.random.key(0)), [[1, 5]], key=jax.random.key(1)).tokens.shape)
try:
    import tokenizers
except ModuleNotFoundError as error:
    print(error.name)
""")
    assert said.split("\n") == ["(1, 1, 11)", "tokenizers", ""]


def test_only_stages_and_commands_keep_compiled_programs():
    said = python("""
import os
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
import jax
import rlhf_jax.stages, rlhf_jax.runs.compilation_cache
print(jax.config.jax_compilation_cache_dir)
""")
    assert said == "None\n"


def test_an_unknown_name_is_an_attribute_error():
    said = python("""
import rlhf_jax
try:
    rlhf_jax.reward
except AttributeError as error:
    print(error)
""")
    assert said == "module 'rlhf_jax' has no attribute 'reward'\n"


def test_the_jax_whose_loops_copy_whole_buffers_is_left_out_on_every_device():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [line for line in (*project["dependencies"], *extras["cuda"], *extras["tpu"]) if re.match(r"jax\b", line)]
    assert [line.partition(">=")[2] for line in wanted] == ["0.10.2,!=0.11.1"] * 3

"""What CONTRIBUTING says of a new objective is all there is to do: tried in a copy of the tree."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("## Add an objective")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The tree with the two files of the example, under the names that the text gives them."""
    copy = tmp_path_factory.mktemp("tree")
    skipped = shutil.ignore_patterns("__pycache__", "images", "*.parquet", "*.safetensors")
    for name in ("rlhf_jax", "tests", "docs", "experiments"):
        shutil.copytree(ROOT / name, copy / name, ignore=skipped)
    for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    paths = re.findall(r"^\*\*\d\. The (?:file|test)\.\*\* `([\w/.]+)`", SECTION, flags=re.M)
    blocks = re.findall(r"```python\n(.*?)```", SECTION, flags=re.S)
    assert len(paths) == len(blocks) == 2
    for path, block in zip(paths, blocks, strict=True):
        assert not (copy / path).exists()
        (copy / path).write_text(block, encoding="utf-8")
    return copy


def python(tree, *words):
    environment = {**os.environ, "PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_two_files_make_an_objective(tree):
    """The tests that the text names find it by themselves: soundness, empty groups, docstring, docs."""
    (command,) = re.findall(r"```\npytest (.*)\n```", SECTION)
    said = python(tree, "-m", "pytest", *shlex.split(command), "-n", "0", "-p", "no:cacheprovider", "-vv")
    ran = set(re.findall(r"::(test_\w+)(?:\[\S+\])? PASSED", said))
    assert {"test_a_pair_by_hand", "test_it_is_sound", "test_its_docstring_is_its_documentation"} <= ran


def test_the_command_line_lists_it(tree):
    said = python(tree, "-c", "from rlhf_jax import cli; cli.main(['reward', '--help'])")
    assert re.search(r"^objectives: hinge, likert", said, flags=re.M)

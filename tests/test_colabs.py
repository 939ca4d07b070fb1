"""What a reader of the notebooks may count on; ``colabs/run.py`` executes them."""

import ast
import importlib.util
import json
import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
# A name of ours that pip would look up; `rlhf_jax-0.1.0-py3-none-any.whl` is a file, and `-e '.[test]'` a clone.
FROM_AN_INDEX = re.compile(r"pip3? install\b.*\brlhf[-_]jax\b(?!\S*\.whl)|rlhf[-_]jax\[", re.IGNORECASE)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def cells(request):
    return json.loads(request.param.read_text(encoding="utf-8"))["cells"]


def code(cell):
    return "".join(cell["source"])


def test_all_are_there():
    names = ["01_quickstart", "02_swap_an_objective", "03_reward_models", "04_feedback", "05_control_from_preferences"]
    assert [path.stem for path in NOTEBOOKS] == names


def test_they_are_short(cells):
    assert len(cells) < 20


def test_they_are_kept_without_outputs(cells):
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_they_say_what_to_do_and_then_install(cells):
    said, first = cells[:2]
    assert said["cell_type"] == "markdown"
    assert "pip wheel --no-deps ." in code(said)
    assert first["cell_type"] == "code"
    assert "%pip install" in code(first)
    assert "rlhf_jax" in code(first)


@pytest.fixture
def installed(cells, tmp_path, monkeypatch):
    """Run the first cell in an empty folder, on a machine without the library, and give what it gives to pip."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    given = []

    def run():
        exec(re.sub(r'%pip install --quiet "(.*)"', r'given.append(f"\1")', code(cells[1])), {"given": given})
        return given

    return run


def test_a_clone_above_is_installed(installed, tmp_path, monkeypatch):
    inside = tmp_path / "clone" / "colabs"
    inside.mkdir(parents=True)
    (tmp_path / "clone" / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (inside / "rlhf_jax-0.1.0-py3-none-any.whl").touch()
    monkeypatch.chdir(inside)
    assert installed() == [str(tmp_path / "clone")]


def test_a_wheel_beside_the_notebook_is_installed(installed, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "of-somebody-else"\n')
    wheel = tmp_path / "rlhf_jax-0.1.0-py3-none-any.whl"
    wheel.touch()
    assert installed() == [str(wheel)]


def test_with_neither_the_cell_stops_and_says_what_to_do(installed, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`pip wheel --no-deps \.` in a clone, put the wheel into"):
        installed()


@pytest.mark.parametrize("uploaded", [True, False], ids=["a wheel", "nothing"])
def test_colab_asks_for_the_wheel(installed, tmp_path, monkeypatch, uploaded):
    wheel = tmp_path / "rlhf_jax-0.1.0-py3-none-any.whl"
    colab = types.ModuleType("google.colab")
    colab.files = types.SimpleNamespace(upload=lambda: wheel.touch() if uploaded else None)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    if uploaded:
        assert installed() == [str(wheel)]
    else:
        with pytest.raises(FileNotFoundError, match="pip wheel"):
            installed()


def test_nothing_tells_anybody_to_install_a_name_of_ours_from_an_index():
    """No index is ours to publish on: whoever takes the name there would be installed in our place."""
    assert FROM_AN_INDEX.search("pip install 'rlhf-jax[huggingface]'")
    assert FROM_AN_INDEX.search('%pip install --quiet {clone or "rlhf-jax"}')
    assert not FROM_AN_INDEX.search("pip install rlhf_jax-0.1.0-py3-none-any.whl")
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for folder, pattern in (("rlhf_jax", "*.py"), ("experiments", "*.py"), ("benchmarks", "*.py"), ("docs", "*.md")):
        texts += (ROOT / folder).rglob(pattern)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in [*texts, *NOTEBOOKS]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FROM_AN_INDEX.search(line)
    ]
    assert found == []


def test_they_import_the_library_and_define_no_copy_of_it(cells):
    imported = set()
    for cell in cells[2:]:
        if cell["cell_type"] == "code":
            for node in ast.walk(ast.parse(code(cell))):
                if isinstance(node, ast.ImportFrom):
                    imported.add(node.module.split(".")[0])
                assert not isinstance(node, ast.ClassDef), "a class belongs in the library"
    assert "rlhf_jax" in imported


def test_they_have_a_fast_form(cells):
    assert any("RLHF_JAX_FAST" in code(cell) for cell in cells)

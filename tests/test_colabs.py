"""What a reader of the notebooks may count on; ``colabs/run.py`` executes them."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "colabs").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def cells(request):
    return json.loads(request.param.read_text(encoding="utf-8"))["cells"]


def code(cell):
    return "".join(cell["source"])


def test_all_three_are_there():
    assert [path.stem for path in NOTEBOOKS] == ["01_quickstart", "02_swap_an_objective", "03_reward_models"]


def test_they_are_short(cells):
    assert len(cells) < 20


def test_they_are_kept_without_outputs(cells):
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_they_start_with_the_install_cell(cells):
    first = next(cell for cell in cells if cell["cell_type"] == "code")
    assert "%pip install" in code(first)
    assert "rlhf_jax" in code(first)


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

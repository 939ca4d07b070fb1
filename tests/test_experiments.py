"""What the README shows and the experiments define is what the library runs."""

import inspect
import re
from pathlib import Path

import pytest

from rlhf_jax import testing
from rlhf_jax.stages import find_objective

ROOT = Path(__file__).parents[1]
CUSTOM = ROOT / "experiments" / "custom_objective.py"


def body(source):
    """The function's lines without what differs between a file and a README."""
    return source[source.index("def my_objective") :].split("\n\n")[0].strip()


def test_the_custom_objective_is_found_by_its_file_and_is_sound(quick_models):
    objective = find_objective(f"{CUSTOM}:my_objective", {"beta": 0.2})
    assert "stop gradient" in testing.check_objective(objective)


def test_the_readme_shows_the_custom_objective_as_it_is():
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "my_obj" in b)
    shown = body(block)
    assert shown == body(CUSTOM.read_text())
    assert len(shown.splitlines()) < 20


def test_the_objective_of_contributing_is_sound(quick_models, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    file = tmp_path / "hinge.py"
    file.write_text(blocks[0])
    testing.check_objective(find_objective(f"{file}:hinge", {"margin": 0.5}))


@pytest.fixture
def sweep(tmp_path):
    found = find_objective(f"{ROOT / 'experiments' / 'objective_sweep.py'}:main", {})
    module = inspect.getmodule(found)
    return module, module.Sweep(tmp_path, module.FAST)


def test_every_method_of_the_sweep_has_a_config_that_its_stage_takes(sweep, monkeypatch):
    """Nothing is trained: what each stage is called with is only collected."""
    module, methods = sweep
    called = []
    for stage in ("preference", "ppo", "group", "best_of_n"):

        def collect(*arguments, stage=stage, **named):
            called.append(stage)
            return ({}, []) if stage == "best_of_n" else None

        monkeypatch.setattr(module.stages, stage, collect)
    for name, method in methods.methods().items():
        method(str(methods.out / name), 0)
    assert sorted(called) == sorted(["best_of_n"] + ["group"] * 4 + ["ppo"] * 2 + ["preference"] * 6)

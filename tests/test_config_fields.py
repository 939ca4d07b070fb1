"""A config field that nothing reads is a promise that nothing keeps: every field is read somewhere."""

import ast
import dataclasses
import importlib
import itertools
import pkgutil
from pathlib import Path

import pytest

import rlhf_jax

ROOT = Path(rlhf_jax.__file__).parent


def config_classes():
    found = {}
    for module in pkgutil.walk_packages(rlhf_jax.__path__, "rlhf_jax."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__name__.endswith("Config"):
                found[value.__name__] = value
    return found


CONFIGS = config_classes()


def reads():
    """Names of attributes that are read, outside ``__post_init__``: checking a value is not using it."""
    found = set()

    def walk(node):
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
            return
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        for child in ast.iter_child_nodes(node):
            walk(child)

    for file in ROOT.rglob("*.py"):
        walk(ast.parse(file.read_text(encoding="utf-8")))
    return found


READ = reads()
# Read all at once, by name: ``functools.partial(objectives.ppo, **dataclasses.asdict(config.loss))``.
BOUND_BY_NAME = {"PPOLossConfig": "ppo"}


def test_the_configs_are_found():
    assert {"SFTConfig", "RewardConfig", "PPOConfig", "ModelConfig", "OptimizerConfig", "DataConfig"} <= set(CONFIGS)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_field_is_read(name):
    fields = {f.name for f in dataclasses.fields(CONFIGS[name])}
    if name in BOUND_BY_NAME:
        from rlhf_jax import objectives

        function = getattr(objectives, BOUND_BY_NAME[name])
        assert fields == set(function.__kwdefaults__) - {"kl_estimator"}  # a function: for Python callers only
        return
    # MeshConfig's axes are read in a loop over their names, which are the mesh's.
    if name == "MeshConfig":
        from rlhf_jax.parallel.mesh import AXES

        assert fields == set(AXES)
        return
    assert not fields - READ, f"nothing reads {sorted(fields - READ)} of {name}"


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_configs_are_frozen_and_keyword_only(name):
    config = CONFIGS[name]
    assert config.__dataclass_params__.frozen
    assert all(f.kw_only for f in dataclasses.fields(config))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_field_says_what_it_is(name):
    """``rlhf COMMAND --help`` shows these texts."""
    config = CONFIGS[name]
    own = set(config.__annotations__)
    source = ast.parse(Path(importlib.import_module(config.__module__).__file__).read_text(encoding="utf-8"))
    body = next(n for n in ast.walk(source) if isinstance(n, ast.ClassDef) and n.name == name).body
    described = {
        a.target.id
        for a, b in itertools.pairwise(body)
        if isinstance(a, ast.AnnAssign) and isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant)
    }
    described |= {field for field in own if f"{field}:" in (config.__doc__ or "")}
    # A nested config describes itself, and says so in its own docstring.
    nested = {f.name for f in dataclasses.fields(config) if str(f.type).split(".")[-1] in CONFIGS}
    # A field that a stage only gives another default keeps the description it has in the base class.
    inherited = {n for base in config.__mro__[1:] for n in getattr(base, "__annotations__", {})}
    assert not own - described - nested - inherited

"""Who may import whom: the table of the design, held by walking every import statement of the package."""

import ast
import functools
from pathlib import Path

import pytest

import rlhf_jax

ROOT = Path(rlhf_jax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

ON_FILES = {"paths", "gguf_file"}
GROUND = {*ON_FILES, "types", "fields", "files", "targets", "renamed", "stage_names", "processes"}
BASE = {*GROUND, "losses"}
MIDDLE = {"objectives", "rewards", "rollout", "evaluation", "models", "data", "feedback", "parallel", "training"}
RUNS = {*BASE, *MIDDLE, "checkpoint", "runs"}
STAGES = {*RUNS, "compare", "judges", "testing", "stages"}
MAY_IMPORT = {
    "__init__": set(),  # subpackages load lazily, by name
    **{name: set() for name in (*GROUND, "losses")},
    **{name: {"files"} for name in ON_FILES},
    **{name: BASE for name in ("objectives", "rewards", "rollout", "evaluation")},
    **{name: GROUND for name in ("models", "data", "feedback", "parallel", "training", "checkpoint")},
    "runs": RUNS,
    "judges": {*RUNS, "judges"},
    "compare": {*RUNS, "compare"},
    "control": {*BASE, "evaluation", "control"},
    "stages": STAGES,
    "report": STAGES,
    "testing": {*BASE, *MIDDLE},
    "cli": {*STAGES, "report"},
    "__main__": {"cli"},
}
# Third-party packages that one layer alone may import; GGUF is opened in one place, and models unpack its numbers.
OWNERS = {"flax": {"models"}, "orbax": {"checkpoint"}, "gguf": {"gguf_file", "models"}, "fsspec": {"runs"}}
OWNERS |= {package: {"data"} for package in ("tensorflow_datasets", "grain", "tokenizers", "datasets")}
# What a machine may lack, or what is slow to load: imported only inside the functions that need it.
HEAVY = {"tensorflow_datasets", "grain", "tokenizers", "datasets", "pyarrow", "jinja2", "vaderSentiment"}
HEAVY |= {"gguf", "safetensors", "sklearn", "matplotlib", "tensorboardX", "rich", "fsspec", "starlette", "uvicorn"}
HEAVY |= {"httpx2", "tenacity", "gymnax", "brax", "mujoco"}
# What nothing here needs: those who come from there bring files.
FOREIGN = {"torch", "tensorflow", "transformers", "peft", "accelerate", "huggingface_hub"}
LAZY_IN_DATA = {"human_sentiment", "preparing", "tfds"}  # data/__init__ loads them on first use
LAZY_IN_DATA |= {"template_worker"}  # a program, which runs in a process of its own
# TFDS constructs builders with keywords of its own, which have to be passed on.
FOREIGN_KEYWORDS = {("human_sentiment", "__init__")}
# JAX tells listeners of its events more in keywords, which differ by event.
FOREIGN_KEYWORDS |= {("figures", "_took"), ("figures", "_happened"), ("phases", "compiled")}


def layer(file):
    relative = file.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(tree):
    """Full dotted names that a module imports, with the node; ``from a import b`` counts as ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the full name"
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


def outside_functions(tree):
    """Import nodes that run when the module is imported."""
    found, waiting = set(), list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.add(node)
        is_type_checking = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not is_type_checking:
            waiting += list(ast.iter_child_nodes(node))
    return found


@functools.cache
def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_a_file_imports_only_the_layers_below_it(file):
    here = layer(file)
    assert here in MAY_IMPORT, f"{here} is a new layer: give it a place in the design's table"
    for name, node in imports(parsed(file)):
        parts = name.split(".")
        if parts[0] != "rlhf_jax":
            continue
        assert len(parts) > 1, f"{file}:{node.lineno}: `import rlhf_jax` hides what is used; name the layer"
        target = parts[1]
        if target == "__version__":
            continue
        assert target == here or target in MAY_IMPORT[here], (
            f"{file}:{node.lineno}: {here} may not import {target}; it may import {sorted(MAY_IMPORT[here])}"
        )


@pytest.mark.parametrize("package", sorted(OWNERS))
def test_its_layer_alone_imports(package):
    users = {layer(f) for f in FILES for name, _ in imports(parsed(f)) if name.split(".")[0] == package}
    assert users == OWNERS[package]


def test_heavy_packages_are_imported_only_where_they_are_used():
    for file in FILES:
        tree = parsed(file)
        at_import = outside_functions(tree)
        # Modules that their package loads lazily may import what they are about.
        if layer(file) == "data" and file.stem in LAZY_IN_DATA:
            continue
        for name, node in imports(tree):
            assert not (node in at_import and name.split(".")[0] in HEAVY), f"{file}:{node.lineno}: {name} at import"


def test_nothing_imports_another_framework():
    for file in FILES:
        for name, node in imports(parsed(file)):
            assert name.split(".")[0] not in FOREIGN, f"{file}:{node.lineno}: {name}"


def test_there_are_no_swallowing_keyword_arguments_or_defaulted_attributes():
    """``**kwargs`` in a definition hides a misspelt argument, ``getattr(x, name, default)`` a misspelt field."""
    for file in FILES:
        for node in ast.walk(parsed(file)):
            where = f"{file}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                foreign = isinstance(node, ast.FunctionDef) and (file.stem, node.name) in FOREIGN_KEYWORDS
                assert foreign or node.args.kwarg is None, f"{where}: ** in a definition"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                assert len(node.args) == 2, f"{where}: getattr with a default"
            if isinstance(node, ast.ExceptHandler):
                silent = all(isinstance(s, ast.Pass) for s in node.body)
                assert node.type is not None, f"{where}: bare except"
                assert not silent, f"{where}: swallowed exception"


def test_there_is_no_utils_module():
    assert not [f for f in FILES if f.stem in ("utils", "util", "helpers", "common", "misc")]

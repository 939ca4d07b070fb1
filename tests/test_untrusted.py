"""Nothing foreign is run, unpickled or followed out of its folder: every file of ours is walked for what would."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(file for part in ("rlhf_jax", "experiments", "benchmarks") for file in (ROOT / part).rglob("*.py"))

# Modules whose only use is to make objects of bytes, or code of text.
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle", "runpy", "code"}
CALLS = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), "runs text"),
    **dict.fromkeys(("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"), "runs a shell"),
    **dict.fromkeys(("importlib.util.spec_from_file_location", "importlib.machinery.SourceFileLoader"), "runs a file"),
    **dict.fromkeys(
        ("jinja2.Environment", "jinja2.Template", "jinja2.NativeEnvironment"), "a template outside a sandbox"
    ),
    **dict.fromkeys(("yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle", "torch.hub.load"), "makes any object"),
    **dict.fromkeys(("shutil.unpack_archive",), "unpacks wherever the archive says"),
    **dict.fromkeys(("ctypes.CDLL", "ctypes.cdll.LoadLibrary"), "runs a library"),
}
METHODS = {"extractall": "unpacks wherever the archive says", "exec_module": "runs a file", "read_pickle": "unpickles"}
# Functions that give what stands in a file.
READERS = {
    "loads",
    "load",
    "read_object",
    "read_record",
    "_read_object",
    "load_metadata",
    "read_manifest",
    "key_values",
}

# Where the rule is broken, and why that is right there.
ALLOWED = {
    ("rlhf_jax/runs/user_code.py", "runs a file"): "the user names the file, on the command line or in Python",
    ("rlhf_jax/parallel/launching/leash.py", "runs a library"): "the C library of this process, for one call",
    ("rlhf_jax/processes/coordinator.py", "runs a library"): "the C library of this process, for one call",
    ("rlhf_jax/parallel/launching/leash.py", "runs a program"): "the command that the user launches",
    ("rlhf_jax/renamed.py", "imports by name"): "names stand in the tables of our own modules",
    ("rlhf_jax/report/page.py", "a template outside a sandbox"): "our own template.html; what it shows is escaped",
    ("rlhf_jax/compare/app.py", "a template outside a sandbox"): "our own templates; what they show is escaped",
    ("rlhf_jax/cli/records.py", "a path out of a file"): "a run's record says where its data and models are: only read",
    ("rlhf_jax/runs/pretrained.py", "a path out of a file"): "an adapter names the model it is for, which is only read",
}


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Walker(ast.NodeVisitor):
    """Lists (line, what) for everything in a module that would run, unpickle or follow foreign input."""

    def __init__(self, tree):
        self.found, self.aliases, self.tainted = [], {}, set()
        self.visit(tree)
        functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
        for nodes in [list(_outside_functions(tree)), *(list(ast.walk(function)) for function in functions)]:
            self._paths(nodes)

    def say(self, node, what):
        if (node.lineno, what) not in self.found:
            self.found.append((node.lineno, what))

    def visit_Import(self, node):
        for alias in node.names:
            self._module(node, alias.name)
            self.aliases[alias.asname or alias.name.split(".")[0]] = (
                alias.name if alias.asname else alias.name.split(".")[0]
            )

    def visit_ImportFrom(self, node):
        self._module(node, node.module or "")
        for alias in node.names:
            self._module(node, f"{node.module}.{alias.name}")
            self.aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def _module(self, node, name):
        if name.split(".")[0] in MODULES:
            self.say(node, "imports what makes objects or code of bytes")

    def dotted(self, node):
        """``np.load`` as ``numpy.load``; empty for what is no plain name."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id, node.id)
        above = self.dotted(node.value) if isinstance(node, ast.Attribute) else ""
        return f"{above}.{node.attr}" if above else ""

    def visit_Call(self, node):
        self.generic_visit(node)
        name = self.dotted(node.func)
        last = node.func.attr if isinstance(node.func, ast.Attribute) else name
        given = {k.arg: k.value for k in node.keywords}
        short = name.replace("jinja2.environment.", "jinja2.").replace("jinja2.nativetypes.", "jinja2.")
        if short in CALLS:
            self.say(node, CALLS[short])
        if last in METHODS:
            self.say(node, METHODS[last])
        if not _is(given.get("shell"), False):
            self.say(node, "runs a shell")
        if not _is(given.get("trust_remote_code"), False):
            self.say(node, "runs code of a checkpoint")
        if not _is(given.get("allow_pickle"), False):
            self.say(node, "unpickles")
        if name == "torch.load" and not ("weights_only" in given and _is(given["weights_only"], True)):
            self.say(node, "unpickles")
        if name == "yaml.load" and "Safe" not in ast.unparse(node):
            self.say(node, "makes any object")
        if name.startswith(("os.exec", "os.spawn", "os.posix_spawn")):
            self.say(node, "runs a program")
        if name == "importlib.import_module" and node.args and not _ours(node.args[0]):
            self.say(node, "imports by name")
        if name in ("numpy.fromfile", "numpy.frombuffer", "numpy.memmap", "numpy.loadtxt", "numpy.genfromtxt"):
            dtypes = [*node.args[1:2], *([given["dtype"]] if "dtype" in given else [])]
            if any(
                ast.unparse(kind) in ("object", "'O'", "'object'", "np.object_", "numpy.object_") for kind in dtypes
            ):
                self.say(node, "makes any object")

    def _paths(self, nodes):
        """Names that hold what was read from a file, and the joins that they come into other than by ``inside``."""
        tainted = set()
        for _ in range(3):  # what is made of them, and what is made of that
            for node in nodes:
                pairs = []
                if isinstance(node, ast.Assign):
                    pairs = [(target, node.value) for target in node.targets]
                elif isinstance(node, ast.NamedExpr | ast.AnnAssign | ast.AugAssign) and node.value is not None:
                    pairs = [(node.target, node.value)]
                elif isinstance(node, ast.For | ast.comprehension):
                    pairs = [(node.target, node.iter)]
                for target, value in pairs:
                    if self._foreign(value, tainted):
                        tainted |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
        for node in nodes:
            joined = []
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and _is_folder(node.left):
                joined = [node.right]
            elif isinstance(node, ast.Call):
                name = self.dotted(node.func)
                last = node.func.attr if isinstance(node.func, ast.Attribute) else name
                if last in ("joinpath", "with_name", "relative_to") or name in ("os.path.join", "open", "pathlib.Path"):
                    joined = node.args
            if any(self._foreign(part, tainted) for part in joined):
                self.say(node, "a path out of a file")

    def _foreign(self, node, tainted):
        """Whether an expression holds what a file says; what ``inside`` gives, and numbers, do not lead anywhere."""
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else self.dotted(node.func)
            if name.split(".")[-1] in ("inside", "len", "int", "float", "isinstance", "bool"):
                return False
            if name.split(".")[-1] in READERS:
                return True
        if isinstance(node, ast.Name):
            return node.id in tainted
        if isinstance(node, ast.Compare):
            return False
        return any(self._foreign(child, tainted) for child in ast.iter_child_nodes(node))


def _outside_functions(tree):
    """The nodes of a module's own code, in which names mean the same throughout."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, FUNCTIONS)]


def _is(node, value):
    """Whether a keyword is left out, or is just this constant."""
    return node is None or (isinstance(node, ast.Constant) and node.value is value)


def _ours(name):
    """A module's name that is written out, or that begins with one of our packages."""
    first = name.values[0] if isinstance(name, ast.JoinedStr) else name
    if not isinstance(first, ast.Constant):
        return False
    return name is first or first.value.startswith(("rlhf_jax.", "benchmarks."))


def _is_folder(node):
    """Whether ``node / x`` joins paths; in a quotient of numbers nothing is called so."""
    words = ("folder", "path", "dir", "parent", "root", "out", "run", "home", "scratch", "cache", "place")
    return any(word in ast.unparse(node).lower() for word in words)


def hazards(source):
    return sorted(Walker(ast.parse(source)).found)


def shown(file):
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", FILES, ids=shown)
def test_nothing_foreign_is_run_or_followed(file):
    for line, what in hazards(file.read_text(encoding="utf-8")):
        assert (shown(file), what) in ALLOWED, f"{shown(file)}:{line}: {what}"


def test_every_exception_is_still_one():
    found = {(shown(file), what) for file in FILES for _, what in hazards(file.read_text(encoding="utf-8"))}
    assert set(ALLOWED) <= found


@pytest.mark.parametrize(
    ("planted", "what"),
    [
        ("import pickle", "imports what makes objects or code of bytes"),
        ("from cloudpickle import loads", "imports what makes objects or code of bytes"),
        ("def f():\n    import dill as d", "imports what makes objects or code of bytes"),
        ("import joblib\nx = joblib.load(file)", "imports what makes objects or code of bytes"),
        ("import marshal, os", "imports what makes objects or code of bytes"),
        ("import shelve", "imports what makes objects or code of bytes"),
        ("import torch\nx = torch.load(file)", "unpickles"),
        ("import torch\nx = torch.load(file, weights_only=False)", "unpickles"),
        ("import numpy as np\nx = np.load(file, allow_pickle=True)", "unpickles"),
        ("import numpy as np\nx = np.load(file, allow_pickle=asked)", "unpickles"),
        ("import pandas\nx = pandas.read_pickle(file)", "makes any object"),
        ("import numpy as np\nx = np.fromfile(file, dtype=object)", "makes any object"),
        ("import numpy as np\nx = np.frombuffer(data, 'O')", "makes any object"),
        ("x = eval(text)", "runs text"),
        ("exec(text)", "runs text"),
        ("x = compile(text, '', 'exec')", "runs text"),
        ("__import__(name)", "runs text"),
        ("import yaml\nx = yaml.load(file)", "makes any object"),
        ("import yaml\nx = yaml.load(file, Loader=yaml.Loader)", "makes any object"),
        ("from yaml import unsafe_load\nx = unsafe_load(file)", "makes any object"),
        ("import subprocess\nsubprocess.run(line, shell=True)", "runs a shell"),
        ("import subprocess as s\ns.getoutput(line)", "runs a shell"),
        ("from os import system\nsystem(line)", "runs a shell"),
        ("import os\nos.popen(line)", "runs a shell"),
        ("import os\nos.execv(program, words)", "runs a program"),
        ("model = AutoModel.from_pretrained(name, trust_remote_code=True)", "runs code of a checkpoint"),
        ("load_dataset(name, trust_remote_code=asked)", "runs code of a checkpoint"),
        ("import zipfile\nzipfile.ZipFile(file).extractall(folder)", "unpacks wherever the archive says"),
        ("import tarfile\nwith tarfile.open(file) as t:\n    t.extractall()", "unpacks wherever the archive says"),
        ("import shutil\nshutil.unpack_archive(file)", "unpacks wherever the archive says"),
        ("import importlib\nimportlib.import_module(name)", "imports by name"),
        ("import importlib\nimportlib.import_module(f'{name}.rlhf_jax')", "imports by name"),
        ("import importlib.util\nimportlib.util.spec_from_file_location('x', file)", "runs a file"),
        ("spec.loader.exec_module(module)", "runs a file"),
        ("import jinja2\nx = jinja2.Environment()", "a template outside a sandbox"),
        ("from jinja2 import Template\nx = Template(text)", "a template outside a sandbox"),
        ("import ctypes\nctypes.CDLL(name)", "runs a library"),
        ("import json\nname = json.loads(text)['file']\nfile = folder / name", "a path out of a file"),
        (
            "import json\nfor name in json.load(f).values():\n    x = index.parent / f'{name}.bin'",
            "a path out of a file",
        ),
        (
            "def f(folder):\n    map = read_object(folder)['m']\n    return [folder / x for x in map]",
            "a path out of a file",
        ),
        ("names = read_object(file)\nx = folder.joinpath(names['a'])", "a path out of a file"),
        ("names = read_record(file)\nx = open(names['a'])", "a path out of a file"),
        ("from pathlib import Path\nx = Path(read_object(file)['base'])", "a path out of a file"),
        ("import os\nx = os.path.join(folder, read_object(file)['base'])", "a path out of a file"),
    ],
)
def test_a_planted_line_is_caught(planted, what):
    assert what in [found for _, found in hazards(planted)]


@pytest.mark.parametrize(
    "line",
    [
        "import re\nx = re.compile(pattern)",
        "x = lowered.compile()",
        "model.eval()",
        "import numpy as np\nx = np.load(file)",
        "import torch\nx = torch.load(file, weights_only=True)",
        "import subprocess\nsubprocess.run([program, file], check=False)",
        "from jinja2.sandbox import ImmutableSandboxedEnvironment\nx = ImmutableSandboxedEnvironment()",
        "import importlib\nimportlib.import_module('readline')",
        "import importlib\nimportlib.import_module(f'rlhf_jax.{name}')",
        "import zipfile\nwith zipfile.ZipFile(file) as z:\n    x = z.read('LICENSE')",
        "names = read_object(index)\nfile = inside(folder, names['a'], where='')",
        "x = folder / 'config.json'",
        "names = read_object(folder / 'config.json')\nx = 1 / names['seconds']",
    ],
)
def test_what_does_no_harm_is_left_alone(line):
    assert hazards(line) == []

"""A hash of what a callable computes: its code, its bound arguments, and every value and function that it reaches.

Names of files and places of lines are no part of it: a function that was moved, or written with other comments, is the
same. Code of installed packages goes by its name.
"""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import importlib.util
import sys
import sysconfig
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.runs.values import PLAIN, Hashed, array_hash, first_parts, in_order

_OURS = str(Path(__file__).parents[1])
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_LIBRARIES = ("functools", "jax", "jaxlib", "numpy")  # whose wrappers say what they wrap
# A function that uses one of these may reach anything in its file.
_ANYTHING = {"globals", "eval", "exec", "getattr", "vars", "__import__", "import_module"}
_MOST = 50_000  # values; what holds more is no hyperparameter


class Content(NamedTuple):
    """What could be seen of a value: a hash, and what of it could not be hashed, in words."""

    sha256: str
    unknown: tuple[str, ...]


def content_of(value: Any, *, ours: bool = False) -> Content:
    """Hash a callable, or any value, by content.

    A list, a dict or an object that the value holds is seen as it was when this process first looked at it, because a
    reward may count its own calls.

    Args:
        value: a function, ``functools.partial``, bound method, object with ``__call__``, or any value.
        ours: look into the code of this package too; otherwise it goes by its name, like that of any other.

    Returns:
        The hash, the same in every process of one version of Python, and what could not be hashed.

    Example:
        >>> one, same, other = (functools.partial(round, ndigits=n) for n in (1, 1, 2))
        >>> content_of(one) == content_of(same), content_of(one) == content_of(other)
        (True, False)
    """
    reader = _Reader(ours)
    reader.see(value, "it")
    return Content(reader.digest.hexdigest(), tuple(dict.fromkeys(reader.unknown)))


class _Reader:
    """One walk over everything that can be reached."""

    def __init__(self, ours: bool, *, within: bool = False):
        self._ours, self._within = ours, within
        self._met: dict[int, int] = {}
        self._alive: list[Any] = []  # or another value could get the same id
        self.digest = hashlib.sha256()
        self.unknown: list[str] = []

    def see(self, value: Any, where: str) -> None:
        """Add a value to the hash; ``where`` says where it was found."""
        if type(value) in PLAIN:
            return self._say(type(value).__name__, repr(value))
        if isinstance(value, Hashed):
            return self._say("array", value)
        if id(value) in self._met:
            return self._say("again", str(self._met[id(value)]))
        self._met[id(value)] = len(self._met)
        self._alive.append(value)
        if len(self._met) > _MOST:
            if len(self._met) == _MOST + 1:
                self.unknown.append(f"what lies behind its first {_MOST} values")
            return None
        return self._look_into(value, where)

    def _look_into(self, value: Any, where: str) -> None:
        self._say(type(value).__qualname__)
        if type(value).__module__ == "flax.ids":
            return  # a number that says how many modules this process has made before
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            numbers = array_hash(value)
            if numbers is None:
                self._no_content(value, where)
            else:
                self._say(numbers)
        elif isinstance(value, enum.Enum):
            self._say(str(value.name))  # a mixture of flags may have none
            self._each([value.value, type(value)], where)
        elif isinstance(value, CodeType):
            self._code(value, None, where)
        elif isinstance(value, FunctionType):
            self._function(value, where)
        elif isinstance(value, MethodType):
            self._each([value.__func__, value.__self__], where)
        elif isinstance(value, functools.partial):
            self._each([value.func, value.args, value.keywords], where)
        elif isinstance(value, type):
            self._class(value, where)
        elif isinstance(value, ModuleType):
            self._say(value.__name__)
        elif isinstance(value, BuiltinFunctionType):
            self._say(value.__qualname__)
            self.see(value.__self__, where)
        elif type(value).__module__.split(".")[0] in _LIBRARIES and hasattr(value, "__wrapped__"):
            self.see(value.__wrapped__, where)
        elif isinstance(value, staticmethod | classmethod):
            self.see(value.__func__, where)
        elif isinstance(value, property):
            self._each([value.fget, value.fset], where)
        elif isinstance(value, tuple):
            self._each(value, where)
        elif isinstance(value, frozenset):
            self._each(self._in_order(value), where)
        elif isinstance(value, functools.cached_property):
            self.see(value.func, where)
        elif isinstance(value, weakref.ReferenceType):
            self.see(value(), where)
        else:
            parts = first_parts(value)
            if parts is None:
                self._no_content(value, where)
            else:
                self._each(self._in_order(parts) if isinstance(value, set) else parts, where)

    def _in_order(self, values: Iterable[Any]) -> list[Any]:
        """Sort the members of a set; those that are described alike by what they hold."""
        return in_order(values, self._apart)

    def _apart(self, value: Any) -> str:
        if self._within:
            return ""  # a set that is reached from its own member, say
        reader = _Reader(self._ours, within=True)
        reader.see(value, "it")
        return reader.digest.hexdigest()

    def _say(self, *words: str) -> None:
        for word in words:
            text = word.encode("utf-8", "surrogatepass")
            self.digest.update(b"%d:%b" % (len(text), text))

    def _each(self, values: Iterable[Any], where: str) -> None:
        for value in values:
            self.see(value, where)
        self._say("end")

    def _no_content(self, value: Any, where: str) -> None:
        self.unknown.append(f"{where} (an object of type {type(value).__module__}.{type(value).__qualname__})")

    def _by_name(self, file: str) -> bool:
        if file.startswith(_OURS):
            return not self._ours
        return file.startswith(_INSTALLED) or "site-packages" in file or file.startswith("<frozen")

    def _function(self, function: FunctionType, where: str) -> None:
        code, own = function.__code__, f"{function.__name__}'s"
        self._say(function.__qualname__)
        if self._by_name(code.co_filename):
            self._say(function.__module__ or "")
            if "<lambda>" in function.__qualname__:
                self._code(code, None, where)
        else:
            self._code(code, function.__doc__, where)
            self._reached(code, function.__globals__, own)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                inside = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            self._say(name)
            self.see(inside, f"{own} {name}")
        self.see(function.__defaults__, f"{own} defaults")
        self._pairs(function.__kwdefaults__ or {}, own)
        self._pairs({k: v for k, v in vars(function).items() if not self._by_name(code.co_filename)}, own)

    def _code(self, code: CodeType, doc: str | None, where: str) -> None:
        """Add what is compiled, without the places of its lines; a docstring does nothing."""
        self._say(code.co_code.hex(), *code.co_names, *code.co_varnames, *code.co_freevars, "end")
        self._say(str((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)))
        for i, value in enumerate(code.co_consts):
            self.see(None if i == 0 and isinstance(value, str) and value == doc else value, where)

    def _reached(self, code: CodeType, known: dict[str, Any], where: str) -> None:
        """Add the values of the global names that code uses, and what it takes from modules of the user's own."""
        every = _with_inner(code)
        names = sorted({name for one in every for name in one.co_names})
        for name in names:
            if name in known:
                self._say(name)
                self.see(known[name], f"{where} {name}")
                if isinstance(known[name], ModuleType) and not self._by_name(
                    vars(known[name]).get("__file__") or _OURS
                ):
                    self._pairs({n: vars(known[name])[n] for n in names if n in vars(known[name])}, f"{where} {name}")
        files = {str(known["__file__"])} if _ANYTHING & set(names) and known.get("__file__") else set()
        for one in every:
            files |= {f for i in dis.get_instructions(one) if i.opname == "IMPORT_NAME" and (f := _file(i.argval))}
        self._each([Path(f).read_bytes() for f in sorted(files) if not self._by_name(f) and Path(f).is_file()], where)

    def _class(self, value: type, where: str) -> None:
        self._say(value.__module__ if value.__module__ == "builtins" else "", value.__qualname__)
        module = sys.modules.get(value.__module__)
        file = str(vars(module)["__file__"]) if module and vars(module).get("__file__") else ""
        if value.__module__ == "builtins" or (module and not file and value.__module__ != "__main__"):
            return
        if self._by_name(file):
            self._say(value.__module__)
            return
        self._each([base for base in value.__mro__[1:] if base is not object], where)
        # Python makes these for every class: places of slots and of the dict, and what abc keeps of subclasses.
        made = (GetSetDescriptorType, MemberDescriptorType)
        held = {n: v for n, v in vars(value).items() if not isinstance(v, made) and n != "_abc_impl"}
        # Other names with underscores around them are Python's own notes.
        kept = {n: v for n, v in held.items() if isinstance(v, FunctionType) or not n.startswith("__")}
        self._pairs(kept, value.__qualname__)

    def _pairs(self, found: dict[Any, Any], where: str) -> None:
        for name in sorted(found, key=str):
            self.see(name, where)
            self.see(found[name], f"{where} {name}")
        self._say("end")


def _with_inner(code: CodeType) -> list[CodeType]:
    """List code together with the functions, lambdas and comprehensions that are written inside it."""
    return [code, *(x for inner in code.co_consts if isinstance(inner, CodeType) for x in _with_inner(inner))]


def _file(module: str) -> str:
    """Find the file of a module that is imported inside a function; empty where there is none."""
    if module in sys.modules:
        return str(vars(sys.modules[module]).get("__file__") or "")
    try:
        spec = importlib.util.find_spec(module.split(".")[0])
    except (ImportError, ValueError):
        return ""
    return str(spec.origin or "") if spec and spec.has_location else ""

"""One form for every docstring, that of ``rlhf_jax/losses``: held for every public name, by reading the source."""

import ast
import functools
import inspect
import io
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

import pytest

import rlhf_jax

ROOT = Path(rlhf_jax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
NAMED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
SECTIONS = ("Args", "Returns", "Yields", "Raises", "Example", "Source")
ENTRIES = {"Args": re.compile(r"(\*{0,2}\w+): \S"), "Raises": re.compile(r"([\w.]+): \S")}

# Verbs whose third person opens a sentence without a subject: "Reads a file" where "Read a file" is meant.
_VERBS = """
accept add adjust append apply ask assert assign become begin bind block bring broadcast build calculate call check
choose clear clip close collect combine come compile compute concatenate construct continue contain convert copy
count create cut decide decode define describe determine divide download draw drop embed encode enter estimate evaluate
expand export extract fetch fill find finish flatten fold forget forward generate get give go group handle hold
implement import increase initialise insert install join keep label leave let lie list load look make map mask measure
merge move multiply name normalise note notice obtain open overwrite pack pad parse pass pick place plan prepare print
produce provide put quantise raise rank reach read receive recognise record reduce refuse reject release remember remove
render replace report represent require reset resolve restore return round run sample save scale score search see select
send set shape shift show shuffle skip sort split spread stand start step stop store stream subtract sum take tell test
tokenise train transform transpose truncate try turn undo unpack update use validate verify wait walk warn weigh whiten
wrap write yield
"""
VERBS = frozenset(_VERBS.split())
ODD = {"pass": "passes", "search": "searches", "reach": "reaches", "fetch": "fetches", "go": "goes", "try": "tries"}
THIRD_PERSON = {ODD.get(verb, f"{verb}s") for verb in VERBS} | {"verifies", "copies", "multiplies"}
# Those that are as often a noun are verbs only with an object behind them: "Names of fields", but "Names the field".
_NOUNS = """
checks counts cuts groups labels leaves lists looks maps masks moves names notes pads places plans ranks records reports
runs samples scales scores searches sets shapes shifts splits stands starts steps stops streams sums tests turns updates
uses walks
"""
NOUNS = frozenset(_NOUNS.split())
SURE = {
    "the",
    "its",
    "their",
    "every",
    "each",
    "everything",
    "nothing",
    "whether",
    "how",
    "until",
}  # after any word in -s
OBJECTS = SURE | {
    "a",
    "an",
    "all",
    "any",
    "both",
    "this",
    "these",
    "one",
    "two",
    "it",
    "them",
    "what",
    "only",
    "up",
    "out",
}


def third_person(word, following, nouns=NOUNS):
    """Whether this is a verb in the third person, by the word behind it where the word alone does not tell."""
    if word in THIRD_PERSON:
        return word not in nouns or following in OBJECTS or following.startswith("`")
    return word.endswith("s") and not word.endswith(("ss", "us", "is", "'s")) and following in SURE


class Doc(NamedTuple):
    """One docstring, and what it has to agree with."""

    where: str  # FILE:LINE NAME
    kind: str  # module, class or function
    text: str
    parameters: tuple[str, ...] | None  # None where there is no signature to compare with


def summary(doc):
    """The first line is one sentence, on a line of its own."""
    lines = doc.text.split("\n")
    if not lines[0]:
        yield "the docstring begins with an empty line"
    if not lines[0].endswith("."):
        yield f"the first line does not end in a period: {lines[0]!r}"
    if doc.kind != "module" and re.search(r"(?<!\bDr)[.?!] [A-Z`]", lines[0]):
        yield f"the first line is more than one sentence: {lines[0]!r}"
    if len(lines) > 1 and lines[1]:
        yield f"no empty line after the first one: {lines[1]!r}"


def mood(doc):
    """An action is an imperative, ``Read``; only what has a subject ``reads``."""
    line = doc.text.split("\n")[0]
    words = [*re.findall(r"[\w'-]+|`+|[^\w\s]", line.lower()), "", ""]
    if third_person(words[0], words[1]):
        yield f"the first word is in the third person, not in the imperative: {line!r}"
    if words[0] in VERBS:
        for match in re.finditer(r"(?:\band|\bor|\bthen|\bbut|;) (\w+s)\b ?(\w+|`*)", line):
            before = line[: match.start()]
            has_subject = re.search(
                r"\b(that|which|who|what|where|when|how|whether|if|as|whose|it|they|those)\b|: ", before
            )
            # "and returns" may be those of reinforcement learning
            if not has_subject and third_person(match[1], match[2], NOUNS | {"returns"}):
                yield f"begins in the imperative and goes on in the third person, {match[1]!r}: {line!r}"


def sections(doc):
    """Sections come in one order, at the docstring's own indentation, and hold what is indented by four."""
    found, lines = [], doc.text.split("\n")
    for number, line in enumerate(lines):
        heading = re.match(r"( *)([A-Z]\w*(?: [A-Z]\w*)?):( |$)", line)
        if heading and heading[2] in SECTIONS and not heading[1]:
            found.append((heading[2], number))
            if bool(heading[3]) != (heading[2] == "Source"):
                yield f"{heading[2]}: has its text in the wrong place: {line!r}"
            if lines[number - 1]:
                yield f"no empty line before {heading[2]}:"
        elif heading and heading[2] in SECTIONS and heading[2] != "Source" and not heading[3]:
            yield f"{heading[2]}: is not at the docstring's indentation"
        elif heading and not heading[3] and heading[2] not in SECTIONS:
            yield f"{heading[2]}: is no section; they are {', '.join(SECTIONS)}"
    names = [name for name, _ in found]
    if names != sorted(set(names), key=SECTIONS.index):
        yield f"sections {names} are repeated or not in the order of {', '.join(SECTIONS)}"
    ends = [number for _, number in found[1:]] + [len(lines)]
    for (name, start), end in zip(found, ends, strict=False):  # one end too many where there is no section
        body = [line for line in lines[start + 1 : end] if line]
        if name == "Source":
            if any(line.startswith(" ") for line in body):
                yield "Source: goes on indented; its lines begin where the docstring does"
            continue
        if not body:
            yield f"{name}: is empty"
            continue
        for line in body:
            if not line.startswith("    "):
                yield f"{name}: holds a line that is not indented by four: {line!r}"
        # In Example the rest may be indented as the program prints it.
        first = len(body[0]) - len(body[0].lstrip())
        if first != 4:
            yield f"{name}: is indented by {first}, not by four: {body[0]!r}"
        if name in ENTRIES:
            yield from entries(name, body)


def entries(section, body):
    """``name: text``, indented by four; what does not fit on its line goes on indented by eight."""
    for line in body:
        indent = len(line) - len(line.lstrip())
        if indent not in (4, 8):
            yield f"{section}: a line is indented by {indent}, not by four or eight: {line!r}"
        if indent == 4 and not ENTRIES[section].match(line.strip()):
            yield f"{section}: an entry is not 'name: text': {line!r}"


def arguments(doc):
    """``Args`` has every parameter, in the order of the signature; only a docstring of few words may go without."""
    lines = doc.text.split("\n")
    if "Args:" not in lines:
        if "Returns:" in lines and doc.parameters and doc.kind == "function":
            yield f"Returns without Args; the signature has {list(doc.parameters)}"
        return
    if doc.parameters is None:
        return
    listed, entry = [], ENTRIES["Args"]
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        if match := entry.match(line[4:]):
            listed.append(match[1].lstrip("*"))
    if tuple(listed) != doc.parameters:
        yield f"Args has {listed}, the signature {list(doc.parameters)}"


def dialect(doc):
    """None of the other dialects."""
    for pattern, name in ((r"^ *\.\. \w+", "reStructuredText"), (r":(param|return|rtype|raises)\b", "a field list")):
        if match := re.search(pattern, doc.text, re.MULTILINE):
            yield f"{name}: {match[0].strip()!r}"
    if match := re.search(r"^ *(-{3,}|={3,})$", doc.text, re.MULTILINE):
        yield f"an underlined heading: {match[0]!r}"


def opens_with_of(text):
    """Clauses that open with "of": nobody knows yet what is said of it."""
    for paragraph in re.split(r"\n[ ]*\n|\n(?=[ ]*(?:>>>|\w+: ))", text):
        joined = " ".join(paragraph.split())
        for match in re.finditer(r"(?:^|[.;:?!] |\()of .{0,30}", joined, re.IGNORECASE):
            yield f'a clause opens with "of": {match[0]!r}'


RULES = (summary, mood, sections, arguments, dialect)


@functools.cache
def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def shown(file):
    return file.relative_to(ROOT.parent).as_posix()


def parameters(node):
    """What a caller passes: the signature's names, for a class its constructor's or the fields that stand for one."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        given = node.args
        every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
        return tuple(a.arg for a in every if a is not None and a.arg not in {"self", "cls"})
    if isinstance(node, ast.ClassDef):
        if constructor := [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]:
            return parameters(constructor[0])
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        return tuple(n.target.id for n in fields if "init=False" not in ast.unparse(n)) or None
    return None


def public(file):
    """Every public name of a file, with its node; nothing where the file itself is private."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    if any(part.startswith("_") and part != "__init__" for part in parts):
        return

    def inside(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If | ast.Try):
                yield from inside(child, prefix)
            elif isinstance(child, NAMED) and not child.name.startswith("_"):
                yield f"{prefix}{child.name}", child
                if isinstance(child, ast.ClassDef):
                    yield from inside(child, f"{prefix}{child.name}.")

    yield "module", parsed(file)
    yield from inside(parsed(file), "")


def docs(file):
    """``Doc`` of every public name; one without a docstring has an empty text."""
    for name, node in public(file):
        kind = "module" if name == "module" else "class" if isinstance(node, ast.ClassDef) else "function"
        line = 1 if name == "module" else node.lineno
        yield Doc(f"{shown(file)}:{line} {name}", kind, ast.get_docstring(node) or "", parameters(node))


def broken(doc):
    if not doc.text:
        return [f"{doc.where}: no docstring"]
    return [f"{doc.where}: {problem}" for rule in RULES for problem in rule(doc)]


def remarks(file):
    """Every text that explains, private or public: docstrings, the texts after fields, comments; with its line."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, inspect.cleandoc(node.value.value)
    block, begun, last = [], 0, -1
    for token in tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, text = token.start[0], token.string.lstrip("#").strip()
        goes_on = line == last + 1 and not token.line[: token.start[1]].strip()  # alone on its line, under another
        if block and not goes_on:
            yield begun, "\n".join(block)
        block, begun, last = ([*block, text], begun, line) if goes_on else ([text], line, line)
    if block:
        yield begun, "\n".join(block)


@pytest.mark.parametrize("file", FILES, ids=shown)
def test_docstrings_have_the_form_of_losses(file):
    problems = [problem for doc in docs(file) for problem in broken(doc)]
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize("file", FILES, ids=shown)
def test_no_clause_opens_with_of(file):
    problems = [f"{shown(file)}:{line}: {problem}" for line, text in remarks(file) for problem in opens_with_of(text)]
    assert not problems, "\n" + "\n".join(problems)


def test_the_names_are_found():
    found = [doc for file in FILES for doc in docs(file)]
    assert len(found) > 800
    kinds = {kind: sum(doc.kind == kind for doc in found) for kind in ("module", "class", "function")}
    assert kinds["module"] > 150, kinds
    assert kinds["class"] > 100, kinds
    assert kinds["function"] > 400, kinds
    assert sum("\nArgs:\n" in doc.text and doc.parameters is not None for doc in found) > 250
    names = {doc.where.split(" ")[1] for doc in found}
    assert {"dpo", "Tokenizer", "Tokenizer.encode", "ModelConfig.rotary_width"} <= names
    assert not [name for name in names if any(part.startswith("_") for part in name.split("."))]


def test_what_people_said_once():
    """The argument that all functions of ``data/layouts`` share is explained in one place."""
    everything = " ".join(" ".join(file.read_text(encoding="utf-8").split()) for file in FILES)
    assert everything.count("what to call the row in an error") == 1


GOOD = """Read a number from a file.

    ``y = x / n``

    A second paragraph, which may run
    on over lines.

    Args:
        path: the file.
        strict: refuse a file with more in it,
            blank lines too.

    Returns:
        The number.

    Raises:
        ValueError: if there is none.

    Example:
        >>> print("  two")
          two

    Source: a paper (arXiv:0000.00000), which also says
    why.
    """
# Each takes one thing from the good docstring and puts another in its place; the words are part of the complaint.
BAD = {
    "third person": ("Read a number", "Reads a number"),
    "third person of a noun": ("Read a number", "Samples a number", "third person"),
    "third person before code": ("Read a number", "Names ``a`` number", "third person"),
    "goes on in the third person": ("from a file.", "from a file and returns it."),
    "does not end in a period": ("from a file.", "from a file"),
    "more than one sentence": ("from a file.", "from a file. Any file."),
    "no empty line after the first": ("file.\n\n    ``y", "file.\n    ``y"),
    "no section": ("Returns:", "Notes:"),
    "no section, two words": ("Returns:", "See Also:", "no section"),
    "not in the order": ("Returns:\n        The number.\n\n    Raises:", "Raises:\n        A: b.\n\n    Returns:"),
    "repeated": ("Returns:\n        The number.", "Args:\n        path: the file."),
    "indented by 2": ("    Returns:\n        The", "    Returns:\n      The"),
    "indented by 8": ("    Returns:\n        The", "    Returns:\n            The"),
    "indented by 6": ("            blank lines", "          blank lines"),
    "not at the docstring's indentation": ("    Returns:\n", "      Returns:\n"),
    "is empty": ("        The number.\n", ""),
    "wrong place": ("Returns:\n        The", "Returns: The"),
    "no empty line before": ("blank lines too.\n", "blank lines too.", ""),
    "'name: text'": ("path: the", "path (str) the"),
    "goes on indented": ("    why.", "        why."),
    "the signature": ("path: the", "file: the"),
    "the signature, a name missing": ("        path: the file.\n", "", "the signature"),
    "Returns without Args": (GOOD[GOOD.index("    Args:") : GOOD.index("    Returns:")], ""),
    "reStructuredText": ("``y = x / n``", ".. math:: y"),
    "field list": ("A second", ":param path: a second"),
    "underlined": ("A second paragraph, which may run", "Parameters\n    ----------"),
}


def as_doc(text):
    return Doc("here.py:1 read", "function", inspect.cleandoc(text), ("path", "strict"))


def test_a_good_docstring_passes():
    assert broken(as_doc(GOOD)) == []
    assert list(opens_with_of(inspect.cleandoc(GOOD))) == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_docstring_is_caught(name):
    old, new, *complaint = BAD[name]
    assert old in GOOD
    problems = broken(as_doc(GOOD.replace(old, new, 1)))
    assert any((complaint or [name])[0] in problem for problem in problems), problems


def test_a_missing_docstring_is_caught():
    assert broken(as_doc("")) == ["here.py:1 read: no docstring"]


@pytest.mark.parametrize(
    "text",
    [
        "Of a chat, everything before the answer.",
        "Read a prompt: of a chat, everything before the answer.",
        "Read a prompt; of a chat everything before the answer.",
        "Read a prompt. Of a chat, everything before the answer.",
        "Read a prompt (of a chat, everything before the answer).",
        "Read a prompt.\n\nOf a chat, everything before the answer.",
        "Args:\n    chat: of many turns.",
    ],
)
def test_a_clause_that_opens_with_of_is_caught(text):
    assert list(opens_with_of(text))


@pytest.mark.parametrize(
    "line",
    [
        "Losses of a batch.",
        "Samples that were drawn before.",
        "Rows to train on, and rows that are held out.",
        "Loss and gradient: how much it gives.",
        "PPO's loss, which reads what the sampler writes and returns.",
        "Write what the model reads and returns.",
        "Make the mask: a token sees its own segment and finds nothing else.",
        "Axis along which members lie.",
        "Seconds a stage has run.",
        "Names of fields, for a complaint.",
        "Compute advantages and returns by GAE.",
    ],
)
def test_a_noun_is_no_verb(line):
    assert list(mood(as_doc(line))) == []

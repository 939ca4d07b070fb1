"""What the pages promise is there: a section for every objective, links and tests that exist, commands that parse."""

import difflib
import doctest
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from rlhf_jax import cli, losses, objectives, stages, testing
from rlhf_jax.stages import find_objective

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
OBJECTIVE_PAGES = sorted((ROOT / "docs/objectives").glob("*.md"))
CONFIGS = {
    "sft": stages.SFTConfig,
    "reward": stages.RewardConfig,
    "ppo": stages.PPOConfig,
    "group": stages.GroupConfig,
    "preference": stages.PreferenceConfig,
}


def shown(path):
    return str(path.relative_to(ROOT))


def prose(page):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


def anchors(page):
    """What GitHub makes of the headings: lower case, punctuation but - and _ gone, blanks to hyphens."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def links(page):
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    return [x for x in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", x)]


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_relative_link_leads_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        if anchor:
            near = difflib.get_close_matches(anchor, anchors(target), n=1)
            assert anchor in anchors(target), f"{link}: no such heading; the nearest is {near}"


# Objectives that have a section; what has none yet is explained by its docstring, to which another test sees.
SECTIONS = {
    name: page
    for page in OBJECTIVE_PAGES
    for name in re.findall(r"^## `(\w+)`$", page.read_text(), flags=re.M)
    if name in objectives.NAMES
}


def test_the_sections_are_found():
    assert len(SECTIONS) >= 22
    rows = re.findall(r"^\| \[`(\w+)`\]\(", (ROOT / "docs/objectives/index.md").read_text(), flags=re.M)
    odd = sorted(set(rows) ^ set(SECTIONS))
    assert not odd, f"docs/objectives/index.md has a row for each objective with a section, and no other: {odd}"


@pytest.mark.parametrize("name", SECTIONS)
def test_the_section_of_an_objective_has_its_signature_and_a_row_in_the_table(name):
    page = SECTIONS[name]
    section = re.split(r"^## ", page.read_text().partition(f"## `{name}`\n")[2], maxsplit=1, flags=re.M)[0]
    (signature,) = re.findall(rf"^objectives\.{name}\((.*?)\) -> Loss$", section, flags=re.M | re.S)
    assert parameters(signature) == parameters_of(getattr(objectives, name))
    assert ">>> " in section, "no example"
    for part in ("$$", "**When.**", "**What to watch.**", "Source: "):
        assert part in section, f"no {part}"
    assert f"| [`{name}`]({page.name}#{name}) |" in (ROOT / "docs/objectives/index.md").read_text()


def parameters(signature):
    """``a, b, *, c=1`` as pairs of a name and a default, however it is broken into lines."""
    words = [word.strip() for word in signature.split(",")]
    return [(word.partition("=")[0], word.partition("=")[2]) for word in words]


def parameters_of(function):
    found = []
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY and ("*", "") not in found:
            found.append(("*", ""))
        default = "" if p.default is p.empty else p.default
        found.append((p.name, f"losses.{default.__name__}" if callable(default) else str(default)))
    return found


@pytest.mark.parametrize("page", OBJECTIVE_PAGES, ids=shown)
def test_every_command_can_be_given(page):
    text = page.read_text()
    blocks = re.findall(r"^```\n(.*?)^```", text, flags=re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = [" ".join(x.split()) for x in re.findall(r"`(rlhf [^`]*)`", prose(page))]
    for line in [*lines, *inline]:
        if match := re.match(rf"rlhf ({'|'.join(CONFIGS)}) (.*)", line):
            command, options = match.groups()
            config = cli.override(CONFIGS[command](), command, shlex.split(options))
            if ":" not in config.objective:
                find_objective(config.objective, config.hyperparameters)


def test_every_test_that_proves_a_formula_exists():
    text = (ROOT / "docs/math.md").read_text()
    file = None
    found = 0
    for named, test in re.findall(r"`([\w/]*test_\w+\.py)`|`(test_\w+)`", text):
        if named:
            (file,) = [path for path in (ROOT / "tests").rglob("*.py") if str(path).endswith(f"/{named}")]
        elif file is not None:
            assert re.search(rf"^def {test}\(", file.read_text(), flags=re.M), f"{file.name} has no {test}"
            found += 1
    assert found > 50


def test_every_formula_is_on_the_page():
    text = (ROOT / "docs/math.md").read_text()
    types = {"Reduction"}
    for name in set(losses.__all__) - types:
        assert f"`losses.{name}`" in text, f"docs/math.md has no row for losses.{name}"
    for name in objectives.NAMES:
        # What has no row yet has its equation in its docstring.
        said = f"`objectives.{name}`" in text or "``" in (getattr(objectives, name).__doc__ or "")
        assert said, f"rlhf_jax/objectives/{name}.py has no equation in its docstring, and docs/math.md no row for it"
    for name, page in SECTIONS.items():
        assert f"`objectives.{name}`" in text, f"docs/math.md has no row for objectives.{name}, {page.name} a section"


def test_the_objective_of_the_index_is_sound(quick_models):
    page = ROOT / "docs/objectives/index.md"
    examples = doctest.DocTestParser().get_examples(page.read_text())
    namespace: dict[str, Any] = {}
    for example in examples:
        exec(example.source, namespace)
    for name in testing.check_objective(namespace["shorter_dpo"]):
        assert re.search(rf"^\| [^|]*\b{re.escape(name)}\b[^|]*\|", page.read_text(), flags=re.M), f"no row for {name}"


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_no_fence_is_taken_for_the_output_of_an_example(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S):
        assert ">>>" not in block or block.endswith("\n\n"), f"an empty line is missing after:\n{block}"

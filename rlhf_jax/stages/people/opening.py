"""From a config to a store of pairs and the settings it is served with: made once, and gone on with afterwards."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_jax.compare.dispute import scored
from rlhf_jax.compare.errors import CompareError
from rlhf_jax.compare.items import Item, apart
from rlhf_jax.compare.packages import check_packages
from rlhf_jax.compare.pairs import read_items
from rlhf_jax.compare.sampled import one_each, two_samples
from rlhf_jax.compare.settings import Settings
from rlhf_jax.compare.store import Store
from rlhf_jax.data.order import evenly
from rlhf_jax.data.rows import Prompt, prompt_field
from rlhf_jax.runs.loading import model_digest
from rlhf_jax.runs.policy import Policy
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.stages.config import check_kind
from rlhf_jax.stages.people.config import CompareConfig
from rlhf_jax.stages.people.prompts import is_file, policy_of, prompts_to_ask
from rlhf_jax.targets import check_file

if TYPE_CHECKING:
    from rlhf_jax.compare.serve import Server


def compare(config: CompareConfig) -> Server:
    """Let people compare: serve the page beside this program, and in a notebook show it in the cell.

    Args:
        config: what is compared, by whom and how.

    Returns:
        The server: ``links`` of the raters, ``export(path)``, ``stop()``.

    Raises:
        CompareError: when the file holds other pairs, a golden item has no answer, or a package is missing.

    Example:
        >>> page = compare(CompareConfig(source="pairs.jsonl", to="said.sqlite"))  # doctest: +SKIP
    """
    check_packages()
    from rlhf_jax.compare.serve import show  # here, because it needs packages that only the page needs

    return show(*open_store(config))


def open_store(config: CompareConfig) -> tuple[Store, Settings]:
    """Make the store of a config's pairs, or open it again where it is there, and add the raters who are new.

    Args:
        config: what is compared, by whom and how.

    Returns:
        The store, and the settings to serve it with; ``tokens`` are those of raters who are new or get new links.

    Raises:
        CompareError: the store holds other pairs, or a golden item has no answer.
        RunError: a run lacks what is needed.
        DataError: a file cannot be read.
    """
    check_kind(config, CompareConfig, "compare")
    check_file(config.to, "--to")
    found = _given(config)
    settings, made_of = _settings(config), _made_of(config, found)
    to = Path(config.to)
    store = _again(to, made_of, settings) if to.exists() else _make(config, found, settings, made_of)
    if settings.next == "disputed" and all(item.dispute is None for item in store.items.values()):
        raise CompareError(f"{to} was made without a reward model, so no pair is disputed: use --next random")
    return store, dataclasses.replace(settings, tokens=_tokens(config, store), port=_port(config, store))


class _Given(NamedTuple):
    """What there is before anything is sampled."""

    items: list[Item]
    golden: list[Item]
    prompts: list[Prompt]  # none where the pairs are a file's
    templated: bool


def _given(config: CompareConfig) -> _Given:
    """Read the files of a config, and the prompts to sample for."""
    golden = read_items(config.golden, golden=True, on_bad_row=config.on_bad_row) if config.golden else []
    from_file = is_file(config.source)
    if from_file is None:
        raise CompareError(f"{config.source}: there is no such run folder or file of pairs")
    if from_file:
        if config.against:
            raise CompareError(f"--with {config.against}: {config.source} is a file of pairs, and no run; leave it out")
        items = read_items(config.source, of_k=config.of_k, on_bad_row=config.on_bad_row)
        asked = [item for item in items if item.golden is None]
        golden = [*golden, *(item for item in items if item.golden is not None)]
        return _Given(evenly(asked, config.pairs or len(asked)), golden, [], templated=False)
    prompts, templated = prompts_to_ask(config.source, config.prompts, "test", config.on_bad_row)
    if not prompts:
        raise CompareError(f"{config.prompts or config.source}: there is no prompt to sample for")
    return _Given([], golden, evenly(prompts, config.pairs or len(prompts)), templated)


def _make(config: CompareConfig, given: _Given, settings: Settings, made_of: str) -> Store:
    """Sample and score what is to be compared, and write it down."""
    items, golden, notes = apart(_sampled(config, given) if given.prompts else given.items, given.golden)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    if config.reward:
        items = scored(items, Scorer.load(config.reward))
    return Store.create(config.to, items, golden, settings, source=made_of)


def _sampled(config: CompareConfig, given: _Given) -> list[Item]:
    runs = [config.source, *filter(None, [config.against])]
    policies = [Policy.load(run) for run in runs]
    if given.templated:
        policies = [one.templated() for one in policies]
    drawn = "two responses" if len(policies) == 1 else "a response of each run"
    print(f"sampling {drawn} to each of {len(given.prompts):,} prompts", file=sys.stderr)
    if len(policies) == 1:
        return two_samples(policies[0], given.prompts, config.sampling, seed=config.seed)
    both, names = (policies[0], policies[1]), (runs[0], runs[1])
    return one_each(both, names, given.prompts, config.sampling, seed=config.seed)


def _made_of(config: CompareConfig, given: _Given) -> str:
    """Describe the pairs of a store, so that others are noticed: by content, wherever files and folders lie."""
    fields: list[Any] = [[item.id, item.golden] for item in (*given.items, *given.golden)]
    fields += [prompt_field(prompt) for prompt in given.prompts]
    if given.prompts:
        runs = filter(None, [config.source, config.against])
        fields += [_digest(run) for run in runs] + [dataclasses.asdict(config.sampling), config.seed]
    text = json.dumps(fields, sort_keys=True)
    named = " and ".join(filter(None, [config.source, config.against, config.golden]))
    return json.dumps({"is": named, "sha256": hashlib.sha256(text.encode("ascii")).hexdigest()})


def _digest(run: str) -> str:
    at = policy_of(run)
    return model_digest(str(at.path), at.stage)


def _again(to: Path, made_of: str, settings: Settings) -> Store:
    """Open a store that is there, if it holds these pairs, with the settings of now."""
    store = Store.open(to)
    was, now = (json.loads(text) for text in (store.noted("source"), made_of))
    if was["sha256"] != now["sha256"]:
        same = "what it holds now" if was["is"] == now["is"] else now["is"]
        raise CompareError(
            f"{to} holds the pairs of {was['is']}, and is to go on with other ones, from {same}: name another file "
            "with --to, or give the command that made it"
        )
    store.note("settings", settings.to_json())
    return store


def _settings(config: CompareConfig) -> Settings:
    rubric = ""
    if config.rubric:
        try:
            rubric = Path(config.rubric).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CompareError(f"--rubric {config.rubric}: expected a text file in UTF-8 ({error})") from error
    return Settings(
        next=config.next or ("disputed" if config.reward else "random"),
        calibrate=config.calibrate,
        hidden=config.hidden,
        votes=config.votes,
        seed=config.seed,
        rubric=rubric,
        round=config.round,
        host=config.host,
        port=config.port,
    )


def _tokens(config: CompareConfig, store: Store) -> dict[str, str]:
    """Add the raters who are new, and give new links where they are asked for."""
    known = {rater.name for rater in store.raters()}
    tokens = {name: store.add_rater(name) for name in config.raters if name not in known}
    if config.new_links:
        tokens |= {name: store.new_token(name) for name in config.raters if name in known}
    return tokens


def _port(config: CompareConfig, store: Store) -> int:
    """The port to serve at: the one that links have which were given out before, where none is asked for."""
    if config.port:
        store.note("port", str(config.port))
        return config.port
    if noted := store.noted("port"):
        return int(noted)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    store.note("port", str(port))
    return port

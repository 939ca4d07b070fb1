"""A name that was read from a file leads to a file of its folder or to an error, on any system."""

import pytest

from rlhf_jax.files import CheckpointError
from rlhf_jax.paths import PathError, inside


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "run"
    (made / "params").mkdir(parents=True)
    (made / "params" / "a").write_text("a")
    (tmp_path / "secret").write_text("secret")
    return made


@pytest.mark.parametrize(
    "name", ["params", "params/a", "not there", "params/new/b", "..a", "a..b", "ä", "ab:c", 255 * "x"]
)
def test_a_name_in_the_folder_is_followed(folder, name):
    assert inside(folder, name, where="x") == folder / name


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../secret", "has a part '..'"),
        ("params/../../secret", "has a part '..'"),
        ("params/..", "has a part '..'"),
        ("..", "has a part '..'"),
        ("..\\secret", "has a part '..'"),
        ("params\\..\\..\\secret", "has a part '..'"),
        (".", "has a part '.'"),
        ("./a", "has a part '.'"),
        ("a//b", "has a part ''"),
        ("a/", "has a part ''"),
        ("/etc/passwd", "is an absolute path"),
        ("\\\\server\\share", "is an absolute path"),
        ("\\a", "is an absolute path"),
        ("C:\\a", "is an absolute path"),
        ("c:a", "is an absolute path"),
        ("a\0b", "has characters that are in no name"),
        ("a\nb", "has characters that are in no name"),
        ("\ud800", "has characters that are in no name"),
        ("x" * 256, "is too long"),
        ("ä" * 128, "is too long"),
        ("", "is no name"),
        (None, "is no name"),
        (3, "is no name"),
        (["a"], "is no name"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(folder, name, fault):
    with pytest.raises(PathError) as raised:
        inside(folder, name, where="index.json: shard")
    assert str(raised.value).startswith("index.json: shard: ")
    assert fault in str(raised.value)
    assert isinstance(raised.value, CheckpointError)


def test_a_link_may_lead_about_in_the_folder_and_not_out_of_it(folder, tmp_path):
    (folder / "same").symlink_to(folder / "params" / "a")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "above").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    assert inside(folder, "same", where="x").read_text() == "a"
    for name in ("out", "above/secret"):
        with pytest.raises(PathError, match="is a link that leads out of it"):
            inside(folder, name, where="x")
    with pytest.raises(PathError):
        inside(folder, "loop/a", where="x")


def test_a_folder_that_is_a_link_itself_is_the_users_choice(folder, tmp_path):
    (tmp_path / "short").symlink_to(folder)
    assert inside(tmp_path / "short", "params/a", where="x").read_text() == "a"


def test_a_snapshot_of_the_hubs_cache_holds_links_to_its_blobs(tmp_path):
    """``models--org--name/snapshots/REVISION/file`` leads to ``../../blobs/HASH``, as the hub's client writes it."""
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    blobs = tmp_path / "models--org--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1234").write_text("weights")
    (tmp_path / "secret").write_text("secret")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1234")
    (snapshot / "out").symlink_to("../../../secret")
    assert inside(snapshot, "model.safetensors", where="x").read_text() == "weights"
    with pytest.raises(PathError, match="leads out of it"):
        inside(snapshot, "out", where="x")

"""A folder in the temporary folder that somebody else may have made first."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from embed_ops.encoders.hub.fetching import once_per_node
from embed_ops.errors import StorageError
from embed_ops.storage.private import private_folder, write_private


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the temporary folder be the test's own; gives the user's folder in it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"embed-ops-{os.getuid()}"


def test_it_is_made_for_its_user(folder: Path) -> None:
    """It is made closed, and found again."""
    before = os.umask(0)
    try:
        assert private_folder() == folder == private_folder()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("what", ["link", "dangling link", "file", "open", "open to a group"])
def test_what_somebody_else_can_have_made(what: str, folder: Path, tmp_path: Path) -> None:
    """A link, a file, a folder that others may write to: nothing is locked or read there."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    if "link" in what:
        folder.symlink_to(tmp_path / ("none" if "dangling" in what else "elsewhere"))
    elif what == "file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o777 if what == "open" else 0o770)
    with pytest.raises(StorageError, match=r"set TMPDIR to"):
        once_per_node("key", lambda: None, lambda: Path())
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (tmp_path / "none").exists()


def test_another_users(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of another user is refused, and the sentence says whose it is."""
    owner = os.getuid()
    folder.mkdir(mode=0o700)
    folder.rename(folder.with_name(f"embed-ops-{owner + 1}"))
    monkeypatch.setattr("os.getuid", lambda: owner + 1)
    with pytest.raises(StorageError, match=f"belongs to user {owner} and not to {owner + 1}"):
        private_folder()


def test_a_link_inside_is_not_followed(folder: Path, tmp_path: Path) -> None:
    """A file that is a link is not written through, whoever has put it there."""
    precious = tmp_path / "precious"
    precious.write_text("x")
    (private_folder() / "a.failed").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        write_private(folder / "a.failed", "y")
    write_private(folder / "b.failed", "y")
    assert precious.read_text() == "x"
    assert stat.S_IMODE((folder / "b.failed").stat().st_mode) == 0o600

"""The directory that minifo does not trust: which descriptors of directories beneath it stay open, and for how long."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from minifo.engine.store.confined_dir import ConfinedDir
from tests.shared.overlay_sandbox import OverlaySandbox


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[ConfinedDir]:
    """A directory with a file in a/b, and one beside a."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"old")
    (tmp_path / "beside").touch()
    with closing(ConfinedDir(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))) as found:
        yield found


def _directories(top: Path) -> dict[int, str]:
    """The directories beneath *top* that this process has open, by descriptor."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        if target.startswith(f"{top}/") and os.path.isdir(target):
            found[int(name)] = target
    return found


def _read(directory: ConfinedDir, name: str) -> bytes:
    fd = directory.open(name, os.O_RDONLY)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def test_a_renamed_directory_is_opened_again(directory: ConfinedDir, tmp_path: Path) -> None:
    """A path leads to what has that path now, and not to what had it when its directory was opened."""
    assert _read(directory, "a/b/file") == b"old"
    directory.rename("a", "away")
    assert _read(directory, "away/b/file") == b"old"
    with pytest.raises(FileNotFoundError):
        directory.open("a/b/file", os.O_RDONLY)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"new")
    assert _read(directory, "a/b/file") == b"new"


def test_a_renamed_file_closes_no_directory(directory: ConfinedDir, tmp_path: Path) -> None:
    """Whoever holds a directory still has it."""
    fd, _ = directory.at("a/b/file")
    directory.rename("beside", "renamed")
    assert _directories(tmp_path) == {fd: str(tmp_path / "a" / "b")}
    assert (tmp_path / "renamed").exists()


def test_a_backup_in_a_thread_closes_no_directory(sandbox: OverlaySandbox) -> None:
    """Meanwhile the engine's thread opens, makes and deletes objects: it may be about to use any of its directories."""
    sandbox.create("file", b"content" * 1000)
    sandbox.ov.commits.run()
    before = _directories(sandbox.sto)
    assert before, "the directory of the object is open"
    thread = threading.Thread(target=lambda: sandbox.ov.commits.backup.write(in_thread=True))
    thread.start()
    thread.join()
    assert (sandbox.sto / "minifo.names").stat().st_size
    assert _directories(sandbox.sto) == before

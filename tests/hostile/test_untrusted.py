"""A storage that others may write to is refused at every door, and with untrusted_sto only read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.hostile_storage import DOORS, LARGE, HostileStorage

SOMEBODY = 1000


def _everybody(path: Path) -> None:
    path.chmod(0o777)


def _group(path: Path) -> None:
    os.chown(path, 0, 100)
    path.chmod(0o775)


def _acl(path: Path) -> None:
    """Root's group may not, but somebody named may: the bits of the group are the mask's."""
    path.chmod(0o770)
    entries = [(1, 7, 0xFFFF_FFFF), (2, 7, SOMEBODY), (4, 5, 0xFFFF_FFFF), (16, 7, 0xFFFF_FFFF), (32, 0, 0xFFFF_FFFF)]
    value = (2).to_bytes(4, "little")
    for tag, permissions, number in entries:
        value += tag.to_bytes(2, "little") + permissions.to_bytes(2, "little") + number.to_bytes(4, "little")
    os.setxattr(path, "system.posix_acl_access", value)


def _database(path: Path) -> None:
    (path / "minifo.db").chmod(0o666)


def _log(path: Path) -> None:
    (path / "minifo.db-wal").touch()
    os.chown(path / "minifo.db-wal", SOMEBODY, SOMEBODY)


OPEN: dict[str, Callable[[Path], None]] = {
    "everybody": _everybody,
    "group": _group,
    "acl": _acl,
    "database": _database,
    "log": _log,
    "owner": lambda path: os.chown(path, SOMEBODY, SOMEBODY),
}


@pytest.mark.parametrize("door", [door for door in DOORS if door != "restore"])
@pytest.mark.parametrize("how", OPEN)
def test_refused(hostile: HostileStorage, how: str, door: str) -> None:
    """One line, the next step, and nothing changed; but fsck looks at a user's storage, as that user."""
    OPEN[how](hostile.storage)
    before = _fingerprint(hostile.storage)
    if how == "owner" and door in ("check", "repair"):
        hostile.go_through(door)  # the user's files are root's here, so it cannot read them
    else:
        assert hostile.go_through(door) in (1, 2, 8, 32)
    assert _fingerprint(hostile.storage) == before
    assert not hostile.out.exists()


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o775, 0o2775])
def test_ordinary_modes_are_taken(hostile: HostileStorage, mode: int) -> None:
    """Root's own directory, also where root's group may write."""
    hostile.storage.chmod(mode)
    assert hostile.mount() == 0


@pytest.mark.parametrize("how", OPEN)
def test_untrusted_is_read_only(hostile: HostileStorage, how: str) -> None:
    """It shows what is there, without set-id programs and devices, and nothing is written to storage."""
    OPEN[how](hostile.storage)
    before = _fingerprint(hostile.storage)
    words = f"base={hostile.base},sto={hostile.storage},untrusted_sto,rw,suid,dev"
    done = hostile.run("minifo", "mount", "-o", words, hostile.mountpoint)
    assert done.returncode == 0, done.stderr.decode()
    flags = os.statvfs(hostile.mountpoint).f_flag
    assert flags & os.ST_RDONLY
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV
    assert (hostile.mountpoint / "large").read_bytes() == b"l" * LARGE
    assert (hostile.mountpoint / "renamed").read_bytes() == b"moved\n"
    with pytest.raises(OSError, match="Read-only"):
        (hostile.mountpoint / "made").touch()
    hostile.clear()
    assert _fingerprint(hostile.storage) == before


def test_rescue_of_an_untrusted_storage_is_harmless(hostile: HostileStorage) -> None:
    """Plain files come out whole; set-id bits and devices do not."""
    hostile.sql(
        f"UPDATE inode SET mode = {0o104755} WHERE ino = {{/large}}",
        f"UPDATE inode SET mode = {0o020666}, object = NULL, rdev = 261 WHERE ino = {{/second}}",
    )
    os.chown(hostile.storage, SOMEBODY, SOMEBODY)
    words = ("--untrusted-sto", "--base", hostile.base, "--rescue", hostile.out, hostile.storage)
    assert hostile.run("minifo-fsck", *words).returncode == 4
    st = (hostile.out / "large").stat()
    assert (st.st_size, stat.S_IMODE(st.st_mode)) == (LARGE, 0o755)
    assert not (hostile.out / "second").exists()


def test_plan_of_an_untrusted_storage(hostile: HostileStorage) -> None:
    """What a merge would do may be looked at; it is not done."""
    hostile.storage.chmod(0o777)
    words = ("minifo", "merge", hostile.storage, "--base", hostile.base, "--untrusted-sto")
    assert b"A /large" in hostile.run(*words).stdout
    assert hostile.run(*words, "--apply").returncode


def test_repair_by_root_is_the_owners_work(hostile: HostileStorage) -> None:
    """Root mends a user's storage with that user's rights: what lies there is theirs, and no more is reached."""
    hostile.sql("UPDATE inode SET nlink = 7 WHERE ino = {/large}")
    hostile.top.chmod(0o755)
    for path in (hostile.storage, *hostile.storage.rglob("*")):
        os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
    assert hostile.run("minifo-fsck", "-y", hostile.storage).returncode == 1
    assert {path.lstat().st_uid for path in hostile.storage.rglob("*")} == {SOMEBODY}


def _fingerprint(top: Path) -> dict[str, object]:
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_size, path.lstat().st_uid)
        for path in (top, *sorted(top.rglob("*")))
    }

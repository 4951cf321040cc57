"""Requests that are answered by a plain call, on real mounts: what must not be lost on the short road."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from minifo.engine.store.memory_directory import memory_directory
from tests.mount.mount_sandbox import (
    ACCESS,
    DEFAULT,
    USER,
    MountSandbox,
    OverlayMount,
    acl,
    attempt,
    daemon_of,
    in_child,
    run,
)
from tests.mount.unprivileged import as_user
from tests.shared.file_trees import renameat2

AT_CWD, EXCHANGE = -100, 2


def kill(overlay: OverlayMount, *, redo: bool) -> None:
    """End the daemon at once; without *redo* as a power cut does, which takes the redo log along."""
    overlay.kill()
    run("umount", "-l", "-i", overlay.mnt)
    if not redo:
        (uuid,) = (row[1] for row in overlay.rows("overlay") if row[0] == "uuid")
        for log in Path(str(memory_directory())).glob(f"{uuid}-*.redo"):
            log.unlink()


# ----------------------------------------------------------------------------------------------------------------------
# Durable before it is acknowledged


def changes(top: Path) -> Iterator[str]:
    """Changes of every kind one after the other; each yields a word when it has been acknowledged."""
    (top / "made").touch()
    yield "mknod"
    (top / "folder").mkdir()
    yield "mkdir"
    (top / "link").symlink_to("made")
    yield "symlink"
    os.link(top / "made", top / "folder/second")
    yield "link"
    (top / "doomed").unlink()
    yield "unlink"
    (top / "void").rmdir()
    yield "rmdir"
    (top / "old").rename(top / "folder/new")
    yield "rename"
    renameat2(AT_CWD, bytes(top / "one"), AT_CWD, bytes(top / "other"), EXCHANGE)
    yield "exchange"
    (top / "file").chmod(0o600)
    yield "chmod"
    os.chown(top / "file", 5, 6)
    yield "chown"
    os.utime(top / "file", ns=(-1_500_000_001, 4_102_444_800_000_000_001))
    yield "utimens"
    os.truncate(top / "long", 3)
    yield "truncate"
    with (top / "text").open("wb") as file:
        file.write(b"text")
    yield "write"  # the kernel sends what was written when the file is closed
    os.setxattr(top / "long", "user.note", b"x")
    yield "setxattr"


def state(top: Path) -> dict[str, tuple[object, ...]]:
    """What these changes show in, but for the times that they happened at."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        st = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        times = (st.st_atime_ns, st.st_mtime_ns) if path.name == "file" else ()
        notes = os.listxattr(path, follow_symlinks=False)
        found[str(path.relative_to(top))] = (st.st_mode, st.st_uid, st.st_gid, st.st_nlink, content, times, notes)
    return found


def fill(overlay: OverlayMount) -> OverlayMount:
    """Give the base what is changed above."""
    for name in ("doomed", "old", "one", "file", "long"):
        (overlay.base / name).write_bytes(name.encode())
    (overlay.base / "void").mkdir()
    (overlay.base / "other").write_bytes(b"another one")
    return overlay


def test_sync_makes_every_change_durable(sandbox: MountSandbox) -> None:
    """With ``-o sync`` daemon and redo log are lost after each kind of change, and the change is there."""
    overlay = fill(sandbox.overlay("sync", "commit=60"))
    overlay.mount()
    words = []
    for word in changes(overlay.mnt):
        words.append(word)
        before = state(overlay.mnt)
        kill(overlay, redo=False)
        overlay.mount()
        assert state(overlay.mnt) == before, word
    assert len(words) == 14
    overlay.umount()
    assert overlay.violations() == []


def test_a_killed_daemon_loses_nothing_acknowledged(sandbox: MountSandbox) -> None:
    """Without it the redo log has every change that was answered on the short road."""
    overlay = fill(sandbox.overlay("commit=60"))
    overlay.mount()
    for word in changes(overlay.mnt):
        before = state(overlay.mnt)
        kill(overlay, redo=True)
        overlay.mount()
        assert state(overlay.mnt) == before, word
    overlay.umount()
    assert overlay.violations() == []


def test_a_change_that_the_redo_log_has_no_room_for(sandbox: MountSandbox, fuse_for_all: None) -> None:
    """It is committed before it is acknowledged: the daemon is killed right after it, and it is there."""
    overlay = sandbox.overlay("commit=60")
    memory = sandbox.directory()
    sandbox.mount("-t", "tmpfs", "-o", f"size=4k,mode=700,uid={USER},gid={USER}", "none", memory)
    for path in (overlay.base, overlay.sto, overlay.mnt):
        os.chown(path, USER, USER)

    def mount() -> None:
        words = ("mount", "-o", "commit=60", "--base", overlay.base, "--sto", overlay.sto, overlay.mnt)
        assert as_user(*words, environment={"XDG_RUNTIME_DIR": str(memory)}) == 0
        overlay.pid = daemon_of(overlay.sto)

    def make(names: list[str]) -> None:
        for name in names:
            os.symlink("x" * 4000, overlay.mnt / name)  # more than the log's memory

    def targets(names: list[str]) -> list[str]:
        return [os.readlink(overlay.mnt / name) for name in names]

    mount()
    log = memory / "minifo"
    assert [path.suffix for path in log.iterdir()] == [".redo"], "the redo log is somewhere else"
    for count in (1, 2, 3):
        names = [f"{count}.{number}" for number in range(count)]
        in_child(partial(make, names), uid=USER)
        kill(overlay, redo=True)
        mount()
        assert [len(target) for target in in_child(partial(targets, names), uid=USER)] == [4000] * count

    def make_folders() -> None:
        for number in range(37):
            os.mkdir(overlay.mnt / ("d" * 240 + str(number)))

    in_child(make_folders, uid=USER)
    kill(overlay, redo=True)
    mount()
    assert len(in_child(lambda: os.listdir(overlay.mnt), uid=USER)) == 6 + 37
    assert as_user("umount", overlay.mnt) == 0


# ----------------------------------------------------------------------------------------------------------------------
# What a request must wait for


@pytest.mark.parametrize("base", [False, True])
def test_what_is_renamed_over_a_file_is_written_back_first(sandbox: MountSandbox, base: bool) -> None:
    """A new file, not synced, renamed over an old one: a daemon killed right then has all of it (promise P3)."""
    overlay = sandbox.overlay("commit=60")
    (overlay.base / "file").write_bytes(b"old")
    overlay.mount()
    data = os.urandom(3_000_000)
    target = "file" if base else "other"
    if not base:
        (overlay.mnt / target).write_bytes(b"old")
    fd = os.open(overlay.mnt / "new", os.O_CREAT | os.O_WRONLY)
    os.write(fd, data)
    os.rename(overlay.mnt / "new", overlay.mnt / target)
    kill(overlay, redo=True)
    os.close(fd)
    overlay.mount()
    assert (overlay.mnt / target).read_bytes() == data
    assert not (overlay.mnt / "new").exists()
    overlay.umount()
    assert overlay.violations() == []


def test_a_writer_hears_that_there_is_no_room(sandbox: MountSandbox) -> None:
    """Its next write(2) fails once its pages found no room, which somebody else was told."""
    overlay = sandbox.overlay("max_size=8m", "commit=60")
    overlay.mount()
    path = overlay.mnt / "file"
    path.write_bytes(b"begin")
    fd = os.open(path, os.O_WRONLY)
    assert os.pwrite(fd, bytes(16 << 20), 4096) == 16 << 20  # in the kernel's memory

    def write_back() -> None:
        os.fsync(os.open(path, os.O_WRONLY))

    assert attempt(in_child, write_back) == "ENOSPC"
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        os.pwrite(fd, b"more", 0)
    os.truncate(path, 4096)
    assert attempt(os.fsync, fd) in (None, "ENOSPC")  # what was lost before is told here as well
    assert os.pwrite(fd, b"again", 0) == 5
    os.fsync(fd)
    os.close(fd)
    assert path.read_bytes() == b"again".ljust(4096, b"\0")
    overlay.umount()
    assert overlay.violations() == []


def test_a_listing_fails_with_the_errno_of_the_base(sandbox: MountSandbox) -> None:
    """A base directory that is gone is told to be, as it is without the short road."""
    libc = ctypes.CDLL(None, use_errno=True)
    for words in ((), ("plain",)):
        overlay = sandbox.overlay(*words)
        (overlay.base / "folder").mkdir()
        overlay.mount()
        fd = os.open(overlay.mnt / "folder", os.O_RDONLY)
        (overlay.base / "folder").rmdir()
        # opendir(3) and its kin take this one for an empty directory
        assert libc.getdents64(fd, ctypes.create_string_buffer(4096), 4096) == -1
        assert ctypes.get_errno() == errno.ENOENT, errno.errorcode[ctypes.get_errno()]
        os.close(fd)


# ----------------------------------------------------------------------------------------------------------------------
# Who makes something, and where


def test_what_is_made_has_the_mode_and_group_that_it_has_elsewhere(sandbox: MountSandbox) -> None:
    """Default ACLs, umasks and set-group-ID directories, for files, nodes and directories, by root and by others."""
    overlay = sandbox.overlay()
    overlay.mount()
    twin = sandbox.directory()
    twin.chmod(0o755)
    defaults = {"none": None, "acl": acl(7, 7, 5, 7, 0), "narrow": acl(6, 4, 4, 4, 4)}

    def make(top: Path, umask: int) -> None:
        os.umask(umask)
        os.close(os.open(top / f"file{umask}", os.O_CREAT | os.O_WRONLY, 0o777))
        os.mkfifo(top / f"fifo{umask}", 0o666)
        os.mkdir(top / f"folder{umask}", 0o777)
        os.symlink("x", top / f"link{umask}")

    def look(top: Path) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(top.iterdir()):
            st = path.lstat()
            acls = [attempt(os.getxattr, path, name, follow_symlinks=False) for name in (ACCESS, DEFAULT)]
            found[path.name] = (st.st_mode, st.st_uid, st.st_gid, *([] if stat.S_ISLNK(st.st_mode) else acls))
        return found

    for (name, default), sgid, uid in itertools.product(defaults.items(), (0, stat.S_ISGID), (0, USER)):
        seen = []
        for root in (overlay.mnt, twin):
            top = root / f"{name}.{sgid}.{uid}"
            top.mkdir()
            os.chown(top, 0, 1234)
            top.chmod(0o777 | sgid)
            if default is not None:
                os.setxattr(top, DEFAULT, default)
            for umask in (0, 0o22, 0o27, 0o77):
                in_child(partial(make, top, umask), uid=uid)
            seen.append(look(top))
        assert seen[0] == seen[1], (name, sgid, uid)
        assert len(seen[0]) == 16
    overlay.umount()
    assert overlay.violations() == []

"""O_TMPFILE on a real mount: as on a plain directory, with every way to give the file a name or none."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mount_sandbox import ACCESS, DEFAULT, USER, MountSandbox, acl, attempt, watchdog
from tests.mount.parity_mount import Pair, ParityMount

_libc = ctypes.CDLL(None, use_errno=True)
_FOLLOW, _EMPTY_PATH = 0x400, 0x1000


@pytest.fixture(scope="module")
def hooked(fuse_required: None) -> Iterator[ParityMount]:
    """An overlay with the session hook, beside a plain copy of its base."""
    made = MountSandbox()
    try:
        yield ParityMount(made, plain_mode=False)
    finally:
        made.close()


@pytest.fixture
def pair(hooked: ParityMount, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two equal trees, which must be equal afterwards, too."""
    with watchdog(hooked.sandbox, 100):
        made = hooked.take(request.node.name)
        yield made
        made.compare()


def link(fd: int, name: str, *, by_number: bool = True) -> str:
    """Give an open file a name (linkat(2)), and say how that went."""
    if by_number:
        failed = _libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, os.fsencode(name), _FOLLOW)
    else:
        failed = _libc.linkat(fd, b"", -100, os.fsencode(name), _EMPTY_PATH)
    return errno.errorcode[ctypes.get_errno()] if failed else "ok"


def unnamed(where: str = ".", mode: int = 0o666, flags: int = 0) -> int:
    """Open a file without a name."""
    return os.open(where, os.O_TMPFILE | os.O_RDWR | flags, mode)


def look(fd: int) -> list[Any]:
    """What anybody can see of an open file."""
    st = os.fstat(fd)
    return [oct(st.st_mode), st.st_nlink, st.st_uid, st.st_gid, st.st_size, os.pread(fd, 100, 0), os.listxattr(fd)]


def test_named_or_not(pair: Pair) -> None:
    """Written, linked by /proc and by AT_EMPTY_PATH, linked twice, unlinked, linked again in vain; or never named."""

    def act(_: str) -> list[Any]:
        seen: list[Any] = []
        for by_number in (True, False):
            fd = unnamed("dir")
            os.write(fd, b"content")
            seen += [look(fd), sorted(os.listdir("dir")), link(fd, "a", by_number=by_number)]
            seen += [link(fd, f"new{by_number}", by_number=by_number), look(fd)]
            os.write(fd, b", and more")
            seen += [link(fd, f"dir/more{by_number}", by_number=by_number), look(fd)]
            os.unlink(f"new{by_number}")
            os.unlink(f"dir/more{by_number}")
            seen += [look(fd), link(fd, "late", by_number=by_number)]
            os.close(fd)
        kept = unnamed(".", 0o600)
        os.write(kept, b"kept")
        os.setxattr(kept, "user.note", b"kept too")
        seen += [link(kept, "kept"), Path("kept").read_bytes()]
        os.close(kept)
        private = unnamed(flags=os.O_EXCL)
        os.write(private, b"private")
        seen += [look(private), link(private, "private")]
        os.close(private)
        return [*seen, sorted(os.listdir("."))]

    pair.same(act)
    pair.remount()


def test_owner_and_mode(pair: Pair) -> None:
    """The umask, a set-group-ID directory and a default ACL count as for a file with a name."""

    def act(_: str) -> list[Any]:
        seen: list[Any] = []
        os.setxattr("inherit", DEFAULT, acl(7, 7, 5, 7, 0))
        for umask in (0, 0o027):
            os.umask(umask)
            for where in (".", "group", "inherit"):
                fd = unnamed(where, 0o2767)
                st = os.fstat(fd)
                seen += [oct(st.st_mode), st.st_gid, attempt(os.getxattr, fd, ACCESS)]
                seen.append(link(fd, f"{where}/named{umask}"))
                os.close(fd)
        return seen

    pair.same(act)
    pair.remount()


def test_refused(pair: Pair) -> None:
    """Who may not write a directory gets no file there; nor does a file hold any."""

    def act(_: str) -> list[Any]:
        seen = [attempt(unnamed, where) for where in ("a", "nothing", "dir2", "mydir/x")]
        mine = unnamed("mydir")
        seen += [link(mine, "root's"), link(mine, "mydir/mine")]
        seen.append(attempt(os.open, "mydir", os.O_TMPFILE | os.O_RDONLY))
        return seen

    pair.same(act, uid=USER)


def test_times_before_the_name(sandbox: MountSandbox) -> None:
    """What was set and written before the first name is what a new mount shows."""
    overlay = sandbox.overlay()
    overlay.mount()
    for number in range(2):
        fd = unnamed(str(overlay.mnt))
        os.write(fd, b"x" * 10_000)
        if number:
            os.utime(fd, ns=(5, 7))
        os.fchmod(fd, 0o604)
        assert link(fd, str(overlay.mnt / f"file{number}")) == "ok"
        os.close(fd)
    before = [path.stat() for path in sorted(overlay.mnt.iterdir())]
    overlay.remount()
    after = [path.stat() for path in sorted(overlay.mnt.iterdir())]
    for old, new in zip(before, after, strict=True):
        assert (new.st_mode, new.st_size, new.st_mtime_ns, new.st_ctime_ns, new.st_blocks) == (
            old.st_mode, old.st_size, old.st_mtime_ns, old.st_ctime_ns, old.st_blocks,
        )  # fmt: skip
    assert [st.st_mtime_ns == 7 for st in after] == [False, True]


@pytest.mark.parametrize("mode", ["hook", "sync"])
def test_a_kill_leaves_the_named_ones(sandbox: MountSandbox, mode: str) -> None:
    """A killed daemon loses no name that was given, and nothing without a name stays in storage."""
    overlay = sandbox.overlay(*(["sync"] if mode == "sync" else ["commit=3600"]))
    overlay.mount()
    open_files = []
    for number in range(40):
        fd = unnamed(str(overlay.mnt))
        os.write(fd, b"%d" % number * 3000)
        os.fsync(fd) if number % 4 == 0 else None
        if number % 2:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert link(fd, str(overlay.mnt / f"file{number}")) == "ok"
            os.fsync(fd)
        open_files.append(fd)
    overlay.kill()
    for fd in open_files:
        attempt(os.close, fd)
    overlay.clear()
    overlay.mount()
    names = sorted(os.listdir(overlay.mnt))
    assert names == sorted(f"file{number}" for number in range(1, 40, 2))
    assert all((overlay.mnt / name).read_bytes() == name[4:].encode() * 3000 for name in names)
    overlay.umount()
    assert overlay.violations() == []
    assert overlay.rows("orphan") == []
    assert len([row for row in overlay.rows("inode") if stat.S_ISREG(row[1])]) == 20


def test_plain_mode_says_no(sandbox: MountSandbox) -> None:
    """Without the hook there are none, and programs are told so in the way they know: then they take a name."""
    overlay = sandbox.overlay("plain")
    overlay.mount()
    for _ in range(2):
        assert attempt(unnamed, str(overlay.mnt)) == "ENOTSUP"

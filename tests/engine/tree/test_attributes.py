"""Attributes: times to the nanosecond, set-id bits, extended attributes and ACLs."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from minifo.engine import FsError, Process
from tests.shared import file_trees
from tests.shared.overlay_sandbox import OverlaySandbox

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"


@pytest.mark.parametrize("ns", [0, 1, 999_999_999, 1_700_000_000_123_456_789, 2**62, -1, -(10**18) + 1])
def test_times_to_the_nanosecond(sandbox: OverlaySandbox, ns: int) -> None:
    """Every time that is set is returned exactly, before 1970 too, and after a remount."""
    sandbox.put("f")
    sandbox.set("f", atime=ns, mtime=ns + 1)
    sandbox.reopen()
    attr = sandbox.attr("f")
    assert (attr.atime, attr.mtime) == (ns, ns + 1)


def test_base_times_to_the_nanosecond(sandbox: OverlaySandbox) -> None:
    """The base's times are returned to the nanosecond, with a row and without."""
    full = sandbox.put("f")
    os.utime(full, ns=(1_600_000_000_000_000_001, 1_600_000_000_000_000_003))
    for _ in range(2):
        attr = sandbox.attr("f")
        assert (attr.atime, attr.mtime) == (1_600_000_000_000_000_001, 1_600_000_000_000_000_003)
        sandbox.link("f", "g") if sandbox.find("g") is None else None


def test_one_time_alone(sandbox: OverlaySandbox) -> None:
    """Setting atime leaves mtime unchanged, and the reverse."""
    sandbox.put("f")
    before = sandbox.attr("f")
    sandbox.set("f", atime=7)
    assert sandbox.attr("f").mtime == before.mtime
    sandbox.set("f", mtime=8)
    assert (sandbox.attr("f").atime, sandbox.attr("f").mtime) == (7, 8)


@pytest.mark.parametrize(
    ("mode", "after"), [(0o6755, 0o755), (0o2744, 0o2744), (0o4644, 0o644), (0o6711, 0o711), (0o1777, 0o1777)]
)
def test_chown_drops_set_ids(sandbox: OverlaySandbox, mode: int, after: int) -> None:
    """chown, and a write with kill_priv, clear set-user-ID, and set-group-ID if the group may execute (chown(2))."""
    sandbox.create("f")
    for change in ({"uid": 0}, {"gid": 0}, {"kill_priv": True}, {"size": 3, "kill_priv": True}):
        sandbox.set("f", mode=mode, size=0)
        sandbox.set("f", **change)
        assert stat.S_IMODE(sandbox.attr("f").mode) == after


def test_directories_keep_set_ids(sandbox: OverlaySandbox) -> None:
    """chown of a directory keeps its set-group-ID bit."""
    sandbox.mkdir("d")
    sandbox.set("d", mode=0o2775)
    sandbox.set("d", gid=0)
    assert stat.S_IMODE(sandbox.attr("d").mode) == 0o2775


def test_group_of_a_set_group_id_directory(sandbox: OverlaySandbox) -> None:
    """A new object in a set-group-ID directory gets its group, and a new directory the bit as well (inode(7))."""
    sandbox.mkdir("d")
    sandbox.set("d", mode=0o2775, gid=4321)
    sandbox.create("d/f")
    sandbox.mkdir("d/sub")
    assert (sandbox.attr("d/f").gid, sandbox.attr("d/sub").gid) == (4321, 4321)
    assert stat.S_IMODE(sandbox.attr("d/sub").mode) == 0o2755


def test_owner_and_umask(sandbox: OverlaySandbox) -> None:
    """A new object gets the caller's uid and gid, and the caller's umask applies."""
    attr = sandbox.ov.mknod(*sandbox.split("f"), 0o666, 0, Process(12, 34, 0o027))
    assert (attr.uid, attr.gid, attr.mode) == (12, 34, stat.S_IFREG | 0o640)


@pytest.mark.root
def test_devices(sandbox: OverlaySandbox) -> None:
    """Device numbers are those of the base or of mknod; other types have none."""
    os.mknod(sandbox.base / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    sandbox.ov.mknod(*sandbox.split("big"), stat.S_IFBLK | 0o600, os.makedev(259, 70_000), sandbox.me)
    sandbox.ov.mknod(*sandbox.split("pipe"), stat.S_IFIFO | 0o600, os.makedev(1, 3), sandbox.me)
    sandbox.set("null", mode=0o600)
    sandbox.reopen()
    assert sandbox.attr("null").rdev == os.makedev(1, 3)
    assert sandbox.attr("big").rdev == os.makedev(259, 70_000)
    assert sandbox.attr("pipe").rdev == 0


def test_link_counts_of_directories(sandbox: OverlaySandbox) -> None:
    """A directory's link count is that of its subdirectories, those of the base and created ones."""
    (sandbox.base / "d" / "a").mkdir(parents=True)
    (sandbox.base / "e").mkdir()
    if (sandbox.base / "d").stat().st_nlink != 3:
        pytest.skip("this file system does not count subdirectories")
    sandbox.mkdir("d/b")
    assert sandbox.attr("d").nlink == 4
    sandbox.rename("d/a", "e/a")
    assert (sandbox.attr("d").nlink, sandbox.attr("e").nlink) == (3, 3)
    sandbox.rmdir("e/a")
    sandbox.reopen()
    assert (sandbox.attr("d").nlink, sandbox.attr("e").nlink) == (3, 2)


# -- extended attributes


def test_base_attributes_are_taken_over(sandbox: OverlaySandbox) -> None:
    """The first change of a base object copies all its attributes into rows; only the changed one differs."""
    full = sandbox.put("f")
    os.setxattr(full, "user.a", b"1")
    os.setxattr(full, "user.b", b"\0\xff")
    ino = sandbox.ino("f")
    sandbox.ov.setxattr(ino, b"user.c", b"")
    sandbox.ov.removexattr(ino, b"user.a")
    sandbox.reopen()
    assert sorted(sandbox.ov.listxattr(sandbox.ino("f"))) == [b"user.b", b"user.c"]
    assert sandbox.ov.getxattr(sandbox.ino("f"), b"user.b") == b"\0\xff"
    assert os.getxattr(full, "user.a") == b"1"


def test_extended_attribute_errnos(sandbox: OverlaySandbox) -> None:
    """setxattr, getxattr and removexattr fail with the errnos of their man pages, and leave no row."""
    sandbox.put("f")
    ino = sandbox.ino("f")
    ov = sandbox.ov
    for code, action in (
        (errno.ENODATA, lambda: ov.getxattr(ino, b"user.x")),
        (errno.ENODATA, lambda: ov.removexattr(ino, b"user.x")),
        (errno.EOPNOTSUPP, lambda: ov.removexattr(ino, b"odd.x")),
        (errno.ENODATA, lambda: ov.setxattr(ino, b"user.x", b"", os.XATTR_REPLACE)),
        (errno.ERANGE, lambda: ov.setxattr(ino, b"user." + b"x" * 251, b"")),
        (errno.E2BIG, lambda: ov.setxattr(ino, b"user.x", bytes(65_537))),
        (errno.EINVAL, lambda: ov.setxattr(ino, ACCESS, b"\2\0\0\0xyz")),
        (errno.EINVAL, lambda: ov.setxattr(ino, ACCESS, file_trees.UNMASKED_ACL)),
        (errno.EOPNOTSUPP, lambda: ov.setxattr(ino, ACCESS, file_trees.OLD_ACL)),
        (errno.EACCES, lambda: ov.setxattr(ino, DEFAULT, file_trees.NAMED_ACL)),
    ):
        with pytest.raises(FsError) as caught:
            action()
        assert caught.value.errno == code
    assert sandbox.rows("inode") == sandbox.rows("xattr") == 0
    ov.setxattr(ino, b"user.x", bytes(65_536))
    with pytest.raises(FsError) as caught:
        ov.setxattr(ino, b"user.x", b"", os.XATTR_CREATE)
    assert caught.value.errno == errno.EEXIST


def test_list_of_names_is_bounded(sandbox: OverlaySandbox) -> None:
    """An extended attribute is refused if listxattr(2) could not return all names any more."""
    ino = sandbox.create("f")
    for index in range(256):
        sandbox.ov.setxattr(ino, b"user.%0250d" % index, b"")
    with pytest.raises(FsError) as caught:
        sandbox.ov.setxattr(ino, b"user.one-more", b"")
    assert caught.value.errno == errno.ENOSPC
    assert sum(len(name) + 1 for name in sandbox.ov.listxattr(ino)) <= 65_536


# -- ACLs


def test_acl_and_mode_follow_each_other(sandbox: OverlaySandbox) -> None:
    """Setting an ACL changes the mode, chmod changes the ACL, and an ACL equal to the mode is not stored."""
    ino = sandbox.create("f")
    sandbox.ov.setxattr(ino, ACCESS, file_trees.NAMED_ACL)
    assert stat.S_IMODE(sandbox.attr("f").mode) == 0o771
    sandbox.set("f", mode=0o640)
    masked = file_trees.acl(
        (1, 6, -1 % 2**32), (2, 5, 1000), (4, 5, -1 % 2**32), (16, 4, -1 % 2**32), (32, 0, -1 % 2**32)
    )
    assert sandbox.ov.getxattr(ino, ACCESS) == masked
    sandbox.ov.setxattr(ino, ACCESS, file_trees.MINIMAL_ACL)
    assert sandbox.ov.listxattr(ino) == []
    assert stat.S_IMODE(sandbox.attr("f").mode) == 0o640


def test_default_acl_is_inherited(sandbox: OverlaySandbox) -> None:
    """A new object in a directory with a default ACL gets that ACL, and the umask does not apply."""
    sandbox.mkdir("d")
    sandbox.ov.setxattr(sandbox.ino("d"), DEFAULT, file_trees.NAMED_ACL)
    attr = sandbox.ov.mknod(*sandbox.split("d/f"), 0o666, 0, Process(0, 0, 0o077))
    assert stat.S_IMODE(attr.mode) == 0o660
    sandbox.mkdir("d/sub")
    assert sandbox.ov.getxattr(sandbox.ino("d/sub"), DEFAULT) == file_trees.NAMED_ACL
    sandbox.ov.symlink(*sandbox.split("d/l"), b"f", sandbox.me)
    assert sandbox.ov.listxattr(sandbox.ino("d/l")) == []
    sandbox.ov.removexattr(sandbox.ino("d"), DEFAULT)
    assert stat.S_IMODE(sandbox.ov.mknod(*sandbox.split("d/g"), 0o666, 0, Process(0, 0, 0o077)).mode) == 0o600


def test_removing_an_acl_that_is_not_there(sandbox: OverlaySandbox) -> None:
    """Removing an ACL that does not exist succeeds."""
    ino = sandbox.create("f")
    sandbox.ov.removexattr(ino, ACCESS)
    sandbox.ov.removexattr(ino, DEFAULT)

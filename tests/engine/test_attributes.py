"""Attributes: times to the nanosecond, set-id bits, extended attributes and ACLs."""

from __future__ import annotations

import errno
import os
import stat

import pytest
import support
from lab import Lab

from minifo.engine import FsError, Process

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"


@pytest.mark.parametrize("ns", [0, 1, 999_999_999, 1_700_000_000_123_456_789, 2**62, -1, -(10**18) + 1])
def test_times_to_the_nanosecond(lab: Lab, ns: int) -> None:
    """Every time that can be set comes back exactly, before 1970 too, after a remount as well."""
    lab.put("f")
    lab.set("f", atime=ns, mtime=ns + 1)
    lab.reopen()
    attr = lab.attr("f")
    assert (attr.atime, attr.mtime) == (ns, ns + 1)


def test_base_times_to_the_nanosecond(lab: Lab) -> None:
    """The base's own times are passed on whole, with a row or without."""
    full = lab.put("f")
    os.utime(full, ns=(1_600_000_000_000_000_001, 1_600_000_000_000_000_003))
    for _ in range(2):
        attr = lab.attr("f")
        assert (attr.atime, attr.mtime) == (1_600_000_000_000_000_001, 1_600_000_000_000_000_003)
        lab.link("f", "g") if lab.find("g") is None else None


def test_one_time_alone(lab: Lab) -> None:
    """Setting one time leaves the other."""
    lab.put("f")
    before = lab.attr("f")
    lab.set("f", atime=7)
    assert lab.attr("f").mtime == before.mtime
    lab.set("f", mtime=8)
    assert (lab.attr("f").atime, lab.attr("f").mtime) == (7, 8)


@pytest.mark.parametrize(
    ("mode", "after"), [(0o6755, 0o755), (0o2744, 0o2744), (0o4644, 0o644), (0o6711, 0o711), (0o1777, 0o1777)]
)
def test_chown_drops_set_ids(lab: Lab, mode: int, after: int) -> None:
    """chown drops set-user-ID, and set-group-ID where the group may execute (chown(2)); so does a write that asks."""
    lab.create("f")
    for change in ({"uid": 0}, {"gid": 0}, {"kill_priv": True}, {"size": 3, "kill_priv": True}):
        lab.set("f", mode=mode, size=0)
        lab.set("f", **change)
        assert stat.S_IMODE(lab.attr("f").mode) == after


def test_directories_keep_set_ids(lab: Lab) -> None:
    """A directory's set-group-ID bit is no privilege and stays through chown."""
    lab.mkdir("d")
    lab.set("d", mode=0o2775)
    lab.set("d", gid=0)
    assert stat.S_IMODE(lab.attr("d").mode) == 0o2775


def test_group_of_a_set_group_id_directory(lab: Lab) -> None:
    """What is made in a set-group-ID directory gets its group, and a directory the bit as well (inode(7))."""
    lab.mkdir("d")
    lab.set("d", mode=0o2775, gid=4321)
    lab.create("d/f")
    lab.mkdir("d/sub")
    assert (lab.attr("d/f").gid, lab.attr("d/sub").gid) == (4321, 4321)
    assert stat.S_IMODE(lab.attr("d/sub").mode) == 0o2755


def test_owner_and_umask(lab: Lab) -> None:
    """A new object belongs to its maker, and the maker's umask counts."""
    attr = lab.ov.mknod(*lab.split("f"), 0o666, 0, Process(12, 34, 0o027))
    assert (attr.uid, attr.gid, attr.mode) == (12, 34, stat.S_IFREG | 0o640)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make devices in the base")
def test_devices(lab: Lab) -> None:
    """Device numbers come through, from the base and from mknod; other types have none."""
    os.mknod(lab.base / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    lab.ov.mknod(*lab.split("big"), stat.S_IFBLK | 0o600, os.makedev(259, 70_000), lab.me)
    lab.ov.mknod(*lab.split("pipe"), stat.S_IFIFO | 0o600, os.makedev(1, 3), lab.me)
    lab.set("null", mode=0o600)
    lab.reopen()
    assert lab.attr("null").rdev == os.makedev(1, 3)
    assert lab.attr("big").rdev == os.makedev(259, 70_000)
    assert lab.attr("pipe").rdev == 0


def test_link_counts_of_directories(lab: Lab) -> None:
    """A directory's link count follows its subdirectories, in the base and above it."""
    (lab.base / "d" / "a").mkdir(parents=True)
    (lab.base / "e").mkdir()
    if (lab.base / "d").stat().st_nlink != 3:
        pytest.skip("this file system does not count subdirectories")
    lab.mkdir("d/b")
    assert lab.attr("d").nlink == 4
    lab.rename("d/a", "e/a")
    assert (lab.attr("d").nlink, lab.attr("e").nlink) == (3, 3)
    lab.rmdir("e/a")
    lab.reopen()
    assert (lab.attr("d").nlink, lab.attr("e").nlink) == (3, 2)


# -- extended attributes


def test_base_attributes_are_taken_over(lab: Lab) -> None:
    """The first change copies all of the base's attributes into rows; the others stay as they were."""
    full = lab.put("f")
    os.setxattr(full, "user.a", b"1")
    os.setxattr(full, "user.b", b"\0\xff")
    ino = lab.ino("f")
    lab.ov.setxattr(ino, b"user.c", b"")
    lab.ov.removexattr(ino, b"user.a")
    lab.reopen()
    assert sorted(lab.ov.listxattr(lab.ino("f"))) == [b"user.b", b"user.c"]
    assert lab.ov.getxattr(lab.ino("f"), b"user.b") == b"\0\xff"
    assert os.getxattr(full, "user.a") == b"1"


def test_extended_attribute_errnos(lab: Lab) -> None:
    """The errnos of setxattr(2) and its siblings; a failed call leaves no row."""
    lab.put("f")
    ino = lab.ino("f")
    ov = lab.ov
    for code, action in (
        (errno.ENODATA, lambda: ov.getxattr(ino, b"user.x")),
        (errno.ENODATA, lambda: ov.removexattr(ino, b"user.x")),
        (errno.EOPNOTSUPP, lambda: ov.removexattr(ino, b"odd.x")),
        (errno.ENODATA, lambda: ov.setxattr(ino, b"user.x", b"", os.XATTR_REPLACE)),
        (errno.ERANGE, lambda: ov.setxattr(ino, b"user." + b"x" * 251, b"")),
        (errno.E2BIG, lambda: ov.setxattr(ino, b"user.x", bytes(65_537))),
        (errno.EINVAL, lambda: ov.setxattr(ino, ACCESS, b"\2\0\0\0xyz")),
        (errno.EINVAL, lambda: ov.setxattr(ino, ACCESS, support.UNMASKED_ACL)),
        (errno.EOPNOTSUPP, lambda: ov.setxattr(ino, ACCESS, support.OLD_ACL)),
        (errno.EACCES, lambda: ov.setxattr(ino, DEFAULT, support.NAMED_ACL)),
    ):
        with pytest.raises(FsError) as caught:
            action()
        assert caught.value.errno == code
    assert lab.rows("inode") == lab.rows("xattr") == 0
    ov.setxattr(ino, b"user.x", bytes(65_536))
    with pytest.raises(FsError) as caught:
        ov.setxattr(ino, b"user.x", b"", os.XATTR_CREATE)
    assert caught.value.errno == errno.EEXIST


def test_list_of_names_is_bounded(lab: Lab) -> None:
    """More names than listxattr(2) can return are refused."""
    ino = lab.create("f")
    for index in range(256):
        lab.ov.setxattr(ino, b"user.%0250d" % index, b"")
    with pytest.raises(FsError) as caught:
        lab.ov.setxattr(ino, b"user.one-more", b"")
    assert caught.value.errno == errno.ENOSPC
    assert sum(len(name) + 1 for name in lab.ov.listxattr(ino)) <= 65_536


# -- ACLs


def test_acl_and_mode_follow_each_other(lab: Lab) -> None:
    """Setting an ACL changes the mode, chmod changes the ACL, and one that says what the mode says is not kept."""
    ino = lab.create("f")
    lab.ov.setxattr(ino, ACCESS, support.NAMED_ACL)
    assert stat.S_IMODE(lab.attr("f").mode) == 0o771
    lab.set("f", mode=0o640)
    masked = support.acl((1, 6, -1 % 2**32), (2, 5, 1000), (4, 5, -1 % 2**32), (16, 4, -1 % 2**32), (32, 0, -1 % 2**32))
    assert lab.ov.getxattr(ino, ACCESS) == masked
    lab.ov.setxattr(ino, ACCESS, support.MINIMAL_ACL)
    assert lab.ov.listxattr(ino) == []
    assert stat.S_IMODE(lab.attr("f").mode) == 0o640


def test_default_acl_is_inherited(lab: Lab) -> None:
    """What is made in a directory with a default ACL gets it, instead of the umask."""
    lab.mkdir("d")
    lab.ov.setxattr(lab.ino("d"), DEFAULT, support.NAMED_ACL)
    attr = lab.ov.mknod(*lab.split("d/f"), 0o666, 0, Process(0, 0, 0o077))
    assert stat.S_IMODE(attr.mode) == 0o660
    lab.mkdir("d/sub")
    assert lab.ov.getxattr(lab.ino("d/sub"), DEFAULT) == support.NAMED_ACL
    lab.ov.symlink(*lab.split("d/l"), b"f", lab.me)
    assert lab.ov.listxattr(lab.ino("d/l")) == []
    lab.ov.removexattr(lab.ino("d"), DEFAULT)
    assert stat.S_IMODE(lab.ov.mknod(*lab.split("d/g"), 0o666, 0, Process(0, 0, 0o077)).mode) == 0o600


def test_removing_an_acl_that_is_not_there(lab: Lab) -> None:
    """It is as good as removed."""
    ino = lab.create("f")
    lab.ov.removexattr(ino, ACCESS)
    lab.ov.removexattr(ino, DEFAULT)

"""The base view: confined beneath the base, mounts shown as the rule says, and nothing written ever."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import support
from lab import Lab

from minifo.engine.store.base_view import BaseView

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
CLONE = [pytest.param(True, marks=needs_root, id="clone"), pytest.param(False, id="confined")]


@pytest.fixture(params=CLONE)
def clone(request: pytest.FixtureRequest) -> bool:
    """Both ways to read a base."""
    return bool(request.param)


@pytest.fixture
def mounted(lab: Lab) -> Iterator[Path]:
    """A tmpfs mounted over a directory of the base that is not empty."""
    lab.put("mnt/below")
    point = lab.base / "mnt"
    subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True)
    try:
        (point / "above").touch()
        other = lab.base / "mnt2"
        other.mkdir()
        subprocess.run(["mount", "--bind", point, other], check=True)
        yield point
    finally:
        subprocess.run(["umount", "-q", point, lab.base / "mnt2"], check=True)


def test_reads(lab: Lab, clone: bool) -> None:
    """Names, attributes, bytes, targets and extended attributes are the base's own."""
    full = lab.put("d/f", b"bytes")
    os.symlink("f", lab.base / "d" / "l")
    os.setxattr(full, "user.x", b"1")
    view = BaseView(str(lab.base), clone=clone)
    assert view.cloned == clone
    assert sorted(view.names(b"/d")) == [b"f", b"l"]
    assert view.stat(b"/d/f") == os.lstat(full)
    assert os.pread(view.file(b"/d/f"), 10, 0) == b"bytes"
    assert view.readlink(b"/d/l") == b"f"
    assert view.listxattr(b"/d/f") == [b"user.x"]
    assert view.getxattr(b"/d/f", b"user.x") == b"1"
    view.close()


def test_symlinks_do_not_lead_out(lab: Lab, clone: bool) -> None:
    """A symlink in the middle of a path, to outside or not, is refused: it is no directory of the base."""
    lab.put("d/f")
    outside = lab.base.with_name("outside")
    outside.mkdir()
    (outside / "secret").touch()
    os.symlink(outside, lab.base / "out")
    os.symlink("../..", lab.base / "up")
    os.symlink("d", lab.base / "in")
    view = BaseView(str(lab.base), clone=clone)
    for path in (b"/out/secret", b"/up/outside/secret", b"/in/f"):
        assert failure(view.stat, path) in (errno.ELOOP, errno.ENOTDIR)
    assert failure(view.file, b"/out") == errno.EINVAL
    assert stat.S_ISLNK(view.stat(b"/out").st_mode)
    view.close()


def test_dots_do_not_lead_out(lab: Lab, clone: bool) -> None:
    """No ``..`` leaves the base."""
    lab.put("d/f")
    view = BaseView(str(lab.base), clone=clone)
    assert failure(view.file, b"/../sto") == errno.ENOENT
    assert failure(view.stat, b"/d/../../sto/x") == errno.ENOENT
    view.close()


def failure(action: Callable[[bytes], object], path: bytes) -> int | None:
    """The errno of an action that must fail."""
    try:
        action(path)
    except OSError as error:
        return error.errno
    raise AssertionError(f"{path!r} was let through")


@needs_root
def test_mount_point_is_empty_when_confined(lab: Lab, mounted: Path) -> None:
    """Without a clone a mount within the base shows as an empty directory, and is never entered."""
    lab.open(clone=False)
    assert lab.names("mnt") == []
    assert stat.S_ISDIR(lab.attr("mnt").mode)
    assert lab.find("mnt/above") is None
    assert lab.find("mnt/below") is None
    lab.create("mnt/new", b"new")
    assert lab.names("mnt") == ["new"]
    lab.reopen(clone=False)
    assert lab.read("mnt/new") == b"new"
    assert len({lab.ino(path) for path in ("", "mnt", "mnt2", "mnt/new")}) == 4


@needs_root
def test_mount_point_shows_what_lies_below_in_a_clone(lab: Lab, mounted: Path) -> None:
    """With a clone only the file system named as base counts, as mini_fo had it."""
    assert lab.names("mnt") == ["below"]
    assert lab.read("mnt/below") == b"base"


@needs_root
def test_clone_cannot_be_written(lab: Lab) -> None:
    """The kernel itself refuses to write through the view."""
    lab.put("f")
    view = BaseView(str(lab.base))
    with pytest.raises(OSError, match="Read-only"):
        os.open(b"/proc/self/fd/%d/f" % view._root, os.O_WRONLY)
    view.close()


@needs_root
def test_nothing_of_the_base_changes(tmp_path: Path, clone: bool) -> None:
    """Reading everything, and changing everything above it, leaves the base as it was, access times included."""
    lab = Lab(tmp_path)
    lab.base.rmdir()
    support.build_base(lab.base)
    before = support.fingerprint(lab.base)
    lab.open(clone=clone)
    for directory in ("", "a", "a/b", "a/b/c", "sgid", "acl", "empty"):
        for name in lab.names(directory):
            path = os.path.join(directory, name)
            attr = lab.attr(path)
            lab.ov.listxattr(lab.ino(path))
            if stat.S_ISLNK(attr.mode):
                lab.ov.readlink(lab.ino(path))
            elif stat.S_ISREG(attr.mode):
                lab.read(path)
                lab.write(path, b"new", 3)
                lab.set(path, size=2, mode=0o600)
            lab.ov.setxattr(lab.ino(path), b"trusted.x", b"1")
    lab.rename("a", "moved")
    lab.unlink("big")
    lab.close()
    assert support.fingerprint(lab.base) == before


def test_unreadable_base(lab: Lab) -> None:
    """A base directory that vanishes while open gives an errno, not a crash."""
    lab.put("d/f")
    ino = lab.ino("d")
    (lab.base / "d" / "f").unlink()
    (lab.base / "d").rmdir()
    assert lab.ov.lookup(ino, b"f") is None
    assert lab.find("d") is None

"""The base view: confined beneath the base, with mount points as specified, and without any write."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minifo.engine.store.base_view import BaseView
from tests.shared import file_trees
from tests.shared.overlay_sandbox import OverlaySandbox

CLONE = [pytest.param(True, marks=pytest.mark.root, id="clone"), pytest.param(False, id="confined")]


@pytest.fixture(params=CLONE)
def clone(request: pytest.FixtureRequest) -> bool:
    """Both ways to read a base: through a mount clone, and with openat2."""
    return bool(request.param)


@pytest.fixture
def mounted(sandbox: OverlaySandbox) -> Iterator[Path]:
    """Mount a tmpfs over a directory of the base that is not empty; return the directory."""
    sandbox.put("mnt/below")
    point = sandbox.base / "mnt"
    subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True)
    try:
        (point / "above").touch()
        other = sandbox.base / "mnt2"
        other.mkdir()
        subprocess.run(["mount", "--bind", point, other], check=True)
        yield point
    finally:
        subprocess.run(["umount", "-q", point, sandbox.base / "mnt2"], check=True)


def test_reads(sandbox: OverlaySandbox, clone: bool) -> None:
    """The view returns the base's own names, attributes, bytes, symlink targets and extended attributes."""
    full = sandbox.put("d/f", b"bytes")
    os.symlink("f", sandbox.base / "d" / "l")
    os.setxattr(full, "user.x", b"1")
    view = BaseView(str(sandbox.base), clone=clone)
    assert view.cloned == clone
    assert sorted(view.names(b"/d")) == [b"f", b"l"]
    assert view.listing(b"/d") == {b"f": False, b"l": False}
    assert view.listing(b"/") == {b"d": True}
    assert view.stat(b"/d/f") == os.lstat(full)
    assert os.pread(view.file(b"/d/f"), 10, 0) == b"bytes"
    assert view.readlink(b"/d/l") == b"f"
    assert view.listxattr(b"/d/f") == [b"user.x"]
    assert view.getxattr(b"/d/f", b"user.x") == b"1"
    view.close()


def test_symlinks_do_not_lead_out(sandbox: OverlaySandbox, clone: bool) -> None:
    """A symlink within a path is refused, whether it leads out of the base or not."""
    sandbox.put("d/f")
    outside = sandbox.base.with_name("outside")
    outside.mkdir()
    (outside / "secret").touch()
    os.symlink(outside, sandbox.base / "out")
    os.symlink("../..", sandbox.base / "up")
    os.symlink("d", sandbox.base / "in")
    view = BaseView(str(sandbox.base), clone=clone)
    for path in (b"/out/secret", b"/up/outside/secret", b"/in/f"):
        assert failure(view.stat, path) in (errno.ELOOP, errno.ENOTDIR)
    assert failure(view.file, b"/out") == errno.EINVAL
    assert stat.S_ISLNK(view.stat(b"/out").st_mode)
    view.close()


def test_dots_do_not_lead_out(sandbox: OverlaySandbox, clone: bool) -> None:
    """A path with ``..`` does not leave the base."""
    sandbox.put("d/f")
    view = BaseView(str(sandbox.base), clone=clone)
    assert failure(view.file, b"/../sto") == errno.ENOENT
    assert failure(view.stat, b"/d/../../sto/x") == errno.ENOENT
    view.close()


def failure(action: Callable[[bytes], object], path: bytes) -> int | None:
    """Return the errno of an action that must fail."""
    try:
        action(path)
    except OSError as error:
        return error.errno
    raise AssertionError(f"{path!r} was let through")


@pytest.mark.root
def test_mount_point_is_empty_when_confined(sandbox: OverlaySandbox, mounted: Path) -> None:
    """Without a clone a mount point within the base shows as an empty directory, and is never entered."""
    sandbox.open(clone=False)
    assert sandbox.names("mnt") == []
    assert stat.S_ISDIR(sandbox.attr("mnt").mode)
    assert sandbox.find("mnt/above") is None
    assert sandbox.find("mnt/below") is None
    sandbox.create("mnt/new", b"new")
    assert sandbox.names("mnt") == ["new"]
    sandbox.reopen(clone=False)
    assert sandbox.read("mnt/new") == b"new"
    assert len({sandbox.ino(path) for path in ("", "mnt", "mnt2", "mnt/new")}) == 4


@pytest.mark.root
def test_mount_point_shows_what_lies_below_in_a_clone(sandbox: OverlaySandbox, mounted: Path) -> None:
    """With a clone a mount point shows the base's own directory below it, as in mini_fo."""
    assert sandbox.names("mnt") == ["below"]
    assert sandbox.read("mnt/below") == b"base"


@pytest.mark.root
def test_clone_cannot_be_written(sandbox: OverlaySandbox) -> None:
    """The kernel refuses writes through the mount clone."""
    sandbox.put("f")
    view = BaseView(str(sandbox.base))
    with pytest.raises(OSError, match="Read-only"):
        os.open(b"/proc/self/fd/%d/f" % view._roots[0], os.O_WRONLY)
    view.close()


@pytest.mark.root
def test_nothing_of_the_base_changes(tmp_path: Path, clone: bool) -> None:
    """Reading everything and changing everything in an overlay leaves the base unchanged, with its access times."""
    sandbox = OverlaySandbox(tmp_path)
    sandbox.base.rmdir()
    file_trees.build_base(sandbox.base)
    before = file_trees.fingerprint(sandbox.base)
    sandbox.open(clone=clone)
    for directory in ("", "a", "a/b", "a/b/c", "sgid", "acl", "empty"):
        for name in sandbox.names(directory):
            path = os.path.join(directory, name)
            attr = sandbox.attr(path)
            sandbox.ov.listxattr(sandbox.ino(path))
            if stat.S_ISLNK(attr.mode):
                sandbox.ov.readlink(sandbox.ino(path))
            elif stat.S_ISREG(attr.mode):
                sandbox.read(path)
                sandbox.write(path, b"new", 3)
                sandbox.set(path, size=2, mode=0o600)
            sandbox.ov.setxattr(sandbox.ino(path), b"trusted.x", b"1")
    sandbox.rename("a", "moved")
    sandbox.unlink("big")
    sandbox.close()
    assert file_trees.fingerprint(sandbox.base) == before


def test_unreadable_base(sandbox: OverlaySandbox) -> None:
    """A base directory that is removed while the view is open gives an errno."""
    sandbox.put("d/f")
    ino = sandbox.ino("d")
    (sandbox.base / "d" / "f").unlink()
    (sandbox.base / "d").rmdir()
    assert sandbox.ov.lookup(ino, b"f") is None
    assert sandbox.find("d") is None


def test_hidden_directory(sandbox: OverlaySandbox, clone: bool) -> None:
    """What is hidden is in no listing; its namesake elsewhere is."""
    sandbox.put("d/hidden/f")
    sandbox.put("e/hidden")
    st = os.stat(sandbox.base / "d/hidden")
    view = BaseView(str(sandbox.base), clone=clone)
    view.hide(b"/d/hidden", (st.st_dev, st.st_ino))
    assert (view.names(b"/d"), view.listing(b"/d")) == ([], {})
    assert (view.names(b"/e"), view.listing(b"/e")) == ([b"hidden"], {b"hidden": False})
    assert view.find(b"/d/hidden") is None
    view.close()

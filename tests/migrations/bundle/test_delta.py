"""What differs between two states: hard links above all, which no path by itself tells."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from minifo.engine import Overlay
from tests.migrations.bundle.bundle_sandbox import BundleSandbox


@pytest.fixture
def sandbox(memory_dir: Path) -> BundleSandbox:
    """An overlay in its first state."""
    return BundleSandbox(memory_dir)


def arrives(sandbox: BundleSandbox) -> bool:
    """Whether a device comes to show what the overlay shows, and which files are one."""
    device = sandbox.device()
    sandbox.apply(sandbox.bundle(), device)
    ours, theirs = sandbox.shown(sandbox.sto), sandbox.shown(device)
    assert theirs == ours
    return True


def test_a_new_name_of_an_old_file(sandbox: BundleSandbox) -> None:
    """The file itself has not changed."""
    sandbox.link("mine", "dir/mine-too")
    assert arrives(sandbox)


def test_a_new_name_of_a_base_file(sandbox: BundleSandbox) -> None:
    """One with a single name, and one with two."""
    sandbox.link("etc/conf", "conf-too")
    sandbox.link("many", "many-too")
    assert arrives(sandbox)


def test_a_name_less(sandbox: BundleSandbox) -> None:
    """The other one stays."""
    sandbox.unlink("many")
    assert arrives(sandbox)


def test_a_link_that_is_replaced_by_a_copy(sandbox: BundleSandbox) -> None:
    """The bytes are the same, and the files are two now."""
    sandbox.unlink("many")
    sandbox.create("many", b"many")
    sandbox.set("many", mode=sandbox.attr("dir/many").mode & 0o7777, mtime=sandbox.attr("dir/many").mtime)
    assert arrives(sandbox)


def test_names_that_were_swapped(sandbox: BundleSandbox) -> None:
    """Of files, and of directories."""
    for one, two in (("mine", "both"), ("dir", "etc")):
        sandbox.rename(one, two, 2)  # RENAME_EXCHANGE
    assert arrives(sandbox)


def test_a_directory_that_moved_into_its_own_place(sandbox: BundleSandbox) -> None:
    """Renamed away, and a new one made, with some of the old names in it."""
    sandbox.rename("dir", "old")
    sandbox.mkdir("dir")
    sandbox.rename("old/other", "dir/other")
    sandbox.create("dir/sub", b"a file now")
    assert arrives(sandbox)


def test_names_that_are_no_text(sandbox: BundleSandbox) -> None:
    """Bytes, line ends, other scripts."""
    for name in (b"\xff\xfe", b"line\nend", "größe-名".encode(), b"." * 3, b"x" * 255):
        sandbox.ov.mknod(1, name, 0o100644, 0, sandbox.me)  # type: ignore[arg-type]
    assert arrives(sandbox)


def test_another_time_alone(sandbox: BundleSandbox) -> None:
    """It arrives without the bytes: of files with one name and with two, of a symbolic link."""
    sandbox.create("large", os.urandom(100_000))
    sandbox.ov.symlink(*sandbox.split("link"), b"x", sandbox.me)
    sandbox.ov.checkpoints.create("later")
    sandbox.start = "later"
    for path in ("large", "many", "link", "dir/other"):
        sandbox.set(path, mtime=1_111_111_111_222_222_222)
    bundle = sandbox.bundle()
    assert bundle.stat().st_size < 20_000
    device = sandbox.device()
    with contextlib.closing(Overlay.open(str(sandbox.base), str(device))) as overlay:
        assert overlay.find(b"/large") is None
    sandbox.start = "first"
    sandbox.apply(sandbox.bundle(), device)
    assert sandbox.shown(device) == sandbox.shown(sandbox.sto)
    sandbox.set("large", mtime=7)
    sandbox.ov.symlink(*sandbox.split("more"), b"x", sandbox.me)
    sandbox.ov.checkpoints.delete(["later", "first"])
    sandbox.ov.checkpoints.create("first")
    sandbox.set("large", mtime=8)
    sandbox.set("more", mtime=9)
    assert arrives(sandbox)


def test_nothing_has_changed(sandbox: BundleSandbox) -> None:
    """A bundle of nothing is one."""
    assert sandbox.apply(sandbox.bundle(), sandbox.device()).is_done

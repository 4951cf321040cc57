"""Files created without a name (O_TMPFILE): orphans, to which ``link`` may give a first name."""

from __future__ import annotations

import errno

import pytest

from minifo.engine import ROOT, FsError, Ino, Process
from tests.shared.overlay_sandbox import OverlaySandbox


def make(sandbox: OverlaySandbox, *, linkable: bool = True) -> Ino:
    """Create an unnamed file in the root, and return its number."""
    return Ino(sandbox.ov.tmpfile(ROOT, 0o640, Process(3, 4, 0o022), linkable=linkable).ino)


def test_it_has_no_name(sandbox: OverlaySandbox) -> None:
    """An unnamed file can be written and read, is in no listing, and leaves its directory's times unchanged."""
    before = sandbox.ov.getattr(ROOT)
    ino = make(sandbox)
    attr = sandbox.ov.getattr(ino)
    assert (attr.mode, attr.nlink, attr.uid, attr.gid, attr.size) == (0o100640, 0, 3, 4, 0)
    sandbox.ov.write(ino, 5000, b"hello")
    assert sandbox.ov.read(ino, 5000, 10) == b"hello"
    assert [entry.name for entry in sandbox.ov.readdir(ROOT)] == [b".", b".."]
    assert sandbox.ov.getattr(ROOT) == before
    assert sandbox.ov.check() == []


def test_it_goes_with_its_last_user(sandbox: OverlaySandbox) -> None:
    """The rows and the content of an unnamed file are deleted when it is forgotten, and after a remount or a kill."""
    for _ in range(3):
        ino = make(sandbox)
        sandbox.ov.write(ino, 0, b"x" * 10_000)
    sandbox.ov.forget([ino])
    with pytest.raises(FsError, match=str(ino)):
        sandbox.ov.getattr(ino)
    sandbox.ov.commit()
    sandbox.reopen()
    assert sandbox.ov.db.rows("SELECT ino FROM inode WHERE nlink = 0") == []
    assert sandbox.ov.objects.garbage() == []
    assert sandbox.ov.check() == []


def test_its_first_name(sandbox: OverlaySandbox) -> None:
    """``link`` gives an unnamed file a name; it keeps its content, and stays after a remount."""
    ino = make(sandbox)
    sandbox.ov.write(ino, 0, b"x" * 10_000)
    assert sandbox.ov.link(ino, ROOT, b"name").nlink == 1
    assert sandbox.ov.check() == []
    sandbox.ov.forget([ino])
    sandbox.reopen()
    assert sandbox.read("name") == b"x" * 10_000
    assert sandbox.ov.link(sandbox.attr("name").ino, ROOT, b"other").nlink == 2
    assert sandbox.ov.check() == []


def test_one_first_name_only(sandbox: OverlaySandbox) -> None:
    """A file that has lost its first name, or was made with O_EXCL, cannot be linked."""
    ino, private = make(sandbox), make(sandbox, linkable=False)
    sandbox.ov.link(ino, ROOT, b"name")
    sandbox.ov.unlink(ROOT, b"name")
    for which in (ino, private):
        with pytest.raises(FsError) as caught:
            sandbox.ov.link(which, ROOT, b"again")
        assert caught.value.errno == errno.ENOENT
    assert sandbox.ov.check() == []


def test_a_link_that_fails_leaves_it_as_it_was(sandbox: OverlaySandbox) -> None:
    """A link that fails because the name exists leaves the file linkable."""
    sandbox.create("taken")
    ino = make(sandbox)
    with pytest.raises(FsError) as caught:
        sandbox.ov.link(ino, ROOT, b"taken")
    assert caught.value.errno == errno.EEXIST
    assert sandbox.ov.check() == []
    assert sandbox.ov.link(ino, ROOT, b"free").nlink == 1

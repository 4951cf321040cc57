"""Files made without a name (O_TMPFILE): orphans from the start, which ``link`` may give their first name."""

from __future__ import annotations

import errno

import pytest
from lab import Lab

from minifo.engine import ROOT, FsError, Ino, Process


def make(lab: Lab, *, linkable: bool = True) -> Ino:
    """An unnamed file in the root."""
    return Ino(lab.ov.tmpfile(ROOT, 0o640, Process(3, 4, 0o022), linkable=linkable).ino)


def test_it_has_no_name(lab: Lab) -> None:
    """It can be written and read; no listing shows it, and its directory's times stay."""
    before = lab.ov.getattr(ROOT)
    ino = make(lab)
    attr = lab.ov.getattr(ino)
    assert (attr.mode, attr.nlink, attr.uid, attr.gid, attr.size) == (0o100640, 0, 3, 4, 0)
    lab.ov.write(ino, 5000, b"hello")
    assert lab.ov.read(ino, 5000, 10) == b"hello"
    assert [entry.name for entry in lab.ov.readdir(ROOT)] == [b".", b".."]
    assert lab.ov.getattr(ROOT) == before
    assert lab.ov.check() == []


def test_it_goes_with_its_last_user(lab: Lab) -> None:
    """Forgotten, its rows and its content are gone; so it is after a new mount, or a kill."""
    for _ in range(3):
        ino = make(lab)
        lab.ov.write(ino, 0, b"x" * 10_000)
    lab.ov.forget([ino])
    with pytest.raises(FsError, match=str(ino)):
        lab.ov.getattr(ino)
    lab.ov.commit()
    lab.reopen()
    assert lab.ov.db.rows("SELECT ino FROM inode WHERE nlink = 0") == []
    assert lab.ov.objects.garbage() == []
    assert lab.ov.check() == []


def test_its_first_name(lab: Lab) -> None:
    """``link`` names it, with all that was written, and it stays."""
    ino = make(lab)
    lab.ov.write(ino, 0, b"x" * 10_000)
    assert lab.ov.link(ino, ROOT, b"name").nlink == 1
    assert lab.ov.check() == []
    lab.ov.forget([ino])
    lab.reopen()
    assert lab.read("name") == b"x" * 10_000
    assert lab.ov.link(lab.attr("name").ino, ROOT, b"other").nlink == 2
    assert lab.ov.check() == []


def test_one_first_name_only(lab: Lab) -> None:
    """Once it has had a name it is a file like all: without one it stays without.  With O_EXCL it never has any."""
    ino, private = make(lab), make(lab, linkable=False)
    lab.ov.link(ino, ROOT, b"name")
    lab.ov.unlink(ROOT, b"name")
    for which in (ino, private):
        with pytest.raises(FsError) as caught:
            lab.ov.link(which, ROOT, b"again")
        assert caught.value.errno == errno.ENOENT
    assert lab.ov.check() == []


def test_a_link_that_fails_leaves_it_as_it_was(lab: Lab) -> None:
    """A name that is taken is no name for it, and the next one is."""
    lab.create("taken")
    ino = make(lab)
    with pytest.raises(FsError) as caught:
        lab.ov.link(ino, ROOT, b"taken")
    assert caught.value.errno == errno.EEXIST
    assert lab.ov.check() == []
    assert lab.ov.link(ino, ROOT, b"free").nlink == 1

"""The digest of what an overlay changed; that it is as documented, tests/model/test_changes.py shows."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from minifo.engine import Overlay
from minifo.engine.queries.digest import BLOCK, differences, digest
from tests.shared.overlay_sandbox import OverlaySandbox


def of(overlay: Overlay) -> bytes:
    """The digest of an overlay."""
    return digest(differences(overlay))


def paths(sandbox: OverlaySandbox) -> list[bytes]:
    """The paths that differ."""
    return [found.path for found in differences(sandbox.ov)]


def test_nothing_changed(sandbox: OverlaySandbox) -> None:
    """What was done and undone, and written as it was, is no difference."""
    sandbox.put("file", b"bytes")
    sandbox.create("new")
    sandbox.unlink("new")
    sandbox.write("file", b"bytes")
    sandbox.rename("file", "other")
    sandbox.rename("other", "file")
    assert paths(sandbox) == []


def test_the_way_does_not_count(sandbox: OverlaySandbox) -> None:
    """A rename and its result made by hand, a hole and zeros."""
    sandbox.put("from/file", b"bytes")
    sandbox.create("holes")
    sandbox.set("holes", size=5 * BLOCK)
    sandbox.rename("from", "to")
    renamed = of(sandbox.ov)
    assert paths(sandbox) == [b"/from", b"/from/file", b"/holes", b"/to", b"/to/file"]
    sandbox.rename("to", "from")
    sandbox.mkdir("to")
    sandbox.create("to/file", b"bytes")
    sandbox.unlink("from/file")
    sandbox.rmdir("from")
    sandbox.write("holes", bytes(5 * BLOCK))
    assert of(sandbox.ov) == renamed


def test_all_names_of_a_base_file(sandbox: OverlaySandbox) -> None:
    """A change shows at each of them, by whichever it was made."""
    sandbox.put("a/file", b"bytes")
    os.mkdir(os.path.join(sandbox.base, "b"))
    os.link(os.path.join(sandbox.base, "a/file"), os.path.join(sandbox.base, "b/link"))
    sandbox.write("b/link", b"other")
    assert paths(sandbox) == [b"/a/file", b"/b/link"]


CHANGES: dict[str, Callable[[OverlaySandbox], object]] = {
    "bytes": lambda s: s.write("made", b"B"),
    "size": lambda s: s.set("made", size=300_001),
    "mode": lambda s: s.set("made", mode=0o600),
    "owner": lambda s: s.set("made", uid=7),
    "name": lambda s: s.rename("made", "mode"),
    "attribute": lambda s: s.ov.setxattr(s.ino("made"), b"user.a", b"1"),
    "one more": lambda s: s.create("more"),
    "one gone": lambda s: s.unlink("gone"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_difference_counts(sandbox: OverlaySandbox, change: str) -> None:
    """Every change of what shows makes another digest; times make none."""
    sandbox.put("gone", b"bytes")
    sandbox.create("made", b"b" * 300_000)
    before = of(sandbox.ov)
    sandbox.set("made", mtime=1_000_000_000)
    assert of(sandbox.ov) == before
    CHANGES[change](sandbox)
    assert of(sandbox.ov) != before


def test_a_large_hole_costs_nothing(sandbox: OverlaySandbox) -> None:
    """A file of a tebibyte with a few bytes is read in its few blocks."""
    sandbox.create("holes")
    sandbox.set("holes", size=1 << 40)
    empty = of(sandbox.ov)
    sandbox.write("holes", b"x", offset=1 << 39)
    assert of(sandbox.ov) != empty

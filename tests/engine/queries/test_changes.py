"""How an overlay is asked what it changed; that the answers are right, tests/model/test_changes.py shows."""

from __future__ import annotations

import os
from collections import Counter

from minifo.engine.queries.changes import changes
from tests.shared.overlay_sandbox import OverlaySandbox


def test_a_directory_is_listed_once(sandbox: OverlaySandbox) -> None:
    """However many names in it changed, and in whatever way."""
    for directory in ("a", "a/below", "b", "c"):
        for name in ("chmod", "gone", "moved", "written", "as-it-was"):
            sandbox.put(f"{directory}/{name}")
    for directory in ("a", "a/below", "b"):
        sandbox.set(f"{directory}/chmod", mode=0o600)
        sandbox.unlink(f"{directory}/gone")
        sandbox.rename(f"{directory}/moved", f"{directory}/new-name")
        sandbox.write(f"{directory}/written", b"else")
        sandbox.create(f"{directory}/new")
    listed: Counter[bytes] = Counter()
    listing = sandbox.ov.base.listing

    def counted(path: bytes) -> dict[bytes, bool]:
        listed[path] += 1
        return listing(path)

    sandbox.ov.base.listing = counted  # type: ignore[method-assign]
    found = sorted((change.letters, change.path) for change in changes(sandbox.ov))
    assert found == sorted(
        (letters, b"/%b/%b" % (directory, name))
        for directory in (b"a", b"a/below", b"b")
        for letters, name in (
            ("m", b"chmod"),
            ("D", b"gone"),
            ("R", b"new-name"),
            ("M", b"written"),
            ("A", b"new"),
        )
    )
    assert listed == {b"/a": 1, b"/a/below": 1, b"/b": 1}


def linked(sandbox: OverlaySandbox, path: str, *others: str) -> None:
    """A base file with several names."""
    sandbox.put(path)
    for other in others:
        (sandbox.base / other).parent.mkdir(parents=True, exist_ok=True)
        os.link(sandbox.base / path, sandbox.base / other)


def told(sandbox: OverlaySandbox) -> list[str]:
    """The changes as text."""
    return sorted(
        " ".join([change.letters, *(os.fsdecode(path) for path in (change.old, change.path) if path is not None)])
        for change in changes(sandbox.ov, recursive=True)
    )


def test_all_names_of_a_base_file(sandbox: OverlaySandbox) -> None:
    """A change shows at each of them, wherever they are now; not at one that is hidden, or is another object."""
    linked(sandbox, "a/file", "a/beside", "b/c/far", "b/gone", "moved/in", "b/replaced", "removed/in")
    linked(sandbox, "other", "b/other")
    sandbox.unlink("b/gone")
    sandbox.rename("moved", "MOVED")
    sandbox.unlink("b/replaced")
    sandbox.create("b/replaced")
    sandbox.unlink("removed/in")
    sandbox.rmdir("removed")
    before = ["D /b/gone", "D /removed", "D /removed/in", "M /b/replaced", "R /moved /MOVED"]
    assert told(sandbox) == before
    sandbox.set("b/c/far", mode=0o600)
    shown = ["m /a/beside", "m /a/file", "m /b/c/far", "m /moved/in /MOVED/in"]
    assert told(sandbox) == sorted([*before, *shown])
    sandbox.write("a/beside", b"else")
    assert told(sandbox) == sorted([*before, *(line.replace("m", "M", 1) for line in shown)])


def test_the_name_that_is_known_may_be_gone(sandbox: OverlaySandbox) -> None:
    """Renamed, or removed: the others still show the change."""
    linked(sandbox, "a", "b", "c")
    sandbox.write("a", b"else")
    sandbox.unlink("a")
    assert told(sandbox) == ["D /a", "M /b", "M /c"]
    sandbox.unlink("c")
    assert told(sandbox) == ["D /a", "D /c", "M /b"]
    linked(sandbox, "d", "e")
    sandbox.set("d", mode=0o600)
    sandbox.rename("d", "f")
    assert told(sandbox)[-2:] == ["Rm /d /f", "m /e"]


def test_the_search_for_names_ends(sandbox: OverlaySandbox) -> None:
    """As soon as all are found; without a changed file with several names there is none."""
    linked(sandbox, "near/a", "near/b")
    for number in range(50):
        sandbox.put(f"far{number}/below/file")
    sandbox.put("file")
    listed: Counter[bytes] = Counter()
    listing = sandbox.ov.base.listing

    def counted(path: bytes) -> dict[bytes, bool]:
        listed[path] += 1
        return listing(path)

    sandbox.ov.base.listing = counted  # type: ignore[method-assign]
    sandbox.write("file", b"else")
    assert told(sandbox) == ["M /file"]
    assert set(listed) == {b"/"}
    sandbox.write("near/b", b"else")
    assert told(sandbox) == ["M /file", "M /near/a", "M /near/b"]
    assert set(listed) == {b"/", b"/near"}


def test_names_outside_of_the_base(sandbox: OverlaySandbox) -> None:
    """They are not found, and do not count."""
    linked(sandbox, "a", "d/b")
    os.link(sandbox.base / "a", sandbox.base.parent / "outside")
    sandbox.write("d/b", b"else")
    assert told(sandbox) == ["M /a", "M /d/b"]


def test_a_name_in_a_directory_that_is_gone(sandbox: OverlaySandbox) -> None:
    """It shows no change, even where it is the name by which the object is known."""
    linked(sandbox, "a", "d/b")
    sandbox.unlink("d/b")
    sandbox.rmdir("d")
    sandbox.set("a", mode=0o600)
    assert told(sandbox) == ["D /d", "D /d/b", "m /a"]
    sandbox.rename("a", "c")
    assert told(sandbox) == ["D /a", "D /d", "Rm /d/b /c"]


def test_attributes_of_a_directory_in_the_place_of_another(sandbox: OverlaySandbox) -> None:
    """Its extended attributes count as its mode does."""
    for directory in ("same", "mode", "xattr"):
        (sandbox.base / directory).mkdir()
        os.setxattr(sandbox.base / directory, "user.x", b"base")
        sandbox.rmdir(directory)
        ino = sandbox.mkdir(directory)
        sandbox.ov.setxattr(ino, b"user.x", b"else" if directory == "xattr" else b"base")
    sandbox.set("mode", mode=0o700)
    assert told(sandbox) == ["m /mode", "m /xattr"]

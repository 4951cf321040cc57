"""A replaced base: objects are matched by their paths, and rows of objects that are gone are kept."""

from __future__ import annotations

import os
import shutil

import pytest

from minifo.engine import RenameFlags, StateError
from minifo.engine.recovery import BaseCheck
from tests.shared.overlay_sandbox import NOTHING, OverlaySandbox

pytestmark = pytest.mark.logs("is not the one of the last mount", always=False)

BIG = b"x" * 200_000


def fill(sandbox: OverlaySandbox) -> None:
    """Make a base with objects of all types, and an overlay with changes of every kind."""
    for name in ("d/written", "d/moved", "d/removed", "d/chmodded", "d/sub/deep", "alone", "a", "b"):
        sandbox.put(name, name.encode() + BIG)
    os.link(sandbox.base / "a", sandbox.base / "d" / "a2")
    sandbox.write("d/written", b"new")
    sandbox.rename("d/moved", "moved")
    sandbox.unlink("d/removed")
    sandbox.set("d/chmodded", mode=0o600)
    sandbox.rename("d/sub", "sub")
    sandbox.create("sub/made", b"made")
    sandbox.rename("alone", "b", RenameFlags.EXCHANGE)
    sandbox.write("d/a2", b"links")


def look(sandbox: OverlaySandbox) -> dict[str, object]:
    """Return everything that shows of what ``fill`` made."""
    seen: dict[str, object] = {}
    for directory in ("", "d", "sub"):
        seen[f"{directory}/"] = sandbox.names(directory)
        for name in sandbox.names(directory):
            path = os.path.join(directory, name)
            attr = sandbox.attr(path)
            if attr.mode & 0o100000:
                seen[path] = (attr.mode, attr.nlink, attr.size, sandbox.read(path)[:20])
    return seen


def replace_base(sandbox: OverlaySandbox) -> None:
    """Replace the base by a copy, in which all objects, except perhaps the root, have other inode numbers."""
    copy = sandbox.base.with_name("copy")
    shutil.copytree(sandbox.base, copy)
    if (copy / "a").exists():
        os.unlink(copy / "d" / "a2")  # copytree makes two files of two links
        os.link(copy / "a", copy / "d" / "a2")
    for entry in list(sandbox.base.iterdir()):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for entry in list(copy.iterdir()):
        entry.rename(sandbox.base / entry.name)
    copy.rmdir()


def test_base_copied_elsewhere(sandbox: OverlaySandbox) -> None:
    """The overlay shows the same over a copy of the base at another path."""
    fill(sandbox)
    seen, lists = look(sandbox), sandbox.lists()
    sandbox.close()
    copy = sandbox.base.with_name("copy")
    shutil.copytree(sandbox.base, copy)
    os.unlink(copy / "d" / "a2")
    os.link(copy / "a", copy / "d" / "a2")
    shutil.rmtree(sandbox.base)
    sandbox.base = copy
    assert look(sandbox) == seen
    assert sandbox.lists() == lists
    assert sandbox.ino("d") == (copy / "d").stat().st_ino
    sandbox.reopen()
    assert look(sandbox) == seen


def test_base_replaced_in_place(sandbox: OverlaySandbox) -> None:
    """The overlay shows the same over a copy of the base at the same path, which differs in inode numbers only."""
    fill(sandbox)
    seen, lists = look(sandbox), sandbox.lists()
    sandbox.close()
    replace_base(sandbox)
    assert look(sandbox) == seen
    assert sandbox.lists() == lists
    numbers = [entry.attr.ino for path in ("", "d", "sub") for entry in list(sandbox.ov.readdir(sandbox.ino(path)))[2:]]
    assert len(set(numbers)) == len(numbers) - 1  # but for the two links


def test_gone_from_the_base(sandbox: OverlaySandbox) -> None:
    """Objects that the new base lacks do not show; their rows stay, and they show again with the old base."""
    fill(sandbox)
    seen, lists = look(sandbox), sandbox.lists()
    sandbox.close()
    kept = sandbox.base.with_name("kept")
    shutil.copytree(sandbox.base, kept)
    shutil.rmtree(sandbox.base / "d")
    other = sandbox.base.with_name("other")
    shutil.copytree(sandbox.base, other)
    original, sandbox.base = sandbox.base, other
    sandbox.base_check = BaseCheck.IGNORE
    assert sandbox.names("d") == ["a2", "written"]  # of the rest nothing was written here
    assert sandbox.ov.check() == []
    sandbox.close()
    sandbox.base = kept
    os.unlink(kept / "d" / "a2")
    os.link(kept / "a", kept / "d" / "a2")
    assert look(sandbox) == seen
    assert sandbox.lists() == lists
    assert original.exists()


def wrong_base(sandbox: OverlaySandbox) -> None:
    """Replace the base by an unrelated tree, and keep the old one."""
    sandbox.close()
    sandbox.base.rename(sandbox.base.with_name("right"))
    sandbox.base.mkdir()
    (sandbox.base / "unrelated").write_bytes(b"something else")


def test_a_wrong_base_is_refused(sandbox: OverlaySandbox) -> None:
    """A base that lacks most objects is refused; nothing is changed, and with the right base everything shows again."""
    fill(sandbox)
    seen, lists = look(sandbox), sandbox.lists()
    wrong_base(sandbox)
    before = (sandbox.sto / "minifo.db").read_bytes(), sandbox.objects()
    for read_only in (True, False):
        with pytest.raises(StateError, match=r"likely the wrong one: of .* objects .*, it has 0;") as raised:
            sandbox.open(read_only=read_only)
        assert "base_check=ignore" in raised.value.hint
    assert ((sandbox.sto / "minifo.db").read_bytes(), sandbox.objects()) == before
    shutil.rmtree(sandbox.base)
    sandbox.base.with_name("right").rename(sandbox.base)
    assert look(sandbox) == seen
    assert sandbox.lists() == lists


def test_a_wrong_base_is_taken_if_told(sandbox: OverlaySandbox) -> None:
    """With base_check=ignore a wrong base is accepted, and counts as the base of the last mount from then on."""
    fill(sandbox)
    seen = look(sandbox)
    wrong_base(sandbox)
    sandbox.open(base_check=BaseCheck.IGNORE)
    assert "unrelated" in sandbox.names()
    sandbox.reopen(base_check=BaseCheck.STRICT)
    sandbox.close()
    shutil.rmtree(sandbox.base)
    sandbox.base.with_name("right").rename(sandbox.base)
    assert look(sandbox) == seen


def test_strict(sandbox: OverlaySandbox) -> None:
    """base_check=strict refuses any other base, until it was mounted once without that option."""
    fill(sandbox)
    seen = look(sandbox)
    sandbox.reopen(base_check=BaseCheck.STRICT)
    sandbox.close()
    replace_base(sandbox)
    with pytest.raises(StateError, match="is not the one of the last mount") as raised:
        sandbox.open(base_check=BaseCheck.STRICT)
    assert "base_check=warn" in raised.value.hint
    sandbox.open(base_check=BaseCheck.WARN)
    sandbox.reopen(base_check=BaseCheck.STRICT)
    assert look(sandbox) == seen


def test_many_objects_are_renumbered_at_once(sandbox: OverlaySandbox) -> None:
    """Many objects get new inode numbers at once, also numbers that other objects had before."""
    for number in range(600):
        sandbox.put(f"d/{number}")
    for number in range(600):
        sandbox.set(f"d/{number}", mode=0o600 + number % 8)
    for number in range(0, 600, 3):
        sandbox.rename(f"d/{number}", f"moved{number}")
    modes = {name: sandbox.attr(name).mode for name in sandbox.names() if name.startswith("moved")}
    sandbox.close()
    replace_base(sandbox)
    assert {name: sandbox.attr(name).mode for name in sandbox.names() if name.startswith("moved")} == modes
    assert sandbox.ov.check() == []
    assert all(
        sandbox.ino(f"d/{number}") == (sandbox.base / "d" / f"{number}").stat().st_ino for number in (1, 2, 4, 599)
    )


def test_same_base_is_not_searched(sandbox: OverlaySandbox) -> None:
    """A mount over the base of the last mount writes nothing."""
    fill(sandbox)
    sandbox.reopen()
    assert sandbox.ov.commits.count == 0


def test_drift_shows_through(sandbox: OverlaySandbox) -> None:
    """Changes of the base show for objects that the overlay has not changed."""
    sandbox.put("f", b"old")
    assert sandbox.read("f") == b"old"
    sandbox.close()
    sandbox.put("f", b"newer")
    sandbox.put("g")
    assert sandbox.names() == ["f", "g"]
    assert sandbox.read("f") == b"newer"
    assert sandbox.lists() == NOTHING

"""A base that was replaced: objects are found again by their paths, and what is gone is kept."""

from __future__ import annotations

import os
import shutil

import pytest
from lab import NOTHING, Lab

from minifo.engine import RenameFlags, StateError
from minifo.engine.recovery import BaseCheck

BIG = b"x" * 200_000


def fill(lab: Lab) -> None:
    """A base with a bit of everything, and changes of every kind above it."""
    for name in ("d/written", "d/moved", "d/removed", "d/chmodded", "d/sub/deep", "alone", "a", "b"):
        lab.put(name, name.encode() + BIG)
    os.link(lab.base / "a", lab.base / "d" / "a2")
    lab.write("d/written", b"new")
    lab.rename("d/moved", "moved")
    lab.unlink("d/removed")
    lab.set("d/chmodded", mode=0o600)
    lab.rename("d/sub", "sub")
    lab.create("sub/made", b"made")
    lab.rename("alone", "b", RenameFlags.EXCHANGE)
    lab.write("d/a2", b"links")


def look(lab: Lab) -> dict[str, object]:
    """Everything that fill made visible."""
    seen: dict[str, object] = {}
    for directory in ("", "d", "sub"):
        seen[f"{directory}/"] = lab.names(directory)
        for name in lab.names(directory):
            path = os.path.join(directory, name)
            attr = lab.attr(path)
            if attr.mode & 0o100000:
                seen[path] = (attr.mode, attr.nlink, attr.size, lab.read(path)[:20])
    return seen


def replace_base(lab: Lab) -> None:
    """Put a copy of the base, with other inode numbers, where the base was; the root may even keep its own."""
    copy = lab.base.with_name("copy")
    shutil.copytree(lab.base, copy)
    if (copy / "a").exists():
        os.unlink(copy / "d" / "a2")  # copytree makes two files of two links
        os.link(copy / "a", copy / "d" / "a2")
    for entry in list(lab.base.iterdir()):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for entry in list(copy.iterdir()):
        entry.rename(lab.base / entry.name)
    copy.rmdir()


def test_base_copied_elsewhere(lab: Lab) -> None:
    """A copy of the base at another path serves the overlay as well as the original."""
    fill(lab)
    seen, lists = look(lab), lab.lists()
    lab.close()
    copy = lab.base.with_name("copy")
    shutil.copytree(lab.base, copy)
    os.unlink(copy / "d" / "a2")
    os.link(copy / "a", copy / "d" / "a2")
    shutil.rmtree(lab.base)
    lab.base = copy
    assert look(lab) == seen
    assert lab.lists() == lists
    assert lab.ino("d") == (copy / "d").stat().st_ino
    lab.reopen()
    assert look(lab) == seen


def test_base_replaced_in_place(lab: Lab) -> None:
    """The same where nothing but the inode numbers tells that the base is another one."""
    fill(lab)
    seen, lists = look(lab), lab.lists()
    lab.close()
    replace_base(lab)
    assert look(lab) == seen
    assert lab.lists() == lists
    numbers = [entry.attr.ino for path in ("", "d", "sub") for entry in list(lab.ov.readdir(lab.ino(path)))[2:]]
    assert len(set(numbers)) == len(numbers) - 1  # but for the two links


def test_gone_from_the_base(lab: Lab) -> None:
    """What the new base lacks does not show; its rows stay, and serve again when it is back."""
    fill(lab)
    seen, lists = look(lab), lab.lists()
    lab.close()
    kept = lab.base.with_name("kept")
    shutil.copytree(lab.base, kept)
    shutil.rmtree(lab.base / "d")
    other = lab.base.with_name("other")
    shutil.copytree(lab.base, other)
    original, lab.base = lab.base, other
    lab.base_check = BaseCheck.IGNORE
    assert lab.names("d") == ["a2", "written"]  # of the rest nothing was written here
    assert lab.ov.check() == []
    lab.close()
    lab.base = kept
    os.unlink(kept / "d" / "a2")
    os.link(kept / "a", kept / "d" / "a2")
    assert look(lab) == seen
    assert lab.lists() == lists
    assert original.exists()


def wrong_base(lab: Lab) -> None:
    """Put another tree where the base was; the old one is kept."""
    lab.close()
    lab.base.rename(lab.base.with_name("right"))
    lab.base.mkdir()
    (lab.base / "unrelated").write_bytes(b"something else")


def test_a_wrong_base_is_refused(lab: Lab) -> None:
    """A typo in fstab, or a base that is not mounted yet: nothing is changed, and the right one shows all again."""
    fill(lab)
    seen, lists = look(lab), lab.lists()
    wrong_base(lab)
    before = (lab.sto / "minifo.db").read_bytes(), lab.objects()
    for read_only in (True, False):
        with pytest.raises(StateError, match=r"likely the wrong one: of .* objects .*, it has 0;") as raised:
            lab.open(read_only=read_only)
        assert "base_check=ignore" in raised.value.hint
    assert ((lab.sto / "minifo.db").read_bytes(), lab.objects()) == before
    shutil.rmtree(lab.base)
    lab.base.with_name("right").rename(lab.base)
    assert look(lab) == seen
    assert lab.lists() == lists


def test_a_wrong_base_is_taken_if_told(lab: Lab) -> None:
    """And is the base of the next mount, which asks no more."""
    fill(lab)
    seen = look(lab)
    wrong_base(lab)
    lab.open(base_check=BaseCheck.IGNORE)
    assert "unrelated" in lab.names()
    lab.reopen(base_check=BaseCheck.STRICT)
    lab.close()
    shutil.rmtree(lab.base)
    lab.base.with_name("right").rename(lab.base)
    assert look(lab) == seen


def test_strict(lab: Lab) -> None:
    """Any other base is refused, however much of it is the same, until it was mounted once without."""
    fill(lab)
    seen = look(lab)
    lab.reopen(base_check=BaseCheck.STRICT)
    lab.close()
    replace_base(lab)
    with pytest.raises(StateError, match="is not the one of the last mount") as raised:
        lab.open(base_check=BaseCheck.STRICT)
    assert "base_check=warn" in raised.value.hint
    lab.open(base_check=BaseCheck.WARN)
    lab.reopen(base_check=BaseCheck.STRICT)
    assert look(lab) == seen


def test_many_objects_are_renumbered_at_once(lab: Lab) -> None:
    """In one pass over each table, however many there are: a number that was another's before does no harm."""
    for number in range(600):
        lab.put(f"d/{number}")
    for number in range(600):
        lab.set(f"d/{number}", mode=0o600 + number % 8)
    for number in range(0, 600, 3):
        lab.rename(f"d/{number}", f"moved{number}")
    modes = {name: lab.attr(name).mode for name in lab.names() if name.startswith("moved")}
    lab.close()
    replace_base(lab)
    assert {name: lab.attr(name).mode for name in lab.names() if name.startswith("moved")} == modes
    assert lab.ov.check() == []
    assert all(lab.ino(f"d/{number}") == (lab.base / "d" / f"{number}").stat().st_ino for number in (1, 2, 4, 599))


def test_same_base_is_not_searched(lab: Lab) -> None:
    """The base of last time is recognised, and nothing is written because of it."""
    fill(lab)
    lab.reopen()
    assert lab.ov.commits.count == 0


def test_drift_shows_through(lab: Lab) -> None:
    """What the base changes meanwhile shows where the overlay has nothing of its own."""
    lab.put("f", b"old")
    assert lab.read("f") == b"old"
    lab.close()
    lab.put("f", b"newer")
    lab.put("g")
    assert lab.names() == ["f", "g"]
    assert lab.read("f") == b"newer"
    assert lab.lists() == NOTHING

"""keep_origin: the versions that were changed are kept, and a merge needs no old base."""

from __future__ import annotations

from room import Room, rewrite

from minifo.engine import Overlay
from minifo.engine.tree.ancestors import LONGEST
from minifo.tools.cli import main

OLD, OURS = b"a\nb\nc\nd\ne\n", b"A\nb\nc\nd\ne\n"
THEIRS, MERGED = b"a\nb\nc\nd\nE\n", b"A\nb\nc\nd\nE\n"


def save(room: Room, name: str, data: bytes) -> None:
    """As an editor saves."""
    room.create(name + "~", data)
    room.rename(name + "~", name)


def kept(overlay: Overlay) -> set[bytes]:
    """The paths of which a version is kept."""
    return {path for (path,) in overlay.db.rows("SELECT path FROM ancestor")}


def test_merging_without_the_old_base(room: Room) -> None:
    """However the file was changed: in place, by an editor, or deleted and made anew."""
    for name in ("inplace", "saved", "anew", "untouched"):
        room.put(name, OLD)
    room.open(keep_origin=LONGEST)
    room.write("inplace", OURS)
    save(room, "saved", OURS)
    room.unlink("anew")
    room.create("anew", OURS)
    assert kept(room.ov) == {b"/inplace", b"/saved", b"/anew"}
    room.replace(lambda base: [rewrite(base, name, THEIRS) for name in ("inplace", "saved", "anew")])
    report = room.rebase("merge")
    assert {decision.action.value for decision in report.decisions} == {"merge"}
    assert [room.read(name) for name in ("inplace", "saved", "anew", "untouched")] == [MERGED] * 3 + [OLD]
    assert room.rebase("merge").decisions == []  # settled


def test_the_next_base_is_merged_from_the_last_one(room: Room) -> None:
    """What was settled was made from the new version: that is kept from then on."""
    room.put("f", OLD)
    room.open(keep_origin=LONGEST)
    save(room, "f", OURS)
    room.replace(lambda base: rewrite(base, "f", THEIRS))
    room.rebase("merge")
    room.old = room.old.with_name("older")
    room.replace(lambda base: rewrite(base, "f", b"a\nb\nc\nD\nE\n"))
    room.rebase("merge")
    assert room.read("f") == b"A\nb\nc\nD\nE\n"


def test_what_is_not_kept(room: Room) -> None:
    """Large files, other kinds, what only moves or changes its mode; and nothing without the option."""
    room.put("large", b"x" * (LONGEST + 1))
    for name in ("moved", "mode", "d/inside", "plain"):
        room.put(name, OLD)
    room.open(keep_origin=LONGEST)
    room.write("large", b"y")
    room.rename("moved", "elsewhere")
    room.set("mode", mode=0o600)
    room.rename("d", "e")
    assert kept(room.ov) == set()
    room.reopen()
    room.write("plain", OURS)
    assert kept(room.ov) == set()


def test_salvage_knows_it(room: Room) -> None:
    """The kept versions live through a salvage of the database."""
    room.put("f", OLD)
    room.open(keep_origin=LONGEST)
    room.write("f", OURS)
    room.close()
    database = room.sto / "minifo.db"
    data = bytearray(database.read_bytes())
    data[0:16] = bytes(16)
    database.write_bytes(data)
    assert main(["fsck", "-y", str(room.sto)]) in (1, 5)
    assert kept(room.ov) == {b"/f"}

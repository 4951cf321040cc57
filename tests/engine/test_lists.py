"""The four lists: what each operation puts on them, and what takes it off again."""

from __future__ import annotations

import errno
import os

import pytest
from lab import NOTHING, Lab, Lists

from minifo.engine import FsError, RenameFlags


def lists(
    created: set[str] | None = None,
    deleted: set[str] | None = None,
    renamed: dict[str, str] | None = None,
    modified: dict[str, int] | None = None,
) -> Lists:
    """What the lists should hold; what is not named is empty."""
    return Lists(created or set(), deleted or set(), renamed or {}, modified or {})


# -- base


def test_reading_leaves_no_row(lab: Lab) -> None:
    """Looking at everything puts nothing on a list, nor anywhere else."""
    lab.put("d/f")
    assert lab.names("d") == ["f"]
    assert lab.read("d/f") == b"base"
    assert lab.lists() == NOTHING
    assert (lab.rows("inode"), lab.rows("origin")) == (0, 1)


def test_unlink_base(lab: Lab) -> None:
    """A base name that is removed is a whiteout and nothing else."""
    lab.put("f")
    lab.unlink("f")
    assert lab.lists() == lists(deleted={"f"})
    assert lab.names() == []
    assert lab.rows("inode") == 1  # the directory's new times


def test_rmdir_base_with_whiteouts(lab: Lab) -> None:
    """The whiteouts within a directory go with it: one hides it all."""
    lab.put("d/f")
    lab.unlink("d/f")
    lab.rmdir("d")
    assert lab.lists() == lists(deleted={"d"})


def test_rename_base(lab: Lab) -> None:
    """A renamed base file is a whiteout and a place; its bytes are not copied."""
    lab.put("d/f")
    lab.rename("d/f", "g")
    assert lab.lists() == lists(deleted={"d/f"}, renamed={"g": "d/f"})
    assert lab.read("g") == b"base"
    assert lab.objects() == {}


def test_rename_base_and_back(lab: Lab) -> None:
    """A rename back leaves nothing of the file, and its content is whole."""
    lab.put("d/f")
    lab.rename("d/f", "g")
    lab.rename("g", "d/f")
    assert lab.lists() == NOTHING
    assert lab.read("d/f") == b"base"
    assert lab.ov.inodes.row(lab.ino("d/f")) is None


def test_rename_directory_and_back(lab: Lab) -> None:
    """The same for a directory, with what changed inside it meanwhile."""
    lab.put("d/f")
    lab.put("d/g")
    lab.rename("d", "e")
    lab.unlink("e/f")
    lab.create("e/new")
    lab.rename("e", "d")
    assert lab.lists() == lists(created={"d/new"}, deleted={"d/f"})
    assert lab.names("d") == ["g", "new"]


def test_rename_chain_and_back(lab: Lab) -> None:
    """Only where the object came from and where it is counts, not the way between."""
    lab.put("f")
    for old, new in (("f", "a"), ("a", "b"), ("b", "c")):
        lab.rename(old, new)
    assert lab.lists() == lists(deleted={"f"}, renamed={"c": "f"})
    lab.rename("c", "f")
    assert lab.lists() == NOTHING


def test_swap_by_a_third_name(lab: Lab) -> None:
    """Two base files that swap names are renamed both; a second swap leaves nothing."""
    lab.put("a", b"A")
    lab.put("b", b"B")
    for expected in (lists(deleted={"a", "b"}, renamed={"a": "b", "b": "a"}), NOTHING):
        lab.rename("a", "tmp")
        lab.rename("b", "a")
        lab.rename("tmp", "b")
        assert lab.lists() == expected
    assert (lab.read("a"), lab.read("b")) == (b"A", b"B")


def test_exchange_twice(lab: Lab) -> None:
    """The same in one step with RENAME_EXCHANGE, of a file and a directory."""
    lab.put("a", b"A")
    lab.put("d/b", b"B")
    lab.rename("a", "d", RenameFlags.EXCHANGE)
    assert lab.lists() == lists(deleted={"a", "d"}, renamed={"a": "d", "d": "a"})
    assert (lab.read("d"), lab.read("a/b")) == (b"A", b"B")
    lab.rename("a", "d", RenameFlags.EXCHANGE)
    assert lab.lists() == NOTHING


def test_rename_base_over_base(lab: Lab) -> None:
    """The name taken is a whiteout under a renamed file; the file that was there is gone."""
    lab.put("a", b"A")
    lab.put("b", b"B")
    lab.rename("a", "b")
    assert lab.lists() == lists(deleted={"a", "b"}, renamed={"b": "a"})
    assert (lab.names(), lab.read("b")) == (["b"], b"A")


def test_recreate_after_delete(lab: Lab) -> None:
    """A new object at a deleted name is created above its whiteout, with a number of its own."""
    lab.put("f")
    old = lab.ino("f")
    lab.unlink("f")
    new = lab.create("f", b"new")
    assert new != old
    assert lab.lists() == lists(created={"f"}, deleted={"f"})
    assert lab.read("f") == b"new"
    lab.unlink("f")
    assert lab.lists() == lists(deleted={"f"})


def test_opaque_directory(lab: Lab) -> None:
    """A directory made where a base one was deleted shows nothing of the base."""
    lab.put("d/f")
    lab.unlink("d/f")
    lab.rmdir("d")
    lab.mkdir("d")
    assert lab.names("d") == []
    lab.create("d/f", b"new")
    assert lab.lists() == lists(created={"d", "d/f"}, deleted={"d"})
    lab.reopen()
    assert lab.read("d/f") == b"new"


def test_base_directory_comes_back_over_opaque(lab: Lab) -> None:
    """A base directory renamed away and back over a created, empty one is itself again."""
    lab.put("d/f")
    lab.rename("d", "e")
    lab.mkdir("d")
    lab.rename("e", "d")
    assert lab.lists() == NOTHING
    assert lab.names("d") == ["f"]


# -- modified


def test_write_base(lab: Lab) -> None:
    """A write puts a base file on the list of modified ones, with its bytes."""
    lab.put("f")
    lab.write("f", b"BA")
    assert lab.lists() == lists(modified={"f": 1})
    assert lab.read("f") == b"BAse"


def test_chmod_base(lab: Lab) -> None:
    """A change of attributes alone copies no bytes."""
    lab.put("f", b"x" * 100_000)
    lab.set("f", mode=0o600, uid=os.geteuid(), mtime=5)
    assert lab.lists() == lists(modified={"f": 0})
    assert lab.objects() == {}
    lab.write("f", b"y")
    assert lab.lists() == lists(modified={"f": 1})


def test_rename_modified_and_back(lab: Lab) -> None:
    """A modified file keeps its change through a rename and back."""
    lab.put("f")
    lab.write("f", b"new!")
    lab.rename("f", "g")
    assert lab.lists() == lists(deleted={"f"}, renamed={"g": "f"}, modified={"f": 1})
    lab.rename("g", "f")
    assert lab.lists() == lists(modified={"f": 1})
    assert lab.read("f") == b"new!"


def test_unlink_modified(lab: Lab) -> None:
    """A modified file that is removed leaves a whiteout; its rows go when nobody holds it."""
    lab.put("f", b"x" * 5000)
    lab.write("f", b"new!")
    lab.unlink("f")
    assert lab.lists() == lists(deleted={"f"})
    assert (lab.rows("orphan"), lab.rows("inode")) == (0, 1)


def test_drift_is_noted(lab: Lab) -> None:
    """The list of modified files knows the base's size and mtime of that moment."""
    full = lab.put("f", b"12345")
    lab.set("f", mode=0o600)
    st = full.stat()
    assert lab.ov.db.row("SELECT base_size, base_mtime FROM modified") == (5, st.st_mtime_ns)


# -- created


def test_created_lives_on_one_list(lab: Lab) -> None:
    """Writing, renaming and removing a created file touches no list but its own."""
    lab.create("f", b"x")
    lab.set("f", mode=0o600)
    lab.rename("f", "g")
    assert lab.lists() == lists(created={"g"})
    lab.unlink("g")
    assert lab.lists() == NOTHING


def test_rename_created_over_base(lab: Lab) -> None:
    """Replacing a base file by a new one (save of an editor): created above a whiteout."""
    lab.put("f", b"old")
    lab.create("f.tmp", b"new")
    lab.rename("f.tmp", "f")
    assert lab.lists() == lists(created={"f"}, deleted={"f"})
    assert (lab.names(), lab.read("f")) == (["f"], b"new")


def test_rename_created_over_created(lab: Lab) -> None:
    """The one that was there leaves no row."""
    lab.create("a", b"A")
    victim = lab.create("b", b"B")
    lab.rename("a", "b")
    lab.ov.forget([victim])
    assert lab.lists() == lists(created={"b"})
    assert lab.rows("inode") == 2  # the root's and a's
    assert lab.read("b") == b"A"


def test_rename_base_over_created(lab: Lab) -> None:
    """A base file over a created one: only the rename stays on the lists."""
    lab.put("f")
    victim = lab.create("new", b"new")
    lab.rename("f", "new")
    lab.ov.forget([victim])
    assert lab.lists() == lists(deleted={"f"}, renamed={"new": "f"})


# -- renamed


def test_unlink_renamed(lab: Lab) -> None:
    """A renamed file that is removed leaves the whiteout of its old name only."""
    lab.put("f")
    lab.rename("f", "g")
    lab.unlink("g")
    assert lab.lists() == lists(deleted={"f"})


def test_recreate_at_the_old_name(lab: Lab) -> None:
    """The old name of a renamed file may be taken, and then blocks nothing."""
    lab.put("f", b"old")
    lab.rename("f", "g")
    lab.create("f", b"new")
    assert lab.lists() == lists(created={"f"}, deleted={"f"}, renamed={"g": "f"})
    lab.rename("g", "f")
    assert lab.lists() == NOTHING
    assert lab.read("f") == b"old"


def test_rename_directory_copies_no_child(lab: Lab) -> None:
    """Renaming a directory of any size adds the same few rows, and keeps everything below."""
    for index in range(300):
        lab.put(f"d/sub/{index}", b"%d" % index)
    before = [lab.rows(table) for table in ("inode", "origin", "created", "xattr")]
    lab.rename("d", "e")
    after = [lab.rows(table) for table in ("inode", "origin", "created", "xattr")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 0, 0]  # the root and the directory
    assert lab.lists() == lists(deleted={"d"}, renamed={"e": "d"})
    assert lab.read("e/sub/299") == b"299"
    lab.reopen()
    assert len(lab.names("e/sub")) == 300


def test_child_of_renamed_directory(lab: Lab) -> None:
    """A child of a renamed directory is in base terms where it always was."""
    lab.put("d/f")
    lab.rename("d", "e")
    lab.write("e/f", b"x")
    lab.rename("e/f", "top")
    assert lab.lists() == lists(deleted={"d", "e/f"}, renamed={"e": "d", "top": "d/f"}, modified={"d/f": 1})
    lab.rename("top", "e/f")
    lab.rename("e", "d")
    assert lab.lists() == lists(modified={"d/f": 1})


# -- hard links


def test_base_hard_links_stay_one(lab: Lab) -> None:
    """A write through one base link shows through the other, and both keep their number."""
    lab.put("a", b"x" * 9000)
    (lab.base / "d").mkdir()
    os.link(lab.base / "a", lab.base / "d" / "b")
    ino = lab.ino("a")
    assert ino == lab.ino("d/b")
    lab.write("d/b", b"new")
    assert lab.read("a")[:4] == b"newx"
    lab.reopen()
    assert (lab.ino("a"), lab.ino("d/b")) == (ino, ino)
    assert lab.read("a")[:4] == b"newx"
    assert lab.attr("a").nlink == 2


def test_unlink_one_base_link(lab: Lab) -> None:
    """One of two base links removed: a whiteout, and a link count of one."""
    lab.put("a")
    os.link(lab.base / "a", lab.base / "b")
    lab.unlink("a")
    assert lab.lists() == lists(deleted={"a"})
    assert lab.attr("b").nlink == 1
    lab.link("b", "a")
    assert lab.lists() == NOTHING
    assert lab.attr("b").nlink == 2


def test_rename_back_of_a_base_link_that_was_looked_up_by_the_other_name(lab: Lab) -> None:
    """A base link that has a row, renamed and renamed back, leaves no row, by whichever name it was found."""
    lab.put("a")
    os.link(lab.base / "a", lab.base / "b")
    lab.ino("b")
    lab.link("b", "c")
    lab.reopen()
    for first in ("a", "b"):
        lab.ino(first)
        for name in ("a", "b"):
            lab.rename(name, "x")
            lab.rename("x", name)
            assert lab.lists() == lists(created={"c"})


def test_new_link_to_base(lab: Lab) -> None:
    """A link made to a base file is a created name; nothing is copied."""
    lab.put("f", b"x" * 9000)
    lab.link("f", "g")
    assert lab.lists() == lists(created={"g"})
    assert (lab.attr("f").nlink, lab.ino("g")) == (2, lab.ino("f"))
    lab.unlink("f")
    assert lab.lists() == lists(created={"g"}, deleted={"f"})
    assert lab.read("g") == b"x" * 9000
    assert lab.objects() == {}


def test_link_back_to_the_old_name(lab: Lab) -> None:
    """A renamed file linked at its old name: that one is the base's, the other one a created link."""
    lab.put("f")
    lab.rename("f", "g")
    lab.link("g", "f")
    assert lab.lists() == lists(created={"g"})
    lab.unlink("g")
    assert lab.lists() == NOTHING


def test_rename_over_own_link(lab: Lab) -> None:
    """Renaming one link over another of the same file does nothing (rename(2))."""
    lab.put("a")
    lab.link("a", "b")
    lab.rename("a", "b")
    assert lab.names() == ["a", "b"]


# -- nothing half-done


def test_failed_operations_leave_no_row(lab: Lab) -> None:
    """An errno leaves the tables as they were."""
    lab.put("d/f")
    lab.put("e/g")
    before = lab.ov.db.rows("SELECT * FROM inode") + lab.ov.db.rows("SELECT * FROM origin")
    for code, action in (
        (errno.ENOTEMPTY, lambda: lab.rename("d", "e")),
        (errno.EISDIR, lambda: lab.rename("d/f", "e")),
        (errno.ENOTDIR, lambda: lab.rename("d", "e/g")),
        (errno.EINVAL, lambda: lab.rename("d", "d/x")),
        (errno.ENOTEMPTY, lambda: lab.rename("d/f", "d")),
        (errno.EEXIST, lambda: lab.rename("d/f", "e/g", RenameFlags.NOREPLACE)),
        (errno.ENOENT, lambda: lab.rename("d/f", "e/x", RenameFlags.EXCHANGE)),
        (errno.EINVAL, lambda: lab.rename("d/f", "e/x", 4)),
        (errno.ENOTEMPTY, lambda: lab.rmdir("d")),
        (errno.ENOTDIR, lambda: lab.ov.rmdir(*lab.split("d/f"))),
        (errno.EISDIR, lambda: lab.ov.unlink(*lab.split("d"))),
        (errno.ENOENT, lambda: lab.ov.unlink(*lab.split("d/x"))),
        (errno.EPERM, lambda: lab.link("d", "x")),
        (errno.EEXIST, lambda: lab.mkdir("d")),
        (errno.ENAMETOOLONG, lambda: lab.mkdir("n" * 256)),
    ):
        with pytest.raises(FsError) as caught:
            action()
        assert caught.value.errno == code
    assert lab.ov.db.rows("SELECT * FROM inode") + lab.ov.db.rows("SELECT * FROM origin") == before
    assert lab.lists() == NOTHING


def test_removed_directory_takes_nothing(lab: Lab) -> None:
    """In a directory that was removed while open nothing can be made or found."""
    (lab.base / "d").mkdir()
    lab.put("f")
    ino = lab.ino("d")
    lab.ov.rmdir(1, b"d")  # type: ignore[arg-type]
    assert lab.ov.getattr(ino).nlink == 0
    assert lab.ov.lookup(ino, b"x") is None
    for action in (
        lambda: lab.ov.mkdir(ino, b"x", 0o755, lab.me),
        lambda: lab.ov.link(lab.ino("f"), ino, b"x"),
        lambda: lab.ov.rename(*lab.split("f"), ino, b"x"),
    ):
        with pytest.raises(FsError) as caught:
            action()
        assert caught.value.errno == errno.ENOENT
    assert [entry.name for entry in lab.ov.readdir(ino)] == [b".", b".."]


def test_hostile_names(lab: Lab) -> None:
    """Names are bytes: newlines, invalid UTF-8, 255 bytes, quotes and dashes go through every list and a remount."""
    names = [b"new\nline", b"\xff\xfe", b" ", b"n" * 255, b"-rf", b"'\"$(x)`", b"%s\\", b"?"]
    for name in names:
        lab.put(os.fsdecode(name), name)
    for name in names:
        path = os.fsdecode(name)
        lab.rename(path, "tmp")
        lab.create(path, b"made " + name)
        lab.mkdir("d" + path[:200])
        lab.rename("tmp", "d" + path[:200] + "/" + path)
    lab.reopen()
    for name in names:
        path = os.fsdecode(name)
        assert lab.read(path) == b"made " + name
        assert lab.read("d" + path[:200] + "/" + path) == name
    assert len(lab.lists().renamed) == len(names)


# -- listings of directories with overlay state


def test_long_listing_of_all_kinds(lab: Lab) -> None:
    """Names of all four kinds, more than one query asks for, after a remount: each once, with what a look-up says."""
    for number in range(100):
        for kind in ("kept", "changed", "hidden", "moved"):
            lab.put(f"d/{kind}{number}")
        lab.set(f"d/changed{number}", mode=0o600)
        lab.unlink(f"d/hidden{number}")
        lab.rename(f"d/moved{number}", f"d/to{number}")
        lab.mkdir(f"d/made{number}")
    lab.reopen()
    directory = lab.ino("d")
    entries = [entry for entry in lab.ov.readdir(directory) if entry.cookie > 2]
    wanted = {f"{kind}{number}" for kind in ("kept", "changed", "to", "made") for number in range(100)}
    assert sorted(os.fsdecode(entry.name) for entry in entries) == sorted(wanted)
    assert all(entry.attr == lab.ov.lookup(directory, entry.name) for entry in entries)
    assert {lab.ino(f"d/made{number}/..") for number in range(100)} == {directory}


def test_listing_while_names_go(lab: Lab) -> None:
    """What is taken away between two entries does not show any more, what is renamed there and back does."""
    lab.put("d/base")
    for number in range(20):
        lab.create(f"d/{number}")
    shown = set()
    for entry in lab.ov.readdir(lab.ino("d")):
        name = os.fsdecode(entry.name)
        if entry.cookie <= 2:
            continue
        shown.add(name)
        if len(shown) == 1:
            gone = {str(number) for number in range(20)} - shown
            for other in gone:
                lab.unlink(f"d/{other}")
            lab.rename("d/base", "d/elsewhere")
            lab.rename("d/elsewhere", "d/base")
    assert not shown & gone
    assert "base" in shown

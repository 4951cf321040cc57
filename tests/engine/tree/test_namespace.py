"""The four lists: the rows that each name operation adds, and those that it removes."""

from __future__ import annotations

import errno
import os

import pytest

from minifo.engine import FsError, RenameFlags
from tests.shared.overlay_sandbox import NOTHING, Lists, OverlaySandbox


def lists(
    created: set[str] | None = None,
    deleted: set[str] | None = None,
    renamed: dict[str, str] | None = None,
    modified: dict[str, int] | None = None,
) -> Lists:
    """Return the expected rows of the four lists; a list that is not given is empty."""
    return Lists(created or set(), deleted or set(), renamed or {}, modified or {})


# -- base


def test_reading_leaves_no_row(sandbox: OverlaySandbox) -> None:
    """Reading and listing everything adds no row."""
    sandbox.put("d/f")
    assert sandbox.names("d") == ["f"]
    assert sandbox.read("d/f") == b"base"
    assert sandbox.lists() == NOTHING
    assert (sandbox.rows("inode"), sandbox.rows("origin")) == (0, 1)


def test_unlink_base(sandbox: OverlaySandbox) -> None:
    """Unlinking a base file adds a whiteout only."""
    sandbox.put("f")
    sandbox.unlink("f")
    assert sandbox.lists() == lists(deleted={"f"})
    assert sandbox.names() == []
    assert sandbox.rows("inode") == 1  # the directory's new times


def test_rmdir_base_with_whiteouts(sandbox: OverlaySandbox) -> None:
    """Removing a base directory removes the whiteouts in it, and adds one for itself."""
    sandbox.put("d/f")
    sandbox.unlink("d/f")
    sandbox.rmdir("d")
    assert sandbox.lists() == lists(deleted={"d"})


def test_rename_base(sandbox: OverlaySandbox) -> None:
    """Renaming a base file adds a whiteout and a row of ``renamed``, and copies no bytes."""
    sandbox.put("d/f")
    sandbox.rename("d/f", "g")
    assert sandbox.lists() == lists(deleted={"d/f"}, renamed={"g": "d/f"})
    assert sandbox.read("g") == b"base"
    assert sandbox.objects() == {}


def test_rename_base_and_back(sandbox: OverlaySandbox) -> None:
    """Renaming a base file back removes all its rows, and its content is intact."""
    sandbox.put("d/f")
    sandbox.rename("d/f", "g")
    sandbox.rename("g", "d/f")
    assert sandbox.lists() == NOTHING
    assert sandbox.read("d/f") == b"base"
    assert sandbox.ov.inodes.row(sandbox.ino("d/f")) is None


def test_rename_directory_and_back(sandbox: OverlaySandbox) -> None:
    """Renaming a base directory back removes its rows, and keeps the changes inside it."""
    sandbox.put("d/f")
    sandbox.put("d/g")
    sandbox.rename("d", "e")
    sandbox.unlink("e/f")
    sandbox.create("e/new")
    sandbox.rename("e", "d")
    assert sandbox.lists() == lists(created={"d/new"}, deleted={"d/f"})
    assert sandbox.names("d") == ["g", "new"]


def test_rename_chain_and_back(sandbox: OverlaySandbox) -> None:
    """After several renames the rows depend only on the first and the last name."""
    sandbox.put("f")
    for old, new in (("f", "a"), ("a", "b"), ("b", "c")):
        sandbox.rename(old, new)
    assert sandbox.lists() == lists(deleted={"f"}, renamed={"c": "f"})
    sandbox.rename("c", "f")
    assert sandbox.lists() == NOTHING


def test_swap_by_a_third_name(sandbox: OverlaySandbox) -> None:
    """Swapping two base files by a third name adds two rows of ``renamed``; a second swap removes all rows."""
    sandbox.put("a", b"A")
    sandbox.put("b", b"B")
    for expected in (lists(deleted={"a", "b"}, renamed={"a": "b", "b": "a"}), NOTHING):
        sandbox.rename("a", "tmp")
        sandbox.rename("b", "a")
        sandbox.rename("tmp", "b")
        assert sandbox.lists() == expected
    assert (sandbox.read("a"), sandbox.read("b")) == (b"A", b"B")


def test_exchange_twice(sandbox: OverlaySandbox) -> None:
    """RENAME_EXCHANGE of a base file and a base directory, done twice, leaves no rows."""
    sandbox.put("a", b"A")
    sandbox.put("d/b", b"B")
    sandbox.rename("a", "d", RenameFlags.EXCHANGE)
    assert sandbox.lists() == lists(deleted={"a", "d"}, renamed={"a": "d", "d": "a"})
    assert (sandbox.read("d"), sandbox.read("a/b")) == (b"A", b"B")
    sandbox.rename("a", "d", RenameFlags.EXCHANGE)
    assert sandbox.lists() == NOTHING


def test_rename_base_over_base(sandbox: OverlaySandbox) -> None:
    """Renaming a base file over another adds a whiteout for that name, and the replaced file is deleted."""
    sandbox.put("a", b"A")
    sandbox.put("b", b"B")
    sandbox.rename("a", "b")
    assert sandbox.lists() == lists(deleted={"a", "b"}, renamed={"b": "a"})
    assert (sandbox.names(), sandbox.read("b")) == (["b"], b"A")


def test_recreate_after_delete(sandbox: OverlaySandbox) -> None:
    """A file created at a deleted base name gets a new inode number, and the whiteout stays."""
    sandbox.put("f")
    old = sandbox.ino("f")
    sandbox.unlink("f")
    new = sandbox.create("f", b"new")
    assert new != old
    assert sandbox.lists() == lists(created={"f"}, deleted={"f"})
    assert sandbox.read("f") == b"new"
    sandbox.unlink("f")
    assert sandbox.lists() == lists(deleted={"f"})


def test_opaque_directory(sandbox: OverlaySandbox) -> None:
    """A directory created at the name of a deleted base directory shows nothing of the base."""
    sandbox.put("d/f")
    sandbox.unlink("d/f")
    sandbox.rmdir("d")
    sandbox.mkdir("d")
    assert sandbox.names("d") == []
    sandbox.create("d/f", b"new")
    assert sandbox.lists() == lists(created={"d", "d/f"}, deleted={"d"})
    sandbox.reopen()
    assert sandbox.read("d/f") == b"new"


def test_base_directory_comes_back_over_opaque(sandbox: OverlaySandbox) -> None:
    """A base directory renamed away, and back over a created empty one, shows its base content again."""
    sandbox.put("d/f")
    sandbox.rename("d", "e")
    sandbox.mkdir("d")
    sandbox.rename("e", "d")
    assert sandbox.lists() == NOTHING
    assert sandbox.names("d") == ["f"]


# -- modified


def test_write_base(sandbox: OverlaySandbox) -> None:
    """Writing to a base file adds a row of ``modified`` with content 1."""
    sandbox.put("f")
    sandbox.write("f", b"BA")
    assert sandbox.lists() == lists(modified={"f": 1})
    assert sandbox.read("f") == b"BAse"


def test_chmod_base(sandbox: OverlaySandbox) -> None:
    """chmod of a base file adds a row of ``modified`` with content 0, and copies no bytes."""
    sandbox.put("f", b"x" * 100_000)
    sandbox.set("f", mode=0o600, uid=os.geteuid(), mtime=5)
    assert sandbox.lists() == lists(modified={"f": 0})
    assert sandbox.objects() == {}
    sandbox.write("f", b"y")
    assert sandbox.lists() == lists(modified={"f": 1})


def test_rename_modified_and_back(sandbox: OverlaySandbox) -> None:
    """A modified base file keeps its change when it is renamed and renamed back."""
    sandbox.put("f")
    sandbox.write("f", b"new!")
    sandbox.rename("f", "g")
    assert sandbox.lists() == lists(deleted={"f"}, renamed={"g": "f"}, modified={"f": 1})
    sandbox.rename("g", "f")
    assert sandbox.lists() == lists(modified={"f": 1})
    assert sandbox.read("f") == b"new!"


def test_unlink_modified(sandbox: OverlaySandbox) -> None:
    """Unlinking a modified base file adds a whiteout; its other rows are deleted when the kernel forgets it."""
    sandbox.put("f", b"x" * 5000)
    sandbox.write("f", b"new!")
    sandbox.unlink("f")
    assert sandbox.lists() == lists(deleted={"f"})
    assert (sandbox.rows("orphan"), sandbox.rows("inode")) == (0, 1)


def test_drift_is_noted(sandbox: OverlaySandbox) -> None:
    """A row of ``modified`` has size and mtime of the base file at the first change."""
    full = sandbox.put("f", b"12345")
    sandbox.set("f", mode=0o600)
    st = full.stat()
    assert sandbox.ov.db.row("SELECT base_size, base_mtime FROM modified") == (5, st.st_mtime_ns)


# -- created


def test_created_lives_on_one_list(sandbox: OverlaySandbox) -> None:
    """Writing, renaming and unlinking a created file changes no list but ``created``."""
    sandbox.create("f", b"x")
    sandbox.set("f", mode=0o600)
    sandbox.rename("f", "g")
    assert sandbox.lists() == lists(created={"g"})
    sandbox.unlink("g")
    assert sandbox.lists() == NOTHING


def test_rename_created_over_base(sandbox: OverlaySandbox) -> None:
    """Renaming a created file over a base file, as editors do, adds a whiteout and a row of ``created``."""
    sandbox.put("f", b"old")
    sandbox.create("f.tmp", b"new")
    sandbox.rename("f.tmp", "f")
    assert sandbox.lists() == lists(created={"f"}, deleted={"f"})
    assert (sandbox.names(), sandbox.read("f")) == (["f"], b"new")


def test_rename_created_over_created(sandbox: OverlaySandbox) -> None:
    """Renaming a created file over another one deletes all rows of the replaced file."""
    sandbox.create("a", b"A")
    victim = sandbox.create("b", b"B")
    sandbox.rename("a", "b")
    sandbox.ov.forget([victim])
    assert sandbox.lists() == lists(created={"b"})
    assert sandbox.rows("inode") == 2  # the root's and a's
    assert sandbox.read("b") == b"A"


def test_rename_base_over_created(sandbox: OverlaySandbox) -> None:
    """Renaming a base file over a created one leaves a whiteout and a row of ``renamed`` only."""
    sandbox.put("f")
    victim = sandbox.create("new", b"new")
    sandbox.rename("f", "new")
    sandbox.ov.forget([victim])
    assert sandbox.lists() == lists(deleted={"f"}, renamed={"new": "f"})


# -- renamed


def test_unlink_renamed(sandbox: OverlaySandbox) -> None:
    """Unlinking a renamed base file leaves only the whiteout of its old name."""
    sandbox.put("f")
    sandbox.rename("f", "g")
    sandbox.unlink("g")
    assert sandbox.lists() == lists(deleted={"f"})


def test_recreate_at_the_old_name(sandbox: OverlaySandbox) -> None:
    """A new file at the old name of a renamed one can be created and removed."""
    sandbox.put("f", b"old")
    sandbox.rename("f", "g")
    sandbox.create("f", b"new")
    assert sandbox.lists() == lists(created={"f"}, deleted={"f"}, renamed={"g": "f"})
    sandbox.rename("g", "f")
    assert sandbox.lists() == NOTHING
    assert sandbox.read("f") == b"old"


def test_rename_directory_copies_no_child(sandbox: OverlaySandbox) -> None:
    """Renaming a base directory adds the same few rows at any size, and keeps all objects below it."""
    for index in range(300):
        sandbox.put(f"d/sub/{index}", b"%d" % index)
    before = [sandbox.rows(table) for table in ("inode", "origin", "created", "xattr")]
    sandbox.rename("d", "e")
    after = [sandbox.rows(table) for table in ("inode", "origin", "created", "xattr")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 0, 0]  # the root and the directory
    assert sandbox.lists() == lists(deleted={"d"}, renamed={"e": "d"})
    assert sandbox.read("e/sub/299") == b"299"
    sandbox.reopen()
    assert len(sandbox.names("e/sub")) == 300


def test_child_of_renamed_directory(sandbox: OverlaySandbox) -> None:
    """A child of a renamed directory keeps its path in base terms."""
    sandbox.put("d/f")
    sandbox.rename("d", "e")
    sandbox.write("e/f", b"x")
    sandbox.rename("e/f", "top")
    assert sandbox.lists() == lists(deleted={"d", "e/f"}, renamed={"e": "d", "top": "d/f"}, modified={"d/f": 1})
    sandbox.rename("top", "e/f")
    sandbox.rename("e", "d")
    assert sandbox.lists() == lists(modified={"d/f": 1})


# -- hard links


def test_base_hard_links_stay_one(sandbox: OverlaySandbox) -> None:
    """A write through one hard link of a base file shows through the other, and both keep the inode number."""
    sandbox.put("a", b"x" * 9000)
    (sandbox.base / "d").mkdir()
    os.link(sandbox.base / "a", sandbox.base / "d" / "b")
    ino = sandbox.ino("a")
    assert ino == sandbox.ino("d/b")
    sandbox.write("d/b", b"new")
    assert sandbox.read("a")[:4] == b"newx"
    sandbox.reopen()
    assert (sandbox.ino("a"), sandbox.ino("d/b")) == (ino, ino)
    assert sandbox.read("a")[:4] == b"newx"
    assert sandbox.attr("a").nlink == 2


def test_unlink_one_base_link(sandbox: OverlaySandbox) -> None:
    """Unlinking one of two base links adds a whiteout, and the link count is 1."""
    sandbox.put("a")
    os.link(sandbox.base / "a", sandbox.base / "b")
    sandbox.unlink("a")
    assert sandbox.lists() == lists(deleted={"a"})
    assert sandbox.attr("b").nlink == 1
    sandbox.link("b", "a")
    assert sandbox.lists() == NOTHING
    assert sandbox.attr("b").nlink == 2


def test_rename_back_of_a_base_link_that_was_looked_up_by_the_other_name(sandbox: OverlaySandbox) -> None:
    """A base link that is renamed and renamed back leaves no row, also if it was looked up by its other name."""
    sandbox.put("a")
    os.link(sandbox.base / "a", sandbox.base / "b")
    sandbox.ino("b")
    sandbox.link("b", "c")
    sandbox.reopen()
    for first in ("a", "b"):
        sandbox.ino(first)
        for name in ("a", "b"):
            sandbox.rename(name, "x")
            sandbox.rename("x", name)
            assert sandbox.lists() == lists(created={"c"})


def test_new_link_to_base(sandbox: OverlaySandbox) -> None:
    """A new hard link to a base file is a row of ``created``; no bytes are copied."""
    sandbox.put("f", b"x" * 9000)
    sandbox.link("f", "g")
    assert sandbox.lists() == lists(created={"g"})
    assert (sandbox.attr("f").nlink, sandbox.ino("g")) == (2, sandbox.ino("f"))
    sandbox.unlink("f")
    assert sandbox.lists() == lists(created={"g"}, deleted={"f"})
    assert sandbox.read("g") == b"x" * 9000
    assert sandbox.objects() == {}


def test_link_back_to_the_old_name(sandbox: OverlaySandbox) -> None:
    """Linking a renamed base file at its old name shows the base name again, and the other is a row of ``created``."""
    sandbox.put("f")
    sandbox.rename("f", "g")
    sandbox.link("g", "f")
    assert sandbox.lists() == lists(created={"g"})
    sandbox.unlink("g")
    assert sandbox.lists() == NOTHING


def test_rename_over_own_link(sandbox: OverlaySandbox) -> None:
    """Renaming a hard link over another of the same file does nothing (rename(2))."""
    sandbox.put("a")
    sandbox.link("a", "b")
    sandbox.rename("a", "b")
    assert sandbox.names() == ["a", "b"]


# -- nothing half-done


def test_failed_operations_leave_no_row(sandbox: OverlaySandbox) -> None:
    """An operation that fails leaves all tables unchanged."""
    sandbox.put("d/f")
    sandbox.put("e/g")
    before = sandbox.ov.db.rows("SELECT * FROM inode") + sandbox.ov.db.rows("SELECT * FROM origin")
    for code, action in (
        (errno.ENOTEMPTY, lambda: sandbox.rename("d", "e")),
        (errno.EISDIR, lambda: sandbox.rename("d/f", "e")),
        (errno.ENOTDIR, lambda: sandbox.rename("d", "e/g")),
        (errno.EINVAL, lambda: sandbox.rename("d", "d/x")),
        (errno.ENOTEMPTY, lambda: sandbox.rename("d/f", "d")),
        (errno.EEXIST, lambda: sandbox.rename("d/f", "e/g", RenameFlags.NOREPLACE)),
        (errno.ENOENT, lambda: sandbox.rename("d/f", "e/x", RenameFlags.EXCHANGE)),
        (errno.EINVAL, lambda: sandbox.rename("d/f", "e/x", 4)),
        (errno.ENOTEMPTY, lambda: sandbox.rmdir("d")),
        (errno.ENOTDIR, lambda: sandbox.ov.rmdir(*sandbox.split("d/f"))),
        (errno.EISDIR, lambda: sandbox.ov.unlink(*sandbox.split("d"))),
        (errno.ENOENT, lambda: sandbox.ov.unlink(*sandbox.split("d/x"))),
        (errno.EPERM, lambda: sandbox.link("d", "x")),
        (errno.EEXIST, lambda: sandbox.mkdir("d")),
        (errno.ENAMETOOLONG, lambda: sandbox.mkdir("n" * 256)),
    ):
        with pytest.raises(FsError) as caught:
            action()
        assert caught.value.errno == code
    assert sandbox.ov.db.rows("SELECT * FROM inode") + sandbox.ov.db.rows("SELECT * FROM origin") == before
    assert sandbox.lists() == NOTHING


def test_removed_directory_takes_nothing(sandbox: OverlaySandbox) -> None:
    """In a directory that was removed while it is open nothing can be created or looked up."""
    (sandbox.base / "d").mkdir()
    sandbox.put("f")
    ino = sandbox.ino("d")
    sandbox.ov.rmdir(1, b"d")  # type: ignore[arg-type]
    assert sandbox.ov.getattr(ino).nlink == 0
    assert sandbox.ov.lookup(ino, b"x") is None
    for action in (
        lambda: sandbox.ov.mkdir(ino, b"x", 0o755, sandbox.me),
        lambda: sandbox.ov.link(sandbox.ino("f"), ino, b"x"),
        lambda: sandbox.ov.rename(*sandbox.split("f"), ino, b"x"),
    ):
        with pytest.raises(FsError) as caught:
            action()
        assert caught.value.errno == errno.ENOENT
    assert [entry.name for entry in sandbox.ov.readdir(ino)] == [b".", b".."]


def test_hostile_names(sandbox: OverlaySandbox) -> None:
    """Names with newlines, invalid UTF-8, quotes, dashes or 255 bytes survive in every list and a remount."""
    names = [b"new\nline", b"\xff\xfe", b" ", b"n" * 255, b"-rf", b"'\"$(x)`", b"%s\\", b"?"]
    for name in names:
        sandbox.put(os.fsdecode(name), name)
    for name in names:
        path = os.fsdecode(name)
        sandbox.rename(path, "tmp")
        sandbox.create(path, b"made " + name)
        sandbox.mkdir("d" + path[:200])
        sandbox.rename("tmp", "d" + path[:200] + "/" + path)
    sandbox.reopen()
    for name in names:
        path = os.fsdecode(name)
        assert sandbox.read(path) == b"made " + name
        assert sandbox.read("d" + path[:200] + "/" + path) == name
    assert len(sandbox.lists().renamed) == len(names)


# -- listings of directories with overlay state


def test_long_listing_of_all_kinds(sandbox: OverlaySandbox) -> None:
    """After a remount a long listing with names of all kinds shows each once, with the attributes of a look-up."""
    for number in range(100):
        for kind in ("kept", "changed", "hidden", "moved"):
            sandbox.put(f"d/{kind}{number}")
        sandbox.set(f"d/changed{number}", mode=0o600)
        sandbox.unlink(f"d/hidden{number}")
        sandbox.rename(f"d/moved{number}", f"d/to{number}")
        sandbox.mkdir(f"d/made{number}")
    sandbox.reopen()
    directory = sandbox.ino("d")
    entries = [entry for entry in sandbox.ov.readdir(directory) if entry.cookie > 2]
    wanted = {f"{kind}{number}" for kind in ("kept", "changed", "to", "made") for number in range(100)}
    assert sorted(os.fsdecode(entry.name) for entry in entries) == sorted(wanted)
    assert all(entry.attr == sandbox.ov.lookup(directory, entry.name) for entry in entries)
    assert {sandbox.ino(f"d/made{number}/..") for number in range(100)} == {directory}


def test_listing_while_names_go(sandbox: OverlaySandbox) -> None:
    """A listing does not show names that are removed meanwhile, and shows those that are renamed and renamed back."""
    sandbox.put("d/base")
    for number in range(20):
        sandbox.create(f"d/{number}")
    shown = set()
    for entry in sandbox.ov.readdir(sandbox.ino("d")):
        name = os.fsdecode(entry.name)
        if entry.cookie <= 2:
            continue
        shown.add(name)
        if len(shown) == 1:
            gone = {str(number) for number in range(20)} - shown
            for other in gone:
                sandbox.unlink(f"d/{other}")
            sandbox.rename("d/base", "d/elsewhere")
            sandbox.rename("d/elsewhere", "d/base")
    assert not shown & gone
    assert "base" in shown

"""Reset: what patterns keep stays as it is, and all else is as in the base."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.engine.reset import Reset, reset
from minifo.engine.store import history
from minifo.fusefront.control.patterns import Choice
from tests.shared.overlay_sandbox import NOTHING, OverlaySandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """A base with some files, and an empty storage."""
    found = OverlaySandbox(tmp_path)
    for path in ("f", "d/a", "d/b", "d/sub/c", "e/a"):
        found.put(path, path.encode())
    yield found
    found.close()


def do(sandbox: OverlaySandbox, *patterns: str) -> Reset:
    """Reset; the rows fit each other afterwards, also for those who open the overlay anew."""
    done = reset(sandbox.ov, Choice(patterns))
    lists = sandbox.lists()
    sandbox.reopen()
    assert sandbox.lists() == lists
    return done


def everything(sandbox: OverlaySandbox) -> dict[str, tuple[object, ...]]:
    """What the overlay shows, by path."""
    found: dict[str, tuple[object, ...]] = {}
    waiting = [""]
    while waiting:
        path = waiting.pop()
        attr = sandbox.attr(path)
        is_dir = attr.mode & 0o170000 == 0o040000
        found[path] = (attr.mode, attr.uid, attr.nlink, attr.mtime, b"" if is_dir else sandbox.read(path))
        if is_dir:
            waiting += [os.path.join(path, name) for name in sandbox.names(path)]
    return found


def test_everything_goes(sandbox: OverlaySandbox) -> None:
    """Whatever was done; undo brings it back, and redo takes it away again."""
    base = everything(sandbox)
    sandbox.create("new", b"x" * 5000)
    sandbox.mkdir("dir")
    sandbox.create("dir/small", b"x")
    sandbox.write("f", b"ours")
    sandbox.unlink("d/a")
    sandbox.rename("d/b", "dir/b")
    sandbox.rename("d", "moved")
    sandbox.set("e", mode=0o700)
    sandbox.ov.setxattr(sandbox.ino("e/a"), b"user.x", b"y")
    sandbox.link("e/a", "linked")
    ours = everything(sandbox)
    done = do(sandbox)
    assert done.restored is not None
    assert (done.taken, done.kept) == (12, 0)
    assert everything(sandbox) == base
    assert sandbox.lists() == NOTHING
    assert [sandbox.rows(table) for table in history.TABLES] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert [point.cause for point in sandbox.ov.checkpoints.all()] == ["reset"]
    sandbox.ov.checkpoints.undo()
    assert everything(sandbox) == ours
    sandbox.ov.checkpoints.redo()
    assert everything(sandbox) == base


def test_nothing_to_take_back(sandbox: OverlaySandbox) -> None:
    """No checkpoint is left."""
    assert do(sandbox) == (0, 0, None)
    sandbox.create("new")
    assert do(sandbox, "new") == (0, 1, None)
    assert sandbox.ov.checkpoints.all() == []
    assert sandbox.ov.db.value("SELECT count(*) FROM temp.sqlite_schema") == 0


def test_what_is_kept(sandbox: OverlaySandbox) -> None:
    """Files of every kind of backing, deletions and attributes, with the directories above and no others."""
    sandbox.mkdir("dir")
    sandbox.mkdir("dir/deep")
    sandbox.create("dir/deep/keep", b"k" * 9000)
    sandbox.create("dir/other")
    sandbox.create("d/keep", b"row")
    sandbox.write("d/a", b"OURS")
    sandbox.write("d/b", b"OURS")
    sandbox.unlink("d/sub/c")
    sandbox.unlink("e/a")
    sandbox.set("d", mode=0o700)
    sandbox.set("dir", mode=0o711)
    do(sandbox, "keep", "/d/a", "/d/sub/c")
    assert sandbox.read("dir/deep/keep") == b"k" * 9000
    assert (sandbox.read("d/keep"), sandbox.read("d/a"), sandbox.read("d/b")) == (b"row", b"OURS", b"d/b")
    assert sandbox.names() == ["d", "dir", "e", "f"]
    assert sandbox.names("d/sub") == []
    assert sandbox.names("dir") == ["deep"]
    assert sandbox.attr("dir").mode & 0o777 == 0o711
    assert sandbox.attr("d").mode & 0o777 == os.stat(sandbox.base / "d").st_mode & 0o777
    assert sandbox.lists() == (
        {"dir", "dir/deep", "dir/deep/keep", "d/keep"},
        {"d/sub/c"},
        {},
        {"d/a": 1},
    )


def test_a_whole_directory_is_kept(sandbox: OverlaySandbox) -> None:
    """With all that is in it but the exceptions."""
    sandbox.mkdir("home")
    for name in ("home/a", "home/b.cache"):
        sandbox.create(name, name.encode())
    do(sandbox, "home", "!*.cache")
    assert sandbox.names("home") == ["a"]


def test_a_file_in_a_renamed_directory(sandbox: OverlaySandbox) -> None:
    """The directory goes back, and one like it holds what is kept."""
    sandbox.set("d", mode=0o710, uid=7)
    sandbox.rename("d", "moved")
    sandbox.create("moved/new", b"new")
    sandbox.write("moved/sub/c", b"ours...")
    sandbox.unlink("moved/a")
    do(sandbox, "/moved/new", "/moved/sub/c")
    assert sandbox.names() == ["d", "e", "f", "moved"]
    assert sandbox.names("moved") == ["new", "sub"]
    assert sandbox.names("d") == ["a", "b", "sub"]
    assert sandbox.names("d/sub") == []  # its only file is in the other place
    assert sandbox.read("moved/sub/c") == b"ours..."
    attr = sandbox.attr("moved")
    assert (attr.mode & 0o777, attr.uid) == (0o710, 7)
    assert sandbox.attr("d").uid == os.geteuid()


def test_a_file_in_a_directory_that_was_made_anew(sandbox: OverlaySandbox) -> None:
    """The base's directory shows again, with what is kept in it."""
    sandbox.unlink("e/a")
    sandbox.rmdir("e")
    sandbox.mkdir("e")
    sandbox.create("e/new", b"new")
    sandbox.create("e/other", b"other")
    do(sandbox, "new")
    assert sandbox.names("e") == ["a", "new"]
    assert sandbox.lists() == ({"e/new"}, set(), {}, {})


def test_a_file_stands_where_the_base_has_a_directory(sandbox: OverlaySandbox) -> None:
    """And a directory where it has a file: what is kept needs it."""
    sandbox.unlink("e/a")
    sandbox.rmdir("e")
    sandbox.create("e", b"a file")
    sandbox.unlink("f")
    sandbox.mkdir("f")
    sandbox.create("f/keep", b"kept")
    do(sandbox, "/e", "/f/keep")
    assert sandbox.read("e") == b"a file"
    assert sandbox.read("f/keep") == b"kept"


def test_directories_that_changed_places(sandbox: OverlaySandbox) -> None:
    """What is kept in each is not lost while they change back."""
    sandbox.rename("d", "e", flags=2)
    sandbox.create("d/x", b"in d")
    sandbox.create("e/x", b"in e")
    sandbox.write("e/a", b"ours")
    do(sandbox, "x", "/e/a")
    assert sandbox.names("d") == ["b", "sub", "x"]  # d/a is what is e/a now
    assert (sandbox.read("d/x"), sandbox.read("e/x"), sandbox.read("e/a")) == (b"in d", b"in e", b"ours")


def test_what_was_renamed_and_is_kept_is_gone_from_its_place(sandbox: OverlaySandbox) -> None:
    """It is one object; a directory takes along what is in it."""
    sandbox.rename("f", "g")
    sandbox.rename("d", "moved")
    sandbox.create("moved/new")
    do(sandbox, "/g", "/moved")
    assert sandbox.names() == ["e", "g", "moved"]
    assert sandbox.names("moved") == ["a", "b", "new", "sub"]


def test_hard_links(sandbox: OverlaySandbox) -> None:
    """A file has the links that are kept."""
    sandbox.create("one", b"x")
    sandbox.link("one", "two")
    sandbox.link("f", "three")
    sandbox.write("f", b"ours")
    do(sandbox, "two", "f")
    assert sandbox.names() == ["d", "e", "f", "two"]
    assert (sandbox.attr("two").nlink, sandbox.attr("f").nlink) == (1, 1)
    assert sandbox.read("f") == b"ours"


def test_another_name_in_the_base(tmp_path: Path) -> None:
    """A file that has several names in the base is changed at all of them."""
    sandbox = OverlaySandbox(tmp_path)
    sandbox.put("x/one")
    os.link(sandbox.base / "x/one", sandbox.base / "x/two")
    (sandbox.base / "y").mkdir()
    os.link(sandbox.base / "x/one", sandbox.base / "y/three")
    sandbox.write("x/one", b"ours")
    sandbox.unlink("x/two")
    do(sandbox, "three")
    assert sandbox.read("y/three") == b"ours"
    assert sandbox.attr("y/three").nlink == 3
    do(sandbox)
    assert sandbox.read("y/three") == b"base"
    sandbox.close()


def test_a_deletion_of_one_of_several_names(tmp_path: Path) -> None:
    """It is kept, but not what was written into the file, which shows at another name."""
    sandbox = OverlaySandbox(tmp_path)
    sandbox.put("x/one")
    os.link(sandbox.base / "x/one", sandbox.base / "x/two")
    sandbox.write("x/one", b"o" * 9000)
    sandbox.unlink("x/one")
    do(sandbox, "one")
    assert sandbox.names("x") == ["two"]
    assert (sandbox.read("x/two"), sandbox.attr("x/two").nlink) == (b"base", 1)
    sandbox.ov.checkpoints.undo()
    assert sandbox.read("x/two") == b"o" * 9000
    sandbox.close()


@pytest.fixture
def linked(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """A base file with a name in the root and one in a directory."""
    found = OverlaySandbox(tmp_path)
    found.put("g")
    found.put("a/z")
    (found.base / "a/b").mkdir()
    os.link(found.base / "g", found.base / "a/b/x")
    yield found
    found.close()


def remove(sandbox: OverlaySandbox, path: str, *, used: bool) -> None:
    """Remove a directory with what is in it; the kernel still refers to it if it is used."""
    ino = sandbox.ino(path)
    if used:
        sandbox.ov.add_lookup(ino)
    for name in sandbox.names(path):
        sandbox.unlink(f"{path}/{name}")
    sandbox.ov.rmdir(*sandbox.split(path))
    if not used:
        sandbox.ov.forget([ino])


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("patterns", [("!-rf", "/a/b", "/ünï"), ("/a/b/x",), ("x",), ("g",)])
def test_another_name_in_a_directory_that_was_removed(
    patterns: tuple[str, ...], used: bool, linked: OverlaySandbox
) -> None:
    """That name does not show, so it chooses nothing: the file is as in the base, but what keeps its other name."""
    linked.write("g", b"ours")
    linked.set("a/b", mode=0o700)
    remove(linked, "a/b", used=used)
    reset(linked.ov, Choice(list(patterns)))
    assert linked.ov.check() == []
    assert linked.read("g") == (b"ours" if patterns == ("g",) else b"base")
    is_kept = "/a/b" in patterns
    assert linked.names("a") == (["z"] if is_kept else ["b", "z"])
    assert linked.attr("g").nlink == (1 if is_kept else 2)
    linked.reopen()
    assert linked.ov.check() == []
    assert linked.attr("g").nlink == (1 if is_kept else 2)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("what", ["a/z", "a/b"])
def test_what_was_moved_out_of_a_directory_that_was_removed(what: str, used: bool, linked: OverlaySandbox) -> None:
    """It stays where it is, and is not in its old place as well when the directory shows again."""
    linked.rename(what, "n")
    if what == "a/z":
        remove(linked, "a/b", used=used)
    remove(linked, "a", used=used)
    done = reset(linked.ov, Choice(["/n"]))
    assert (done.taken, done.kept) == (1, 2)
    assert linked.ov.check() == []
    assert linked.names() == ["a", "g", "n"]
    assert linked.names("a") == (["b"] if what == "a/z" else ["z"])
    assert linked.attr("a").nlink == (3 if what == "a/z" else 2)
    assert linked.attr("g").nlink == 2
    linked.reopen()
    assert linked.ov.check() == []
    assert linked.names("n") == ["x"] if what == "a/b" else linked.read("n") == b"base"
    linked.ov.checkpoints.undo()
    assert linked.names() == ["g", "n"]


def test_a_link_that_shows_while_others_stay_hidden(linked: OverlaySandbox) -> None:
    """It has one link: of the file there was no row any more, as all its names were hidden."""
    remove(linked, "a/b", used=False)
    linked.unlink("g")
    do(linked, "/a/b")
    assert (linked.read("g"), linked.attr("g").nlink) == (b"base", 1)
    linked.unlink("g")
    assert linked.rows("orphan") == 0


def test_what_is_open(sandbox: OverlaySandbox) -> None:
    """A kept file stays usable, as does one without a name; of another one the number is not valid any more."""
    keep, gone, orphan = (sandbox.create(name, b"bytes") for name in ("keep", "gone", "orphan"))
    for ino in (keep, gone, orphan):
        sandbox.ov.add_lookup(ino)
    sandbox.ov.unlink(*sandbox.split("orphan"))
    done = reset(sandbox.ov, Choice(["keep"]))
    assert done.restored is not None
    assert gone in done.restored.inos
    assert not {keep, orphan} & done.restored.inos
    for ino in (keep, orphan):
        sandbox.ov.write(ino, 1, b"!")
        assert sandbox.ov.read(ino, 0, 9) == b"b!tes"
    with pytest.raises(OSError, match="Stale"):
        sandbox.ov.read(gone, 0, 9)
    sandbox.ov.forget([orphan])
    assert sandbox.ov.check() == []


def test_kept_rows_cost_no_history(sandbox: OverlaySandbox) -> None:
    """The checkpoint holds what was taken away, and no more."""
    for number in range(5):
        sandbox.create(f"keep{number}", b"x" * 100)
    sandbox.create("gone", b"x")
    do(sandbox, "keep*")
    # the name, the inode, the bytes; and the root directory
    assert {name: sandbox.rows(f"was_{name}") for name in history.TABLES if sandbox.rows(f"was_{name}")} == {
        "created": 1,
        "inode": 1 + 1,
        "small": 1,
    }


def test_checkpoints_stay(sandbox: OverlaySandbox) -> None:
    """What was kept for earlier ones still is."""
    sandbox.create("new", b"first")
    sandbox.ov.checkpoints.create("one")
    sandbox.write("new", b"other")
    sandbox.rename("d", "moved")
    sandbox.create("moved/keep")
    do(sandbox, "keep")
    sandbox.ov.checkpoints.rollback("one")
    assert sandbox.read("new") == b"first"
    assert sandbox.names() == ["d", "e", "f", "new"]
    sandbox.ov.checkpoints.undo()
    assert sandbox.names() == ["d", "e", "f", "moved"]
    sandbox.ov.checkpoints.delete([point.name for point in sandbox.ov.checkpoints.all()])
    assert [sandbox.rows(f"was_{name}") for name in history.TABLES] == [0] * len(history.TABLES)


@pytest.mark.logs("operations of a killed daemon were replayed")
@pytest.mark.parametrize("patterns", [(), ("keep",), ("/moved/new", "keep")])
def test_a_redo_log_does_the_same(patterns: tuple[str, ...], sandbox: OverlaySandbox, tmp_path: Path) -> None:
    """A killed daemon had acknowledged it, and the replay has triggers where the reset had none."""
    redo = tmp_path / "redo"
    redo.mkdir()
    sandbox.open(redo_directory=str(redo))
    sandbox.create("keep", b"k" * 5000)
    sandbox.rename("d", "moved")
    sandbox.create("moved/new", b"row")
    sandbox.write("f", b"ours")
    sandbox.ov.commit()
    tables = [*history.TABLES, *(f"was_{name}" for name in history.TABLES), "checkpoint"]

    def rows() -> dict[str, list[object]]:
        return {table: sorted(map(repr, sandbox.ov.db.rows(f"SELECT * FROM {table}"))) for table in tables}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(sandbox.ov.commits), "run", lambda self: None)
        reset(sandbox.ov, Choice(patterns))
        done = rows()
        sandbox.kill()
    sandbox.open(redo_directory=str(redo))
    assert rows() == done


def test_ancestors_of_what_is_kept_stay(sandbox: OverlaySandbox) -> None:
    """The others are not needed any more."""
    sandbox.open(keep_origin=100)
    sandbox.write("d/a", b"ours")
    sandbox.write("d/b", b"ours")
    reset(sandbox.ov, Choice(["/d/a"]))
    assert sandbox.ov.db.rows("SELECT path FROM ancestor") == [(b"/d/a",)]


@pytest.mark.logs("is not the one of the last mount")
def test_another_base(sandbox: OverlaySandbox) -> None:
    """What is kept of a file that the new base lacks, or has as another version, stays as it is."""
    sandbox.write("d/a", b"ours")
    sandbox.create("d/sub/new", b"new")
    sandbox.write("e/a", b"ours")
    sandbox.close()
    (sandbox.base / "d/a").unlink()
    (sandbox.base / "d/sub/c").unlink()
    (sandbox.base / "d/sub").rmdir()
    sandbox.put("e/a", b"another version")
    shown = sandbox.read("d/a")
    do(sandbox, "/d/a", "/d/sub/new")
    assert sandbox.read("d/a") == shown
    assert sandbox.read("d/sub/new") == b"new"
    assert sandbox.read("e/a") == b"another version"
    do(sandbox)
    assert sandbox.names("d") == ["b"]


def test_a_failure_undoes_all(sandbox: OverlaySandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory fits the rows then, and the next one succeeds."""
    sandbox.rename("d", "moved")
    sandbox.create("moved/keep", b"kept")
    sandbox.write("f", b"ours")
    before = everything(sandbox)

    def fail(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr("minifo.engine.reset._Reset._settle", fail)
        with pytest.raises(RuntimeError):
            reset(sandbox.ov, Choice(["keep"]))
    assert everything(sandbox) == before
    assert sandbox.ov.checkpoints.all() == []
    sandbox.create("more")
    assert sandbox.rows("was_created") == 0
    do(sandbox, "keep")
    assert sandbox.names("moved") == ["keep"]

"""The journal: each change leaves its entry, with the right path; how many are kept; what becomes of damaged ones."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifo.engine import ROOT, Ino, RenameFlags, SetAttr
from minifo.engine.model import JOURNAL_OPERATIONS, JournalEntry
from minifo.engine.revert_to import revert_paths
from minifo.engine.tree.journal_entries import IDS_END
from minifo.engine.tree.known_names import PATH_MAX
from tests.shared.overlay_sandbox import ME, OverlaySandbox


def entries(sandbox: OverlaySandbox) -> list[JournalEntry]:
    """All entries that are kept."""
    journal = sandbox.ov.journal
    at, end = journal.bounds()
    found = []
    while at < end:
        piece = journal.read(at, end)
        found += piece.entries
        at = piece.next
    return found


def told(sandbox: OverlaySandbox) -> list[str]:
    """All entries as text."""
    return [
        f"{entry.op} {os.fsdecode(entry.path)}" + ("" if entry.other is None else f" {os.fsdecode(entry.other)}")
        for entry in entries(sandbox)
    ]


def raw(sandbox: OverlaySandbox, *statements: str) -> None:
    """Change the database of an overlay that is closed."""
    con = apsw.Connection(str(sandbox.sto / "minifo.db"))
    for sql in statements:
        con.execute(sql)
    con.close()


Act = Callable[[OverlaySandbox], object]

#: What is done to the base d/{file,other}, top, and the entries that it leaves.
ACTS: tuple[tuple[Act, list[str]], ...] = (
    (lambda s: s.create("d/new"), ["create /d/new"]),
    (lambda s: s.mkdir("d/sub"), ["mkdir /d/sub"]),
    (lambda s: s.ov.symlink(*s.split("link"), b"to", ME), ["symlink /link"]),
    (lambda s: s.ov.mknod(*s.split("pipe"), 0o010644, 0, ME), ["mknod /pipe"]),
    (lambda s: s.link("top", "d/more"), ["link /d/more /top"]),
    (lambda s: s.unlink("d/file"), ["unlink /d/file"]),
    (
        lambda s: (s.unlink("d/file"), s.unlink("d/other"), s.rmdir("d")),
        ["unlink /d/file", "unlink /d/other", "rmdir /d"],
    ),
    (lambda s: s.rename("top", "d/file"), ["rename /d/file /top"]),
    (lambda s: s.rename("top", "d/file", RenameFlags.EXCHANGE), ["exchange /d/file /top"]),
    (lambda s: s.write("top", b"x"), ["write /top"]),
    (lambda s: s.ov.fallocate(s.ino("top"), 0, 0, 9000), ["write /top"]),
    (lambda s: s.ov.copy(s.ino("top"), 0, s.ino("d/file"), 0, 4), ["write /d/file"]),
    (lambda s: s.set("top", size=1), ["truncate /top"]),
    (lambda s: s.set("top", size=4), []),
    (lambda s: s.set("d", mode=0o700), ["chmod /d"]),
    (lambda s: s.set("", mode=0o700), ["chmod /"]),
    (lambda s: s.set("top", uid=5, gid=6), ["chown /top"]),
    (lambda s: s.set("top", atime=7, mtime=8), ["times /top"]),
    (lambda s: s.set("top", mtime=8, ctime=8), ["times /top"]),
    (lambda s: s.set("top", mtime=s.attr("top").mtime, ctime=8), []),
    (lambda s: s.set("top", kill_priv=True), []),
    (
        lambda s: (s.ov.setxattr(s.ino("top"), b"user.a", b"1"), s.ov.removexattr(s.ino("top"), b"user.a")),
        ["setxattr /top", "removexattr /top"],
    ),
    # several writes of one commit are one entry; what the kernel then says of the mtime is part of them
    (lambda s: (s.write("top", b"x"), s.write("top", b"y"), s.set("top", mtime=9, ctime=9)), ["write /top"]),
    (
        lambda s: (s.write("top", b"x"), s.ov.commit(), s.set("top", mtime=9, ctime=9), s.write("top", b"z")),
        ["write /top", "write /top"],
    ),
    (lambda s: (s.create("n"), s.set("n", mtime=9, ctime=9), s.write("n", b"x")), ["create /n", "write /n"]),
    (lambda s: (s.set("top", kill_priv=True), s.set("top", mtime=9, ctime=9)), []),
    (lambda s: (s.set("top", size=1), s.set("top", size=2), s.write("top", b"x")), ["truncate /top", "write /top"]),
    # paths follow what happens to the directories above
    (
        lambda s: (s.write("d/file", b"x"), s.rename("d", "e"), s.set("e/file", mode=0o600), s.create("e/n")),
        ["write /d/file", "rename /e /d", "chmod /e/file", "create /e/n"],
    ),
    (
        lambda s: (s.mkdir("a"), s.mkdir("a/b"), s.rename("a/b", "b"), s.create("b/n"), s.rename("d", "b/d")),
        ["mkdir /a", "mkdir /a/b", "rename /b /a/b", "create /b/n", "rename /b/d /d"],
    ),
    (
        lambda s: (s.mkdir("a"), s.create("a/n"), s.rename("a", "d", RenameFlags.EXCHANGE), s.set("d/n", mode=0o600)),
        ["mkdir /a", "create /a/n", "exchange /d /a", "chmod /d/n"],
    ),
)


@pytest.mark.parametrize(("act", "expected"), ACTS)
def test_each_change_leaves_its_entry(sandbox: OverlaySandbox, act: Act, expected: list[str]) -> None:
    """Operation and paths, in order; none of what changes nothing; the same after the overlay was opened again."""
    for name in ("d/file", "d/other", "top"):
        sandbox.put(name)
    sandbox.open(journal=100)
    act(sandbox)
    assert told(sandbox) == expected
    assert {entry.op for entry in entries(sandbox)} <= set(JOURNAL_OPERATIONS)
    ids = [entry.id for entry in entries(sandbox)]
    assert ids == list(range(1, len(ids) + 1))
    sandbox.reopen()
    assert told(sandbox) == expected
    assert sandbox.ov.check() == []


def test_what_fails_leaves_no_entry(sandbox: OverlaySandbox) -> None:
    """An entry is part of its operation."""
    sandbox.put("file")
    sandbox.open(journal=100)
    calls: tuple[tuple[int, Callable[[], object]], ...] = (
        (errno.EEXIST, lambda: sandbox.create("file")),
        (errno.ENOTDIR, lambda: sandbox.rmdir("file")),
        (errno.ENOENT, lambda: sandbox.ov.rename(ROOT, b"none", ROOT, b"other")),
        (errno.ENODATA, lambda: sandbox.ov.removexattr(sandbox.ino("file"), b"user.none")),
        (errno.EINVAL, lambda: _fail_after_a_write(sandbox)),
    )
    for code, call in calls:
        with pytest.raises(OSError, match=os.strerror(code)):
            call()
    assert told(sandbox) == []
    sandbox.write("file", b"x")
    assert told(sandbox) == ["write /file"]


def _fail_after_a_write(sandbox: OverlaySandbox) -> None:
    with sandbox.ov.transaction():
        sandbox.write("file", b"x")
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def test_names_that_the_kernel_knows_go_first(sandbox: OverlaySandbox) -> None:
    """A file with several names is called by one that it still has, also if another was used last."""
    sandbox.put("base")
    sandbox.open(journal=100)
    ino = sandbox.create("one")
    sandbox.link("one", "two")
    sandbox.ov.unlink(ROOT, b"two")
    sandbox.ov.setattr(ino, SetAttr(mode=0o600))
    base = sandbox.ino("base")
    sandbox.link("base", "third")
    sandbox.ov.unlink(ROOT, b"third")
    sandbox.ov.setattr(base, SetAttr(mode=0o600))
    listed = [entry.name for entry in sandbox.ov.readdir(ROOT)]
    assert {b"base", b"one"} < set(listed)
    assert [text for text in told(sandbox) if "chmod" in text] == ["chmod /one", "chmod /base"]


def test_numbers_without_a_lookup(sandbox: OverlaySandbox) -> None:
    """After open_by_handle_at(2) no name is known; the rows have one."""
    sandbox.put("d/e/file")
    sandbox.open(journal=100)
    sandbox.rename("d", "moved")
    sandbox.write("moved/e/file", b"x")
    made, file = sandbox.create("moved/e/made"), sandbox.ino("moved/e/file")
    sandbox.reopen(journal=100)
    sandbox.ov.setattr(file, SetAttr(mode=0o600))
    sandbox.ov.setattr(made, SetAttr(mode=0o600))
    assert told(sandbox)[-2:] == ["chmod /moved/e/file", "chmod /moved/e/made"]


def test_files_without_a_name_have_no_entries(sandbox: OverlaySandbox) -> None:
    """Until they get one, and after the last is gone."""
    sandbox.put("base")
    sandbox.open(journal=100)
    ino = Ino(sandbox.ov.tmpfile(ROOT, 0o644, ME).ino)
    sandbox.ov.write(ino, 0, b"x")
    sandbox.ov.link(ino, ROOT, b"named")
    sandbox.ov.write(ino, 0, b"y")
    sandbox.ov.unlink(ROOT, b"named")
    sandbox.ov.commit()
    sandbox.ov.write(ino, 0, b"z")
    sandbox.ov.setattr(ino, SetAttr(mode=0o600))
    base = sandbox.ino("base")
    sandbox.ov.unlink(ROOT, b"base")
    sandbox.ov.write(base, 0, b"z")
    assert told(sandbox) == ["link /named", "write /named", "unlink /named", "unlink /base"]


def test_who_asked(sandbox: OverlaySandbox) -> None:
    """The caller's uid, pid and name; of pages that the kernel writes, who made, cut or was about to write the file."""
    for name in ("a", "b", "c"):
        sandbox.put(name)
    journal = sandbox.open(journal=100).journal
    journal.command_of = {5: b"five", 6: b"six"}.get
    journal.caller = lambda: (1000, 5)
    ino = sandbox.create("new")
    sandbox.set("a", size=1)
    sandbox.set("b", kill_priv=True)
    journal.caller = lambda: (1001, 0)
    sandbox.mkdir("foreign")
    journal.caller = lambda: (0, 0)
    sandbox.ov.write(ino, 0, b"x")
    sandbox.write("a", b"x")
    sandbox.write("b", b"x")
    sandbox.write("c", b"x")
    for _ in range(2):
        sandbox.ov.commit()
        sandbox.write("a", b"y")
    journal.caller = lambda: (7, 6)
    sandbox.unlink("c")
    assert [(entry.op, entry.uid, entry.pid, entry.command) for entry in entries(sandbox)] == [
        ("create", 1000, 5, b"five"),
        ("truncate", 1000, 5, b"five"),
        ("mkdir", 1001, None, None),
        ("write", 1000, 5, b"five"),
        ("write", 1000, 5, b"five"),
        ("write", 1000, 5, b"five"),
        ("write", None, None, None),
        ("write", 1000, 5, b"five"),
        ("write", None, None, None),  # too long ago: it may be somebody else by now
        ("unlink", 7, 6, b"six"),
    ]


@pytest.mark.parametrize("limit", [1, 7, 50])
def test_the_last_entries_are_kept(sandbox: OverlaySandbox, limit: int) -> None:
    """N of them, before and after commits; a smaller N takes effect at the mount; without the option all stay."""
    sandbox.open(journal=limit)
    for number in range(60):
        sandbox.mkdir(f"{number}")
        if number % 11 == 0:
            sandbox.ov.commit()
            count = sandbox.ov.db.value("SELECT count(*) FROM journal")
            assert count == min(number + 1, limit)
        assert told(sandbox)[-limit:] == [f"mkdir /{n}" for n in range(max(0, number + 1 - limit), number + 1)]
    last = told(sandbox)
    sandbox.reopen()
    sandbox.mkdir("unnoted")
    assert told(sandbox) == last
    sandbox.reopen(journal=max(1, limit // 2))
    assert told(sandbox) == last[-max(1, limit // 2) :]
    sandbox.mkdir("noted")
    assert told(sandbox)[-1] == "mkdir /noted"


def test_many_entries_go_in_steps(sandbox: OverlaySandbox) -> None:
    """A much smaller N, and ids with gaps that only damage makes."""
    sandbox.open(journal=1)
    sandbox.mkdir("d")
    sandbox.close()
    raw(
        sandbox,
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 25000)"
        " INSERT INTO journal SELECT i, i, 'write', x'2f61', NULL, NULL, NULL, NULL FROM n",
        f"INSERT INTO journal VALUES ({IDS_END - 50}, 5, 'chmod', x'2f62', NULL, NULL, NULL, NULL)",
    )
    commits = sandbox.open(journal=10).commits.count
    assert commits >= 3
    assert told(sandbox) == ["chmod /b"]
    assert sandbox.ov.db.value("SELECT count(*) FROM journal") == 1
    sandbox.mkdir("e")
    assert told(sandbox) == ["chmod /b", "mkdir /e"]


@pytest.mark.logs("the journal is deleted: its entries have impossible numbers")
@pytest.mark.parametrize("number", [-(1 << 63), 0, IDS_END, (1 << 63) - 1])
def test_impossible_numbers(sandbox: OverlaySandbox, number: int) -> None:
    """The journal begins anew; a mount without the option leaves it to minifo-fsck."""
    sandbox.open(journal=5)
    sandbox.mkdir("d")
    sandbox.close()
    raw(sandbox, f"INSERT INTO journal VALUES ({number}, 5, 'chmod', x'2f62', NULL, NULL, NULL, NULL)")
    sandbox.open()
    sandbox.mkdir("unnoted")
    sandbox.reopen(journal=5)
    assert told(sandbox) == []
    sandbox.mkdir("e")
    assert told(sandbox) == ["mkdir /e"]


@pytest.mark.parametrize(
    "values",
    [
        "'create', x'', NULL, NULL, NULL, NULL",
        "'create', zeroblob(5000), NULL, NULL, NULL, NULL",
        "'', x'2f', NULL, NULL, NULL, NULL",
        "'Create', x'2f', NULL, NULL, NULL, NULL",
        "'create', x'2f', x'2f00', NULL, NULL, NULL",
        "'create', x'2f', NULL, -1, NULL, NULL",
        "'create', x'2f', NULL, 0, 4294967296, NULL",
        "'create', x'2f', NULL, 0, 0, zeroblob(16)",
    ],
)
def test_impossible_entries_are_left_out(sandbox: OverlaySandbox, values: str) -> None:
    """And counted; the others are there, and new ones come."""
    sandbox.open(journal=50)
    sandbox.mkdir("d")
    sandbox.close()
    raw(sandbox, f"INSERT INTO journal VALUES (2, 5, {values})")
    sandbox.open(journal=50)
    sandbox.mkdir("e")
    assert told(sandbox) == ["mkdir /d", "mkdir /e"]
    for backward in (False, True):
        assert sandbox.ov.journal.read(1, 9, backward=backward).impossible == 1


def _page_of(database: Path, table: str) -> int:
    con = apsw.Connection(str(database))
    try:
        return int(con.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchall()[0][0])
    finally:
        con.close()


@pytest.mark.logs("the journal is damaged")
def test_damaged_pages_switch_it_off(sandbox: OverlaySandbox) -> None:
    """The mount works as before, without entries."""
    sandbox.open(journal=50)
    sandbox.mkdir("d")
    sandbox.close()
    database = sandbox.sto / "minifo.db"
    page = _page_of(database, "journal")
    with database.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    sandbox.open(journal=50)
    assert sandbox.ov.journal.limit == 0
    sandbox.mkdir("e")
    sandbox.reopen()
    assert {"d", "e"} <= set(sandbox.names())


@pytest.mark.logs("the journal is damaged")
def test_an_operation_does_not_fail_for_a_damaged_journal(sandbox: OverlaySandbox) -> None:
    """An id that is taken, as only damage makes it: the change is made, and the journal is off."""
    sandbox.open(journal=50)
    sandbox.mkdir("d")
    with sandbox.ov.db.operation():
        sandbox.ov.db.change_unlogged("INSERT INTO journal VALUES (2, 5, 'chmod', x'2f62', NULL, NULL, NULL, NULL)")
    sandbox.mkdir("e")
    assert told(sandbox) == ["mkdir /d", "chmod /b"]
    assert sandbox.ov.journal.limit == 0
    sandbox.mkdir("f")
    sandbox.reopen()
    assert {"d", "e", "f"} <= set(sandbox.names())
    assert told(sandbox) == ["mkdir /d", "chmod /b"]


def test_a_full_storage_leaves_entries_out(sandbox: OverlaySandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting goes on without them, and the next entry after that says that some are missing."""
    sandbox.open(journal=50)
    for name in ("a", "b", "c"):
        sandbox.create(name, b"x" * 5000)
    monkeypatch.setattr(type(sandbox.ov.space), "free", lambda space: 0)
    sandbox.ov.space._credit = 0
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        sandbox.mkdir("no")
    sandbox.unlink("a")
    sandbox.unlink("b")
    monkeypatch.undo()
    sandbox.unlink("c")
    assert [text for text in told(sandbox) if "write" not in text and "create" not in text] == [
        "missing /",
        "unlink /c",
    ]


def test_long_paths_keep_their_end(sandbox: OverlaySandbox) -> None:
    """A path may be longer than any that a system call takes; an entry is not."""
    sandbox.open(journal=50)
    at = ROOT
    for _ in range(30):
        at = Ino(sandbox.ov.mkdir(at, b"n" * 200, 0o755, ME).ino)
    last = entries(sandbox)[-1].path
    assert PATH_MAX - 201 <= len(last) <= PATH_MAX
    assert set(last.split(b"/")) == {b"n" * 200}
    sandbox.ov.setattr(at, SetAttr(mode=0o700))
    assert entries(sandbox)[-1].path == last


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_replay_has_entries_of_all_that_was_done(sandbox: OverlaySandbox, tmp_path: Path) -> None:
    """What a killed process had acknowledged but not committed comes back with its entries, and the numbers go on."""
    options: dict[str, Any] = {"journal": 50, "redo_directory": str(tmp_path / "redo")}
    (tmp_path / "redo").mkdir()
    child = os.fork()
    if child == 0:
        sandbox.open(**options)
        sandbox.mkdir("committed")
        sandbox.ov.commit()
        for name in ("x", "y"):
            sandbox.create(name, b"1")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    sandbox.open(**options)
    assert told(sandbox) == ["mkdir /committed", "create /x", "write /x", "create /y", "write /y"]
    sandbox.mkdir("after")
    assert [entry.id for entry in entries(sandbox)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.logs("operations of a killed daemon were replayed", "UNIQUE constraint failed: journal.id")
def test_replay_goes_on_over_a_damaged_journal(sandbox: OverlaySandbox, tmp_path: Path) -> None:
    """What was done counts, not what was noted."""
    options: dict[str, Any] = {"journal": 50, "redo_directory": str(tmp_path / "redo")}
    (tmp_path / "redo").mkdir()
    child = os.fork()
    if child == 0:
        sandbox.open(**options)
        for name in ("a", "b"):
            sandbox.mkdir(name)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    raw(sandbox, "INSERT INTO journal VALUES (1, 5, 'chmod', x'2f62', NULL, NULL, NULL, NULL)")
    sandbox.open(**options)
    assert sandbox.names() == ["a", "b"]
    assert told(sandbox) == ["chmod /b", "mkdir /b"]


@pytest.mark.parametrize("count", [255, 256, 257, 600])
def test_entries_wait_to_be_added(sandbox: OverlaySandbox, count: int) -> None:
    """Whenever that happens, each is there once, and those of operations that fail are not."""
    sandbox.open(journal=1000)
    sandbox.put("file")
    for number in range(count - 1):
        sandbox.mkdir(f"{number}")
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        _fail_after_a_write(sandbox)
    sandbox.mkdir("last")
    assert told(sandbox) == [*(f"mkdir /{number}" for number in range(count - 1)), "mkdir /last"]
    assert [entry.id for entry in entries(sandbox)] == list(range(1, count + 1))


_NAMES = st.sampled_from(["a", "b", "c", "a/a", "a/b", "b/a", "b/c", "a/b/c"])
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "mkdir", "link", "unlink", "rmdir", "rename", "exchange", "chmod", "commit"]),
        _NAMES,
        _NAMES,
    ),
    max_size=25,
)


@given(steps=_STEPS)
def test_entries_retell_the_tree(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str]]) -> None:
    """Whoever does what the entries say, one after the other, in a plain directory has the same tree in the end."""
    sandbox = OverlaySandbox(tmp_path_factory.mktemp("retold"))
    plain = tmp_path_factory.mktemp("plain")
    for name in ("a/b/c", "b/a"):
        sandbox.put(name)
        (plain / name).parent.mkdir(parents=True, exist_ok=True)
        (plain / name).write_bytes(b"")
    sandbox.open(journal=1000)
    for act, path, other in steps:
        try:
            if act in ("rename", "exchange"):
                sandbox.rename(path, other, RenameFlags.EXCHANGE if act == "exchange" else 0)
            elif act == "link":
                sandbox.link(path, other)
            elif act == "chmod":
                sandbox.set(path, mode=0o700)
            elif act == "commit":
                sandbox.ov.commit()
            else:
                getattr(sandbox, act)(path)
        except (OSError, AssertionError):
            continue
    for entry in entries(sandbox):
        _retell(plain, entry)
    assert _tree(sandbox) == {
        str(path.relative_to(plain)): (path.is_dir(), path.stat().st_mode & 0o777 == 0o700) for path in plain.rglob("*")
    }
    sandbox.close()


def _retell(plain: Path, entry: JournalEntry) -> None:
    path = plain / os.fsdecode(entry.path).lstrip("/")
    other = plain / os.fsdecode(entry.other).lstrip("/") if entry.other is not None else plain
    if entry.op == "create":
        path.touch(0o644, exist_ok=False)
    elif entry.op == "mkdir":
        path.mkdir(0o755)
    elif entry.op == "link":
        path.hardlink_to(other)
    elif entry.op == "unlink":
        path.unlink()
    elif entry.op == "rmdir":
        path.rmdir()
    elif entry.op == "rename":
        other.rename(path)
    elif entry.op == "exchange":
        spare = plain / "spare"
        path.rename(spare)
        other.rename(path)
        spare.rename(other)
    elif entry.op == "chmod":
        path.chmod(0o700)
    else:
        raise AssertionError(entry)


def _tree(sandbox: OverlaySandbox) -> dict[str, tuple[bool, bool]]:
    found = {}
    left = [""]
    while left:
        directory = left.pop()
        for name in sandbox.names(directory):
            path = f"{directory}/{name}" if directory else name
            attr = sandbox.attr(path)
            found[path] = (attr.mode & 0o170000 == 0o040000, attr.mode & 0o777 == 0o700)
            if found[path][0]:
                left.append(path)
    return found


@pytest.mark.parametrize("live", [True, False])
def test_commands_that_go_back(sandbox: OverlaySandbox, live: bool) -> None:
    """Each is one entry, or one for each path; changes after it go on with the next number."""
    sandbox.put("top")
    sandbox.put("d/file")
    sandbox.reopen(journal=100)
    sandbox.write("top", b"then")
    if not live:
        sandbox.reopen()
    points = sandbox.ov.checkpoints
    points.create("one")
    sandbox.write("top", b"now!")
    points.rollback("one")
    points.undo()
    points.redo()
    revert_paths(sandbox.ov, [b"/top", b"/d"])
    revert_paths(sandbox.ov, [b"/top"], dry_run=True)
    sandbox.write("top", b"more")
    if live:
        assert told(sandbox)[-1] == "write /top"
    sandbox.reopen(journal=100)
    went = ["rollback /", "undo /", "redo /", "revert /top", "revert /d"]
    wrote = ["write /top"]
    assert told(sandbox) == ([*wrote, *wrote, *went, *wrote] if live else [*wrote, *went])

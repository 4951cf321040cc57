"""minifo checkpoint, rollback, undo and redo of a storage that is not mounted."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from minifo.engine.store.storage import Storage
from minifo.tools import cli
from tests.shared.overlay_sandbox import OverlaySandbox

BIG = b"x" * 300_000


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OverlaySandbox]:
    """An overlay with a change, not mounted; the working directory is empty."""
    found = OverlaySandbox(tmp_path)
    found.put("etc/hosts")
    found.create("new", BIG)
    found.close()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield found
    found.close()


class Minifo:
    """Calls minifo with words, and looks at what it says.

    Args:
        sandbox: the overlay; ``STO`` among the words is its storage.
        capsys: the test's output.
    """

    def __init__(self, sandbox: OverlaySandbox, capsys: pytest.CaptureFixture[str]) -> None:
        self._sto = str(sandbox.sto)
        self._capsys = capsys

    def __call__(self, *words: str) -> str:
        """Return the output of a call that succeeds."""
        self._capsys.readouterr()
        code = cli.main([self._sto if word == "STO" else word for word in words])
        said = self._capsys.readouterr()
        assert (code, said.err) == (0, ""), said.err
        return said.out

    def fails(self, *words: str, code: int = 2) -> str:
        """Return what a call says that fails: one line on stderr."""
        self._capsys.readouterr()
        assert cli.main([self._sto if word == "STO" else word for word in words]) == code
        said = self._capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("minifo: ")
        assert said.err.count("\n") == 1
        return said.err

    def listed(self) -> list[dict[str, object]]:
        """The checkpoints."""
        return [json.loads(line) for line in self("checkpoint", "list", "--json", "STO").splitlines()]

    def names(self) -> list[object]:
        """The names of the checkpoints."""
        return [checkpoint["name"] for checkpoint in self.listed()]


@pytest.fixture
def minifo(sandbox: OverlaySandbox, capsys: pytest.CaptureFixture[str]) -> Minifo:
    """Calls minifo."""
    return Minifo(sandbox, capsys)


def test_the_whole_life(sandbox: OverlaySandbox, minifo: Minifo) -> None:
    """Make, name, pin, list, delete."""
    assert minifo("checkpoint", "list", "STO").startswith("no checkpoint yet; make one: minifo checkpoint create ")
    assert minifo("checkpoint", "create", "STO", "one", "-m", "works, é", "--pin") == "one\n"
    unnamed = minifo("checkpoint", "create", "STO").strip()
    assert time.strptime(unnamed, "%Y-%m-%dT%H:%M:%S")
    minifo("checkpoint", "rename", "STO", unnamed, "two")
    minifo("checkpoint", "unpin", "STO", "one")
    minifo("checkpoint", "pin", "STO", "one", "two")
    one, two = minifo.listed()
    assert (one["name"], one["note"], one["pinned"], one["cause"], one["mounted"]) == (
        "one",
        "works, é",
        True,
        None,
        False,
    )
    assert (two["name"], two["pinned"], two["own"]) == ("two", True, 0)
    assert abs(time.time_ns() - int(str(two["time"]))) < 60 * 10**9
    minifo("checkpoint", "delete", "STO", "one", "two", "one")
    assert minifo.listed() == []
    assert json.loads(minifo("checkpoint", "create", "--json", "STO", "three"))["name"] == "three"


def test_the_table(sandbox: OverlaySandbox, minifo: Minifo) -> None:
    """A line for each, with its marks and its note; columns are in line."""
    minifo("checkpoint", "create", "STO", "one", "-m", "the first")
    sandbox.unlink("new")
    sandbox.close()
    minifo("checkpoint", "pin", "STO", "one")
    minifo("rollback", "STO", "one")
    heading, one, left = minifo("checkpoint", "list", "STO").splitlines()
    assert heading.split() == ["name", "made", "age", "by", "own", "shared"]
    assert re.match(r"one .* user  +\d+ bytes  296.0 KiB  pinned  the first$", one)
    assert "  rollback  " in left
    assert left.endswith("  undo  before rollback to one")
    assert one.index("  user") == left.index("  rollback") == heading.index("  by")


def test_there_and_back(sandbox: OverlaySandbox, minifo: Minifo) -> None:
    """rollback, undo and redo say where the overlay is, and how to go back."""
    minifo("checkpoint", "create", "STO", "one")
    sandbox.unlink("new")
    sandbox.rename("etc", "ETC")
    sandbox.close()
    first, second = minifo("rollback", "STO", "one").splitlines()
    assert first.startswith("The overlay is as it was at one, 20")
    assert second == f"What was there is kept as before-rollback; minifo undo {sandbox.sto} takes this back."
    assert sandbox.names() == ["etc", "new"]
    sandbox.close()
    assert f"minifo redo {sandbox.sto} takes this back" in minifo("undo", "STO")
    assert sandbox.names() == ["ETC"]
    sandbox.close()
    told = json.loads(minifo("redo", "--json", "STO"))
    assert (told["to"]["name"], told["left"]["name"]) == ("before-undo", "before-redo")
    assert told["take_back"] == f"minifo undo {sandbox.sto}"
    assert sandbox.read("new") == BIG
    sandbox.close()
    assert [point["name"] for point in minifo.listed() if point["undo"]] == ["before-rollback"]
    minifo("undo", "STO")
    assert [point["redo"] for point in minifo.listed()] == [False, False, False, False, True]


def test_wrong_requests(sandbox: OverlaySandbox, minifo: Minifo, tmp_path: Path) -> None:
    """One line each, with the next step; nothing is changed."""
    minifo("checkpoint", "create", "STO", "one")
    minifo("checkpoint", "create", "STO", "two")
    assert "there is a checkpoint 'one' already" in minifo.fails("checkpoint", "create", "STO", "one")
    assert "there is a checkpoint 'two' already" in minifo.fails("checkpoint", "rename", "STO", "one", "two")
    for name in ("../one", "", "a b", "\udcff", "x" * 65, "a\nb", "a\x1b[31m"):
        assert "cannot be the name" in minifo.fails("checkpoint", "create", "STO", "--", name)
    assert "cannot be printed" in minifo.fails("checkpoint", "create", "STO", "three", "-m", "a\udcff")
    assert "1000 are possible" in minifo.fails("checkpoint", "create", "STO", "three", "-m", "a" * 1001)
    for words in (("rename", "STO", "no", "three"), ("pin", "STO", "no"), ("delete", "STO", "one", "no")):
        assert "there is no checkpoint 'no'; see them" in minifo.fails("checkpoint", *words)
    for name in ("no", "\udcff", "'; DROP TABLE inode--"):
        assert "there is no checkpoint" in minifo.fails("rollback", "STO", name)
    assert "nothing to undo" in minifo.fails("undo", "STO")
    assert "nothing to redo" in minifo.fails("redo", "STO")
    assert "Missing argument" in minifo.fails("rollback", "STO", code=1)
    assert "holds no overlay" in minifo.fails("undo")
    assert "holds no overlay" in minifo.fails("checkpoint", "create", ".", "--base", str(sandbox.base))
    assert list(Path.cwd().iterdir()) == []
    assert "cannot be reached" in minifo.fails("checkpoint", "create", "before-update")
    assert minifo.names() == ["one", "two"]


def test_a_base_that_is_not_there(sandbox: OverlaySandbox, minifo: Minifo, tmp_path: Path) -> None:
    """It is said, and may be named; a wrong one is refused."""
    moved = sandbox.base.rename(tmp_path / "moved")
    assert "is not there; say where: --base DIR" in minifo.fails("checkpoint", "create", "STO", "one")
    assert "is not there; say where: --base DIR" in minifo.fails("checkpoint", "list", "STO")
    assert "does not exist" in minifo.fails("checkpoint", "create", "--base", str(tmp_path / "none"), "STO", "one")
    assert minifo("checkpoint", "create", "--base", str(moved), "STO", "one") == "one\n"
    assert minifo.names() == ["one"]


def test_a_storage_in_use(sandbox: OverlaySandbox, minifo: Minifo) -> None:
    """Another process works on it without a socket to ask at."""
    minifo("checkpoint", "create", "STO", "one")
    other = Storage(str(sandbox.sto))
    other.lock(exclusive=False)
    try:
        assert "is in use by" in minifo.fails("rollback", "STO", "one")
        assert minifo.names() == ["one"]
    finally:
        other.close()
    minifo("rollback", "STO", "one")


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_what_a_killed_daemon_had_acknowledged(
    sandbox: OverlaySandbox, minifo: Minifo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the checkpoint."""
    monkeypatch.setattr("minifo.engine.queries.at_rest.memory_directory", lambda: str(tmp_path))
    sandbox.open(redo_directory=str(tmp_path))
    sandbox.create("late", b"late")
    sandbox.kill()
    assert cli.main(["checkpoint", "create", str(sandbox.sto), "one"]) == 0
    sandbox.unlink("late")
    sandbox.close()
    minifo("rollback", "STO", "one")
    assert sandbox.read("late") == b"late"


# -- prune


def aged(sandbox: OverlaySandbox, days: dict[str, float]) -> None:
    """Make checkpoints, each so many days old."""
    for name, age in days.items():
        sandbox.ov.checkpoints.create(name)
        made = time.time_ns() - int(age * 86_400 * 10**9)
        sandbox.close()
        con = apsw.Connection(str(sandbox.sto / "minifo.db"))
        con.execute("UPDATE checkpoint SET time = ? WHERE name = ?", (made, name))
        con.close()


def test_prune_by_number_and_time(sandbox: OverlaySandbox, minifo: Minifo) -> None:
    """What no rule keeps goes; pinned ones and those of commands stay, and do not count."""
    aged(sandbox, {"a": 30, "b": 20, "c": 2, "d": 1, "e": 0.001, "f": 0})
    minifo("checkpoint", "pin", "STO", "a")
    minifo("rollback", "STO", "f")
    dry = minifo("checkpoint", "prune", "STO", "--keep-last", "2", "--keep-daily", "3", "--dry-run")
    assert [line.split()[0:3:2] + line.split()[-1:] for line in dry.splitlines()] == [["would", "deleted", "b"]]
    assert minifo.names() == ["a", "b", "c", "d", "e", "f", "before-rollback"]
    assert minifo("checkpoint", "prune", "STO", "--keep-last", "2", "--keep-daily", "3").endswith("  b\n")
    assert minifo("checkpoint", "prune", "STO", "--keep-last", "2", "--keep-daily", "3") == "nothing to delete\n"
    told = minifo("checkpoint", "prune", "STO", "--keep-last", "1", "--json").splitlines()
    assert [json.loads(line)["name"] for line in told] == ["c", "d", "e"]
    assert minifo.names() == ["a", "f", "before-rollback"]


def test_prune_by_bytes(sandbox: OverlaySandbox, minifo: Minifo) -> None:
    """The oldest go until the rest takes no more; what the overlay itself needs does not count."""
    points = sandbox.ov.checkpoints
    for number in range(4):
        points.create(f"c{number}")
        sandbox.set("new", size=0)
        sandbox.write("new", BIG)
    sandbox.close()
    assert minifo("checkpoint", "prune", "STO", "--max-bytes", "100m") == "nothing to delete\n"
    minifo("checkpoint", "pin", "STO", "c0")
    assert len(minifo("checkpoint", "prune", "STO", "--max-bytes", "1m").splitlines()) == 1
    assert minifo.names() == ["c0", "c2", "c3"]
    minifo("checkpoint", "prune", "STO", "--max-bytes", "0")
    assert minifo.names() == ["c0"]


def test_wrong_rules(sandbox: OverlaySandbox, minifo: Minifo) -> None:
    """A rule is needed, and must be one."""
    assert "no rule says what to keep" in minifo.fails("checkpoint", "prune", "STO", code=1)
    for size in ("", "x", "-1", "1.5m", "9" * 19, "m"):
        assert "is not a size" in minifo.fails("checkpoint", "prune", "STO", "--max-bytes", size, code=1)
    for number in ("0", "-1", "x"):
        assert "--keep-last" in minifo.fails("checkpoint", "prune", "STO", "--keep-last", number, code=1)


# -- damage


@pytest.mark.parametrize(
    "damage",
    [
        "name = x'ff'",
        "name = CAST(x'ff' AS TEXT)",
        "time = 'soon'",
        "note = NULL",
        "cause = x'00'",
        "next_object = x''",
    ],
)
def test_a_damaged_row(sandbox: OverlaySandbox, minifo: Minifo, damage: str) -> None:
    """It is said in one line."""
    minifo("checkpoint", "create", "STO", "one")
    con = apsw.Connection(str(sandbox.sto / "minifo.db"))
    schema = con.execute("SELECT sql FROM sqlite_schema WHERE name = 'checkpoint'").fetchone()
    assert schema is not None
    con.close()
    loose = schema[0].replace(" STRICT", "").replace("NOT NULL", "")
    for wanted, change in ((loose, f"UPDATE checkpoint SET {damage}"), (schema[0], "SELECT 1")):
        con = apsw.Connection(str(sandbox.sto / "minifo.db"))
        con.execute("PRAGMA writable_schema = ON")
        con.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'checkpoint'", (wanted,))
        con.close()
        con = apsw.Connection(str(sandbox.sto / "minifo.db"))
        con.execute(change)
        con.close()
    assert "minifo-fsck" in minifo.fails("checkpoint", "list", "STO")


def test_neither_trio_nor_pyfuse3(sandbox: OverlaySandbox) -> None:
    """They would take longer to load than the verbs take."""
    sandbox.ov.checkpoints.create("one")
    sandbox.close()
    for words in (["checkpoint", "list"], ["checkpoint", "create"], ["checkpoint", "prune", "--keep-last", "1"]):
        code = (
            "import sys; from minifo.tools.cli import main; "
            f"code = main([*{words}, {str(sandbox.sto)!r}]); "
            "print({'trio', 'pyfuse3'} & set(sys.modules) or code)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "0", done.stderr

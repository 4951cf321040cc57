"""Rows with impossible values: each gives EIO for its own object, and the objects beside it are intact."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from minifo.engine import ROOT, Ino, Overlay, Process, RenameFlags
from minifo.engine.errors import Corrupt, FsError
from minifo.engine.tree.path_resolver import is_base_path
from minifo.engine.tree.row_checks import examine

_STRICT = ") STRICT"


class Edited:
    """An overlay of a few files, whose rows tests edit while it is closed."""

    def __init__(self, top: Path) -> None:
        self.base, self.storage = str(top / "base"), str(top / "sto")
        for path in (self.base, self.storage):
            os.mkdir(path)
        for name in ("old", "moved", "kept"):
            Path(self.base, name).write_bytes(name.encode() * 100)
        self.overlay, self.is_open = self._open(), True
        self.inos: dict[str, int] = {}
        for name in (b"bad", b"good"):
            self.inos[name.decode()] = self.overlay.mknod(ROOT, name, 0o100644, 0, Process()).ino
            self.overlay.write(Ino(self.inos[name.decode()]), 0, name)
        self.inos["dir"] = self.overlay.mkdir(ROOT, b"dir", 0o755, Process()).ino
        self.inos["sub"] = self.overlay.mkdir(Ino(self.inos["dir"]), b"sub", 0o755, Process()).ino
        self.inos["link"] = self.overlay.symlink(ROOT, b"link", b"good", Process()).ino
        self.overlay.rename(ROOT, b"moved", ROOT, b"renamed", RenameFlags.NONE)
        attr = self.overlay.lookup(ROOT, b"renamed")
        assert attr is not None
        self.inos["renamed"] = attr.ino

    def _open(self) -> Overlay:
        return Overlay.open(self.base, self.storage, clone=False)

    def edit(self, sql: str, *, loose: bool = False) -> Overlay:
        """Change rows as somebody with the file at hand would; {NAME} is an inode number.

        Args:
            sql: one statement.
            loose: let values of any type in, as a file that was written by other means may have.
        """
        self.overlay.close()
        con = apsw.Connection(os.path.join(self.storage, "minifo.db"))
        plain = con.execute("SELECT sql, rowid FROM sqlite_schema").fetchall()
        if loose:
            con.execute("PRAGMA writable_schema=ON").fetchall()
            con.execute("UPDATE sqlite_schema SET sql = replace(replace(sql, 'STRICT, ', ''), ' STRICT', '')")
            con.close()
            con = apsw.Connection(os.path.join(self.storage, "minifo.db"))
        con.execute(sql.format(**self.inos))
        if loose:
            con.execute("PRAGMA writable_schema=ON").fetchall()
            con.executemany("UPDATE sqlite_schema SET sql = ? WHERE rowid = ?", plain)
        con.close()
        self.is_open = False
        self.overlay = self._open()
        self.is_open = True
        return self.overlay


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Edited]:
    """An open overlay whose rows can be edited."""
    found = Edited(tmp_path)
    yield found
    if found.is_open:
        found.overlay.close()


def _names(overlay: Overlay, ino: int = ROOT) -> set[bytes]:
    return {entry.name for entry in overlay.readdir(Ino(ino))} - {b".", b".."}


_ALL = {b"old", b"kept", b"bad", b"good", b"dir", b"link", b"renamed"}
_COLUMNS = {
    "mode": (-1, 0, 0o100644 << 8), "nlink": (-1, 1 << 32), "uid": (-1, 1 << 40), "gid": (-1,), "rdev": (1 << 33,),
    "size": (-1, 2**63 - 1), "object": (-1, 1 << 62), "bound": (-5, 2**63 - 1), "mapped": (2,), "xattrs": (-1,),
}  # fmt: skip


@pytest.mark.logs("/(bad|renamed) cannot be read: Input/output error")
@pytest.mark.parametrize(("column", "value"), [(c, v) for c, values in _COLUMNS.items() for v in values])
@pytest.mark.parametrize("name", ["bad", "renamed"])
def test_an_impossible_number_gives_eio_by_itself(edited: Edited, column: str, value: int, name: str) -> None:
    """A look-up of the file fails, the files beside it show, and a command that checks all rows names the row."""
    overlay = edited.edit(f"UPDATE inode SET {column} = {value} WHERE ino = {{{name}}}")
    with pytest.raises(FsError) as caught:
        overlay.lookup(ROOT, name.encode())
    assert caught.value.errno == errno.EIO
    assert _names(overlay) == _ALL
    good = overlay.lookup(ROOT, b"good")
    assert good is not None
    assert overlay.read(Ino(good.ino), 0, 10) == b"good"
    with pytest.raises(Corrupt, match=str(edited.inos[name])):
        examine(overlay.db, "minifo.db")


@pytest.mark.logs("/bad cannot be read: Input/output error")
@pytest.mark.parametrize("value", ["'text'", "x'00ff'", "1.5"])
@pytest.mark.parametrize("column", ["mode", "size", "mtime"])
def test_a_value_of_another_type_is_not_believed(edited: Edited, column: str, value: str) -> None:
    """A value of another type gives EIO, although SQLite does not check types when it reads."""
    overlay = edited.edit(f"UPDATE inode SET {column} = {value} WHERE ino = {{bad}}", loose=True)
    with pytest.raises(FsError):
        overlay.lookup(ROOT, b"bad")
    assert _names(overlay) == _ALL
    with pytest.raises(Corrupt):
        examine(overlay.db, "minifo.db")


@pytest.mark.parametrize("name", ["x'61002f'", "'../../etc'", "'..'", "'.'", "''", f"'{'n' * 256}'"])
def test_an_impossible_name_is_not_listed(edited: Edited, name: str) -> None:
    """An impossible name is left out of listings, because the kernel would refuse the whole listing for it."""
    overlay = edited.edit(f"UPDATE created SET name = CAST({name} AS BLOB) WHERE ino = {{bad}}")
    assert _names(overlay) == _ALL - {b"bad"}
    with pytest.raises(Corrupt, match="name"):
        examine(overlay.db, "minifo.db")


@pytest.mark.logs("is not the one of the last mount", always=False)
@pytest.mark.logs("/renamed cannot be read: Input/output error")
@pytest.mark.parametrize("path", ["x'2f6d00'", "'/../moved'", "'moved'", "'/a/../../etc/passwd'", "''"])
def test_a_place_outside_of_the_base_leads_nowhere(edited: Edited, path: str) -> None:
    """An object whose origin is not a path in the base gives EIO; all others can be used."""
    overlay = edited.edit(f"UPDATE origin SET path = CAST({path} AS BLOB) WHERE ino = {{renamed}}")
    assert _names(overlay) == _ALL
    with pytest.raises(OSError, match=r".*"):
        overlay.lookup(ROOT, b"renamed")
    with pytest.raises(Corrupt):
        examine(overlay.db, "minifo.db")


@pytest.mark.parametrize("target", ["zeroblob(3)", "x''", f"CAST('{'t' * 5000}' AS BLOB)", "NULL"])
def test_an_impossible_target_gives_eio(edited: Edited, target: str) -> None:
    """A symlink with an impossible target gives EIO to readlink only."""
    overlay = edited.edit(f"UPDATE inode SET target = {target} WHERE ino = {{link}}")
    with pytest.raises(FsError) as caught:
        overlay.readlink(Ino(edited.inos["link"]))
    assert caught.value.errno == errno.EIO
    with pytest.raises(Corrupt):
        examine(overlay.db, "minifo.db")


def test_a_circle_of_directories_ends(edited: Edited) -> None:
    """A rename does not loop for ever on a cycle of directories in the rows."""
    overlay = edited.edit("UPDATE created SET parent = {sub} WHERE ino = {dir}")
    other = overlay.mkdir(ROOT, b"other", 0o755, Process())
    assert other.ino
    with pytest.raises(FsError) as caught:
        overlay.rename(ROOT, b"other", Ino(edited.inos["sub"]), b"in", RenameFlags.NONE)
    assert caught.value.errno == errno.EIO
    with pytest.raises(Corrupt, match="reached"):
        examine(overlay.db, "minifo.db")


@pytest.mark.parametrize(
    ("key", "value"),
    [("uuid", "'../../../tmp/x'"), ("uuid", "7"), ("object_limit", "1 << 60"), ("next_ino", "0"), ("next_ino", "'a'"),
     ("window", "5"), ("commit_token", "-1"), ("base", "NULL")],
)  # fmt: skip
def test_an_impossible_fact_is_refused(edited: Edited, key: str, value: str) -> None:
    """An impossible value in ``overlay`` is refused at each open, before other tables are read."""
    with pytest.raises(Corrupt, match=key.split("_")[0]):
        edited.edit(f"UPDATE overlay SET value = {value} WHERE key = '{key}'")


def test_opening_many_entries_takes_no_longer(tmp_path: Path) -> None:
    """Opening an overlay takes no longer with many rows, because rows are checked when they are read."""
    few, many = Edited(tmp_path), Edited.__new__(Edited)
    (tmp_path / "many").mkdir()
    Edited.__init__(many, tmp_path / "many")
    many.overlay.close()
    con = apsw.Connection(os.path.join(many.storage, "minifo.db"))
    with con:
        numbers = "WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 100000) "
        row = "SELECT 1 << 30 | value, mode, nlink, uid, gid, rdev, size, atime, mtime, ctime, object, bound, mapped"
        row += ", xattrs, target, NULL, NULL, NULL FROM inode, n WHERE ino = ?"
        con.execute(f"{numbers} INSERT INTO inode {row}", (many.inos["bad"],))
    con.close()
    few.overlay.close()
    took: dict[str, float] = {}
    for _ in range(7):
        for name, one in (("few", few), ("many", many)):
            start = time.perf_counter()
            overlay = one._open()
            took[name] = min(took.get(name, 9.0), time.perf_counter() - start)
            overlay.close()
    assert took["many"] < took["few"] + 0.01, took


def test_paths_in_base_terms() -> None:
    """Paths in base terms are told from other byte strings."""
    sound = (b"/", b"/a", b"/a/b", b"/...", b"/..a", b"/a.", b"/\xff", b"/a\nb", b"/" + b"n" * 255)
    assert all(map(is_base_path, sound))
    others = (b"", b"a", b"//", b"/a/", b"/a//b", b"/.", b"/..", b"/a/..", b"/../a", b"/a\0", b"/" + b"n" * 256)
    assert not any(map(is_base_path, others))


@pytest.mark.parametrize("table", ["created", "renamed"])
def test_a_name_of_the_root_is_refused(edited: Edited, table: str) -> None:
    """A row that gives the root a name is refused, because a walk through the tree would never end."""
    overlay = edited.edit(f"INSERT INTO {table} VALUES ({{dir}}, CAST('round' AS BLOB), 1)")
    with pytest.raises(Corrupt, match="inode 1: a directory with two names"):
        examine(overlay.db, "minifo.db")


def test_a_huge_value_is_not_read(edited: Edited) -> None:
    """A huge value in a row gives an error, and is not read into memory."""
    overlay = edited.edit("UPDATE small SET data = zeroblob(30000000) WHERE ino = {bad}")
    with pytest.raises(FsError):
        overlay.read(Ino(edited.inos["bad"]), 0, 10)
    assert overlay.read(Ino(edited.inos["good"]), 0, 10) == b"good"
    with pytest.raises(Corrupt):
        examine(overlay.db, "minifo.db")

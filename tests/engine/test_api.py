"""The Python API, as a program uses it: ``import minifo``, with real bases and storages."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import minifo
from minifo.engine.store import memory_directory
from tests.shared.overlay_sandbox import PAST

USER = """
from pathlib import Path

import minifo


def use(base: Path, storage: str) -> list[str]:
    with minifo.open(base, storage) as overlay:
        made: minifo.Checkpoint = overlay.checkpoint("start", note="before")
        with overlay.transaction():
            overlay.write_bytes(b"/a", b"x")
            overlay.write_bytes(Path("/b"), memoryview(b"y"))
        size: int = overlay.stat("/a").st_size
        changes: list[minifo.Change] = overlay.changes()
        added = [change.path for change in changes if change.kind is minifo.Kind.ADDED]
        try:
            overlay.rollback(made.name)
        except minifo.StorageBusy as busy:
            print(busy.pid, busy.hint, size)
    return [*added, minifo.__version__]
"""


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A base with some files, and an empty storage."""
    base, storage = tmp_path / "base", tmp_path / "sto"
    (base / "d/sub").mkdir(parents=True)
    storage.mkdir()
    for path in ("f", "d/a", "d/b", "d/sub/c"):
        (base / path).write_bytes(path.encode())
        os.utime(base / path, ns=(PAST, PAST))
    (base / "link").symlink_to("/etc/passwd")
    return base, storage


def shown(overlay: minifo.Overlay) -> dict[str, bytes]:
    """Every path that shows, with its bytes."""
    found: dict[str, bytes] = {}
    waiting = ["/"]
    while waiting:
        directory = waiting.pop()
        for name in overlay.listdir(directory):
            path = os.path.join(directory, name)
            mode = overlay.stat(path).st_mode
            found[path] = overlay.read_bytes(path) if stat.S_ISREG(mode) else b""
            if stat.S_ISDIR(mode):
                waiting.append(path)
    return found


def stored(storage: Path) -> dict[str, bytes]:
    """The bytes of all files of a storage that have some, but for SQLite's index, which says who reads."""
    found = (path for path in storage.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    return {path.name: data for path in found if (data := path.read_bytes())}


BASE = {"/d": b"", "/d/a": b"d/a", "/d/b": b"d/b", "/d/sub": b"", "/d/sub/c": b"d/sub/c", "/f": b"f", "/link": b""}


def test_looking(places: tuple[Path, Path]) -> None:
    """What the base has shows, as the standard library would say it."""
    base, storage = places
    os.setxattr(base / "f", "user.x", b"y")
    with minifo.open(base, storage) as overlay:
        assert shown(overlay) == BASE
        assert overlay.exists("/d/a")
        assert not overlay.exists("/none")
        assert overlay.exists("/link")
        assert overlay.readlink("/link") == "/etc/passwd"
        assert (overlay.getxattr("/f", "user.x"), overlay.listxattr("/f")) == (b"y", ["user.x"])
        assert [overlay.read_bytes("/d/sub/c", *part) for part in ((2,), (2, 3), (7,), (9, 1))] == [
            *(b"sub/c", b"sub", b"", b"")
        ]
        ours, real = overlay.stat("/f"), os.lstat(base / "f")
        same = ("st_mode", "st_uid", "st_gid", "st_nlink", "st_size", "st_mtime", "st_mtime_ns", "st_atime_ns")
        assert [getattr(ours, name) for name in same] == [getattr(real, name) for name in same]
        assert (overlay.changes(), overlay.checkpoints()) == ([], [])


def test_changing(places: tuple[Path, Path]) -> None:
    """Each call does what its namesake does, is listed as a change, and is there when the overlay is opened again."""
    with minifo.open(*places) as overlay:
        overlay.write_bytes("/f", b"ours")
        overlay.write_bytes("/new", b"n" * 5000, mode=0o600)
        overlay.mkdir("/x/y/z", 0o700, parents=True)
        overlay.mkdir("/x", exist_ok=True)
        overlay.symlink("any text", "/x/link")
        overlay.link("/new", "/x/new")
        overlay.remove("/d/b")
        overlay.rename("/d/a", "/x/a")
        overlay.chmod("/f", 0o640)
        overlay.chown("/f", 12)
        overlay.chown("/f", gid=34)
        overlay.utime("/f", ns=(1, 2))
        overlay.setxattr("/f", "user.k", b"v")
        overlay.setxattr("/f", b"user.gone", b"v")
        overlay.removexattr("/f", "user.gone")
        overlay.mkdir("/empty")
        overlay.rmdir("/empty")
    changed = [
        ("D", "/d/b", None, None),
        ("M", "/f", None, None),
        ("A", "/new", None, None),
        ("A", "/x", None, None),
        ("A", "/x/link", None, None),
        ("A", "/x/new", None, None),
        ("A", "/x/y", None, None),
        ("A", "/x/y/z", None, None),
        ("R", "/x/a", "/d/a", None),
    ]
    with minifo.open(None, places[1], read_only=True) as overlay:
        assert overlay.read_bytes("/f") == b"ours"
        st = overlay.stat("/f")
        assert (st.st_mode & 0o7777, st.st_uid, st.st_gid, st.st_atime_ns, st.st_mtime_ns) == (0o640, 12, 34, 1, 2)
        assert overlay.listxattr("/f") == ["user.k"]
        assert (overlay.stat("/new").st_nlink, overlay.stat("/new").st_mode) == (2, stat.S_IFREG | 0o600)
        assert overlay.stat("/x/y").st_mode & 0o7777 == 0o755
        assert overlay.stat("/x/y/z").st_mode & 0o7777 == 0o700
        assert overlay.listdir("/d") == ["sub"]
        found = overlay.changes(recursive=True)
        assert [c.path for c in found] == sorted(c.path for c in found)
        assert {(c.kind, c.path, c.old_path, c.also) for c in found} == set(changed)
        assert len(overlay.digest()) == 64


def test_trees(places: tuple[Path, Path]) -> None:
    """A tree goes whole, of base and overlay; what replaces something leaves no orphan behind."""
    with minifo.open(*places) as overlay:
        overlay.write_bytes("/d/sub/new", b"n" * 5000)
        overlay.rmtree("/d")
        assert overlay.listdir() == ["f", "link"]
        overlay.write_bytes("/g", b"g" * 5000)
        overlay.rename("/g", "/f")
        assert overlay.read_bytes("/f") == b"g" * 5000
        overlay.remove("/f")
        overlay.mkdir("/d/deep", parents=True)
        assert shown(overlay) == {"/d": b"", "/d/deep": b"", "/link": b""}
    with contextlib.closing(sqlite3.connect(places[1] / "minifo.db")) as con:
        assert con.execute("SELECT count(*) FROM orphan").fetchone() == (0,)
    assert not [path for path in (places[1] / "content").rglob("*") if path.is_file()]


ERRORS: list[tuple[type[OSError], int, Callable[[minifo.Overlay], object]]] = [
    (FileNotFoundError, errno.ENOENT, lambda o: o.stat("/none")),
    (FileNotFoundError, errno.ENOENT, lambda o: o.read_bytes("/none/at/all")),
    (NotADirectoryError, errno.ENOTDIR, lambda o: o.read_bytes("/f/below")),
    (NotADirectoryError, errno.ENOTDIR, lambda o: o.read_bytes("/link/below")),
    (NotADirectoryError, errno.ENOTDIR, lambda o: o.listdir("/f")),
    (NotADirectoryError, errno.ENOTDIR, lambda o: o.rmdir("/f")),
    (NotADirectoryError, errno.ENOTDIR, lambda o: o.rmtree("/link")),
    (IsADirectoryError, errno.EISDIR, lambda o: o.read_bytes("/d")),
    (IsADirectoryError, errno.EISDIR, lambda o: o.write_bytes("/d", b"")),
    (IsADirectoryError, errno.EISDIR, lambda o: o.remove("/d")),
    (IsADirectoryError, errno.EISDIR, lambda o: o.rename("/f", "/d")),
    (NotADirectoryError, errno.ENOTDIR, lambda o: o.rename("/d", "/f")),
    (OSError, errno.ELOOP, lambda o: o.read_bytes("/link")),
    (OSError, errno.ELOOP, lambda o: o.write_bytes("/link", b"")),
    (OSError, errno.EINVAL, lambda o: o.readlink("/f")),
    (OSError, errno.EINVAL, lambda o: o.read_bytes("/f", -1)),
    (OSError, errno.EINVAL, lambda o: o.rename("/d", "/d/sub/d")),
    (OSError, errno.ENOTEMPTY, lambda o: o.rmdir("/d")),
    (OSError, errno.ENOTEMPTY, lambda o: o.rename("/d/sub", "/full")),
    (OSError, errno.EBUSY, lambda o: o.rmtree("/")),
    (OSError, errno.EBUSY, lambda o: o.rename("/d", "/")),
    (OSError, errno.ENAMETOOLONG, lambda o: o.write_bytes("/" + "n" * 256, b"")),
    (OSError, errno.ENODATA, lambda o: o.getxattr("/f", "user.none")),
    (OSError, errno.ENODATA, lambda o: o.removexattr("/f", "user.none")),
    (OSError, errno.EOPNOTSUPP, lambda o: o.setxattr("/f", "other.none", b"")),
    (OSError, errno.EOPNOTSUPP, lambda o: o.chmod("/link", 0o600)),
    (FileExistsError, errno.EEXIST, lambda o: o.mkdir("/d")),
    (FileExistsError, errno.EEXIST, lambda o: o.mkdir("/f", exist_ok=True)),
    (FileExistsError, errno.EEXIST, lambda o: o.symlink("x", "/f")),
    (FileExistsError, errno.EEXIST, lambda o: o.link("/f", "/d/a")),
    (FileNotFoundError, errno.ENOENT, lambda o: o.mkdir("/none/below")),
    (NotADirectoryError, errno.ENOTDIR, lambda o: o.mkdir("/f/below/it", parents=True)),
    (PermissionError, errno.EPERM, lambda o: o.link("/d", "/dd")),
]


def test_errors(places: tuple[Path, Path]) -> None:
    """Each is of the class that its errno has, tells the path as it was given, and changes nothing."""
    (places[0] / "full" / "x").mkdir(parents=True)
    with minifo.open(*places) as overlay:
        before = overlay.digest()
        for kind, code, call in ERRORS:
            with pytest.raises(kind) as caught:
                call(overlay)
            error = caught.value
            assert (error.errno, error.strerror) == (code, os.strerror(code)), str(error)
            assert not isinstance(error, minifo.MinifoError)
            assert isinstance(error.filename, str)
            assert error.filename.startswith("/")
            assert overlay.digest() == before
        with pytest.raises(FileNotFoundError) as caught:
            overlay.rename(b"/none", Path("/new"))
        assert (caught.value.filename, caught.value.filename2) == (b"/none", "/new")


@pytest.mark.parametrize("path", ["", "f", "../f", "/d/../f", "/f\0", b"f"])
def test_impossible_paths(places: tuple[Path, Path], path: str | bytes) -> None:
    """They are refused in words."""
    with minifo.open(*places) as overlay, pytest.raises(minifo.UsageError) as caught:
        overlay.read_bytes(path)
    assert (caught.value.message, caught.value.hint) != ("", "")


def test_paths_of_every_type(places: tuple[Path, Path]) -> None:
    """Text, bytes and path objects; names that are not UTF-8 come back as they were."""
    with minifo.open(*places) as overlay:
        for path in ("//d/./a/", b"/d/a", Path("/d/a")):
            assert overlay.read_bytes(path) == b"d/a"
        overlay.write_bytes("/ü ☃", b"1")
        overlay.write_bytes(b"/\xff\n", b"2")
        assert overlay.listdir() == ["d", "f", "link", "ü ☃", "\udcff\n"]
        assert overlay.read_bytes("/\udcff\n") == b"2"
        assert overlay.read_bytes("/ü ☃".encode()) == b"1"
        assert {os.fsencode(change.path) for change in overlay.changes()} == {b"/\xff\n", "/ü ☃".encode()}


def test_going_back(places: tuple[Path, Path]) -> None:
    """Checkpoints, and all ways to return."""
    with minifo.open(*places) as overlay:
        overlay.write_bytes("/f", b"one" * 1000)
        made = overlay.checkpoint("one", note="the first", pinned=True)
        assert (made.name, made.note, made.is_pinned, made.cause) == ("one", "the first", True, None)
        assert overlay.checkpoints() == [made]
        overlay.write_bytes("/f", b"two" * 1000)
        overlay.remove("/d/a")
        left = overlay.rollback("one")
        assert left.cause == "rollback"
        assert (overlay.read_bytes("/f"), overlay.exists("/d/a")) == (b"one" * 1000, True)
        overlay.undo()
        assert (overlay.read_bytes("/f"), overlay.exists("/d/a")) == (b"two" * 1000, False)
        overlay.redo()
        assert overlay.read_bytes("/f") == b"one" * 1000
        overlay.write_bytes("/f", b"three")
        overlay.remove("/d/b")
        tried = overlay.revert("/f", to="one", dry_run=True)
        assert (tried[0].path, overlay.read_bytes("/f")) == ("/f", b"three")
        assert overlay.revert("/f", to="one") == tried
        assert (overlay.read_bytes("/f"), overlay.exists("/d/b")) == (b"one" * 1000, False)
        assert [(done.what, done.path) for done in overlay.revert(b"/d")] == [("shown again", "/d/b")]
        overlay.remove("/d/b")
        overlay.mkdir("/k")
        overlay.write_bytes("/k/keep", b"k")
        overlay.write_bytes("/k/go", b"g")
        assert overlay.reset(keep=["/k/keep"]) == 3
        assert shown(overlay) == {**BASE, "/k": b"", "/k/keep": b"k"}
        assert overlay.reset(keep=["/"]) == 0
        assert overlay.reset() == 2
        assert shown(overlay) == BASE
        names = [found.name for found in overlay.checkpoints()]
        overlay.delete_checkpoints(*names)
        assert overlay.checkpoints() == []
        for call in (overlay.undo, overlay.redo, lambda: overlay.rollback("none"), lambda: overlay.revert("/none")):
            with pytest.raises(minifo.StateError) as caught:
                call()
            assert caught.value.hint


def test_a_checkpoint_is_shown_beside_a_writer(places: tuple[Path, Path]) -> None:
    """``at`` needs no lock, and nothing can be changed there; the writer itself keeps others out."""
    with minifo.open(*places) as overlay:
        overlay.write_bytes("/f", b"then")
        overlay.checkpoint("then")
        overlay.write_bytes("/f", b"now")
        with minifo.open(*places, at="then") as past:
            assert past.read_bytes("/f") == b"then"
            with pytest.raises(OSError, match="Read-only") as caught:
                past.write_bytes("/f", b"x")
            assert (caught.value.errno, caught.value.filename) == (errno.EROFS, "/f")
            with pytest.raises(minifo.StateError, match="mounted"):
                overlay.delete_checkpoints("then")
        with pytest.raises(minifo.StateError, match="no checkpoint"):
            minifo.open(*places, at="never")
        for read_only in (False, True):
            with pytest.raises(minifo.StorageBusy, match="in use") as busy:
                minifo.open(*places, read_only=read_only)
            assert (busy.value.pid, busy.value.hint) == (os.getpid(), "unmount it first")


def test_read_only(places: tuple[Path, Path]) -> None:
    """Everything can be asked, nothing changed, and the storage stays as it is, byte by byte."""
    with minifo.open(*places) as overlay:
        overlay.write_bytes("/f", b"ours")
    before = stored(places[1])
    with minifo.open(*places, read_only=True) as overlay, minifo.open(None, places[1], read_only=True) as other:
        assert shown(overlay) == shown(other) == {**BASE, "/f": b"ours"}
        changes: list[Callable[[], object]] = [
            lambda: overlay.write_bytes("/f", b"x"),
            lambda: overlay.mkdir("/x/y", parents=True),
            lambda: overlay.rmtree("/d"),
            lambda: overlay.remove("/f"),
            lambda: overlay.chmod("/f", 0),
            lambda: overlay.rename("/f", "/g"),
        ]
        for change in changes:
            with pytest.raises(OSError, match="Read-only") as caught:
                change()
            assert caught.value.errno == errno.EROFS
        with pytest.raises(OSError, match="Read-only"), overlay.transaction():
            pytest.fail("a transaction began")
        for refused in (overlay.checkpoint, overlay.undo, overlay.reset, lambda: overlay.revert("/f")):
            with pytest.raises(minifo.StateError):
                refused()
    assert stored(places[1]) == before


def test_storages_that_cannot_be_opened(places: tuple[Path, Path], tmp_path: Path) -> None:
    """Foreign, empty, of another format, or missing: each error tells the next step, and nothing is changed."""
    base, storage = places
    with pytest.raises(minifo.NotMinifo):
        minifo.open(base, storage, read_only=True)
    with pytest.raises(minifo.NotMinifo):
        minifo.open(None, storage)
    assert list(storage.iterdir()) == []
    (storage / "foreign").touch()
    with pytest.raises(minifo.NotMinifo):
        minifo.open(base, storage)
    assert [path.name for path in storage.iterdir()] == ["foreign"]
    for arguments in ((tmp_path / "none", tmp_path / "other"), (base, tmp_path / "none"), (base, base / "d")):
        with pytest.raises(minifo.StateError):
            minifo.open(*arguments)
    made = tmp_path / "made"
    made.mkdir()
    minifo.open(base, made).close()
    for version, kind in ((1, minifo.OlderFormat), (1000, minifo.NewerFormat)):
        with sqlite3.connect(made / "minifo.db") as con:
            con.execute(f"PRAGMA user_version = {version}")
        con.close()
        with pytest.raises(kind) as caught:
            minifo.open(base, made)
        assert isinstance(caught.value, minifo.StateError)
        assert caught.value.hint


def test_a_transaction_is_one_change(places: tuple[Path, Path]) -> None:
    """All of a block or nothing, bytes of files included; what was seen before may be caught."""
    with minifo.open(*places) as overlay:
        overlay.write_bytes("/big", b"old" * 3000)
        overlay.commit()
        before = shown(overlay)

        def change() -> None:
            overlay.write_bytes("/big", b"new" * 3000)
            overlay.write_bytes("/f", b"new")
            overlay.write_bytes("/d/new", b"new" * 3000)
            overlay.remove("/d/b")
            overlay.rename("/d/a", "/d/b")
            overlay.rmtree("/d/sub")
            overlay.mkdir("/d/sub/x", parents=True)

        def change_and_fail() -> None:
            with overlay.transaction():
                change()
                assert overlay.listdir("/d") == ["b", "new", "sub"]
                raise KeyError

        with pytest.raises(KeyError):
            change_and_fail()
        assert shown(overlay) == before
        with overlay.transaction():
            change()
            with pytest.raises(FileNotFoundError):
                overlay.remove("/none")
        after = shown(overlay)
        assert after["/big"] == b"new" * 3000
        assert after["/d/b"] == b"d/a"
        refused: list[Callable[[], object]] = [
            *(overlay.close, overlay.commit, overlay.checkpoint, overlay.undo, overlay.redo, overlay.reset),
            *(lambda: overlay.rollback("x"), lambda: overlay.revert("/f"), lambda: overlay.delete_checkpoints("x")),
            overlay.transaction().__enter__,
        ]
        with overlay.transaction():
            overlay.write_bytes("/f", b"later")
            for call in refused:
                with pytest.raises(minifo.UsageError, match="transaction"):
                    call()
        assert overlay.read_bytes("/f") == b"later"
    with minifo.open(*places) as overlay:
        assert shown(overlay) == {**after, "/f": b"later"}


def test_a_change_that_fails_in_the_middle_ends_a_transaction(places: tuple[Path, Path]) -> None:
    """Also where the block goes on: half of a change is never kept."""
    with minifo.open(*places) as overlay:

        def go_on() -> None:
            with overlay.transaction():
                overlay.write_bytes("/f", b"x")
                with pytest.raises(OSError, match="not supported"):
                    overlay.setxattr("/f", "other.none", b"")
                overlay.write_bytes("/f", b"y")

        with pytest.raises(OSError, match="not supported") as caught:
            go_on()
        assert caught.value.errno == errno.EOPNOTSUPP
        assert shown(overlay) == BASE
        overlay.write_bytes("/f", b"x")
        assert overlay.read_bytes("/f") == b"x"


def test_a_transaction_has_room_for_a_thousand_files(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond what was reserved it fails, and no commit makes a half of it durable."""
    monkeypatch.setattr("minifo.engine.api_files._FILES", 2_000)
    data = b"x" * 2100
    with minifo.open(*places) as overlay:
        for turn in range(2):
            with overlay.transaction():
                for number in range(1000):
                    overlay.write_bytes(f"/{turn}-{number}", data)

        def write_too_many() -> None:
            with overlay.transaction():
                overlay.mkdir("/many")
                for number in range(5_000):
                    overlay.write_bytes(f"/many/{number}", data)

        with pytest.raises(OSError, match="No space") as caught:
            write_too_many()
        assert caught.value.errno == errno.ENOSPC
        assert not overlay.exists("/many")
        assert len(overlay.listdir()) == 2003
        overlay.rmtree("/d")
    with minifo.open(*places) as overlay:
        assert not overlay.exists("/many")
        assert len(overlay.listdir()) == 2002


KILLED = """
import os, signal, sys
import minifo

overlay = minifo.open(sys.argv[1], sys.argv[2])
overlay.write_bytes("/big", b"old" * 3000)
overlay.remove("/d/a")
with overlay.transaction():
    overlay.write_bytes("/big", b"new" * 3000)
    overlay.write_bytes("/half", b"new")
    overlay.rmtree("/d")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.logs("2 operations of a killed daemon were replayed")
def test_a_process_that_is_killed(places: tuple[Path, Path]) -> None:
    """All calls that returned are there when the overlay is opened again, and nothing of the transaction."""
    command = [sys.executable, "-c", KILLED, *map(str, places)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with minifo.open(*places) as overlay:
        expected = {**BASE, "/big": b"old" * 3000}
        del expected["/d/a"]
        assert shown(overlay) == expected


def test_without_a_memory_directory_every_change_is_committed(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no redo log then, so the promise must be kept by commits."""
    monkeypatch.setattr(memory_directory, "_candidates", list)
    with minifo.open(*places) as overlay:
        overlay.write_bytes("/f", b"1")
        con = sqlite3.connect(f"file:{places[1]}/minifo.db?mode=ro", uri=True)
        assert con.execute("SELECT count(*) FROM modified").fetchone() == (1,)
        con.close()


def test_after_closing(places: tuple[Path, Path]) -> None:
    """A second close does nothing; all else says so.  A block that raises closes too, and what was done stays."""
    overlay = minifo.open(*places)

    def fail() -> None:
        with overlay:
            overlay.write_bytes("/f", b"done")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    overlay.close()
    for call in (overlay.listdir, overlay.checkpoints, overlay.commit, lambda: overlay.write_bytes("/f", b"")):
        with pytest.raises(minifo.UsageError, match="closed"):
            call()
    with minifo.open(*places) as overlay:
        assert overlay.read_bytes("/f") == b"done"


def test_memory_is_bounded(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What one call has looked up is dropped before a later one, and everything shows as before."""
    monkeypatch.setattr("minifo.engine.api_files._KNOWN", 3)
    with minifo.open(*places) as overlay:
        overlay.write_bytes("/d/new", b"n")
        overlay.rename("/d", "/e")
        expected = {path.replace("/d", "/e", 1): data for path, data in {**BASE, "/d/new": b"n"}.items()}
        for _ in range(3):
            assert shown(overlay) == expected
        overlay.rmtree("/e/sub")
        assert overlay.stat("/e/a").st_size == 3
        assert overlay._ov.known < 6


def test_importing_is_cheap() -> None:
    """Nothing but the small module itself is loaded until a name is used; those that mount are not even then."""
    code = """
import sys, minifo
assert [name for name in sys.modules if name.startswith("minifo.")] == []
assert {"apsw", "trio", "pyfuse3", "sqlite3"}.isdisjoint(sys.modules)
minifo.__version__, minifo.StorageBusy
assert "apsw" not in sys.modules
assert all(getattr(minifo, name) is not None for name in minifo.__all__)
assert set(minifo.__all__) <= set(dir(minifo))
assert {"trio", "pyfuse3", "pathspec", "click"}.isdisjoint(sys.modules)
try:
    minifo.nothing
except AttributeError:
    print("done")
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.timeout(300)
def test_a_program_is_typed(tmp_path: Path) -> None:
    """mypy --strict accepts a program that uses the API as it should, and refuses one that does not."""
    pytest.importorskip("mypy")
    (tmp_path / "right.py").write_text(USER)
    (tmp_path / "wrong.py").write_text("import minifo\n\nminifo.open('base', 'sto').write_bytes('/f', 'text')\n")
    links = Path(__file__).resolve().parents[1] / "_typing"
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "right.py", "wrong.py"]
    env = {**os.environ, "MYPYPATH": str(links)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[:-1]] == ["wrong.py"], done.stdout + done.stderr
    assert "arg-type" in done.stdout

"""Transactions of the Python API: at random, on a full storage, and where storage fails."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import stat
from pathlib import Path

import pytest

import minifo
from minifo.engine import Overlay as Facade
from minifo.engine.store.memory_directory import memory_directory
from tests.shared.overlay_sandbox import PAST

PATHS = [f"/{a}{b}{c}" for a in ("d", "e", "f") for b in ("", "/a", "/b", "/c") for c in ("", "/x") if b or not c]

OBJECTS = (
    "SELECT count(*) FROM (SELECT object FROM inode WHERE object > 0 UNION SELECT object FROM extent WHERE object > 0)"
)


class Undone(Exception):
    """Ends a transaction that is to be undone."""


def make_base(top: Path) -> Path:
    """A base with some files, links among them, with times in the past."""
    base = top / "base"
    for path in ("d/a", "d/b/x", "e/c"):
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(path.encode() * 900)
    os.link(base / "d/a", base / "e/a")
    for path in ("d/a", "d/b/x", "e/c"):
        os.utime(base / path, ns=(PAST, PAST))
    return base


def opened(base: Path, storage: Path, max_size: int | None = None) -> minifo.Overlay:
    """An open overlay, which takes at most so many bytes in storage."""
    storage.mkdir(exist_ok=True)
    return minifo.Overlay(
        Facade.open(str(base), str(storage), redo_directory=memory_directory(), max_size=max_size, clock=lambda: PAST)
    )


def everything(overlay: minifo.Overlay) -> dict[str, tuple[object, ...]]:
    """Every path, with its type, mode, link count, bytes and extended attributes."""
    found: dict[str, tuple[object, ...]] = {}
    waiting = ["/"]
    while waiting:
        path = waiting.pop()
        st = overlay.stat(path)
        data = overlay.read_bytes(path) if stat.S_ISREG(st.st_mode) else b""
        found[path] = (st.st_mode, st.st_nlink, data, overlay.listxattr(path))
        if stat.S_ISDIR(st.st_mode):
            waiting += [os.path.join(path, name) for name in overlay.listdir(path)]
    return found


def step(overlay: minifo.Overlay, dice: random.Random) -> None:
    """One change at random; what is refused before it begins changes nothing."""
    one, two = dice.choice(PATHS), dice.choice(PATHS)
    data = dice.randbytes(3) * dice.choice([1, 1000])
    try:
        match dice.randrange(9):
            case 0 | 1:
                overlay.write_bytes(one, data)
            case 2:
                overlay.remove(one)
            case 3:
                overlay.mkdir(one, parents=dice.random() < 0.5)
            case 4:
                overlay.rmtree(one)
            case 5:
                overlay.rmdir(one)
            case 6:
                overlay.link(one, two)
            case 7:
                overlay.setxattr(one, "user.x", data[:3])
            case _:
                if not f"{two}/".startswith(f"{one}/") and (not overlay.exists(two) or overlay.listdir(two) == []):
                    overlay.rename(one, two)
        overlay.listdir(os.path.dirname(one))
    except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError):
        pass
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise


@pytest.mark.parametrize("seed", range(12))
def test_at_random(tmp_path: Path, seed: int) -> None:
    """What was undone has left nothing, in memory or on disk; what was done is as if each call had been made alone."""
    base = make_base(tmp_path)
    ours, alone = opened(base, tmp_path / "ours"), opened(base, tmp_path / "alone")
    dice = random.Random(seed)
    for turn in range(25):
        is_undone, steps = dice.random() < 0.4, random.Random(f"{seed}-{turn}")
        before = everything(ours)
        count = dice.randrange(1, 12)

        def block(count: int, steps: random.Random, is_undone: bool) -> None:
            with ours.transaction():
                for _ in range(count):
                    step(ours, steps)
                if is_undone:
                    raise Undone

        if is_undone:
            with pytest.raises(Undone):
                block(count, steps, is_undone)
            assert everything(ours) == before
        else:
            block(count, steps, is_undone)
            steps = random.Random(f"{seed}-{turn}")
            for _ in range(count):
                step(alone, steps)
            assert everything(ours) == everything(alone)
        assert ours._ov.check() == []
    last, digest = everything(ours), ours.digest()
    assert digest == alone.digest()
    ours.close()
    alone.close()
    with minifo.open(base, tmp_path / "ours") as again:
        assert (everything(again), again.digest(), again._ov.check()) == (last, digest, [])
    con = sqlite3.connect(tmp_path / "ours" / "minifo.db")
    (needed,) = con.execute(OBJECTS).fetchone()
    con.close()
    assert needed == sum(path.is_file() for path in (tmp_path / "ours" / "content").rglob("*"))


def test_a_full_storage(tmp_path: Path) -> None:
    """No half of a transaction is committed to make space, and a single call may use what was deleted before."""
    base = make_base(tmp_path)
    room = 24 << 20
    data = os.urandom(4 << 20)
    with opened(base, tmp_path / "sto", room) as overlay:
        written = 0

        def fill() -> None:
            nonlocal written
            while True:
                overlay.write_bytes(f"/{written}", data)
                written += 1

        with pytest.raises(OSError, match="No space"):
            fill()
        assert written > 1
        assert not overlay.exists(f"/{written}")
        before = everything(overlay)

        def swap() -> None:
            with overlay.transaction():
                overlay.remove("/0")
                overlay.write_bytes("/new", data)

        with pytest.raises(OSError, match="No space") as caught:
            swap()
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/new")
        assert everything(overlay) == before
        overlay.remove("/0")
        overlay.write_bytes("/new", data)
        with pytest.raises(OSError, match="No space"):
            overlay.write_bytes("/new", data[::-1])
        assert overlay.read_bytes("/new") == data
        overlay.write_bytes("/1", b"small")
        expected = everything(overlay)
    with opened(base, tmp_path / "sto") as overlay:
        assert everything(overlay) == expected

"""Transactions of the Python API: at random, on a full storage, and where storage fails."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import sqlite3
import stat
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import minifo
from minifo.engine import Overlay as Facade
from tests.crash.io_fault_injector import Injector
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


def opened(base: Path, storage: Path, **options: Any) -> minifo.Overlay:
    """An open overlay, with options of the engine."""
    redo = base.parent / "redo"
    for directory in (storage, redo):
        directory.mkdir(exist_ok=True)
    return minifo.Overlay(Facade.open(str(base), str(storage), redo_directory=str(redo), clock=lambda: PAST, **options))


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
    with opened(base, tmp_path / "ours") as again:
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
    with opened(base, tmp_path / "sto", max_size=room) as overlay:
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


@pytest.mark.logs(".", always=False)
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_each_step_fails(tmp_path: Path, code: int) -> None:
    """Whichever step of storage fails in a transaction or its commit: the next program finds all of it or nothing."""
    base = make_base(tmp_path)
    outcomes, raised = set(), set()
    for number in count():
        storage, injector = tmp_path / str(number), Injector()
        overlay = opened(base, storage, vfs=injector.vfs, storage_io=injector.storage)
        overlay.write_bytes("/big", b"old" * 3000)
        overlay.remove("/e/c")
        overlay.commit()
        before = everything(overlay)

        def change(overlay: minifo.Overlay) -> None:
            with overlay.transaction():
                overlay.write_bytes("/big", b"new" * 3000)
                overlay.rename("/d/a", "/moved")
                overlay.rmtree("/d")
                overlay.mkdir("/d/x", parents=True)

        is_done = False
        injector.arm(number, code)
        try:
            change(overlay)
            is_done = True
            overlay.commit()
        except (OSError, minifo.StateError) as error:
            raised.add((isinstance(error, OSError), isinstance(error, minifo.MinifoError)))
        injector.disarm()
        with contextlib.suppress(minifo.StateError):  # of a commit that failed
            overlay.close()
        injector.close()
        is_aside = False
        try:
            again = opened(base, storage)
        except minifo.StateError:  # bytes did not arrive, so what the commit had cannot be replayed
            is_aside = True
            again = opened(base, storage, redo_aside=True)
        with again:
            found = everything(again)
            assert again._ov.check() == []
            if is_done and not is_aside:
                assert found["/big"][2] == b"new" * 3000, injector.failed
                assert "/d/x" in found
                assert "/d/b" not in found
            else:
                assert found == before, injector.failed
        outcomes.add((is_done, is_aside))
        if injector.failed is None:
            break
    assert outcomes == {(False, False), (True, False), (True, True)}
    assert raised == {(True, False), (False, True)}

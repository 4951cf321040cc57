"""A rebase that is killed has not happened, or has; storage that is full keeps all of it."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from crashing import every_crash
from room import BIG, Room, rewrite
from test_prepare import fill, names_of, small_disk

from minifo.engine import StateError
from minifo.migrations.rebase.apply import rebase

POLICIES = ["merge:/*text*", "keep-both:/both*", "theirs:/theirs*"]


def updated(room: Room) -> None:
    """Something for every policy, in rows and in content."""
    text = b"".join(b"line %d\n" % number for number in range(1000))
    for name in ("text", "both", "theirs", "ours", "part", "gone/f"):
        room.put(name, text if name == "text" else random.Random(name).randbytes(BIG))
    room.write("text", b"LINE")
    for name in ("both", "theirs", "ours", "gone/f"):
        room.set(name, size=0)
        room.write(name, b"ours" * 1000)
    room.write("part", b"ours", 4096)
    room.create("both2", b"ours")

    def update(base: Path) -> None:
        rewrite(base, "text", text + b"more\n")
        for name in ("both", "theirs", "ours", "part"):
            rewrite(base, name, b"new" * 3000)
        (base / "both2").write_bytes(b"new")
        shutil.rmtree(base / "gone")

    room.replace(update)


def test_killed_at_any_step(room: Room) -> None:
    """All of it or nothing, each time; given again it comes to the same end, and leaves nothing behind."""
    updated(room)
    before = room.shown()
    room.close()
    saved = room.sto.with_name("saved")
    shutil.copytree(room.sto, saved)

    def work() -> None:
        rebase(str(room.sto), str(room.base), old_base=str(room.old), policies=POLICIES, apply=True, any_base=True)

    def reset() -> None:
        room.close()
        shutil.rmtree(room.sto)
        shutil.copytree(saved, room.sto)

    reset()
    work()
    after = still(room)
    assert after != before
    states = []
    for _ in every_crash(reset, work, step=2):
        states.append(room.shown())
        assert strip(states[-1]) in (strip(before), after)
        room.check()
        work()
        assert still(room) == after
        assert {path.name for path in (room.sto / "content").glob("*/*")} == names_of(room)
    assert strip(states[0]) == strip(before)
    assert any(strip(state) == after for state in states)


def still(room: Room) -> dict[str, object]:
    """What shows, and the overlay is closed."""
    shown = strip(room.shown())
    room.close()
    return shown


def strip(shown: dict[str, tuple[object, ...]]) -> dict[str, object]:
    """Without the mtime of a file that was merged, which is the time of the merge."""
    return {path: facts[:4] + facts[5:] for path, facts in shown.items()}


def test_storage_that_is_full(room: Room, tmp_path: Path) -> None:
    """What does not fit is refused before anything is changed."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    updated(room)
    before = room.shown()
    room.close()
    with small_disk(tmp_path / "disk", "2m") as disk:
        shutil.copytree(room.sto, disk / "sto")
        room.sto = disk / "sto"
        fill(disk, 150_000)
        with pytest.raises(StateError, match=r"bytes are needed in .*, \d+ are free"):
            room.rebase(*POLICIES, old=True)
        assert room.shown() == before
        room.close()
        os.unlink(disk / "fill")
        assert room.rebase(*POLICIES, old=True).conflicts == []
        room.close()

"""Before an update: ``minifo rebase --prepare`` makes an overlay independent of its base."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from crashing import every_crash
from room import BIG, Room, rewrite

from minifo.migrations.rebase import apply as rebasing
from minifo.migrations.rebase.apply import Preparation
from minifo.tools.cli import main

FILES = 5


def partly(room: Room) -> None:
    """Files that were written, cut, grown and punched in part, and others that need nothing of the base."""
    for number in range(FILES):
        room.put(f"f{number}", os.urandom(BIG))
        room.write(f"f{number}", b"ours", 4096 * number + 7)
    room.put("cut", os.urandom(BIG))
    room.set("cut", size=BIG - 1)
    room.put("grown", os.urandom(BIG))
    room.set("grown", size=BIG + 100_000)
    room.put("small", b"base")
    room.write("small", b"ours")
    room.put("mode", os.urandom(BIG))
    room.set("mode", mode=0o600)


def prepare(room: Room, *arguments: str) -> int:
    """Give the command."""
    room.close()
    return main(["rebase", "--prepare", str(room.sto), "--base", str(room.base), *arguments])


def lost(room: Room) -> None:
    """The base is another one that has nothing of all this but what was not written."""
    room.replace(lambda base: [path.unlink() for path in base.iterdir() if path.name != "mode"])


def test_afterwards_nothing_is_lost(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    """The bytes are told first; the same shows before and after, and over a base without any of the files."""
    partly(room)
    before = room.shown()
    assert prepare(room) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"{FILES + 2} files need ")
    assert out[1:] == [f"completed: {FILES + 2} files", "no file depends on this base now"]
    assert room.shown() == before
    room.check()
    assert prepare(room) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no file depends on this base now"
    lost(room)
    assert room.shown() == before


def test_for_scripts(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths and bytes as JSON; what this base cannot complete is a conflict."""
    partly(room)
    room.close()
    rewrite(room.base, "f0", b"n" * BIG)
    assert prepare(room, "--json") == 3
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["storage", "base", "bytes", "files", "conflicts"]
    assert (found["conflicts"], len(found["files"])) == (["/f0"], FILES + 1)
    assert FILES * (BIG - 4096) < found["bytes"] <= (FILES + 1) * BIG
    assert prepare(room) == 3
    assert capsys.readouterr().out.startswith("conflict: /f0: blocks of it were written over a version")


def test_what_does_not_fit(room: Room, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is copied where not all of it fits."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    partly(room)
    room.close()
    with small_disk(tmp_path / "disk", "2m") as disk:
        shutil.copytree(room.sto, disk / "sto")
        room.sto = disk / "sto"
        fill(disk, 300_000)
        used = subprocess.check_output(["du", "-s", str(room.sto / "content")])
        assert prepare(room) == 2
        assert "bytes are needed" in capfd.readouterr().err
        assert subprocess.check_output(["du", "-s", str(room.sto / "content")]) == used
        os.unlink(disk / "fill")
        room.check()


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of that size."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, left: int) -> None:
    """Write a file, so that so many bytes are free."""
    figures = os.statvfs(disk)
    with open(disk / "fill", "wb") as file:
        file.write(bytes(figures.f_bfree * figures.f_frsize - left))


def test_cut_short_it_goes_on(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any step: the same shows, what was committed is kept, and it goes on when it is given again."""
    partly(room)
    before = room.shown()
    room.close()
    saved = room.sto.with_name("saved")
    shutil.copytree(room.sto, saved)
    monkeypatch.setattr(rebasing, "_COMMIT_FILES", 2)

    def reset() -> None:
        room.close()
        shutil.rmtree(room.sto)
        shutil.copytree(saved, room.sto)

    def work() -> None:
        with Preparation(str(room.sto), str(room.base)) as preparation:
            preparation.run()

    counts = set()
    for _ in every_crash(reset, work, step=3):
        assert room.shown() == before
        room.check()
        with Preparation(str(room.sto), str(room.base)) as preparation:
            counts.add(preparation.count)
            preparation.run()
        assert room.shown() == before
        assert {path.name for path in (room.sto / "content").glob("*/*")} == names_of(room)
    assert {0, FILES + 2} < counts


def names_of(room: Room) -> set[str]:
    """The names of the content objects that rows name."""
    sql = "SELECT object FROM inode WHERE object > 0 UNION SELECT object FROM extent WHERE object > 0"
    found = {f"{number & 1023:x}" for (number,) in room.ov.db.rows(sql)}
    room.close()
    return found

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

from minifo.migrations.rebase import apply as rebasing
from minifo.migrations.rebase.apply import Preparation
from minifo.tools.cli import main
from tests.migrations.kill_points import every_crash
from tests.shared.rebase_sandbox import BIG, RebaseSandbox, rewrite

pytestmark = pytest.mark.logs(
    "is not the one of the last mount", "was replaced in the base after a part of it was written here", always=False
)

FILES = 5


def partly(rebase_sandbox: RebaseSandbox) -> None:
    """Files that were written, cut, grown and punched in part, and others that need nothing of the base."""
    for number in range(FILES):
        rebase_sandbox.put(f"f{number}", os.urandom(BIG))
        rebase_sandbox.write(f"f{number}", b"ours", 4096 * number + 7)
    rebase_sandbox.put("cut", os.urandom(BIG))
    rebase_sandbox.set("cut", size=BIG - 1)
    rebase_sandbox.put("grown", os.urandom(BIG))
    rebase_sandbox.set("grown", size=BIG + 100_000)
    rebase_sandbox.put("small", b"base")
    rebase_sandbox.write("small", b"ours")
    rebase_sandbox.put("mode", os.urandom(BIG))
    rebase_sandbox.set("mode", mode=0o600)


def prepare(rebase_sandbox: RebaseSandbox, *arguments: str) -> int:
    """Give the command."""
    rebase_sandbox.close()
    return main(["rebase", "--prepare", str(rebase_sandbox.sto), "--base", str(rebase_sandbox.base), *arguments])


def lost(rebase_sandbox: RebaseSandbox) -> None:
    """The base is another one that has nothing of all this but what was not written."""
    rebase_sandbox.replace(lambda base: [path.unlink() for path in base.iterdir() if path.name != "mode"])


def test_afterwards_nothing_is_lost(rebase_sandbox: RebaseSandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """The bytes are told first; the same shows before and after, and over a base without any of the files."""
    partly(rebase_sandbox)
    before = rebase_sandbox.shown()
    assert prepare(rebase_sandbox) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"{FILES + 2} files to complete with ")
    assert out[1:] == [f"completed: {FILES + 2} files", "no file depends on this base now"]
    assert rebase_sandbox.shown() == before
    rebase_sandbox.check()
    assert prepare(rebase_sandbox) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no file depends on this base now"
    lost(rebase_sandbox)
    assert rebase_sandbox.shown() == before


def test_for_scripts(rebase_sandbox: RebaseSandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths and bytes as JSON; what this base cannot complete is a conflict."""
    partly(rebase_sandbox)
    rebase_sandbox.close()
    rewrite(rebase_sandbox.base, "f0", b"n" * BIG)
    assert prepare(rebase_sandbox, "--json") == 3
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["storage", "base", "bytes", "files", "conflicts"]
    assert (found["conflicts"], len(found["files"])) == (["/f0"], FILES + 1)
    assert FILES * (BIG - 4096) < found["bytes"] <= (FILES + 1) * BIG
    assert prepare(rebase_sandbox) == 3
    assert capsys.readouterr().out.startswith("conflict: /f0: blocks of it were written over a version")


@pytest.mark.root
def test_what_does_not_fit(rebase_sandbox: RebaseSandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is copied where not all of it fits."""
    partly(rebase_sandbox)
    rebase_sandbox.close()
    with small_disk(tmp_path / "disk", "2m") as disk:
        shutil.copytree(rebase_sandbox.sto, disk / "sto")
        rebase_sandbox.sto = disk / "sto"
        fill(disk, 300_000)
        used = subprocess.check_output(["du", "-s", str(rebase_sandbox.sto / "content")])
        assert prepare(rebase_sandbox) == 2
        assert "bytes are needed" in capfd.readouterr().err
        assert subprocess.check_output(["du", "-s", str(rebase_sandbox.sto / "content")]) == used
        os.unlink(disk / "fill")
        rebase_sandbox.check()


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


def test_cut_short_it_goes_on(rebase_sandbox: RebaseSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any step: the same shows, what was committed is kept, and it goes on when it is given again."""
    partly(rebase_sandbox)
    before = rebase_sandbox.shown()
    rebase_sandbox.close()
    saved = rebase_sandbox.sto.with_name("saved")
    shutil.copytree(rebase_sandbox.sto, saved)
    monkeypatch.setattr(rebasing, "_COMMIT_FILES", 2)

    def reset() -> None:
        rebase_sandbox.close()
        shutil.rmtree(rebase_sandbox.sto)
        shutil.copytree(saved, rebase_sandbox.sto)

    def work() -> None:
        with Preparation(str(rebase_sandbox.sto), str(rebase_sandbox.base)) as preparation:
            preparation.run()

    counts = set()
    for _ in every_crash(reset, work, step=3):
        assert rebase_sandbox.shown() == before
        rebase_sandbox.check()
        with Preparation(str(rebase_sandbox.sto), str(rebase_sandbox.base)) as preparation:
            counts.add(preparation.count)
            preparation.run()
        assert rebase_sandbox.shown() == before
        assert {path.name for path in (rebase_sandbox.sto / "content").glob("*/*")} == names_of(rebase_sandbox)
    assert {0, FILES + 2} < counts


def names_of(rebase_sandbox: RebaseSandbox) -> set[str]:
    """The names of the content objects that rows name."""
    sql = "SELECT object FROM inode WHERE object > 0 UNION SELECT object FROM extent WHERE object > 0"
    found = {f"{number & 1023:x}" for (number,) in rebase_sandbox.ov.db.rows(sql)}
    rebase_sandbox.close()
    return found

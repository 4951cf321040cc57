"""Merging an overlay into its base: what showed before is what the base holds after, whatever happens in between."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trees
import views
from crashing import every_crash
from lab import Lab
from support import fingerprint

from minifo.engine import ROOT, FsError, Overlay, Process, RenameFlags, SetAttr, StateError, StorageBusy
from minifo.engine.model import Ino
from minifo.engine.store.redo_log import memory_directory
from minifo.migrations.merge.apply import merge
from minifo.migrations.meta.importer import import_storage
from minifo.tools.cli import main


def walk(overlay: Overlay) -> list[tuple[Ino, bytes, Ino, int]]:
    """Every name: its directory, itself, its inode and mode."""
    found = []
    pending = [ROOT]
    while pending:
        directory = pending.pop()
        for entry in overlay.readdir(directory):
            if entry.name not in (b".", b".."):
                found.append((directory, entry.name, Ino(entry.attr.ino), entry.attr.mode))
                if stat.S_ISDIR(entry.attr.mode):
                    pending.append(Ino(entry.attr.ino))
    return found


def scramble(overlay: Overlay, rng: random.Random, count: int) -> None:
    """Do things by chance; what is not possible is left out."""
    for number in range(count):
        names = walk(overlay)
        parent, name, ino, mode = rng.choice(names)
        directories = [ROOT, *(i for _, _, i, m in names if stat.S_ISDIR(m))]
        other = rng.choice(names)
        place = rng.choice(directories)
        fresh = b"fresh\n%d" % number
        todo: list[Callable[[], object]] = [
            lambda p=parent, n=name, q=place, f=fresh: overlay.rename(p, n, q, f, RenameFlags.NONE),  # type: ignore[misc]
            lambda p=parent, n=name, o=other: overlay.rename(p, n, o[0], o[1], RenameFlags.EXCHANGE),  # type: ignore[misc]
            lambda p=parent, n=name, o=other: overlay.rename(p, n, o[0], o[1], RenameFlags.NONE),  # type: ignore[misc]
            lambda i=ino, q=place, f=fresh: overlay.link(i, q, f),  # type: ignore[misc]
            lambda p=parent, n=name: overlay.unlink(p, n),  # type: ignore[misc]
            lambda p=parent, n=name: overlay.rmdir(p, n),  # type: ignore[misc]
            lambda q=place, f=fresh: overlay.mkdir(q, f, 0o750, Process(7, 8)),  # type: ignore[misc]
            lambda q=place, f=fresh: overlay.symlink(q, f, b"to", Process()),  # type: ignore[misc]
            lambda i=ino, m=mode: overlay.write(i, 1, b"written") if stat.S_ISREG(m) else None,  # type: ignore[misc]
            lambda i=ino, m=mode: overlay.setattr(i, SetAttr(size=3000)) if stat.S_ISREG(m) else None,  # type: ignore[misc]
            lambda i=ino, m=mode: overlay.setattr(i, SetAttr(mode=None if stat.S_ISLNK(m) else 0o711, uid=5)),  # type: ignore[misc]
            lambda i=ino, m=mode: overlay.setxattr(i, b"trusted.x", b"1") if not stat.S_ISLNK(m) else None,  # type: ignore[misc]
        ]
        with contextlib.suppress(FsError):
            rng.choice(todo)()


def prepare(place: Path, seed: int, ops: int, *, dirs: int = 12, files: int = 4) -> dict[bytes, tuple[object, ...]]:
    """A base and an overlay with every state, and some; returns what it shows."""
    trees.build(place, seed, dirs, files)
    import_storage(str(place / "sto"), str(place / "base"), str(place / "new"))
    with views.opened(place / "base", place / "new") as overlay:
        scramble(overlay, random.Random(seed), ops)
        for _, _, ino, _ in walk(overlay):
            overlay.forget([ino])
    return views.shown(place / "base", place / "new", links=True)


def held(place: Path) -> dict[bytes, tuple[object, ...]]:
    """What the base itself holds."""
    (place / "empty").mkdir()
    seen = views.shown(place / "base", place / "empty", links=True)
    shutil.rmtree(place / "empty")
    return seen


@pytest.mark.parametrize("seed", range(25))
def test_base_becomes_what_showed(place: Path, seed: int) -> None:
    """Names, content, owners, modes, times, xattrs and links; storage is an empty overlay afterwards."""
    before = prepare(place, seed, 60)
    report = merge(str(place / "new"), str(place / "base"), apply=True)
    assert report.applied
    assert held(place) == before
    assert views.shown(place / "base", place / "new", links=True) == before
    with views.opened(place / "base", place / "new") as overlay:
        for table in ("created", "deleted", "renamed", "modified", "inode", "garbage"):
            assert overlay.db.rows(f"SELECT * FROM {table}") == []
    assert merge(str(place / "new"), str(place / "base")).changes == []
    before_again = fingerprint(place / "base")
    assert merge(str(place / "new"), str(place / "base"), apply=True).changes == []
    assert fingerprint(place / "base") == before_again


def test_plan_changes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --apply there is only a list."""
    (place / "base" / "d").mkdir(parents=True)
    for name in ("gone", "changed", "mode", "d/x"):
        (place / "base" / name).write_text(name)
    (place / "sto").mkdir()
    with views.opened(place / "base", place / "sto") as overlay:
        overlay.unlink(ROOT, b"gone")
        changed = overlay.lookup(ROOT, b"changed")
        mode = overlay.lookup(ROOT, b"mode")
        assert changed is not None
        assert mode is not None
        overlay.write(Ino(changed.ino), 0, b"!")
        overlay.setattr(Ino(mode.ino), SetAttr(mode=0o600))
        overlay.rename(ROOT, b"d", ROOT, b"moved", RenameFlags.NONE)
        overlay.mknod(ROOT, b"\xffnew", 0o644, 0, Process())
    arguments = ["merge", str(place / "sto"), "--base", str(place / "base")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert sorted(out.splitlines()) == [
        "A /\\xffnew",
        "D /gone",
        "M /changed",
        "R /moved  (from /d)",
        "m /mode",
        "would merge: 5 changes",
    ]
    assert sorted(os.listdir(place / "base")) == ["changed", "d", "gone", "mode"]
    assert main([*arguments, "--apply", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["applied"] is True
    assert {(c["change"], os.fsencode(c["path"])) for c in found["changes"]} >= {("A", b"/\xffnew"), ("R", b"/moved")}
    assert sorted(os.listdir(os.fsencode(place / "base"))) == [b"changed", b"mode", b"moved", b"\xffnew"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "nothing to merge\n"


def test_storage_in_use_is_refused(place: Path) -> None:
    """While an overlay is mounted its base is not changed."""
    (place / "base").mkdir()
    (place / "sto").mkdir()
    with views.opened(place / "base", place / "sto"), pytest.raises(StorageBusy):
        merge(str(place / "sto"), str(place / "base"), apply=True)


def test_crash_at_any_step_is_resumed(place: Path) -> None:
    """Before the journal is in force the overlay is whole; afterwards it cannot be mounted, and merging goes on."""
    expected = prepare(place, 2, 40, dirs=5, files=3)
    shutil.copytree(place / "new", place / "new.saved")
    trees_copy(place / "base", place / "base.saved")
    base, storage = str(place / "base"), str(place / "new")
    refused = 0

    def reset() -> None:
        for name in ("base", "new"):
            shutil.rmtree(place / name, ignore_errors=True)
        shutil.copytree(place / "new.saved", place / "new")
        trees_copy(place / "base.saved", place / "base")

    reset()
    for _ in every_crash(reset, lambda: merge(storage, base, apply=True), step=5):
        if not os.path.exists(os.path.join(storage, "minifo.db")) and os.path.exists(os.path.join(storage, "merge.db")):
            refused += 1
            with pytest.raises(StateError, match="minifo merge --apply"):
                Overlay.open(base, storage)
            with pytest.raises(StateError, match="was interrupted"):
                merge(storage, base)
        merge(storage, base, apply=True)
        assert strip(held(place)) == strip(expected)
    assert refused > 8


def strip(seen: dict[bytes, tuple[object, ...]]) -> dict[bytes, tuple[object, ...]]:
    """Without what belongs to one copy of a base: the first name of linked files."""
    return {path: value[:9] for path, value in seen.items()}


def trees_copy(source: Path, target: Path) -> None:
    """``cp -a``."""
    subprocess.run(["cp", "-a", "--", str(source), str(target)], check=True)


def test_what_a_killed_daemon_had_acknowledged(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A plan says that it lacks the last operations; to apply it takes them up first."""
    lab = Lab(place)
    lab.put("f", b"base")
    lab.open(redo_directory=memory_directory())
    lab.create("committed", b"1")
    lab.ov.commit()
    lab.create("acknowledged", b"2")
    lab.kill()
    plan = merge(str(lab.sto), str(lab.base), apply=False)
    assert [change.path for change in plan.changes] == [b"/committed"]
    assert "does not show the last 2 operations of a killed daemon" in caplog.text
    merge(str(lab.sto), str(lab.base), apply=True)
    assert sorted(os.listdir(lab.base)) == ["acknowledged", "committed", "f"]
    assert (lab.base / "acknowledged").read_bytes() == b"2"

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

from minifo.engine import ROOT, FsError, Overlay, Process, RenameFlags, SetAttr, StateError, StorageBusy
from minifo.engine.model import Ino
from minifo.engine.store.memory_directory import memory_directory
from minifo.migrations.merge.apply import merge
from minifo.migrations.meta.importer import import_storage
from minifo.tools.cli import main
from tests.migrations import legacy_trees, overlay_contents
from tests.migrations.kill_points import crash, every_crash
from tests.shared.file_trees import fingerprint
from tests.shared.overlay_sandbox import NOTHING, OverlaySandbox


def walk(overlay: Overlay) -> list[tuple[Ino, bytes, Ino, int]]:
    """Every name: its directory, itself, its inode and mode."""
    found = []
    pending = [ROOT]
    while pending:
        directory = pending.pop()
        # sorted, so that a seed means the same each time: directories list names in an order that is not
        for entry in sorted(overlay.readdir(directory), key=lambda entry: entry.name):
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
    legacy_trees.build(place, seed, dirs, files)
    import_storage(str(place / "sto"), str(place / "base"), str(place / "new"))
    with overlay_contents.opened(place / "base", place / "new") as overlay:
        scramble(overlay, random.Random(seed), ops)
        for _, _, ino, _ in walk(overlay):
            overlay.forget([ino])
    return overlay_contents.shown(place / "base", place / "new", links=True)


def note_something(base: Path, storage: Path) -> list[str]:
    """Begin a journal; returns its entries."""
    overlay = Overlay.open(str(base), str(storage), journal=10, clone=False)
    overlay.mkdir(ROOT, b"noted", 0o755, Process())
    overlay.rename(ROOT, b"noted", ROOT, b"noted too")
    overlay.close()
    return ["mkdir /noted", "rename /noted too"]


def held(place: Path) -> dict[bytes, tuple[object, ...]]:
    """What the base itself holds."""
    (place / "empty").mkdir()
    seen = overlay_contents.shown(place / "base", place / "empty", links=True)
    shutil.rmtree(place / "empty")
    return seen


@pytest.mark.parametrize("seed", range(25))
def test_base_becomes_what_showed(memory_dir: Path, seed: int) -> None:
    """Names, content, owners, modes, times, xattrs and links; storage is an empty overlay afterwards."""
    before = prepare(memory_dir, seed, 60)
    report = merge(str(memory_dir / "new"), str(memory_dir / "base"), apply=True)
    assert report.applied
    assert held(memory_dir) == before
    assert overlay_contents.shown(memory_dir / "base", memory_dir / "new", links=True) == before
    with overlay_contents.opened(memory_dir / "base", memory_dir / "new") as overlay:
        for table in ("created", "deleted", "renamed", "modified", "inode", "garbage"):
            assert overlay.db.rows(f"SELECT * FROM {table}") == []
    assert merge(str(memory_dir / "new"), str(memory_dir / "base")).changes == []
    before_again = fingerprint(memory_dir / "base")
    assert merge(str(memory_dir / "new"), str(memory_dir / "base"), apply=True).changes == []
    assert fingerprint(memory_dir / "base") == before_again


def test_plan_changes_nothing(memory_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --apply there is only a list."""
    (memory_dir / "base" / "d").mkdir(parents=True)
    for name in ("gone", "changed", "mode", "d/x"):
        (memory_dir / "base" / name).write_text(name)
    (memory_dir / "sto").mkdir()
    with overlay_contents.opened(memory_dir / "base", memory_dir / "sto") as overlay:
        overlay.unlink(ROOT, b"gone")
        changed = overlay.lookup(ROOT, b"changed")
        mode = overlay.lookup(ROOT, b"mode")
        assert changed is not None
        assert mode is not None
        overlay.write(Ino(changed.ino), 0, b"!")
        overlay.setattr(Ino(mode.ino), SetAttr(mode=0o600))
        overlay.rename(ROOT, b"d", ROOT, b"moved", RenameFlags.NONE)
        overlay.mknod(ROOT, b"\xffnew", 0o644, 0, Process())
    arguments = ["merge", str(memory_dir / "sto"), "--base", str(memory_dir / "base")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert sorted(out.splitlines()) == [
        "A /\\xffnew",
        "D /gone",
        "M /changed",
        "R /moved  (from /d)",
        "m /mode",
        "would merge: 5 changes, 7 bytes",
    ]
    assert sorted(os.listdir(memory_dir / "base")) == ["changed", "d", "gone", "mode"]
    assert main([*arguments, "--apply", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["applied"] is True
    assert {(c["change"], os.fsencode(c["path"])) for c in found["changes"]} >= {("A", b"/\xffnew"), ("R", b"/moved")}
    assert sorted(os.listdir(os.fsencode(memory_dir / "base"))) == [b"changed", b"mode", b"moved", b"\xffnew"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "nothing to merge\n"


def test_storage_in_use_is_refused(memory_dir: Path) -> None:
    """While an overlay is mounted its base is not changed."""
    (memory_dir / "base").mkdir()
    (memory_dir / "sto").mkdir()
    with overlay_contents.opened(memory_dir / "base", memory_dir / "sto"), pytest.raises(StorageBusy):
        merge(str(memory_dir / "sto"), str(memory_dir / "base"), apply=True)


@pytest.mark.logs("is not the one of the last mount", always=False)
def test_crash_at_any_step_is_resumed(memory_dir: Path) -> None:
    """Before the journal is in force the overlay is whole; afterwards it cannot be mounted, and merging goes on."""
    prepare(memory_dir, 2, 40, dirs=5, files=3)
    noted = [*note_something(memory_dir / "base", memory_dir / "new"), "merge /"]
    expected = overlay_contents.shown(memory_dir / "base", memory_dir / "new", links=True)
    shutil.copytree(memory_dir / "new", memory_dir / "new.saved")
    trees_copy(memory_dir / "base", memory_dir / "base.saved")
    base, storage = str(memory_dir / "base"), str(memory_dir / "new")
    refused = 0

    def reset() -> None:
        for name in ("base", "new"):
            shutil.rmtree(memory_dir / name, ignore_errors=True)
        shutil.copytree(memory_dir / "new.saved", memory_dir / "new")
        trees_copy(memory_dir / "base.saved", memory_dir / "base")

    reset()
    for _ in every_crash(reset, lambda: merge(storage, base, apply=True), step=5):
        if not os.path.exists(os.path.join(storage, "minifo.db")) and os.path.exists(os.path.join(storage, "merge.db")):
            refused += 1
            with pytest.raises(StateError, match="minifo merge --apply"):
                Overlay.open(base, storage)
            with pytest.raises(StateError, match="was interrupted"):
                merge(storage, base)
        merge(storage, base, apply=True)
        assert strip(held(memory_dir)) == strip(expected)
        assert overlay_contents.noted(base, storage) == noted
    assert refused > 8


def test_the_journal_goes_on(memory_dir: Path) -> None:
    """Its entries stay, and one says who has merged; the storage holds nothing else, and works."""
    sandbox = OverlaySandbox(memory_dir)
    sandbox.put("f")
    before = note_something(sandbox.base, sandbox.sto)
    merge(str(sandbox.sto), str(sandbox.base), apply=True)
    assert overlay_contents.noted(sandbox.base, sandbox.sto) == [*before, "merge /"]
    assert sandbox.ov.check() == []
    journal = sandbox.ov.journal
    *_, last = journal.read(*journal.bounds()).entries
    assert (last.id, last.op, last.path, last.uid, last.pid) == (3, "merge", b"/", os.getuid(), os.getpid())
    assert last.command == Path("/proc/self/comm").read_bytes().rstrip(b"\n")
    assert sandbox.lists() == NOTHING
    assert sorted(os.listdir(sandbox.base)) == ["f", "noted too"]
    sandbox.reopen(journal=2)
    sandbox.create("more")
    sandbox.close()
    assert overlay_contents.noted(sandbox.base, sandbox.sto) == ["merge /", "create /more"]


@pytest.mark.logs("the journal of changes in .* does not go on")
def test_a_journal_that_cannot_be_read(memory_dir: Path) -> None:
    """It is lost, which is said, and the merge is whole."""
    sandbox = OverlaySandbox(memory_dir)
    sandbox.put("f")
    note_something(sandbox.base, sandbox.sto)

    def killed() -> None:
        merge(str(sandbox.sto), str(sandbox.base), apply=True)

    at = 1
    while crash(killed, at) and not (sandbox.sto / "merge.db").exists():
        at += 1
    with open(sandbox.sto / "merge.db", "r+b") as file:
        file.truncate(5000)
    merge(str(sandbox.sto), str(sandbox.base), apply=True)
    assert sorted(os.listdir(sandbox.base)) == ["f", "noted too"]
    assert sandbox.ov.check() == []
    assert overlay_is_new(sandbox)


def overlay_is_new(sandbox: OverlaySandbox) -> bool:
    """Whether it holds nothing, not even a journal."""
    return sandbox.lists() == NOTHING and sandbox.ov.journal.bounds() == (1, 1)


def test_without_a_journal_there_is_no_entry(memory_dir: Path) -> None:
    """It is off by default."""
    sandbox = OverlaySandbox(memory_dir)
    sandbox.create("new")
    sandbox.close()
    merge(str(sandbox.sto), str(sandbox.base), apply=True)
    assert overlay_is_new(sandbox)


def strip(seen: dict[bytes, tuple[object, ...]]) -> dict[bytes, tuple[object, ...]]:
    """Without what belongs to one copy of a base: the first name of linked files."""
    return {path: value[:9] for path, value in seen.items()}


def trees_copy(source: Path, target: Path) -> None:
    """``cp -a``."""
    subprocess.run(["cp", "-a", "--", str(source), str(target)], check=True)


@pytest.mark.logs(
    "operations of a killed daemon were replayed", "does not show the last 2 operations of a killed daemon"
)
def test_what_a_killed_daemon_had_acknowledged(memory_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A plan says that it lacks the last operations; to apply it takes them up first."""
    sandbox = OverlaySandbox(memory_dir)
    sandbox.put("f", b"base")
    sandbox.open(redo_directory=memory_directory())
    sandbox.create("committed", b"1")
    sandbox.ov.commit()
    sandbox.create("acknowledged", b"2")
    sandbox.kill()
    plan = merge(str(sandbox.sto), str(sandbox.base), apply=False)
    assert [change.path for change in plan.changes] == [b"/committed"]
    assert "does not show the last 2 operations of a killed daemon" in caplog.text
    merge(str(sandbox.sto), str(sandbox.base), apply=True)
    assert sorted(os.listdir(sandbox.base)) == ["acknowledged", "committed", "f"]
    assert (sandbox.base / "acknowledged").read_bytes() == b"2"

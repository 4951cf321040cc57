"""Restores of what no minifo has written, of damage, and after a kill."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest

from minifo.engine import StateError, UsageError
from minifo.engine.errors import NewerFormat
from minifo.migrations.effects import Effects
from tests.migrations.backup.backup_sandbox import BackupSandbox


@pytest.fixture
def sandbox(memory_dir: Path) -> BackupSandbox:
    """An overlay with a past."""
    return BackupSandbox(memory_dir)


def more(path: Path, *infos: tarfile.TarInfo, first: bool = False) -> None:
    """Put more entries into an archive, before its digests or before all."""
    with tarfile.open(path) as old:
        members = [(info, old.extractfile(info).read() if info.isreg() else b"") for info in old]  # type: ignore[union-attr]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as new:
        added = [(info, b"") for info in infos]
        for info, data in [*added, *members] if first else [*members[:-1], *added, members[-1]]:
            info.size = len(data)
            info.pax_headers = {}
            new.addfile(info, io.BytesIO(data))
    path.write_bytes(out.getvalue())


def entry(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "") -> tarfile.TarInfo:
    """An entry of an archive."""
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, linkname
    return found


def edited(edit: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    """What changes backup.json."""

    def change(path: Path) -> None:
        with tarfile.open(path) as old:
            members = [(info, old.extractfile(info).read()) for info in old]  # type: ignore[union-attr]
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as new:
            for info, data in members:
                if info.name == "backup.json":
                    told = json.loads(data)
                    edit(told)
                    data = json.dumps(told).encode()
                info.size = len(data)
                info.pax_headers = {}
                new.addfile(info, io.BytesIO(data))
        path.write_bytes(out.getvalue())

    return change


HOSTILE: dict[str, Callable[[Path], object]] = {
    "absolute": lambda path: more(path, entry("/etc/x")),
    "out": lambda path: more(path, entry("content/../../x")),
    "another file": lambda path: more(path, entry("lock")),
    "a log": lambda path: more(path, entry("minifo.db-wal")),
    "another object": lambda path: more(path, entry("content/ff/1")),
    "an object twice": lambda path: more(path, entry("content/0/1")),
    "a link": lambda path: more(path, entry("content/0/1", tarfile.SYMTYPE, "/etc/passwd")),
    "a hard link": lambda path: more(path, entry("content/0/1", tarfile.LNKTYPE, "minifo.db")),
    "a device": lambda path: more(path, entry("content/0/1", tarfile.CHRTYPE)),
    "a directory": lambda path: more(path, entry("content/0", tarfile.DIRTYPE)),
    "no header": lambda path: more(path, entry("x"), first=True),
    "nothing": lambda path: path.write_bytes(b""),
    "something else": lambda path: path.write_bytes(b"x" * 10_000),
    "another format": edited(lambda told: told.update(format="x")),
    "objects that are none": edited(lambda told: told.update(objects=[[1, 2]])),
    "objects that are missing": edited(lambda told: told["objects"].pop()),  # type: ignore[attr-defined]
    "impossible objects": edited(lambda told: told.update(objects=[[-1, 1, 1, 1, 1, 1]])),
    "no base": edited(lambda told: told.pop("base")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(sandbox: BackupSandbox, name: str) -> None:
    """No storage, and nothing elsewhere."""
    backup = sandbox.backup("backup")
    HOSTILE[name](backup)
    before = sorted(os.listdir(sandbox.top))
    with pytest.raises(StateError):
        sandbox.restore("new", backup)
    assert sorted(os.listdir(sandbox.top)) == before


def test_a_later_version_is_told(sandbox: BackupSandbox) -> None:
    """It is not called damaged."""
    backup = sandbox.backup("backup")
    edited(lambda told: told.update(version=9))(backup)
    with pytest.raises(NewerFormat, match="version 9"):
        sandbox.restore("new", backup)


def test_damage(sandbox: BackupSandbox) -> None:
    """Cut anywhere, a byte of content changed, of an archive and of a directory."""
    backup = sandbox.backup("backup")
    whole = backup.read_bytes()
    rng = random.Random(1)
    for _ in range(25):
        backup.write_bytes(whole[: rng.randrange(len(whole) - 20_000)])
        with pytest.raises(StateError):
            sandbox.restore("new", backup)
    at = whole.index(b"\5" * 30_000)
    backup.write_bytes(whole[:at] + b"?" + whole[at + 1 :])
    with pytest.raises(StateError, match="other bytes than when it was written"):
        sandbox.restore("new", backup)
    directory = sandbox.backup("directory", is_directory=True)
    victim = next((directory / "content").glob("*/*"))
    os.chmod(victim, 0o600)
    for damage in (lambda: victim.write_bytes(b"?" * victim.stat().st_size), victim.unlink):
        damage()
        with pytest.raises(StateError, match="damaged"):
            sandbox.restore("new", directory)
    assert not (sandbox.top / "new").exists()


def test_more_than_it_may_take(sandbox: BackupSandbox) -> None:
    """It is refused before it is written."""
    backup = sandbox.backup("backup")
    with pytest.raises(StateError, match="brings more than 100,000 bytes"):
        sandbox.restore("new", backup, max_size=100_000)
    assert not (sandbox.top / "new").exists()


def test_where_it_cannot_go(sandbox: BackupSandbox) -> None:
    """Over a storage, over files of others: they stay."""
    backup = sandbox.backup("backup")
    expected = sandbox.mine()
    (sandbox.top / "full").mkdir()
    (sandbox.top / "full" / "mine").write_text("mine")
    for name in ("sto", "full", "backup", "no/new"):
        with pytest.raises(UsageError):
            sandbox.restore(name, backup)
    assert sandbox.mine() == expected
    assert (sandbox.top / "full" / "mine").read_text() == "mine"


class _Killed(BaseException):
    """In the place of a kill."""


def test_a_restore_that_is_killed(sandbox: BackupSandbox) -> None:
    """After any of its system calls: the same command brings it to its end."""
    backup = sandbox.backup("backup")
    expected = sandbox.mine()
    steps = 0
    while True:
        steps += 1
        left = steps

        def counted(self: Effects, *arguments: object, call: Callable[..., object]) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise _Killed
            return call(self, *arguments)

        calls = {name: getattr(Effects, name) for name in ("create", "rename", "sync", "unlink", "rmdir", "mkdir")}
        patched = {
            name: (lambda self, *arguments, call=call: counted(self, *arguments, call=call))
            for name, call in calls.items()
        }
        patched["remove_tree"] = lambda self, path: None  # a killed process tidies up nothing
        with patch.multiple(Effects, **patched):
            try:
                sandbox.restore("new", backup)
            except _Killed:
                ended = False
            else:
                ended = True
        if not ended:
            with suppress(UsageError):  # it had come to its end
                sandbox.restore("new", backup)
        assert sandbox.shown("new") == expected
        shutil.rmtree(sandbox.top / "new")
        if ended:
            break
    assert steps > 15

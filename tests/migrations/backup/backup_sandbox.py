"""An overlay that is backed up and restored."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from minifo.engine.clone import state_now
from minifo.engine.queries.at_rest import open_at_rest
from minifo.engine.queries.digest import differences, digest
from minifo.migrations.backup.create import BackupOptions, BackupReport, create_backup
from minifo.migrations.backup.restore import Restored, restore_backup
from minifo.migrations.effects import Effects
from tests.migrations import overlay_contents
from tests.shared.overlay_sandbox import OverlaySandbox


class BackupSandbox(OverlaySandbox):
    """An overlay with files of all sizes, and a checkpoint of an earlier state.

    Args:
        top: an empty directory.
    """

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.top = top
        self.put("base-file", b"b" * 300_000)
        self.put("gone")
        for number in range(8):
            self.create(f"file-{number}", bytes([number]) * 40_000)
        self.create("small", b"small")
        sparse = self.create("sparse")
        for at in (0, 1 << 20, 5 << 20):
            self.ov.write(sparse, at, b"x" * 70_000)
        self.set("sparse", size=8 << 20)
        self.create("hole")
        self.set("hole", size=3 << 20)
        self.write("base-file", b"changed", 200_000)
        self.ov.checkpoints.create("earlier", "for later")
        self.write("file-1", b"later")
        self.unlink("file-2")
        self.unlink("gone")
        self.create("new", b"n" * 10_000)

    def backup(self, name: str, effects: Effects | None = None, **options: Any) -> Path:
        """Back it up to a file or a directory, and return its path."""
        self.report = self.backup_to(str(self.top / name), effects, **options)
        return self.top / name

    def backup_to(self, path: str, effects: Effects | None = None, **options: Any) -> BackupReport:
        """Back it up."""
        with state_now(self.ov) as (storage, state):
            return create_backup(storage, state, path, BackupOptions(**options), effects=effects)

    def restore(self, name: str, *backups: Path, **options: Any) -> Restored:
        """Restore backups."""
        return restore_backup([str(backup) for backup in backups], str(self.top / name), **options)

    def shown(self, storage: Path | str) -> object:
        """What an overlay shows."""
        return overlay_contents.shown(self.base, self.top / storage, links=True)

    def mine(self) -> object:
        """What the overlay itself shows."""
        self.close()
        return self.shown(self.sto)

    def digest(self, storage: Path | str, at: str | None = None) -> str:
        """What minifo digest says of one, or of a checkpoint of it."""
        from minifo.engine.queries.at_rest import open_checkpoint

        path = str(self.top / storage)
        with contextlib.closing(open_at_rest(path) if at is None else open_checkpoint(path, at)) as overlay:
            return digest(differences(overlay)).hex()

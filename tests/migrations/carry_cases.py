"""Backups, restores and bundles that are cut short; see migration_cases.py."""

from __future__ import annotations

import io
import os
import shutil
from contextlib import closing, suppress
from unittest.mock import patch

from minifo.engine import UsageError
from minifo.engine.clone import state_now
from minifo.engine.store.database import DB_NAME
from minifo.engine.store.storage import IMPORTING
from minifo.migrations.backup.create import BackupOptions, create_backup
from minifo.migrations.backup.restore import restore_backup
from minifo.migrations.bundle import places
from minifo.migrations.bundle.apply import apply_at_rest
from minifo.migrations.effects import DISK_ACCESS, DiskAccess
from tests.migrations import exchange_cases, overlay_contents
from tests.migrations.bundle.bundle_sandbox import BundleSandbox
from tests.migrations.migration_cases import MigrationCase, Shown, same, sound


class _OfABundle(MigrationCase):
    """There are an overlay in a second state, and the bundle that leads to it."""

    def make(self) -> None:
        """Make them."""
        self.sandbox = BundleSandbox(self.place)
        self.sandbox.update()
        self.sandbox.close()
        self.base, self.storage = self.sandbox.base, self.sandbox.sto


class Backup(_OfABundle):
    """To an archive."""

    reads = True
    is_directory = False

    def prepare(self) -> None:
        self.make()
        self.target = self.workdir / "backup"
        self.expected = overlay_contents.shown(self.base, self.storage, links=True)

    def run(self, disk: DiskAccess = DISK_ACCESS) -> None:
        options = BackupOptions(is_directory=self.is_directory)
        with overlay_contents.opened(self.base, self.storage) as overlay, state_now(overlay) as (storage, state):
            create_backup(storage, state, str(self.target), options, effects=disk.effects)

    def old(self) -> None:
        if self.target.exists() and (not self.is_directory or os.listdir(self.target)):
            self.new(False)
        with suppress(UsageError):  # it had just come to its end
            self.run()

    def new(self, thorough: bool) -> None:
        restored = self.place / "restored"
        restore_backup([str(self.target)], str(restored))
        try:
            same(overlay_contents.shown(self.base, restored, links=True), self.expected, "what is restored")
        finally:
            shutil.rmtree(restored)


class BackupDirectory(Backup):
    """To a directory that shares what an earlier one has."""

    is_directory = True


class RestoreBackup(_OfABundle):
    """From two archives, of which one builds on the other, to a storage that does not exist yet."""

    reads = True

    def prepare(self) -> None:
        self.make()
        self.backups: list[str] = []
        for number in range(2):
            path = str(self.place / f"backup-{number}")
            options = BackupOptions(since=self.backups[-1] if self.backups else None)
            with overlay_contents.opened(self.base, self.storage) as overlay, state_now(overlay) as (storage, state):
                create_backup(storage, state, path, options)
            self.backups.append(path)
            self.sandbox.create(f"later-{number}", b"later" * 1000)
            self.sandbox.close()
        self.target = self.workdir / "restored"
        self.run()
        self.expected = self.shown()
        shutil.rmtree(self.target)

    def shown(self) -> Shown:
        """What shows."""
        return overlay_contents.shown(self.base, self.target, links=True)

    def run(self, disk: DiskAccess = DISK_ACCESS) -> None:
        restore_backup(self.backups, str(self.target), effects=disk.effects)

    def old(self) -> None:
        if (self.target / DB_NAME).exists():
            same(self.shown(), self.expected, "the overlay")
        with suppress(UsageError):  # it had just come to its end
            self.run()

    def new(self, thorough: bool) -> None:
        sound(self.base, self.target, self.expected, thorough=thorough)
        same((self.target / IMPORTING).exists(), False, "the working directory")


class ApplyBundle(_OfABundle):
    """To a device that is not mounted, on trial."""

    plain = ("device",)
    mounts = 3

    def prepare(self) -> None:
        self.make()
        self.bundle = self.sandbox.bundle().read_bytes()
        self.device = self.workdir / "device"
        os.rename(self.sandbox.device(), self.device)
        self.before = self.shown()
        kept = self.place / "kept"
        shutil.copytree(self.device, kept)
        self.run()
        self.expected = self.shown()
        shutil.rmtree(self.device)
        os.rename(kept, self.device)

    def shown(self) -> Shown:
        """What shows."""
        return overlay_contents.shown(self.base, self.device, links=True)

    def run(self, disk: DiskAccess = DISK_ACCESS) -> None:
        stream = io.BytesIO(self.bundle)
        with patch.object(places, "_COMMIT_ENTRIES", 15):
            apply_at_rest(stream, "up.bundle", str(self.base), str(self.device), mounts=self.mounts, disk=disk)

    def old(self) -> None:
        with overlay_contents.opened(self.base, self.device) as overlay:
            if overlay.trial.state().txn:
                overlay.trial.mounting(None)
        shown = self.shown()
        if shown != self.before:
            same(shown, self.expected, "what the next mount shows")
        self.run()

    def new(self, thorough: bool) -> None:
        sound(self.base, self.device, self.expected, thorough=thorough)
        with closing(DISK_ACCESS.overlay(str(self.base), str(self.device), read_only=True)) as overlay:
            state = overlay.trial.state()
            same((state.txn, state.left), (False, self.mounts), "the trial")


CASES: dict[str, type[MigrationCase]] = {
    **exchange_cases.CASES,
    "backup": Backup,
    "backup_directory": BackupDirectory,
    "restore_backup": RestoreBackup,
    "apply_bundle": ApplyBundle,
}

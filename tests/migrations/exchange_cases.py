"""Exports and imports of layers that are cut short; see migration_cases.py."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress

from minifo.engine import UsageError
from minifo.engine.store.database import DB_NAME
from minifo.engine.store.storage import IMPORTING
from minifo.migrations.effects import DISK_ACCESS, DiskAccess
from minifo.migrations.exchange.exporter import ExportOptions, export_layer
from minifo.migrations.exchange.formats import Format
from minifo.migrations.exchange.importer import ImportOptions, import_layers
from minifo.migrations.meta.importer import import_storage
from tests.migrations import migration_cases, overlay_contents
from tests.migrations.migration_cases import MigrationCase, Shown, legacy_tree, same, small_trees, sound


class _OfAnOverlay(MigrationCase):
    """There is a storage with some of all changes."""

    def make(self) -> None:
        """Make it."""
        small_trees(self.place, 7)
        self.base, self.storage = self.place / "base", self.place / "new"
        import_storage(str(self.place / "sto"), str(self.base), str(self.storage))

    def export(self, to: str, layer_format: Format, disk: DiskAccess = DISK_ACCESS) -> None:
        """Export it."""
        with overlay_contents.opened(self.base, self.storage) as overlay:
            export_layer(overlay, to, ExportOptions(layer_format, lossy=True), effects=disk.effects)


class ExportDirectory(_OfAnOverlay):
    """To an upper directory of overlayfs."""

    reads = True
    layer_format = Format.OVERLAYFS

    def prepare(self) -> None:
        self.make()
        self.target = self.workdir / "out"
        self.run()
        self.expected = self.written()
        shutil.rmtree(self.target)

    def written(self) -> Shown:
        """What was written; the times of whiteouts are of the moment."""
        found = legacy_tree(self.target)
        return {path: seen[:5] if stat.S_ISCHR(seen[0]) else seen for path, seen in found.items()}  # type: ignore[arg-type]

    def run(self, disk: DiskAccess = DISK_ACCESS) -> None:
        self.export(str(self.target), self.layer_format, disk)

    def old(self) -> None:
        if self.target.exists():
            same(self.written(), self.expected, "what was renamed into its place")
        with suppress(UsageError):  # it had just come to its end
            self.run()

    def new(self, thorough: bool) -> None:
        same(self.written(), self.expected, "the export")


class ExportArchive(ExportDirectory):
    """To a file; the time of the file itself is of the moment."""

    layer_format = Format.OCI

    def prepare(self) -> None:
        self.make()
        self.target = self.workdir / "out"
        self.run()
        self.bytes = self.target.read_bytes()
        os.unlink(self.target)

    def old(self) -> None:
        if self.target.exists():
            same(self.target.read_bytes(), self.bytes, "what was renamed into its place")
        with suppress(UsageError):
            self.run()

    def new(self, thorough: bool) -> None:
        same(self.target.read_bytes(), self.bytes, "the export")


class ImportLayer(_OfAnOverlay):
    """An archive, to a storage that does not exist yet."""

    def prepare(self) -> None:
        self.make()
        self.archive, self.target = self.place / "layer.tar", self.workdir / "imported"
        self.export(str(self.archive), Format.OCI)
        self.run()
        self.expected = self.shown()
        shutil.rmtree(self.target)

    def shown(self) -> Shown:
        """What shows."""
        return overlay_contents.shown(self.base, self.target, links=True)

    def run(self, disk: DiskAccess = DISK_ACCESS) -> None:
        options = ImportOptions(privileged=True)
        import_layers([str(self.archive)], str(self.base), str(self.target), options, disk=disk)

    def old(self) -> None:
        if (self.target / DB_NAME).exists():
            same(self.shown(), self.expected, "the overlay")
        with suppress(UsageError):  # it had just come to its end
            self.run()

    def new(self, thorough: bool) -> None:
        sound(self.base, self.target, self.expected, thorough=thorough)
        same((self.target / IMPORTING).exists(), False, "the working directory")


CASES: dict[str, type[MigrationCase]] = {
    **migration_cases.CASES,
    "export_directory": ExportDirectory,
    "export_archive": ExportArchive,
    "import_layer": ImportLayer,
}

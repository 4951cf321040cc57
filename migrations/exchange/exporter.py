"""The export of an overlay to a file, a directory or a pipe, in a format of another system.

A file or a directory is written beside its destination, made durable, and renamed into place: an interrupted export, or
a power cut, leaves what was there.  Nothing is written if the format cannot express all, unless the caller says so.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Protocol

from ...engine import Overlay, UsageError
from ...engine.model import Ino
from ..effects import Effects
from ..new_file import beside, check_free, check_outside, explained, is_stream, new_file, stream
from .changed_tree import Item, LayerTree
from .compression import Compression, compressed
from .directory_writer import DirectoryWriter
from .formats import Format, Loss, Losses, is_own_xattr, why_lost
from .tar_writer import TarWriter

Progress = Callable[[str, int, int], None]


class Writer(Protocol):
    """What writes items in a format."""

    def write(self, item: Item) -> None: ...
    def finish(self) -> None: ...


class ExportOptions(NamedTuple):
    """What is exported, and how.

    Attributes:
        layer_format: the format.
        whole: True for all that shows; False for what differs from the base.
        compression: of an archive.
        userxattr: of overlayfs: mark opaque directories for its option userxattr.
        lossy: write even if the format cannot express everything.
        force: replace a file that is there.
    """

    layer_format: Format
    whole: bool = False
    compression: Compression = Compression.NONE
    userxattr: bool = False
    lossy: bool = False
    force: bool = False


@dataclass
class ExportReport(Losses):
    """The result of an export.

    Attributes:
        objects: objects in the layer, directories among them.
        whiteouts: names that it hides.
    """

    objects: int = 0
    whiteouts: int = 0


def export_layer(
    overlay: Overlay,
    destination: str,
    options: ExportOptions,
    progress: Progress = lambda what, done, total: None,
    effects: Effects | None = None,
) -> ExportReport:
    """Write what an overlay changed, or all that it shows, in a format of another system.

    Args:
        overlay: nothing of it may change meanwhile.
        destination: the file or directory to write; ``-`` for standard output.
        options: what to write.
        progress: called with the name of the step, the number of objects that are done, and of all.
        effects: does the system calls (in tests).

    Returns:
        The report.  If there are losses and ``lossy`` is not set, nothing was written.

    Raises:
        Corrupt: a row is damaged.
        UsageError: the destination is taken, or does not fit the format; nothing was written.
        StateError: the destination cannot be written.
        OSError: the overlay cannot be read.
    """
    overlay.examine_rows()  # they say what is written elsewhere
    place = _Destination(effects or Effects(), overlay, destination, options)
    tree = LayerTree(overlay, whole=options.whole)
    report = _planned(overlay, tree, options)
    if report.lost and not options.lossy:
        return report
    total = report.objects + report.whiteouts
    with place.writer() as writer:
        for count, item in enumerate(_kept(tree, options.layer_format)):
            writer.write(item)
            if not count % 64:
                progress("exporting", count, total)
        writer.finish()
        progress("exporting", total, total)
    report.written = True
    return report


def _planned(overlay: Overlay, tree: LayerTree, options: ExportOptions) -> ExportReport:
    """Return what an export would write, and lose."""
    report = ExportReport()
    for item in _kept(tree, options.layer_format, report.lose):
        if item.attr is None:
            report.whiteouts += 1
            continue
        report.objects += 1
        own = [name for name in overlay.listxattr(Ino(item.attr.ino)) if is_own_xattr(options.layer_format, name)]
        if own and item.same is None:
            names = b", ".join(sorted(own)).decode("utf-8", "backslashreplace")
            report.lose(Loss("xattr", item.place, f"in this format {names} would mean something else; it is left out"))
    for place in tree.separated():
        report.lose(Loss("hard-link", place, "names outside of the layer become another file"))
    return report


def _kept(tree: LayerTree, layer_format: Format, lose: Callable[[Loss], object] = lambda loss: None) -> Iterator[Item]:
    """Yield the items that a format can have, and report the others."""
    skipped: bytes | None = None  # a directory that is left out; what is in it comes right after it
    firsts: dict[bytes, bytes | None] = {}  # first names of files that were left out, and what is the first now
    for item in tree.items():
        loss = why_lost(layer_format, item.place, item.attr)
        is_within = skipped is not None and item.place.startswith(skipped)
        if loss is not None or is_within:
            if loss is not None and not is_within:
                lose(loss)
            if item.attr is not None and stat.S_ISDIR(item.attr.mode) and not is_within:
                skipped = item.place + b"/"
            elif item.attr is not None and item.attr.nlink > 1 and item.same is None:
                firsts[item.place] = None
        elif item.same in firsts and item.same is not None:
            yield item._replace(same=firsts[item.same])
            firsts[item.same] = firsts[item.same] or item.place
        else:
            yield item


class _Destination:
    """Where an export goes, checked before anything is read."""

    def __init__(self, effects: Effects, overlay: Overlay, destination: str, options: ExportOptions) -> None:
        self._effects = effects
        self._ov = overlay
        self._options = options
        self._format = options.layer_format
        self._path = destination if destination == "-" else os.path.realpath(destination)
        if self._format.is_archive:
            self._is_stream = is_stream(self._path)
            if not self._is_stream:
                check_free(self._path, force=self._options.force)
                self._check_place()
        else:
            self._check_directory()

    def _check_directory(self) -> None:
        if self._path == "-":
            raise UsageError(f"the format {self._format} is a directory", "give -o DIR, or choose --format oci")
        if self._options.whole or self._options.compression is not Compression.NONE:
            raise UsageError(f"the format {self._format} is a directory of changes", "choose --format tar or oci")
        with suppress(FileNotFoundError):
            if os.path.ismount(self._path):
                raise UsageError(f"{self._path} is a mount point", "give a directory below it")
            if not stat.S_ISDIR(os.stat(self._path).st_mode) or os.listdir(self._path):
                raise UsageError(
                    f"{self._path} exists and is not an empty directory",
                    "give an empty directory, or one that does not exist",
                )
        self._check_place()

    def _check_place(self) -> None:
        check_outside(self._path, self._ov.storage_path)

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Yield what writes the items; if the block ends without an error, the destination is there, durably.

        Raises:
            StateError: it cannot be written.
        """
        if not self._format.is_archive:
            with self._explained(), beside(self._effects, self._path, self._effects.remove_tree) as work:
                top = os.fsencode(work)
                yield DirectoryWriter(self._effects, self._ov, top, self._format, userxattr=self._options.userxattr)
                self._effects.sync_all(work)
        elif self._is_stream:
            with stream(self._path) as out, self._packed(out) as writer:
                yield writer
        else:
            with self._explained(), new_file(self._effects, self._path) as out, self._packed(out) as writer:
                yield writer

    @contextmanager
    def _packed(self, out: BinaryIO) -> Iterator[TarWriter]:
        with compressed(out, self._options.compression) as packed:
            yield TarWriter(self._ov, packed, self._format)

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self._path, "--format oci")

"""The import of layers of other systems into a new storage.

The storage is built in a working directory, and moved up when it is complete (new_storage.py): an interrupted import,
or a power cut, leaves no storage or a whole one.  What was not complete is built anew by the next attempt.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple, Protocol

from ...engine import StateError, UsageError
from ...engine.bulk_import import BulkImport
from ...engine.store.base_view import BaseView
from ...engine.store.database import DB_NAME
from ...engine.store.storage import IMPORTING
from ..directory_lock import locked
from ..effects import DISK_ACCESS, DiskAccess
from ..new_storage import check_empty, finish_earlier, lies_in, make_target, mark_complete, move_up
from .applier import Applier, Limits
from .compression import decompressed
from .directory_reader import DirectoryReader, format_of
from .entries import Entry
from .formats import Format
from .tar_reader import TarReader

_PLAN = "layers"

Progress = Callable[[int, int], object]  # bytes of all archives that are read, and all of them


class ImportOptions(NamedTuple):
    """What is imported, and how much of it.

    Attributes:
        layer_format: the format of all sources; None for what each of them is found to be.
        max_entries: how many objects and whiteouts the sources may have.
        max_size: how many bytes, without holes; None for the free space of the storage.
        privileged: True to keep devices and set-id bits.
    """

    layer_format: Format | None = None
    max_entries: int = 10_000_000
    max_size: int | None = None
    privileged: bool = False


@dataclass
class ImportReport:
    """The result of an import.

    Attributes:
        formats: what each source was.
        counts: how many there were of each sort.
        finished: True if an earlier run of the same import had come to its end, and was only moved into its place.
    """

    formats: list[Format] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    finished: bool = False


class Reader(Protocol):
    """What reads the entries of a layer."""

    def entries(self) -> Iterator[Entry]: ...


class Source(NamedTuple):
    """One open source.

    Attributes:
        name: for messages.
        layer_format: what it is.
        reader: reads it.
        redirects: places, and the base directories that show in them.
    """

    name: str
    layer_format: Format
    reader: Reader
    redirects: list[tuple[bytes, bytes]]


def plan_layers(sources: list[str], base: str, options: ImportOptions) -> Iterator[Entry]:
    """Yield the entries of layers, and change nothing.

    Args:
        sources, base, options: as for ``import_layers``, which see for what is raised.
    """
    with closing(_view(base, "base")) as view:
        for name in sources:
            with _opened(name, view, options, lambda count: None) as source:
                yield from source.reader.entries()


def import_layers(
    sources: list[str],
    base: str,
    target: str,
    options: ImportOptions,
    progress: Progress = lambda done, total: None,
    disk: DiskAccess = DISK_ACCESS,
) -> ImportReport:
    """Make a storage that shows, over a base, what layers of another system show over it.

    Args:
        sources: archives and directories, the lowest layer first; ``-`` is an archive on standard input.
        base: the base directory.
        target: the new storage: an empty directory, or one that does not exist.
        options: what is imported.
        progress: called with bytes that were read.
        disk: reads and writes the disk (see ``DiskAccess``).

    Raises:
        UsageError: source, base or target cannot be the right one; nothing was done.
        StateError: a source is damaged, hostile, or larger than it may be; there is no storage.
        OSError: a source cannot be read.
    """
    target = os.path.realpath(target)
    _check_places(sources, base, target)
    is_made = not os.path.isdir(target)
    make_target(disk.effects, target)
    with locked(target, "in use by another import"):
        work = os.path.join(target, IMPORTING)
        facts = _facts(sources, base, options)
        if finish_earlier(disk.effects, target, work, facts):
            return ImportReport(finished=True)
        check_empty(target)
        try:
            disk.effects.mkdir(work)
            disk.effects.sync(target)
            report = _build(sources, base, work, options, progress, disk)
            mark_complete(disk.effects, work, facts)
        except BaseException:
            with suppress(OSError):  # the first error says more; the next attempt removes the rest
                disk.effects.remove_tree(work)
                if is_made:
                    disk.effects.rmdir(target)
            raise
        move_up(disk.effects, target, work)
    return report


def _build(
    sources: list[str], base: str, work: str, options: ImportOptions, progress: Progress, disk: DiskAccess
) -> ImportReport:
    report = ImportReport()
    total = sum(os.stat(name).st_size for name in sources if name != "-" and os.path.isfile(name))
    before = 0
    with closing(disk.overlay(base, work, finished=False)) as overlay:
        bulk = BulkImport(overlay)
        bulk.begin(_PLAN)
        free = overlay.statfs()
        size = options.max_size if options.max_size is not None else free.f_bavail * free.f_frsize
        applier = Applier(overlay, bulk, Limits(options.max_entries, size, options.privileged))
        for name in sources:
            started = before
            with _opened(name, overlay.base, options, lambda done, at=started: progress(at + done, total)) as source:  # type: ignore[misc]
                report.formats.append(source.layer_format)
                applier.begin(source.name, source.redirects)
                try:
                    for entry in source.reader.entries():
                        applier.apply(entry)
                except OSError as error:
                    hint = "nothing was imported; see the free space and the permissions"
                    raise StateError(f"{source.name} cannot be imported ({error})", hint) from error
            before += os.stat(name).st_size if name != "-" and os.path.isfile(name) else 0
        applier.finish()
        bulk.finish(_PLAN)
        broken = overlay.check()
        if broken:
            raise StateError(
                f"the import breaks rule {broken[0].number}: {broken[0].rule}",
                "this is an error in minifo, please report it",
            )
        report.counts = {what: count for what, count in sorted(applier.counts.items()) if count}
    disk.fold_log(os.path.join(work, DB_NAME))
    return report


# -- sources


@contextmanager
def _opened(name: str, base: BaseView, options: ImportOptions, read: Callable[[int], object]) -> Iterator[Source]:
    """Open a source; *read* is called with how many bytes of a file were read."""
    if name != "-" and os.path.isdir(name):
        with closing(_view(name, "the directory")) as view:
            layer_format = options.layer_format or format_of(view)
            if layer_format.is_archive:
                raise UsageError(f"{name} is a directory", f"{layer_format} is an archive; name the file")
            reader = DirectoryReader(view, base, name, layer_format)
            redirects = reader.redirects() if layer_format is Format.OVERLAYFS else []
            yield Source(name, layer_format, reader, redirects)
        return
    layer_format = options.layer_format or Format.OCI
    if not layer_format.is_archive:
        raise UsageError(f"{name} is no directory", f"{layer_format} is a directory")
    with ExitStack() as stack:
        raw: BinaryIO = sys.stdin.buffer if name == "-" else stack.enter_context(open(name, "rb"))
        counted = io.BufferedReader(_Counted(raw, read), 1 << 20)
        plain = stack.enter_context(decompressed(counted))
        yield Source(name, layer_format, TarReader(plain, name, layer_format), [])


class _Counted(io.RawIOBase):
    """A stream that tells how much of it was read."""

    def __init__(self, stream: BinaryIO, read: Callable[[int], object]) -> None:
        self._stream, self._read, self._at = stream, read, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read as much as fits."""
        data = self._stream.read(len(buffer))
        count = len(data)
        buffer[:count] = data
        self._at += count
        self._read(self._at)
        return count


def _view(path: str, what: str) -> BaseView:
    try:
        return BaseView(path)
    except OSError as error:
        raise StateError(f"{what} {path} cannot be opened ({error.strerror})", "check the path") from error


# -- checks


def _check_places(sources: list[str], base: str, target: str) -> None:
    """Raise UsageError for what cannot be sources, base and target of one import."""
    if sources.count("-") > 1:
        raise UsageError("standard input is one archive", "give - once")
    for name in sources:
        if name == "-":
            continue
        try:
            mode = os.stat(name).st_mode
        except OSError as error:
            raise UsageError(f"{name} cannot be read ({error.strerror})", "check the path") from error
        if stat.S_ISDIR(mode) and (lies_in(target, name) or lies_in(name, target)):
            raise UsageError(f"one of {target} and {name} is below the other", "give a directory beside it")
    if lies_in(base, target):
        raise UsageError(f"base {base} is, or is below, the new storage {target}", "give another directory")
    if os.path.lexists(target) and not os.path.isdir(target):
        raise UsageError(f"{target} is not a directory", "give an empty directory, or one that does not exist")
    if not os.path.isdir(os.path.dirname(target)):
        raise UsageError(f"the directory above {target} does not exist", "make it first")
    if os.path.exists(os.path.join(target, DB_NAME)) and not os.path.exists(os.path.join(target, IMPORTING)):
        raise UsageError(f"{target} is a minifo storage already", "give an empty directory")


def _facts(sources: list[str], base: str, options: ImportOptions) -> list[object]:
    """What must be the same for an import to be the same; of standard input nothing tells."""
    found: list[object] = [os.path.realpath(base), options.layer_format, options.privileged]
    for name in sources:
        if name == "-":
            found.append(os.urandom(8).hex())
        else:
            st = os.stat(name)
            found.append([os.path.realpath(name), st.st_size, st.st_mtime_ns])
    return found

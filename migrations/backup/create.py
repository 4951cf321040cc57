"""Makes a backup of a state of an overlay that nothing changes meanwhile: its database, and its content objects."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from ...engine import StateError, UsageError
from ...engine.clone import needed
from ...engine.errors import Corrupt
from ...engine.queries.at_rest import recorded_base
from ...engine.store.database import Database
from ...engine.store.object_digests import digest_of
from ...engine.store.object_paths import object_name
from ...engine.store.storage import Storage
from ...engine.store.syscalls import data_ranges
from ..effects import Effects
from ..exchange.compression import Compression, compressed
from ..new_file import beside, check_free, check_outside, explained, is_stream, new_file, stream
from .archive import ArchiveWriter
from .contents import DATABASE, DIGESTS, HEADER, Header, Object
from .read import header_in

_COPY = 1 << 20  # bytes

Progress = Callable[[int, int], object]  # objects that are done, and all of them


class BackupOptions(NamedTuple):
    """How a backup is made.

    Attributes:
        is_directory: it is a directory, and no archive.
        compression: of an archive.
        since: path of an earlier backup; what it has is left out of an archive, and shared by a directory.
        force: replace an archive that is there.
    """

    is_directory: bool = False
    compression: Compression = Compression.NONE
    since: str | None = None
    force: bool = False


class BackupReport(NamedTuple):
    """The result.

    Attributes:
        objects: how many content objects the state has.
        written: how many of them this backup has by itself.
        size: bytes of these, without holes.
    """

    objects: int
    written: int
    size: int


class _Writer(Protocol):
    def put(self, name: str, data: bytes) -> None: ...
    def put_file(self, name: str, fd: int) -> None: ...


def create_backup(
    source: Storage,
    state: Database,
    destination: str,
    options: BackupOptions,
    progress: Progress = lambda done, total: None,
    effects: Effects | None = None,
) -> BackupReport:
    """Write a backup.

    Args:
        source: the storage.
        state: the database that is backed up; nothing writes into its objects meanwhile.
        destination: the file or directory to write; ``-`` for standard output.
        options: how.
        progress: called with the number of objects that are done, and of all.
        effects: does the system calls (in tests).

    Raises:
        UsageError: the destination is taken; nothing was written.
        StateError: it cannot be written, or the earlier backup cannot be read.
        Corrupt: an object is missing.
    """
    path = destination if destination == "-" else os.path.realpath(destination)
    _check(path, source.path, options)
    earlier = header_in(options.since) if options.since is not None else None
    header = _header(source, state, earlier, options)
    work = effects or Effects()
    size = 0
    digests: dict[str, str] = {}
    with explained(path, "another place"), _writer(path, options, work) as out:
        out.put(HEADER, header.encoded())
        digests[DATABASE] = _put_database(out, state)
        for count, entry in enumerate(header.objects):
            progress(count, len(header.objects))
            if entry.is_here:
                size += _put_object(out, source, entry, digests)
        out.put(DIGESTS, json.dumps(digests, indent=0).encode())
    written = sum(entry.is_here for entry in header.objects)
    return BackupReport(len(header.objects), written, size)


def _check(path: str, storage: str, options: BackupOptions) -> None:
    if path == "-" or (not options.is_directory and is_stream(path)):
        if options.is_directory:
            raise UsageError("a directory cannot be written to a pipe", "give -o DIR/")
        return
    check_outside(path, storage)
    if not options.is_directory:
        check_free(path, force=options.force)
    elif os.path.lexists(path) and not (os.path.isdir(path) and not os.path.ismount(path) and not os.listdir(path)):
        raise UsageError(
            f"{path} exists and is not an empty directory", "give an empty directory, or one that does not exist"
        )
    elif options.compression is not Compression.NONE:
        raise UsageError("a directory is not compressed", "name a file: backup.tar.zst")


def _header(source: Storage, state: Database, earlier: Header | None, options: BackupOptions) -> Header:
    known = {entry.number: entry for entry in earlier.objects} if earlier is not None else {}
    if earlier is not None and earlier.storage != source.identity:
        raise StateError(
            f"{options.since} is a backup of another storage", "make one without --since; later ones can build on it"
        )
    objects = []
    for number in needed(state, source):
        try:
            st = source.stat(object_name(number))
        except FileNotFoundError as error:
            raise _missing(source, number) from error
        found = Object(number, st.st_size, st.st_ino, st.st_mtime_ns, st.st_ctime_ns)
        objects.append(found._replace(is_here=options.is_directory or not found.same_as(known.get(number))))
    uuid = str(state.value("SELECT value FROM overlay WHERE key = 'uuid'"))
    since = earlier.id if earlier is not None and not options.is_directory else None
    return Header(uuid, since, recorded_base(state), source.identity, time.time_ns(), objects)


def _missing(source: Storage, number: int) -> Corrupt:
    return Corrupt(f"{source.path}/{object_name(number)} is missing", f"run: minifo-fsck {source.path}")


def _put_database(out: _Writer, state: Database) -> str:
    """Write the database; return its digest."""
    fd = os.memfd_create("minifo-backup", os.MFD_CLOEXEC)
    try:
        image = memoryview(state.image())
        while image:
            image = image[os.write(fd, image) :]
        out.put_file(DATABASE, fd)
        return digest_of(fd).digest.hex()
    finally:
        os.close(fd)


def _put_object(out: _Writer, source: Storage, entry: Object, digests: dict[str, str]) -> int:
    """Write an object; return how many bytes that are."""
    name = object_name(entry.number)
    try:
        fd = source.open_object(name, write=False)
    except FileNotFoundError as error:
        raise _missing(source, entry.number) from error
    try:
        out.put_file(name, fd)
        digests[name] = digest_of(fd).digest.hex()
        return sum(end - start for start, end in data_ranges(fd, 0, entry.size))
    finally:
        os.close(fd)


@contextmanager
def _writer(path: str, options: BackupOptions, effects: Effects) -> Iterator[_Writer]:
    """Yield what writes the files; if the block ends without an error, the backup is there, durably."""
    if options.is_directory:
        with beside(effects, path, effects.remove_tree) as work:
            effects.mkdir(work)
            yield _DirectoryWriter(effects, work, options.since)
            effects.sync_all(work)
        return
    opened = stream(path) if is_stream(path) else new_file(effects, path)
    with opened as out, compressed(out, options.compression) as packed:
        writer = ArchiveWriter(packed)
        yield writer
        writer.finish()


class _DirectoryWriter:
    """Writes a backup as a directory; what an earlier one has is shared with it by hard links.

    Args:
        effects: does the system calls.
        top: the directory.
        since: an earlier backup that is a directory; None for none.
    """

    def __init__(self, effects: Effects, top: str, since: str | None) -> None:
        self._effects, self._top = effects, top
        self._made: set[str] = set()
        self._since = os.path.realpath(since) if since is not None and os.path.isdir(since) else None
        self._known = self._objects_of(since) if self._since is not None else {}

    @staticmethod
    def _objects_of(since: str | None) -> dict[str, Object]:
        header = header_in(since) if since is not None else None
        return {object_name(entry.number): entry for entry in header.objects} if header is not None else {}

    def put(self, name: str, data: bytes) -> None:
        """Write a file with these bytes."""
        fd = self._effects.create(os.path.join(self._top, name))
        try:
            self._effects.write(fd, data, 0)
        finally:
            os.close(fd)

    def put_file(self, name: str, source: int) -> None:
        """Write a file that has the bytes of another one, and its holes."""
        path = os.path.join(self._top, name)
        self._make_directories(os.path.dirname(name))
        if self._since is not None and self._is_known(name, source):
            try:
                self._effects.link(os.path.join(self._since, name), path)
            except OSError:
                pass  # another file system, or too many names: it is copied
            else:
                return
        size = os.fstat(source).st_size
        fd = self._effects.create(path)
        try:
            for start, end in data_ranges(source, 0, size):
                for at in range(start, end, _COPY):
                    self._effects.write(fd, os.pread(source, min(_COPY, end - at), at), at)
            self._effects.truncate(fd, size)
        finally:
            os.close(fd)

    def _is_known(self, name: str, source: int) -> bool:
        known = self._known.get(name)
        st = os.fstat(source)
        return known is not None and known[1:5] == (st.st_size, st.st_ino, st.st_mtime_ns, st.st_ctime_ns)

    def _make_directories(self, directory: str) -> None:
        for part in ("content", directory):
            if directory and part not in self._made:
                self._effects.mkdir(os.path.join(self._top, part))
                self._made.add(part)

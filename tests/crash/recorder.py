"""Records everything that reaches the storage directory, in one order: the lowest thing a power cut can tear apart.

Two doors lead to storage, SQLite's VFS and ``Storage`` (engine/storage.py).  A subclass of each notes every effect
after it took place, under names relative to the storage directory.  What SQLite's own VFS does by itself is noted too:
it syncs the directory when it first syncs a journal or log that it has opened (``unixSync``, os_unix.c).

The shared-memory index (``-shm``) and the lock file are not recorded: neither means anything after a power cut.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw

from minifo.engine.storage import Storage

# One effect: its kind, then its arguments.  Names are relative to storage, "." is storage itself.
#   create NAME; mkdir NAME; unlink NAME; rename NAME NEW; write NAME OFFSET BYTES; truncate NAME SIZE
#   sync NAME (bytes and size); syncdir NAME (entries); syncfs
# and marks, which are no effects:
#   seal N    commit N is about to be made, of the tree in snapshot N
#   acked N   commit N was acknowledged as durable
#   op TEXT   an operation begins
Op = tuple[Any, ...]
MARKS = frozenset({"seal", "acked", "op"})

_numbers = itertools.count()


class Recorder:
    """One totally ordered log, and the two stand-ins that write it."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.root = ""
        self.paused = False
        self.vfs = f"recorder-{os.getpid()}-{next(_numbers)}"
        self._vfs = _Vfs(self)

    def note(self, *op: Any) -> None:
        """Append one effect or mark."""
        if not self.paused:
            self.ops.append(op)

    def storage(self, path: str) -> Storage:
        """A storage whose effects are noted; the recorder follows it from now on."""
        self.root = os.path.realpath(path)
        return _Storage(self, path)

    def name(self, path: str) -> str:
        """The name below storage of a file SQLite opens."""
        return os.path.relpath(path, self.root)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Note nothing meanwhile: what a dying process does in this simulation only to let go of its files."""
        self.paused = True
        try:
            yield
        finally:
            self.paused = False

    def close(self) -> None:
        """Unregister the VFS."""
        self._vfs.unregister()


class _Vfs(apsw.VFS):
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        super().__init__(recorder.vfs, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(self._recorder, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self._recorder.note("unlink", self._recorder.name(filename))
        if syncdir:
            self._recorder.note("syncdir", ".")


class _File(apsw.VFSFile):
    def __init__(self, recorder: Recorder, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        assert path is not None, "a temporary file: nothing may leave storage"
        fresh = not os.path.exists(path)
        super().__init__("", name, flags)
        self._recorder = recorder
        self._name = recorder.name(path)
        journal = flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL)
        self._syncs_dir = bool(journal and flags[0] & apsw.SQLITE_OPEN_CREATE)
        if fresh:
            recorder.note("create", self._name)

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._recorder.note("write", self._name, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        self._recorder.note("truncate", self._name, newsize)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._recorder.note("sync", self._name)
        if self._syncs_dir:
            self._syncs_dir = False
            self._recorder.note("syncdir", ".")


class _Storage(Storage):
    def __init__(self, recorder: Recorder, path: str) -> None:
        super().__init__(path)
        self._recorder = recorder
        self._names: dict[int, str] = {}

    def mkdir(self, name: str) -> None:
        super().mkdir(name)
        self._recorder.note("mkdir", name)

    def create(self, name: str) -> int:
        fd = super().create(name)
        self._names[fd] = name
        self._recorder.note("create", name)
        return fd

    def open(self, name: str, *, write: bool) -> int:
        fd = super().open(name, write=write)
        self._names[fd] = name
        return fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        super().write(fd, data, offset)
        self._recorder.note("write", self._names[fd], offset, bytes(data))

    def truncate(self, fd: int, size: int) -> None:
        super().truncate(fd, size)
        self._recorder.note("truncate", self._names[fd], size)

    def punch(self, fd: int, size: int, offset: int) -> None:
        super().punch(fd, size, offset)
        size = min(size, os.fstat(fd).st_size - offset)
        if size > 0:
            self._recorder.note("write", self._names[fd], offset, bytes(size))

    def clone(self, fd: int, source: int) -> None:
        super().clone(fd, source)
        self._recorder.note("write", self._names[fd], 0, os.pread(fd, os.fstat(fd).st_size, 0))

    def clone_range(self, fd: int, source: int, at: int, size: int, offset: int) -> None:
        super().clone_range(fd, source, at, size, offset)
        self._recorder.note("write", self._names[fd], offset, os.pread(fd, size, offset))

    def sync_fd(self, fd: int) -> None:
        super().sync_fd(fd)
        self._recorder.note("sync", self._names[fd])

    def sync_file(self, name: str) -> None:
        super().sync_file(name)
        self._recorder.note("sync", name)

    def sync_dir(self, name: str) -> None:
        super().sync_dir(name)
        self._recorder.note("syncdir", name)

    def sync_all(self) -> None:
        super().sync_all()
        self._recorder.note("syncfs")

    def rename(self, name: str, new_name: str) -> None:
        super().rename(name, new_name)
        self._recorder.note("rename", name, new_name)

    def unlink(self, name: str) -> None:
        super().unlink(name)
        self._recorder.note("unlink", name)

"""Records everything that reaches the storage directory, in one order: the lowest thing a power cut can tear apart.

Two doors lead to storage, SQLite's VFS and ``Storage`` (engine/store/storage.py); migrations have a third one, to any
tree: ``Effects`` (migrations/effects.py).  A subclass of each notes every effect after it took place, under names
relative to one directory.  What SQLite's own VFS does by itself is noted too: it syncs the directory when it first
syncs a journal or log that it has opened (``unixSync``, os_unix.c).

The shared-memory index (``-shm``) and the lock file are not recorded: neither means anything after a power cut.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw

from minifo.engine.store.storage import Storage
from minifo.migrations.effects import Effects
from minifo.migrations.effects import Path as AnyPath

# One effect: its kind, then its arguments.  Names are relative to storage, "." is storage itself.
#   create NAME; mkdir NAME; unlink NAME; rename NAME NEW; write NAME OFFSET BYTES; truncate NAME SIZE
#   sync NAME (bytes, size, attributes); syncdir NAME (entries, too); syncfs, or syncfs NAME: what is below it
#   link NAME NEW; special NAME KIND CONTENT ATTRIBUTES; attribute NAME FACET KEY VALUE
#   what effects on trees create has attributes, as one more argument
# and marks, which are no effects:
#   seal N    commit N is about to be made, of the tree in snapshot N
#   acked N   commit N was acknowledged as durable
#   op TEXT   an operation begins
Op = tuple[Any, ...]
MARKS = frozenset({"seal", "acked", "op"})

_numbers = itertools.count()


class Recorder:
    """One totally ordered log, and the stand-ins that write it.

    Args:
        root: the directory that names are relative to; storage by default.
    """

    def __init__(self, root: str = "") -> None:
        self.ops: list[Op] = []
        self._fixed = bool(root)
        self.root = os.path.realpath(root)
        self.paused = False
        self.vfs = f"recorder-{os.getpid()}-{next(_numbers)}"
        self._vfs = _Vfs(self)

    def note(self, *op: Any) -> None:
        """Append one effect or mark."""
        if not self.paused:
            self.ops.append(op)

    def storage(self, path: str) -> Storage:
        """A storage whose effects are noted; the recorder follows it from now on, unless it has a root."""
        if not self._fixed:
            self.root = os.path.realpath(path)
        return _Storage(self, path)

    def name(self, path: str | bytes) -> str:
        """The name of a file, relative to the root."""
        return os.path.relpath(os.fsdecode(path), self.root)

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
            self._recorder.note("syncdir", os.path.dirname(self._recorder.name(filename)) or ".")


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
            self._recorder.note("syncdir", os.path.dirname(self._name) or ".")


class _Storage(Storage):
    def __init__(self, recorder: Recorder, path: str) -> None:
        super().__init__(path)
        self._recorder = recorder
        self._prefix = recorder.name(self.path)
        self._names: dict[int, str] = {}

    def _name(self, name: str) -> str:
        return os.path.normpath(os.path.join(self._prefix, name))

    def mkdir(self, name: str) -> None:
        super().mkdir(name)
        self._recorder.note("mkdir", self._name(name))

    def create(self, name: str) -> int:
        fd = super().create(name)
        self._names[fd] = self._name(name)
        self._recorder.note("create", self._name(name))
        return fd

    def open(self, name: str, *, write: bool) -> int:
        fd = super().open(name, write=write)
        self._names[fd] = self._name(name)
        return fd

    def open_object(self, name: str, *, write: bool) -> int:
        fd = super().open_object(name, write=write)
        self._names[fd] = self._name(name)
        return fd

    def link(self, source: Storage, name: str, inode: int) -> None:
        super().link(source, name, inode)
        # the bytes are durable in the other storage; the name here is not
        with open(os.path.join(self.path, name), "rb") as file:
            data = file.read()
        self._recorder.note("create", self._name(name))
        self._recorder.note("write", self._name(name), 0, data)
        self._recorder.note("sync", self._name(name))

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
        self._recorder.note("sync", self._name(name))

    def sync_dir(self, name: str) -> None:
        super().sync_dir(name)
        self._recorder.note("syncdir", self._name(name))

    def sync_all(self) -> None:
        super().sync_all()
        self._recorder.note("syncfs", self._prefix)

    def rename(self, name: str, new_name: str) -> None:
        super().rename(name, new_name)
        self._recorder.note("rename", self._name(name), self._name(new_name))

    def unlink(self, name: str) -> None:
        super().unlink(name)
        self._recorder.note("unlink", self._name(name))


def attributes_of(path: str | bytes) -> dict[tuple[str, bytes], object]:
    """The attributes of an object, facet by facet."""
    st = os.lstat(path)
    found: dict[tuple[str, bytes], object] = {("owner", b""): (st.st_uid, st.st_gid), ("mtime", b""): st.st_mtime_ns}
    if not stat.S_ISLNK(st.st_mode):
        found["mode", b""] = stat.S_IMODE(st.st_mode)
    for name in os.listxattr(path, follow_symlinks=False):
        found["xattr", os.fsencode(name)] = os.getxattr(path, name, follow_symlinks=False)
    return found


def special(path: str | bytes) -> tuple[str, bytes]:
    """Kind and content of what is neither file nor directory."""
    st = os.lstat(path)
    if stat.S_ISLNK(st.st_mode):
        return "symlink", os.readlink(os.fsencode(path))
    return "node", b"%d %d" % (st.st_mode, st.st_rdev)


class RecordedEffects(Effects):
    """Effects on trees, noted."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._names: dict[int, str] = {}

    def _note(self, kind: str, *paths: AnyPath) -> None:
        self._recorder.note(kind, *map(self._recorder.name, paths))

    def _made(self, kind: str, path: AnyPath) -> None:
        self._recorder.note(kind, self._recorder.name(path), attributes_of(path))

    def _attribute(self, path: AnyPath, facet: str, key: bytes, value: object) -> None:
        self._recorder.note("attribute", self._recorder.name(path), facet, key, value)

    def mkdir(self, path: AnyPath) -> None:
        super().mkdir(path)
        self._made("mkdir", path)

    def create(self, path: AnyPath) -> int:
        fd = super().create(path)
        self._names[fd] = self._recorder.name(path)
        self._made("create", path)
        return fd

    def symlink(self, target: bytes, path: AnyPath) -> None:
        super().symlink(target, path)
        self._recorder.note("special", self._recorder.name(path), *special(path), attributes_of(path))

    def mknod(self, path: AnyPath, mode: int, device: int) -> None:
        super().mknod(path, mode, device)
        self._recorder.note("special", self._recorder.name(path), *special(path), attributes_of(path))

    def link(self, path: AnyPath, new: AnyPath) -> None:
        super().link(path, new)
        self._note("link", path, new)

    def rename(self, path: AnyPath, new: AnyPath) -> None:
        super().rename(path, new)
        self._note("rename", path, new)

    def unlink(self, path: AnyPath) -> None:
        super().unlink(path)
        self._note("unlink", path)

    def rmdir(self, path: AnyPath) -> None:
        super().rmdir(path)
        self._note("unlink", path)

    def open(self, path: AnyPath) -> int:
        fd = super().open(path)
        self._names[fd] = self._recorder.name(path)
        return fd

    def write(self, fd: int, data: bytes, offset: int) -> None:
        super().write(fd, data, offset)
        self._recorder.note("write", self._names[fd], offset, bytes(data))

    def truncate(self, fd: int, size: int) -> None:
        super().truncate(fd, size)
        self._recorder.note("truncate", self._names[fd], size)

    def chown(self, path: AnyPath, uid: int, gid: int) -> None:
        super().chown(path, uid, gid)
        self._attribute(path, "owner", b"", (uid, gid))

    def chmod(self, path: AnyPath, mode: int) -> None:
        super().chmod(path, mode)
        self._attribute(path, "mode", b"", mode)

    def utime(self, path: AnyPath, atime: int, mtime: int) -> None:
        super().utime(path, atime, mtime)
        self._attribute(path, "mtime", b"", mtime)

    def setxattr(self, path: AnyPath, name: bytes, value: bytes) -> None:
        super().setxattr(path, name, value)
        self._attribute(path, "xattr", name, value)

    def removexattr(self, path: AnyPath, name: bytes) -> None:
        super().removexattr(path, name)
        self._attribute(path, "xattr", name, None)

    def sync(self, path: AnyPath) -> None:
        super().sync(path)
        self._note("syncdir" if os.path.isdir(path) else "sync", path)

    def sync_all(self, path: AnyPath) -> None:
        super().sync_all(path)
        self._note("syncfs", path)

"""Fails one step of storage I/O, once: the n-th that is taken while armed, with an errno of one's choice.

Steps are counted in both doors to storage, SQLite's VFS and ``Storage``.  A failing write has written its first half.
Only what takes space can fail with ENOSPC; a sync can too (delayed allocation, quotas, network file systems).
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from typing import Any

import apsw

from minifo.engine.store.storage import Storage

_TAKING_SPACE = {"create", "link", "mkdir", "write", "truncate", "allocate", "sync", "syncdir", "syncfs", "rename"}
_numbers = itertools.count()


class Injector:
    """Counts steps and fails one."""

    def __init__(self) -> None:
        self.vfs = f"injector-{os.getpid()}-{next(_numbers)}"
        self._vfs = _Vfs(self)
        self._left: int | None = None
        self._code = 0
        self.failed: str | None = None  # the step that failed
        self.count = 0  # how many have failed

    def arm(self, number: int, code: int) -> None:
        """Let the step after *number* others fail with *code*."""
        self._left = number
        self._code = code
        self.failed = None

    def disarm(self) -> None:
        """Let everything work."""
        self._left = None

    def step(self, kind: str, what: str) -> bool:
        """Count a step; True if it is the one to fail."""
        if self._left is None or (self._code == errno.ENOSPC and kind not in _TAKING_SPACE):
            return False
        self._left -= 1
        if self._left >= 0:
            return False
        self._left = None
        self.failed = f"{kind} {what}"
        self.count += 1
        return True

    def check(self, kind: str, what: str) -> None:
        """A step of ``Storage``.

        Raises:
            OSError: it is to fail.
        """
        if self.step(kind, what):
            raise OSError(self._code, os.strerror(self._code), what)

    def check_sql(self, kind: str, what: str) -> None:
        """A step of the VFS.

        Raises:
            apsw.Error: it is to fail.
        """
        if self.step(kind, what):
            raise self.sql_error()

    def sql_error(self) -> apsw.Error:
        """The error as SQLite's own VFS gives it."""
        return apsw.FullError("injected") if self._code == errno.ENOSPC else apsw.IOError("injected")

    def storage(self, path: str) -> Storage:
        """A storage whose steps are counted."""
        return _Storage(self, path)

    def close(self) -> None:
        """Unregister the VFS."""
        self._vfs.unregister()


class _Vfs(apsw.VFS):
    def __init__(self, injector: Injector) -> None:
        self._injector = injector
        super().__init__(injector.vfs, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if self._injector.step("open", str(path)):
            raise apsw.CantOpenError("injected")
        return _File(self._injector, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._injector.check_sql("unlink", filename)
        super().xDelete(filename, syncdir)


class _File(apsw.VFSFile):
    def __init__(self, injector: Injector, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._injector = injector
        self._name = os.path.basename(str(name.filename() if isinstance(name, apsw.URIFilename) else name))

    def xRead(self, amount: int, offset: int) -> bytes:
        self._injector.check_sql("read", f"{self._name} {offset}")
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._injector.step("write", f"{self._name} {offset}"):
            super().xWrite(bytes(data[: len(data) // 2]), offset)
            raise self._injector.sql_error()
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._injector.check_sql("truncate", self._name)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._injector.check_sql("sync", self._name)
        super().xSync(flags)


def _counted(kind: str) -> Callable[..., Any]:
    def method(self: _Storage, *args: Any, **kwargs: Any) -> Any:
        self.injector.check(kind, " ".join(str(arg) for arg in args))
        return getattr(Storage, method.__name__)(self, *args, **kwargs)

    return method


class _Storage(Storage):
    def __init__(self, injector: Injector, path: str) -> None:
        super().__init__(path)
        self.injector = injector

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        if self.injector.step("write", f"{fd} {offset}"):
            super().write(fd, memoryview(data)[: len(data) // 2], offset)
            code = self.injector._code
            raise OSError(code, os.strerror(code))
        super().write(fd, data, offset)


for _name, _kind in (
    ("exists", "stat"),
    ("stat", "stat"),
    ("names", "list"),
    ("mkdir", "mkdir"),
    ("create", "create"),
    ("open", "open"),
    ("open_object", "open"),
    ("offer", "attribute"),
    ("link", "link"),
    ("open_object_in_thread", "open"),
    ("truncate", "truncate"),
    ("allocate", "allocate"),
    ("punch", "punch"),
    ("rename", "rename"),
    ("unlink", "unlink"),
    ("sync_fd", "sync"),
    ("sync_file", "sync"),
    ("sync_dir", "syncdir"),
    ("sync_all", "syncfs"),
    ("clone", "clone"),
    ("clone_range", "clone"),
    ("statvfs", "stat"),
):
    _method = _counted(_kind)
    _method.__name__ = _name
    setattr(_Storage, _name, _method)

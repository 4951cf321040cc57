"""Serves requests on a mount that shows owners by other numbers than base and storage have (mount/id_map.py).

Numbers are translated here, on their way in and out, and nowhere else: the engine, and so every command that opens the
storage, knows the stored ones.  ACLs are not translated.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from ...engine import Attr, DirEntry, Overlay
from ...engine.tree.inode_rows import Row
from ..mount.id_map import IdMap
from .handlers import Handlers
from .reply_cache import ReplyCache


class MappedReplyCache(ReplyCache):
    """Publishes attributes with the owners that are shown.

    Args:
        overlay, hook: as for ReplyCache.
        ids: how owners are shown.
    """

    def __init__(self, overlay: Overlay, hook: ModuleType, ids: IdMap) -> None:
        super().__init__(overlay, hook)
        self._ids = ids

    def publish(self, attr: Attr) -> None:
        """Publish attributes, as ReplyCache.publish."""
        super().publish(self._ids.shown(attr))

    def saved(self, row: Row) -> None:
        """Publish a row, as ReplyCache.saved."""
        uid, gid = self._ids.users.shown(row.uid), self._ids.groups.shown(row.gid)
        super().saved(row._replace(uid=uid, gid=gid))

    def died(self, attr: Attr) -> None:
        """Publish the attributes of an object that has lost its name, as ReplyCache.died."""
        super().died(self._ids.shown(attr))


class MappedHandlers(Handlers):
    """Serves requests as Handlers does, with other owners.

    Args:
        ids: how owners are shown.
        arguments: those of Handlers.
    """

    def __init__(self, ids: IdMap, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._ids = ids

    def _caller(self, uid: int, gid: int) -> tuple[int, int]:
        return self._ids.users.of_caller(uid), self._ids.groups.of_caller(gid)

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        """As Handlers.lookup."""
        found = super().lookup(parent, name)
        return None if found is None else self._ids.shown(found)

    def getattr(self, ino: int, pid: int) -> Attr:
        """As Handlers.getattr."""
        return self._ids.shown(super().getattr(ino, pid))

    def readdir(self, ino: int, after: int) -> Iterator[DirEntry]:
        """As Handlers.readdir."""
        entries = super().readdir(ino, after)
        try:
            for entry in entries:
                yield entry._replace(attr=self._ids.shown(entry.attr))
        finally:
            entries.close()  # type: ignore[attr-defined]

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, uid: int, gid: int, umask: int) -> Attr:
        """As Handlers.mknod."""
        return self._ids.shown(super().mknod(parent, name, mode, rdev, *self._caller(uid, gid), umask))

    def mkdir(self, parent: int, name: bytes, mode: int, uid: int, gid: int, umask: int) -> Attr:
        """As Handlers.mkdir."""
        return self._ids.shown(super().mkdir(parent, name, mode, *self._caller(uid, gid), umask))

    def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int, umask: int) -> Attr:
        """As Handlers.symlink."""
        return self._ids.shown(super().symlink(parent, name, target, *self._caller(uid, gid), umask))

    def link(self, ino: int, new_parent: int, new_name: bytes) -> Attr:
        """As Handlers.link."""
        return self._ids.shown(super().link(ino, new_parent, new_name))

    def tmpfile(self, parent: int, flags: int, mode: int, uid: int, gid: int, umask: int) -> Attr:
        """As Handlers.tmpfile."""
        return self._ids.shown(super().tmpfile(parent, flags, mode, *self._caller(uid, gid), umask))

    def setattr(
        self,
        ino: int,
        mode: int | None,
        uid: int | None,
        gid: int | None,
        size: int | None,
        atime: int | None,
        mtime: int | None,
        ctime: int | None,
        kill: int,
        caller_uid: int,
        caller_gid: int,
        pid: int,
    ) -> Attr:
        """As Handlers.setattr."""
        uid = None if uid is None else self._ids.users.given(uid)
        gid = None if gid is None else self._ids.groups.given(gid)
        values = (ino, mode, uid, gid, size, atime, mtime, ctime, kill, caller_uid, caller_gid, pid)
        return self._ids.shown(super().setattr(*values))

    def _group(self, ino: int) -> int:
        return self._ids.groups.shown(super()._group(ino))

"""A file system in memory that serves requests by callbacks of the session hook, or passes them on to pyfuse3.

Run as a program it mounts and serves.  Both roads lead to the same tree, and each writes into the log which requests it
was given, so a test sees who has answered.  What the functions of the short road do is set from outside, by setxattr of
a name that is read here as an order: answer, leave the request, return something odd, or fail.
"""

from __future__ import annotations

import ast
import errno
import json
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = 1
MANY = 3000  # names in the large directory
PAST, FUTURE = -1_500_000_001, 4_102_444_800_000_000_001  # ns: in 1969, in 2100
VALUES = {b"user.empty": b"", b"user.short": b"12345678", b"user.long": b"x" * 3000}
LOOKS = ("forget", "getattr", "getxattr", "lookup", "read", "readdir", "readlink", "tmpfile")
CHANGES = ("link", "mkdir", "mknod", "rename", "rmdir", "setattr", "symlink", "unlink", "write")
KINDS = LOOKS + CHANGES


class NotServedError(Exception):
    """What a function of the short road raises that was told to."""


@dataclass
class Node:
    """One object."""

    mode: int
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    data: bytes = b""
    names: dict[bytes, int] = field(default_factory=dict)
    times: list[int] = field(default_factory=lambda: [PAST, FUTURE, 1])  # atime, mtime, ctime
    nlink: int = 1


class Tree:
    """The objects, and what each kind of request does to them, in the form of hook.set_callbacks()."""

    def __init__(self) -> None:
        self.nodes = {ROOT: Node(stat.S_IFDIR | 0o755)}
        self.told: Counter[int] = Counter()  # how often the kernel was told of each
        self.taken: list[str] = []  # names of a listing that the kernel got
        for name in ("many", "broken", "odd", "empty"):
            self._put(ROOT, name.encode(), stat.S_IFDIR | 0o755)
        for name in ("many", "broken", "odd"):
            for number in range(MANY):
                self._put(self.find(name), b"name%d" % number, stat.S_IFREG | 0o644)
        self._put(ROOT, b"file", stat.S_IFREG | 0o644, data=bytes(range(256)) * 40)

    def _put(self, parent: int, name: bytes, mode: int, **values: Any) -> int:
        ino = len(self.nodes) + 1
        while ino in self.nodes:
            ino += 1
        self.nodes[ino] = Node(mode, **values)
        self.nodes[parent].names[name] = ino
        return ino

    def find(self, name: str) -> int:
        """The number of a name in the root."""
        return self.nodes[ROOT].names[name.encode()]

    def attributes(self, ino: int) -> tuple[int, ...]:
        """The eleven numbers of an object."""
        node = self.nodes[ino]
        return (ino, node.mode, node.nlink, node.uid, node.gid, node.rdev, len(node.data), 8, *node.times)

    def _tell(self, ino: int) -> tuple[int, ...]:
        self.told[ino] += 1
        return self.attributes(ino)

    def lookup(self, parent: int, name: bytes) -> tuple[int, ...] | None:
        ino = self.nodes[parent].names.get(name)
        return None if ino is None else self._tell(ino)

    def tmpfile(self, parent: int, flags: int, mode: int, uid: int, gid: int, umask: int) -> tuple[int, ...]:
        assert parent in self.nodes
        assert flags & os.O_TMPFILE == os.O_TMPFILE
        ino = max(self.nodes) + 1
        self.nodes[ino] = Node(stat.S_IFREG | mode & ~umask, uid, gid, nlink=0, times=[5, 10**9 + 6, 2 * 10**9 + 7])
        return self._tell(ino)

    def forget(self, counts: list[tuple[int, int]]) -> None:
        for ino, count in counts:
            self.told[ino] -= count

    def getattr(self, ino: int, pid: int) -> tuple[int, ...]:
        assert pid > 0
        return self.attributes(ino)

    def setattr(
        self, ino: int, mode: int | None, uid: int | None, gid: int | None, size: int | None, *rest: Any
    ) -> Any:
        node = self.nodes[ino]
        node.mode = node.mode if mode is None else mode
        node.uid = node.uid if uid is None else uid
        node.gid = node.gid if gid is None else gid
        node.data = node.data if size is None else node.data[:size].ljust(size, b"\0")
        node.times = [old if new is None else new for old, new in zip(node.times, rest[:3], strict=True)]
        return self.attributes(ino)

    def readlink(self, ino: int) -> bytes:
        return self.nodes[ino].data

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, uid: int, gid: int, umask: int) -> Any:
        return self._tell(self._put(parent, name, mode & ~umask, rdev=rdev, uid=uid, gid=gid))

    def mkdir(self, parent: int, name: bytes, mode: int, uid: int, gid: int, umask: int) -> Any:
        return self._tell(self._put(parent, name, stat.S_IFDIR | mode & ~umask, uid=uid, gid=gid))

    def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int, umask: int) -> Any:
        return self._tell(self._put(parent, name, stat.S_IFLNK | 0o777, data=target, uid=uid, gid=gid))

    def link(self, ino: int, parent: int, name: bytes) -> Any:
        self.nodes[parent].names[name] = ino
        self.nodes[ino].nlink += 1
        return self._tell(ino)

    def unlink(self, parent: int, name: bytes) -> None:
        self.nodes[self.nodes[parent].names.pop(name)].nlink -= 1

    rmdir = unlink

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        names, new_names = self.nodes[parent].names, self.nodes[new_parent].names
        if flags == 2:  # RENAME_EXCHANGE
            names[name], new_names[new_name] = new_names[new_name], names[name]
        else:
            new_names[new_name] = names.pop(name)

    def getxattr(self, ino: int, name: bytes) -> Any:
        return VALUES.get(name, errno.ENODATA)

    def read(self, ino: int, offset: int, size: int, flags: int = 0) -> bytes:
        return self.nodes[ino].data[offset : offset + size]

    def write(self, ino: int, offset: int, data: bytes) -> None:
        node = self.nodes[ino]
        node.data = node.data[:offset].ljust(offset, b"\0") + data + node.data[offset + len(data) :]

    def readdir(self, ino: int, after: int) -> Iterator[tuple[bytes, Any, int]]:
        """The names after a cookie; what the kernel got is counted when the next one is asked for."""
        for cookie, (name, child) in enumerate(self.nodes[ino].names.items(), 1):
            if cookie <= after:
                continue
            if cookie == MANY // 2 and ino == self.find("broken"):
                raise NotServedError("in the middle")
            odd = cookie == MANY // 2 and ino == self.find("odd")
            yield name, "no attributes" if odd else self.attributes(child), cookie
            self.told[child] += 1
            self.taken.append(name.decode())


def serve(mountpoint: str, report: str) -> None:
    """Mount, and serve until unmounted.

    Args:
        mountpoint: where.
        report: path of a JSON file, written whenever that is ordered.
    """
    from minifo.fusefront.extension import loader

    extension = loader.load()
    assert extension is not None
    module = extension
    import pyfuse3
    import trio

    from minifo.fusefront.serve import shared_rules
    from minifo.fusefront.serve.eager_trio import EagerTrio

    shared_rules.pass_to(extension)
    tree = Tree()
    log: list[list[Any]] = []
    waits: list[tuple[int, bool]] = []  # length of the log, and what came of it

    class Waiting:
        """The extension as the event loop knows it."""

        @staticmethod
        def arrives_soon(fd: int) -> bool:
            soon = module.arrives_soon(fd)
            waits.append((len(log), soon))
            return soon

    orders: dict[str, str] = {}
    save = Path(report).write_text

    def plain(value: Any) -> Any:
        return value.decode("ascii", "backslashreplace") if isinstance(value, bytes) else value

    def asked(kind: str) -> Callable[..., Any]:
        act = getattr(tree, kind)

        def answer(*args: Any) -> Any:
            log.append(["direct", kind, *map(plain, args)])
            order = orders.get(kind, "answer")
            if order == "answer":
                return act(*args)
            if order == "leave":
                return NotImplemented
            if order == "raise":
                raise NotServedError(kind)
            return ast.literal_eval(order)

        return answer

    def entry_of(attributes: tuple[int, ...]) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode, entry.st_nlink, entry.st_uid, entry.st_gid, entry.st_rdev = attributes[:6]
        entry.st_size, entry.st_blocks, entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = attributes[6:]
        entry.entry_timeout = entry.attr_timeout = 1e6
        return entry

    class Behind(pyfuse3.Operations):
        """The long road."""

        enable_writeback_cache = True

        async def lookup(self, parent: int, name: bytes, ctx: Any) -> Any:
            log.append(["behind", "lookup"])
            found = tree.lookup(parent, name)
            if found is None:
                raise pyfuse3.FUSEError(errno.ENOENT)
            return entry_of(found)

        async def forget(self, counts: Any) -> None:
            log.append(["behind", "forget"])
            tree.forget(list(counts))

        async def setattr(self, ino: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
            log.append(["behind", "setattr"])
            names = ("mode", "uid", "gid", "size", "atime_ns", "mtime_ns", "ctime_ns")
            wanted = [getattr(fields, f"update_{name.removesuffix('_ns')}") for name in names]
            values = [getattr(attr, f"st_{name}") if want else None for name, want in zip(names, wanted, strict=True)]
            return entry_of(tree.setattr(ino, *values))

        async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
            log.append(["behind", "mknod"])
            return entry_of(tree.mknod(parent, name, mode, rdev, ctx.uid, ctx.gid, ctx.umask))

        async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> Any:
            log.append(["behind", "mkdir"])
            return entry_of(tree.mkdir(parent, name, mode, ctx.uid, ctx.gid, ctx.umask))

        async def symlink(self, parent: int, name: bytes, target: bytes, ctx: Any) -> Any:
            log.append(["behind", "symlink"])
            return entry_of(tree.symlink(parent, name, target, ctx.uid, ctx.gid, ctx.umask))

        async def readdir(self, fh: int, start: int, token: Any) -> None:
            log.append(["behind", "readdir"])
            for name, attributes, cookie in tree.readdir(fh, start):
                if not pyfuse3.readdir_reply(token, name, entry_of(attributes), cookie):
                    return

        async def getattr(self, ino: int, ctx: Any) -> Any:
            log.append(["behind", "getattr"])
            return entry_of(tree.attributes(ino))

        async def readlink(self, ino: int, ctx: Any) -> bytes:
            log.append(["behind", "readlink"])
            return tree.readlink(ino)

        async def link(self, ino: int, parent: int, name: bytes, ctx: Any) -> Any:
            log.append(["behind", "link"])
            return entry_of(tree.link(ino, parent, name))

        async def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
            log.append(["behind", "unlink"])
            tree.unlink(parent, name)

        async def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
            log.append(["behind", "rmdir"])
            tree.rmdir(parent, name)

        async def rename(self, parent: int, name: bytes, to: int, new_name: bytes, flags: int, ctx: Any) -> None:
            log.append(["behind", "rename"])
            tree.rename(parent, name, to, new_name, flags)

        async def getxattr(self, ino: int, name: bytes, ctx: Any) -> bytes:
            log.append(["behind", "getxattr"])
            value = tree.getxattr(ino, name)
            if isinstance(value, int):
                raise pyfuse3.FUSEError(value)
            return bytes(value)

        async def read(self, fh: int, off: int, size: int) -> bytes:
            log.append(["behind", "read"])
            return tree.read(fh, off, size)

        async def write(self, fh: int, off: int, buf: bytes) -> int:
            log.append(["behind", "write"])
            tree.write(fh, off, buf)
            return len(buf)

        async def setxattr(self, ino: int, name: bytes, value: bytes, ctx: Any) -> None:
            kind = name.decode().removeprefix("user.")
            if kind == "report":
                told = {number: count for number, count in tree.told.items() if count}
                text = json.dumps({"log": log, "told": told, "taken": tree.taken, "waits": waits})
                save(text)
                log.clear()
                waits.clear()
                tree.taken.clear()
            elif kind == "serve":
                module.set_callbacks(functions if value == b"on" else None)
            else:
                assert kind in KINDS
                orders[kind] = value.decode()

        async def create(self, *args: Any) -> Any:
            raise pyfuse3.FUSEError(errno.ENOSYS)

        async def fsync(self, fh: int, datasync: bool) -> None:
            return

        async def flush(self, fh: int) -> None:
            raise pyfuse3.FUSEError(errno.ENOSYS)

    functions = {kind: asked(kind) for kind in KINDS}
    module.set_callbacks(functions)
    pyfuse3.trio = EagerTrio(Waiting)  # type: ignore[attr-defined, arg-type]
    pyfuse3.init(Behind(), mountpoint, {"fsname=answers", "allow_other", "default_permissions"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    os.umask(0)
    serve(*sys.argv[1:3])

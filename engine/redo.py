"""The redo log: a killed daemon loses nothing acknowledged, and flash still sees one commit a second (promise P4).

Between two commits the changed rows live in this process only.  So every operation is also appended, as the statements
it made, to a file in memory (tmpfs), which outlives the process but not the machine.  The log begins anew with each
commit.  At the next mount it is replayed, before anything is swept, if it belongs to this storage, this boot and the
very commit the database stands at; in any other case it is stale and ignored.

    file   = header frame, operation frame ...
    frame  = length (4 bytes), crc32 (4 bytes), payload; a frame that is cut short or damaged ends the log
    header = uuid, boot id, st_dev and st_ino of the database, the commit's token
"""

from __future__ import annotations

import errno
import logging
import marshal
import os
import stat
import struct
import zlib
from typing import Any

from minifo.engine.db import Statement
from minifo.engine.errors import StateError
from minifo.engine.syscalls import file_system_type

log = logging.getLogger(__name__)

_FRAME = struct.Struct("<II")
_MEMORY = (0x01021994, 0x858458F6)  # statfs(2): TMPFS_MAGIC, RAMFS_MAGIC
_FORMAT = 4  # of marshal: values are ints, bytes, strings and None, whose form has not changed since Python 3.4


def memory_directory() -> str | None:
    """A directory of ours in memory, made if need be: /run/minifo for root, else the user's runtime directory.

    Returns:
        None where there is none; then every operation is committed by itself.
    """
    uid = os.geteuid()
    candidates = ["/run/minifo"] if uid == 0 else []
    if uid != 0 and (runtime := os.environ.get("XDG_RUNTIME_DIR")):
        candidates.append(os.path.join(runtime, "minifo"))
    candidates.append(f"/dev/shm/minifo-{uid}")
    for path in candidates:
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            found = os.lstat(path)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            log.debug("%s cannot hold the redo log: %s", path, error)
            continue
        try:
            ours = found.st_uid == uid and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if ours and file_system_type(fd) in _MEMORY:
                return path
        finally:
            os.close(fd)
    return None


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class RedoLog:
    """The log of one storage.

    Args:
        directory: where it is kept; on tmpfs.
        uuid: of the storage.
        database: path of the database; its device and inode number tell a copied storage from the original.
    """

    def __init__(self, directory: str, uuid: str, database: str) -> None:
        st = os.stat(database)
        self.path = os.path.join(directory, f"{uuid}.redo")
        self._identity = (uuid, _boot_id(), st.st_dev, st.st_ino)
        self._fd: int | None = None
        self.size = 0

    # -- writing

    def begin(self, token: int) -> None:
        """Start anew: what follows comes after the commit of that *token*.

        Raises:
            OSError: there is no room even for this.
        """
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.ftruncate(self._fd, 0)
        self.size = 0
        self._append((*self._identity, token))

    def append(self, statements: list[Statement], next_ino: int, next_object: int) -> None:
        """Add one operation: its statements, and the counters after it.

        Raises:
            OSError: ENOSPC where the memory for it is used up.
        """
        self._append((statements, next_ino, next_object))

    def _append(self, value: tuple[Any, ...]) -> None:
        assert self._fd is not None
        payload = marshal.dumps(value, _FORMAT)
        frame = _FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        if os.pwrite(self._fd, frame, self.size) != len(frame):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        self.size += len(frame)

    # -- reading

    def operations(self, token: int) -> list[tuple[list[Statement], int, int]]:
        """The operations that follow the commit of that *token*; none if the log is not of it."""
        try:
            with open(self.path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return []
        frames = []
        at = 0
        while at + _FRAME.size <= len(data):
            length, crc = _FRAME.unpack_from(data, at)
            payload = data[at + _FRAME.size : at + _FRAME.size + length]
            if len(payload) != length or zlib.crc32(payload) != crc:
                break  # the daemon was killed while it wrote this one: it was not acknowledged
            frames.append(marshal.loads(payload))
            at += _FRAME.size + length
        if not frames or frames[0] != (*self._identity, token):
            return []
        return frames[1:]

    def set_aside(self) -> StateError:
        """Keep a log that could not be replayed, out of the way, and say so."""
        kept = self.path + ".rejected"
        os.replace(self.path, kept)
        return StateError(f"the redo log could not be replayed and is kept as {kept}", "run minifo-fsck on the storage")

    # -- ending

    def remove(self) -> None:
        """Delete the log: everything in it is durable."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            os.unlink(self.path)

    def close(self) -> None:
        """Let go of the log and leave it where it is."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

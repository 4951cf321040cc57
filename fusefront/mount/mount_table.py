"""Reads the kernel's mount table, and finds the mount that a path is on.

The rule kept: a mount is found by its number, not by its path.  A path may match several lines of the table, for
mounts are stacked, and hidden ones stay in it.  So the kernel is asked for the number of the mount that a path is on,
through an ``O_PATH`` descriptor.  That sends no request to the file system, so it works on a mount whose daemon has
ended.

How the source text of a mount is encoded on its way, as seen with libfuse 3.14 and Linux 6.18, for root and through
fusermount3: pyfuse3 encodes options as ASCII; libfuse splits them at commas and decodes ``\\x`` and ``\\ooo``; the
kernel stores any bytes, 4,095 at most, and shows blank, tab, newline, backslash and ``#`` as ``\\ooo``, every other
byte as it is.  :func:`fuse_option` encodes a source text, :func:`parse_mountinfo` decodes it.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass

from .source import Source, parse_source

FSTYPE = "fuse.minifo"

#: What a call on a mount fails with whose daemon has ended; the second if it was under way when the connection ended.
DEAD_ERRNOS = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
LISTING_HINT = "findmnt -t fuse.minifo lists the mounts"

_MOUNTINFO = "/proc/self/mountinfo"
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of the mount table.

    Attributes:
        id: the mount's number, unique while it exists.
        parent: number of the mount it is mounted on.
        device: st_dev of the files in it; the same for all mounts of one file system.
        root: the directory of the file system that is mounted here (not ``/`` for a bind mount of a part).
        mountpoint: its path, as this process sees it.
        options: option words of the mount, then those of its file system.
        fstype: the type, ``fuse.minifo`` for a minifo mount.
        source: the source text.
    """

    id: int
    parent: int
    device: int
    root: str
    mountpoint: str
    options: tuple[str, ...]
    fstype: str
    source: str


def parse_mountinfo(data: bytes) -> list[MountEntry]:
    """Return the mounts in the text of a mountinfo file; paths that are not UTF-8 get surrogate escapes."""
    return [_entry(line) for line in data.split(b"\n") if line]


def _entry(line: bytes) -> MountEntry:
    fields = line.split(b" ")  # not split(): an empty source is an empty field
    dash = fields.index(b"-", 6)
    major, minor = fields[2].split(b":")
    words = fields[5].split(b",") + b" ".join(fields[dash + 3 :]).split(b",")
    return MountEntry(
        id=int(fields[0]),
        parent=int(fields[1]),
        device=os.makedev(int(major), int(minor)),
        root=plain_text(fields[3]),
        mountpoint=plain_text(fields[4]),
        options=tuple(dict.fromkeys(plain_text(word) for word in words)),
        fstype=plain_text(fields[dash + 1]),
        source=plain_text(fields[dash + 2]),
    )


def plain_text(field: bytes) -> str:
    """Return the text of a field of mountinfo or utab, in which some bytes are written as ``\\ooo``."""
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))


def read_mounts(path: str = _MOUNTINFO) -> list[MountEntry]:
    """Return the mounts that this process sees, or those of the process whose mountinfo file is *path*.

    Raises:
        OSError: /proc is not mounted, or the process has ended.
    """
    with open(path, "rb") as file:
        return parse_mountinfo(file.read())


def locate(path: str) -> tuple[str, MountEntry | None]:
    """Return the true path of *path*, with symbolic links resolved, and the mount that it is on.

    The mount is None if its mount point is outside of this process's root directory (in a chroot).

    Raises:
        OSError: the path does not exist or cannot be reached; ENOTCONN if a dead mount is on the way to it.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        real = os.readlink(f"/proc/self/fd/{fd}")
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            info = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
        number = int(info[b"mnt_id"])
        # Read while the descriptor is open, for until then no other mount can get this number.
        entry = next((entry for entry in read_mounts() if entry.id == number), None)
    finally:
        os.close(fd)
    return real, entry


def find_mount(path: str) -> MountEntry | None:
    """Return the topmost mount exactly at *path*, with symbolic links resolved; None if nothing is mounted there.

    Raises:
        OSError: the path does not exist or cannot be reached.
    """
    real, entry = locate(path)
    return entry if entry is not None and entry.mountpoint == real else None


def is_automount_point(mountpoint: str) -> bool:
    """Return whether autofs waits at *mountpoint*, a true path, for the mount that is about to be made."""
    return any(entry.mountpoint == mountpoint and entry.fstype == "autofs" for entry in read_mounts())


def overlay_of(entry: MountEntry) -> Source | None:
    """Return which overlay a minifo mount shows, and whether at a checkpoint; None for another kind of mount."""
    return parse_source(entry.source) if entry.fstype == FSTYPE else None


def minifo_mounts() -> list[MountEntry]:
    """Return all minifo mounts that this process sees."""
    return [entry for entry in read_mounts() if overlay_of(entry) is not None]


def is_dead(mountpoint: str) -> bool:
    """Return whether the daemon of the FUSE mount at *mountpoint* has ended.

    It calls statfs(2), whose result the kernel never caches; stat(2) would return cached attributes of a dead mount.
    """
    try:
        os.statvfs(mountpoint)
    except OSError as exc:
        return exc.errno in DEAD_ERRNOS
    return False


def clear_command(mountpoint: str) -> str:
    """Return the command by which this user removes a mount whose daemon has ended."""
    return f"umount -l {mountpoint}" if os.geteuid() == 0 else f"fusermount3 -uz {mountpoint}"


def fuse_option(name: str, value: str) -> str:
    """Return a ``name=value`` option for ``pyfuse3.init``, encoded so that libfuse decodes exactly *value*.

    libfuse splits an option text at commas, and decodes ``\\x`` to x and ``\\ooo`` to the byte with that octal number.
    So commas and backslashes get a backslash, and every byte that is not printable ASCII is written as its number, for
    pyfuse3 encodes options as ASCII.  libfuse itself encodes what it passes on to fusermount3.

    Args:
        name: the option's name, plain ASCII.
        value: any text without NUL, with surrogate escapes for bytes that are not UTF-8.
    """
    return f"{name}=" + "".join(_escaped(byte) for byte in os.fsencode(value))


def _escaped(byte: int) -> str:
    char = chr(byte)
    if char in ",\\":
        return "\\" + char
    return char if 0x20 <= byte < 0x7F else f"\\{byte:03o}"

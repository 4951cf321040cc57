"""What is mounted where: the kernel's mount table, read exactly.

The rule: a mount is found by its number, not by its path.  Paths are ambiguous (mounts are stacked, and hidden ones
stay in the table), so the kernel is asked which mount a path is on, through an ``O_PATH`` descriptor.  That sends no
request to the file system and therefore works on a mount whose daemon is dead.

What a mount's source text goes through, seen with libfuse 3.14 and Linux 6.18, as root and through fusermount3 alike:
pyfuse3 takes options as ASCII; libfuse cuts them at commas and undoes ``\\x`` and ``\\ooo``; the kernel keeps any bytes
up to 4,095 and shows blank, tab, newline, backslash and ``#`` as ``\\ooo``, every other byte as it is.
:func:`fuse_option` and :func:`parse_mountinfo` are the two ends of that way.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass

from .options import parse_source

FSTYPE = "fuse.minifo"
SOURCE_LIMIT = 4095  # bytes; mount(2) refuses a longer source with EINVAL

_MOUNTINFO = "/proc/self/mountinfo"
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of the mount table.

    Attributes:
        id: the mount's number, unique while it exists.
        parent: number of the mount it is mounted on.
        device: st_dev of the files in it; the same for every place the file system is mounted at.
        root: the directory of the file system that is mounted here (not ``/`` for a bind mount of a part).
        mountpoint: where, as this process sees it.
        options: option words of the mount and of its file system.
        fstype: the type, ``fuse.minifo`` for ours.
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
    """Read the text of a mountinfo file; paths that are not UTF-8 come out with surrogate escapes."""
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
    """The text of a field, in which some characters stand as octal numbers."""
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))


def read_mounts(path: str = _MOUNTINFO) -> list[MountEntry]:
    """The mounts this process can see, or those of the process whose mountinfo file is *path*.

    Raises:
        OSError: /proc is not there, or the process is gone.
    """
    with open(path, "rb") as file:
        return parse_mountinfo(file.read())


def locate(path: str) -> tuple[str, MountEntry | None]:
    """The true path of *path* (symbolic links followed) and the mount it is on.

    The mount is None if it cannot be seen from here (its mount point lies outside the root directory of a chroot).

    Raises:
        OSError: the path does not exist or cannot be reached; ENOTCONN if a dead mount lies on the way to it.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        real = os.readlink(f"/proc/self/fd/{fd}")
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            info = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
        number = int(info[b"mnt_id"])
        # Read while the descriptor is open: the number cannot be given to another mount meanwhile.
        entry = next((entry for entry in read_mounts() if entry.id == number), None)
    finally:
        os.close(fd)
    return real, entry


def find_mount(path: str) -> MountEntry | None:
    """The topmost mount exactly at *path* (symbolic links followed), or None if nothing is mounted there.

    Raises:
        OSError: the path does not exist or cannot be reached.
    """
    real, entry = locate(path)
    return entry if entry is not None and entry.mountpoint == real else None


def overlay_of(entry: MountEntry) -> tuple[str, str] | None:
    """Base and storage of a minifo mount; None if *entry* is not one."""
    return parse_source(entry.source) if entry.fstype == FSTYPE else None


def minifo_mounts() -> list[MountEntry]:
    """Every minifo mount this process can see."""
    return [entry for entry in read_mounts() if overlay_of(entry) is not None]


def is_dead(mountpoint: str) -> bool:
    """Whether the FUSE mount at *mountpoint* has lost its daemon.

    statfs is asked because the kernel never caches its answer; stat would be answered from cached attributes.
    """
    try:
        os.statvfs(mountpoint)
    except OSError as exc:
        # ECONNABORTED is what requests get that were under way when the connection ended.
        return exc.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    return False


def fuse_option(name: str, value: str) -> str:
    """One ``name=value`` option for ``pyfuse3.init``, such that libfuse ends up with exactly *value*.

    libfuse cuts an option text at commas and takes ``\\x`` as x and ``\\ooo`` as the byte with that octal number, so
    comma and backslash get a backslash and everything but printable ASCII (pyfuse3 encodes options as ASCII) its
    number.  What libfuse hands on to fusermount3 it escapes again by itself.

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

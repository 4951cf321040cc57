"""Whether systemd mounts the overlays of fstab after the file systems that they lie on (``minifo doctor``).

systemd does not know that ``base=`` and ``sto=`` are paths.  Unless ``x-systemd.requires-mounts-for=`` names them, it
may mount an overlay before its storage, and unmount the storage first (systemd.mount(5), docs/systemd.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from ...engine.errors import UsageError
from ...engine.store.layers import layers_of
from ...fusefront.mount import mount_table, options
from ...fusefront.mount.source import split
from .finding import Finding, note, ok

FSTAB = "/etc/fstab"
_TYPES = frozenset({"mini_fo", "minifo", "fuse.minifo"})
_RUNS = "/run/systemd/system"  # is there exactly if systemd is the first process: sd_booted(3)
_REQUIRES = "x-systemd.requires-mounts-for="
#: Mount points that systemd has before it looks at fstab, and for as long as it runs.
_EARLY = ("/dev", "/proc", "/run", "/sys")


class Line(NamedTuple):
    """A line of fstab: where it mounts, what, and the text of its options."""

    mountpoint: str
    fstype: str
    words: str


def overlays() -> Finding:
    """Say which lines of overlays do not name a file system that base or storage lies on."""
    name = "fstab"
    if not os.path.isdir(_RUNS):
        return ok(name, "systemd does not run, so the order of the lines counts")
    try:
        with open(FSTAB, "rb") as file:
            lines = list(parse(file.read()))
    except FileNotFoundError:
        lines = []
    ours = [line for line in lines if line.fstype in _TYPES]
    if not ours:
        return ok(name, f"{FSTAB} has no overlay")
    points = {line.mountpoint for line in lines if line.fstype not in _TYPES}
    points |= {entry.mountpoint for entry in mount_table.read_mounts() if entry.fstype != mount_table.FSTYPE}
    for line in ours:
        try:
            missing = not_named(line, points)
        except UsageError as error:
            return note(name, f"{line.mountpoint}: {error.message}", error.hint or f"correct the line in {FSTAB}")
        if missing:
            fact = f"{line.mountpoint} may be mounted before {' and '.join(missing)}, and be cut off at shutdown"
            words = ",".join(_REQUIRES + _as_field(path) for path in missing)
            return note(name, fact, f"add to the options of its line in {FSTAB}: {words}")
    return ok(name, f"{len(ours)} {'overlays' if len(ours) != 1 else 'overlay'}, mounted after what they lie on")


def parse(data: bytes) -> Iterator[Line]:
    """Yield the lines of an fstab(5) that have a mount point."""
    for text in data.splitlines():
        fields = [mount_table.plain_text(field) for field in text.split()]
        if len(fields) >= 3 and not fields[0].startswith("#") and fields[1].startswith("/"):
            yield Line(os.path.normpath(fields[1]), fields[2], fields[3] if len(fields) > 3 else "")


def _as_field(path: str) -> str:
    """Return a path as a field of fstab has it, without blanks."""
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\#" else char for char in path)


def not_named(line: Line, points: set[str]) -> list[str]:
    """Return the mount points that the base or the storage of an overlay lies on, and that its line does not name.

    systemd orders a mount after those above its mount point by itself; one at its mount point it cannot order.

    Args:
        line: the line of the overlay.
        points: every mount point but those of overlays.

    Raises:
        UsageError: its options are wrong.
    """
    wanted = options.parse([line.words])
    named = [word.removeprefix(_REQUIRES) for word in split(line.words) if word.startswith(_REQUIRES)]
    found = []
    for path in (*layers_of(wanted.base), wanted.storage):
        point = max((point for point in points if _is_below(os.path.realpath(path), point)), key=len, default="/")
        is_early = point == "/" or any(_is_below(point, early) for early in _EARLY)
        if not is_early and not any(_is_below(known, point) for known in (line.mountpoint, *named)):
            found.append(point)
    return list(dict.fromkeys(found))


def _is_below(path: str, directory: str) -> bool:
    """Return whether a path is a directory, or lies below it."""
    return os.path.commonpath([path, directory]) == directory

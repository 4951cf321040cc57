"""Puts the units of systemd where it looks for what was not installed by a package, and removes them again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable

from . import _placed_files

#: Where systemd looks (systemd.unit(5)); below it are ``system`` and ``user``.
DIRECTORY = "/usr/local/lib/systemd"
#: Where a package of a distribution puts them.
_PACKAGED = "/usr/lib/systemd"
#: Where systemd looks for a program that a unit names without a path.
_PROGRAMS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")


def _units() -> Iterator[tuple[str, bytes]]:
    """Yield the path of each unit below ``DIRECTORY``, and its content."""
    top: Traversable = resources.files(__package__) / "system" / "systemd"
    for kind in ("system", "user"):
        for unit in (top / kind).iterdir():
            yield f"{kind}/{unit.name}", unit.read_bytes()


def are_packaged() -> bool:
    """Return whether a package of the distribution has brought the units."""
    return all(os.path.exists(os.path.join(_PACKAGED, name)) for name, _ in _units())


def plan(directory: str, *, remove: bool) -> dict[str, bytes | None]:
    """Return what to do so that *directory* has our units, or has none of them.

    Args:
        directory: ``DIRECTORY``, or another one.
        remove: whether to remove them.

    Returns:
        For each path its new content, or None to remove it; empty if nothing is to be done.

    Raises:
        StateError: a file that is not ours has the name of a unit.
        OSError: a file cannot be read.
    """
    files = {os.path.join(directory, name): content for name, content in _units()}
    return _placed_files.plan(files, "unit", remove=remove)


def apply(steps: dict[str, bytes | None]) -> None:
    """Do what ``plan`` has returned, as ``_placed_files.apply`` does."""
    _placed_files.apply(steps, 0o644, "--systemd")


def next_steps(*, removed: bool) -> list[str]:
    """Return what the user has to do, a line each."""
    lines = ["systemd reads them after: systemctl daemon-reload"]
    if not removed and not any(os.access(os.path.join(place, "minifo"), os.X_OK) for place in _PROGRAMS):
        lines.append(f"the units call minifo, which is in none of {', '.join(_PROGRAMS)}: link it there")
    return lines

"""Puts the units of systemd where it looks for what was not installed by a package, and removes them again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable

from ..engine.errors import StateError

#: Where systemd looks (systemd.unit(5)); below it are ``system`` and ``user``.
DIRECTORY = "/usr/local/lib/systemd"
#: Each of our units begins with it; a file that does not is somebody else's.
MARK = b"# minifo: "
#: Where systemd looks for a program that a unit names without a path.
_PROGRAMS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")


def _units() -> Iterator[tuple[str, bytes]]:
    """Yield the path of each unit below ``DIRECTORY``, and its content."""
    top: Traversable = resources.files(__package__) / "system" / "systemd"
    for kind in ("system", "user"):
        for unit in (top / kind).iterdir():
            yield f"{kind}/{unit.name}", unit.read_bytes()


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
    steps: dict[str, bytes | None] = {}
    for name, content in sorted(_units()):
        path = os.path.join(directory, name)
        found = _content(path)
        if found is not None and not found.startswith(MARK):
            if remove:
                continue
            raise StateError(f"{path} exists and is not a unit of minifo", "move it away")
        wanted = None if remove else content
        if found != wanted:
            steps[path] = wanted
    return steps


def _content(path: str) -> bytes | None:
    """Return the content of a file, or None if there is none; empty if it is not a file."""
    if not os.path.lexists(path):
        return None
    if os.path.islink(path) or not os.path.isfile(path):
        return b""
    with open(path, "rb") as file:
        return file.read()


def apply(steps: dict[str, bytes | None]) -> None:
    """Do what ``plan`` has returned; each file is there as a whole or not at all.

    Raises:
        StateError: the user may not write there.
        OSError: another system call failed.
    """
    path = DIRECTORY
    try:
        for path, content in steps.items():
            if content is None:
                os.unlink(path)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fresh = f"{path}.{os.getpid()}"
            with open(fresh, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            os.rename(fresh, path)
    except PermissionError as exc:
        hint = "run it as root: sudo minifo install-helpers --systemd"
        raise StateError(f"you may not write {os.path.dirname(path)}", hint) from exc


def next_steps(*, removed: bool) -> list[str]:
    """Return what the user has to do, a line each."""
    lines = ["systemd reads them after: systemctl daemon-reload"]
    if not removed and not any(os.access(os.path.join(place, "minifo"), os.X_OK) for place in _PROGRAMS):
        lines.append(f"the units call minifo, which is in none of {', '.join(_PROGRAMS)}: link it there")
    return lines

"""Puts files of minifo where other programs look for them, and removes them again, but no file of others."""

from __future__ import annotations

import os

from ..engine.errors import StateError

#: One of the first lines of each of our files begins with it; a file without is somebody else's.
MARK = b"# minifo: "
#: What a package of a distribution has in its place, so that its files are left to the package manager.
PACKAGED = b"# minifo, of a package: "
_MARKED = 3  # lines that are looked at: a script begins with its interpreter


def plan(files: dict[str, bytes], what: str, *, remove: bool) -> dict[str, bytes | None]:
    """Return what to do so that our files are there, or none of them is.

    Args:
        files: the content of each file, by its path.
        what: what they are, for the message: ``unit``.
        remove: whether to remove them.

    Returns:
        For each path its new content, or None to remove it; empty if nothing is to be done.

    Raises:
        StateError: a file that is not ours, or that a package brought, has the path of one.
        OSError: a file cannot be read.
    """
    steps: dict[str, bytes | None] = {}
    for path, content in sorted(files.items()):
        found = _content(path)
        if found is not None and not _has_mark(found, MARK):
            if remove:
                continue
            if _has_mark(found, PACKAGED):
                raise StateError(
                    f"{path} belongs to the minifo that a package of this system installed",
                    "use that minifo, or remove that package first",
                )
            raise StateError(f"{path} exists and is not a {what} of minifo", "move it away")
        wanted = None if remove else content
        if found != wanted:
            steps[path] = wanted
    return steps


def _has_mark(content: bytes, mark: bytes) -> bool:
    return any(line.startswith(mark) for line in content.split(b"\n")[:_MARKED])


def _content(path: str) -> bytes | None:
    """Return the content of a file, or None if there is none; empty if it is not a file."""
    if not os.path.lexists(path):
        return None
    if os.path.islink(path) or not os.path.isfile(path):
        return b""
    with open(path, "rb") as file:
        return file.read()


def apply(steps: dict[str, bytes | None], mode: int, option: str) -> None:
    """Do what ``plan`` has returned; each file is there as a whole or not at all.

    Args:
        steps: from ``plan``.
        mode: the permissions of the files.
        option: of ``minifo install-helpers``, for the message.

    Raises:
        StateError: the user may not write there.
        OSError: another system call failed.
    """
    path = ""
    try:
        for path, content in steps.items():
            if content is None:
                os.unlink(path)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            # a name that no program takes for one of its scripts, if the power goes before it is renamed
            fresh = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{os.getpid()}~"
            with open(fresh, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.rename(fresh, path)
    except PermissionError as exc:
        hint = f"run it as root: sudo minifo install-helpers {option}"
        raise StateError(f"you may not write {os.path.dirname(path)}", hint) from exc

"""How an import makes a storage: in a working directory within it, and moved up when it is complete.

NEW/.minifo-import/           minifo.db and content while they are built; a mount refuses NEW while this exists
NEW/content, NEW/minifo.db    moved up in this order; with the database the storage is complete
"""

from __future__ import annotations

import os

from ..engine import UsageError
from ..engine.store.database import DB_NAME
from .effects import Effects

LOST_FOUND = "lost+found"  # the only directory that a new file system has
_CONTENT = "content"


def make_target(effects: Effects, target: str) -> None:
    """Make the directory of a new storage, durably, or see that it is durable."""
    if os.path.isdir(target):
        effects.sync_all(target)  # a killed run may have made it, and it may not be durable yet
    else:
        effects.mkdir(target)
        effects.sync(os.path.dirname(os.path.abspath(target)))


def move_up(effects: Effects, new_storage: str, work: str) -> None:
    """Move a complete storage out of its working directory, and remove that."""
    for name in (_CONTENT, DB_NAME):
        if os.path.exists(os.path.join(work, name)):
            effects.rename(os.path.join(work, name), os.path.join(new_storage, name))
            effects.sync(new_storage)
    for name in os.listdir(work):
        effects.unlink(os.path.join(work, name))
    effects.rmdir(work)
    effects.sync(new_storage)


def check_empty(target: str) -> None:
    """Raise UsageError if a directory holds anything that a new file system does not."""
    foreign = sorted(set(os.listdir(target)) - {LOST_FOUND})
    if foreign:
        raise UsageError(f"{target} is not empty (it has {foreign[0]!r})", "give an empty directory")


def lies_in(path: str, directory: str) -> bool:
    """Return whether a path is a directory, or below it."""
    inner, outer = os.path.realpath(path), os.path.realpath(directory)
    return os.path.commonpath([inner, outer]) == outer

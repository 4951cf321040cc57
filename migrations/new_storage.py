"""How an import makes a storage: in a working directory within it, and moved up when it is complete.

NEW/.minifo-import/           minifo.db and content while they are built; a mount refuses NEW while this exists
NEW/content, NEW/minifo.db    moved up in this order; with the database the storage is complete
"""

from __future__ import annotations

import json
import os

from ..engine import StateError, UsageError
from ..engine.store.database import DB_NAME
from .effects import Effects, read_json

LOST_FOUND = "lost+found"  # the only directory that a new file system has
_CONTENT = "content"
_COMPLETE = "complete"  # in the working directory: what was made, once it is complete


def make_target(effects: Effects, target: str) -> None:
    """Make the directory of a new storage, durably, or see that it is durable."""
    if os.path.isdir(target):
        effects.sync_all(target)  # a killed run may have made it, and it may not be durable yet
    else:
        effects.mkdir(target)
        effects.sync(os.path.dirname(os.path.abspath(target)))


def mark_complete(effects: Effects, work: str, facts: list[object]) -> None:
    """Note durably that a working directory has a complete storage.

    Args:
        effects: does the system calls.
        work: the directory.
        facts: what must be the same for another run to be the same.
    """
    effects.write_durably(os.path.join(work, _COMPLETE), json.dumps(facts))
    effects.sync(work)


def finish_earlier(effects: Effects, target: str, work: str, facts: list[object]) -> bool:
    """Move up what an earlier run of the same command has completed, or remove what it had begun.

    Returns:
        Whether the storage is there now.

    Raises:
        StateError: another command had completed one.
    """
    if not os.path.isdir(work):
        return False
    effects.sync_all(target)  # the changes of a killed run may not be durable yet
    complete = os.path.join(work, _COMPLETE)
    if not os.path.exists(complete) and not os.path.exists(os.path.join(target, DB_NAME)):
        effects.remove_tree(work)
        effects.sync(target)
        return False
    if os.path.exists(complete) and read_json(complete) != json.loads(json.dumps(facts)):
        raise StateError(
            f"another import to {target} was interrupted at its end", f"give that again, or begin anew: rm -r {target}"
        )
    move_up(effects, target, work)
    return True


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

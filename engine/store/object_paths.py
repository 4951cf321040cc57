"""The paths of content objects in storage: a directory for each block of ids, and a file for each id.

A path also gives the id back, so a sweep needs no rows (store/content_objects.py).
"""

from __future__ import annotations

import re

from ..model import OBJECTS_END

ID_BLOCK = 1024  # ids in one directory, and the least that a commit reserves
# the names of a directory of objects, and of an object in it
_BLOCK_NAME = re.compile(r"0|[1-9a-f][0-9a-f]{0,12}")
_SLOT_NAME = re.compile(r"0|[1-9a-f][0-9a-f]{0,2}")


def object_directory(number: int) -> str:
    """Return the path in storage of the directory that an object is in, with all others of its block of ids."""
    return f"content/{number // ID_BLOCK:x}"


def object_name(number: int) -> str:
    """Return the path of an object in storage."""
    return f"{object_directory(number)}/{number % ID_BLOCK:x}"


def object_number(directory: str, name: str) -> int | None:
    """Return the id of the object at a path in storage; None if no object can be there.

    Args:
        directory: path of a directory in storage.
        name: a name in it.
    """
    block = directory.removeprefix("content/")
    if not _BLOCK_NAME.fullmatch(block) or not _SLOT_NAME.fullmatch(name):
        return None
    slot = int(name, 16)
    number = int(block, 16) * ID_BLOCK + slot
    return number if slot < ID_BLOCK and number < OBJECTS_END else None

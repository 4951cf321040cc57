"""What opening an overlay takes before there is one: the base, the checks on both directories, the first facts.

Nothing here changes anything on disk.
"""

from __future__ import annotations

import os
from typing import Any

from .errors import Corrupt, StateError, UsageError
from .store.base_view import BaseView
from .store.content_objects import ROOM
from .store.database import Database
from .store.storage import Storage
from .tree.base_match import base_mark
from .tree.nodes import choose_window
from .tree.row_checks import wrong_facts


def read_facts(db: Database, storage: Storage) -> dict[str, Any]:
    """The rows of the table ``overlay``.

    Raises:
        Corrupt: one that is needed is missing, or impossible.
    """
    facts: dict[str, Any] = dict(db.rows("SELECT key, value FROM overlay"))
    wrong = wrong_facts(facts)
    if not wrong and facts["next_ino"] < facts["window"]:
        wrong = ["next_ino"]
    if wrong:
        what = f"its {wrong[0]} is {facts[wrong[0]]!r:.100}" if wrong[0] in facts else f"it lacks the fact {wrong[0]}"
        raise Corrupt(f"{storage.database} is damaged ({what})", f"run: minifo-fsck {storage.path}")
    return facts


def open_base(path: str, clone: bool) -> BaseView:
    """Open the base view, and see that it can be read.

    Raises:
        StateError: it is missing, not a directory or unreadable.
    """
    try:
        view = BaseView(path, clone=clone)
    except FileNotFoundError as error:
        raise StateError(f"base {path} does not exist", "name an existing directory as base=") from error
    except NotADirectoryError as error:
        raise StateError(f"base {path} is not a directory", "name an existing directory as base=") from error
    except OSError as error:
        raise StateError(f"base {path} cannot be opened ({error.strerror})", "check its permissions") from error
    try:
        view.names(b"/")
    except OSError as error:
        view.close()
        raise StateError(f"base {path} cannot be read ({error.strerror})", "check its permissions") from error
    return view


def check_nesting(base: str, storage: Storage) -> None:
    """Refuse a base that lies inside storage.

    Raises:
        UsageError: it does.
    """
    directory = os.path.realpath(base)
    while True:
        st = os.stat(directory)
        if (st.st_dev, st.st_ino) == storage.identity:
            raise UsageError(f"base {base} is inside storage {storage.path}", "give storage a directory of its own")
        if directory == "/":
            return
        directory = os.path.dirname(directory)


def has_odd_bytes(path: str) -> bool:
    """True for a path with bytes that are not UTF-8."""
    return any("\ud800" <= char <= "\udfff" for char in path)


def hide_storage(base: str, view: BaseView, storage: Storage) -> None:
    """Keep storage out of sight where it lies inside the base."""
    relative = os.path.relpath(storage.path, os.path.realpath(base))
    if relative != ".." and not relative.startswith("../"):
        view.hide(b"/" + os.fsencode(relative), storage.identity)


def first_facts(view: BaseView) -> dict[str, int | str | bytes]:
    """The first rows of the table ``overlay`` for a new storage over this base."""
    import uuid  # here, for most mounts find an overlay

    window = choose_window(view.root_stat, view.statvfs().f_files)
    return {
        "uuid": str(uuid.uuid4()),
        "window": window[0],
        "window_end": window[1],
        "next_ino": window[0],
        "next_object": 1,
        "object_limit": 1 + 2 * ROOM,
        "commit_token": 0,
        "base": "",
        "base_mark": base_mark(view),
    }

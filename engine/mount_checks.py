"""The checks and the data that ``Overlay.open`` needs to make an overlay: base, nesting, facts, root directory.

These functions change nothing on disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Any

from .errors import Corrupt, FsError, StateError, UsageError
from .model import ROOT
from .store.base_view import BaseView
from .store.database import Database
from .store.object_paths import ID_BLOCK
from .store.storage import Storage
from .tree.base_match import base_mark
from .tree.inode_rows import Row
from .tree.nodes import choose_window
from .tree.row_checks import path_of, row_of, wrong_facts


def read_facts(db: Database, storage: Storage) -> dict[str, Any]:
    """Return the rows of the table ``overlay`` by key.

    Args:
        db: the overlay's database.
        storage: its storage directory, for the message.

    Raises:
        Corrupt: a required row is missing, or its value is impossible.
    """
    facts: dict[str, Any] = dict(db.rows("SELECT key, value FROM overlay"))
    wrong = wrong_facts(facts)
    if not wrong and facts["next_ino"] < facts["window"]:
        wrong = ["next_ino"]
    if wrong:
        key = wrong[0]
        reason = f"its {key} is {facts[key]!r:.100}" if key in facts else f"its table overlay has no {key}"
        raise Corrupt(f"{storage.database} is damaged ({reason})", f"run: minifo-fsck {storage.path}")
    return facts


def check_root(db: Database, storage: Storage) -> None:
    """Refuse an overlay whose root directory cannot be used: nothing in it could be reached, nor the mount looked at.

    Args:
        db: the overlay's database.
        storage: its storage directory, for the message.

    Raises:
        Corrupt: the root's row of ``inode`` or ``origin`` is damaged, or says that it is not a directory.
    """
    reason = ""
    try:
        values = db.row(f"SELECT {', '.join(Row._fields)} FROM inode WHERE ino = ?", (ROOT,))
        if values is not None and not stat.S_ISDIR(row_of(values).mode):
            reason = "its root is not a directory"
        for (path,) in db.rows("SELECT path FROM origin WHERE ino = ?", (ROOT,)):
            path_of(ROOT, path)
    except FsError as error:
        reason = str(error.filename)
    if reason:
        raise Corrupt(f"{storage.database} is damaged ({reason})", f"run: minifo-fsck {storage.path}")


def open_base(path: str, clone: bool) -> BaseView:
    """Open the base view, and check that the base can be read.

    Args:
        path: the base directory.
        clone: False to use no private mount clone (store/base_view.py).

    Raises:
        StateError: the base does not exist, is not a directory, or cannot be read.
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
    """Refuse a base that is inside the storage directory, or is that directory.

    Raises:
        UsageError: it is.
    """
    directory = os.path.realpath(base)
    while True:
        st = os.stat(directory)
        if (st.st_dev, st.st_ino) == storage.identity:
            raise UsageError(f"base {base} is inside storage {storage.path}", "choose another storage directory")
        if directory == "/":
            return
        directory = os.path.dirname(directory)


def has_odd_bytes(path: str) -> bool:
    """Return whether a path has bytes that are not valid UTF-8 (surrogates, PEP 383)."""
    return any("\ud800" <= char <= "\udfff" for char in path)


def hide_storage(base: str, view: BaseView, storage: Storage, others: Iterable[str] = ()) -> None:
    """Hide the storage directory from the base view, if it is inside the base, and other directories.

    Raises:
        OSError: one of *others* does not exist.
    """
    identities = {storage.path: storage.identity}
    for other in others:
        st = os.stat(other)
        identities[os.path.realpath(other)] = st.st_dev, st.st_ino
    for path, identity in identities.items():
        relative = os.path.relpath(path, os.path.realpath(base))
        if relative != ".." and not relative.startswith("../"):
            view.hide(b"/" + os.fsencode(relative), identity)


def first_facts(view: BaseView) -> dict[str, int | str | bytes]:
    """Return the first rows of the table ``overlay``, key and value, for a new storage over this base."""
    import uuid  # imported here, because most mounts find an existing overlay

    window = choose_window(view.root_stat, view.statvfs().f_files)
    return {
        "uuid": str(uuid.uuid4()),
        "window": window[0],
        "window_end": window[1],
        "next_ino": window[0],
        "next_object": 1,
        "object_limit": 1 + 2 * ID_BLOCK,
        "commit_token": 0,
        "base": "",
        "base_mark": base_mark(view),
    }

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
from .store.layered_view import open_view
from .store.layers import layers_of, missing_layer
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
        path: the base directory, or the text of several layers (store/layers.py).
        clone: False to use no private mount clone (store/base_view.py).

    Raises:
        StateError: the base does not exist, is not a directory, or cannot be read.
    """
    _check_layers(path)
    try:
        view = open_view(path, clone=clone)
    except FileNotFoundError as error:
        raise StateError(f"base {missing_layer(path)} does not exist", "name an existing directory as base=") from error
    except NotADirectoryError as error:
        hint = "name an existing directory as base="
        raise StateError(f"base {missing_layer(path)} is not a directory", hint) from error
    except OSError as error:
        raise StateError(f"base {path} cannot be opened ({error.strerror})", "check its permissions") from error
    try:
        view.names(b"/")
    except OSError as error:
        view.close()
        raise StateError(f"base {path} cannot be read ({error.strerror})", "check its permissions") from error
    return view


def _check_layers(base: str) -> None:
    """Refuse layers of which one is inside another: its objects would have two paths, and a directory must not.

    Raises:
        UsageError: two layers are the same, or one is inside another.
    """
    layers = layers_of(base)
    if len(layers) == 1:
        return
    known: dict[tuple[int, int], str] = {}
    for layer in filter(os.path.isdir, layers):
        first = known.setdefault(_identity(layer), layer)
        if first is not layer:
            raise UsageError(f"layers {first} and {layer} are the same directory", "name it once")
    for layer in layers:
        for directory in _above(layer):
            outer = known.get(_identity(directory))
            if outer is not None and outer != layer:
                raise UsageError(f"layer {layer} is inside layer {outer}", "layers must not lie in each other")


def _identity(path: str) -> tuple[int, int]:
    st = os.stat(path)
    return st.st_dev, st.st_ino


def _above(path: str) -> list[str]:
    """Return the directories that a path lies in, by its true path; none where that does not lead to it.

    A path through a descriptor leads to a directory that a mount may cover, or to one of a mount without a place.
    """
    real = os.path.realpath(path)
    if not os.path.isdir(real) or _identity(real) != _identity(path):
        return []
    found = []
    while real != "/":
        real = os.path.dirname(real)
        found.append(real)
    return found


def check_nesting(base: str, storage: Storage) -> None:
    """Refuse a base that is inside the storage directory, or is that directory.

    Raises:
        UsageError: it is.
    """
    for layer in layers_of(base):
        for directory in (layer, *_above(layer)):
            if _identity(directory) == storage.identity:
                raise UsageError(f"base {layer} is inside storage {storage.path}", "choose another storage directory")


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
        for layer in layers_of(base):
            relative = os.path.relpath(path, os.path.realpath(layer))
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

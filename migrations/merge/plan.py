"""The plan of a merge: how a base becomes what its overlay shows, as operations that may each be done twice.

Everything happens in four phases, and by renames within the base's file system:

    stage    new content, and links to base files that get another name, are made in a directory of their own
    lift     every base object that does not show at its place any more moves there, the deepest first
    place    directories, staged files and lifted directories move to where they show, the outermost first
    dress    owners, modes, extended attributes and times

Lifting before placing is what makes swaps and chains of renames come out right.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Any, NamedTuple

from ...engine import Overlay
from ...engine.errors import Corrupt
from ...engine.lists import Lists
from ...engine.model import ROOT, Attr, Ino, is_known_xattr
from ...engine.store.base_view import join
from ...engine.tree.path_resolver import is_base_path
from ..copying import stat_or_none


class Staged(NamedTuple):
    """One file made while staging: its name there, the inode that gives attributes and content, or a base file."""

    name: str
    ino: int
    link: bytes | None = None  # base path of the file to link instead
    same: str | None = None  # staged before, to link instead


class Operation(NamedTuple):
    """One operation of the journal.

    Attributes:
        kind: ``lift`` path to name; ``mkdir`` path; ``place`` name at path; ``overwrite`` the bytes of path's file
            (staged as ``name``) with those staged as ``source``; ``dress`` path, or what is staged as ``name``.
        path: in the base as it will be; of a lift, as it was.
        name: in the staging directory.
        source: see ``overwrite``.
        attributes: of ``dress``: mode, uid, gid, atime, mtime.
        xattrs: of ``dress``: all extended attributes, or None to leave them as they are.
    """

    kind: str
    path: bytes
    name: str = ""
    source: str = ""
    attributes: tuple[int, ...] = ()
    xattrs: dict[bytes, bytes] | None = None


class Change(NamedTuple):
    """One line of the plan as people read it: A, D, M, R or m (attributes only), the path, the old one of a rename."""

    letter: str
    path: bytes
    old: bytes | None = None


class MergePlan:
    """What a merge does.

    Args:
        overlay: open, only read.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._ov = overlay
        self._lists = Lists(overlay)
        self.staged: list[Staged] = []
        self.lifts: list[Operation] = []
        self.places: list[Operation] = []
        self.dresses: list[Operation] = []
        self.changes: list[Change] = []
        self.directories: list[bytes] = []  # base directories that are worked in
        self._lifted: dict[bytes, str] = {}
        self._files: dict[int, str] = {}
        self._overwritten: set[int] = set()
        self._seen: set[int] = set()
        self._walk()
        self._unseen()
        self.lifts.sort(key=lambda operation: -operation.path.count(b"/"))
        self.places.sort(key=lambda operation: operation.path.count(b"/"))
        self.dresses.reverse()

    def _walk(self) -> None:
        pending: list[tuple[Attr, bytes, bytes | None]] = [(self._ov.getattr(ROOT), b"/", b"/")]
        while pending:
            attr, path, base = pending.pop()
            self._dress(path, attr, base)
            if base is not None:
                self._hide(attr.ino, base, path)
            pending += reversed(self._children(attr, path, base))

    def _hide(self, ino: int, base: bytes, path: bytes) -> None:
        self.directories.append(base)
        for name in self._lists.deleted(ino):
            old = join(base, name)
            if stat_or_none(self._ov.base, old) is None:
                continue
            self._lift(old)
            if self._ov.lookup(Ino(ino), name) is None and not self._lists.is_renamed(old):
                self.changes.append(Change("D", join(path, name)))

    def _lift(self, path: bytes) -> str:
        name = self._lifted.get(path)
        if name is None:
            name = self._lifted[path] = f"lifted-{len(self._lifted)}"
            self.lifts.append(Operation("lift", path, name))
        return name

    def _children(self, attr: Attr, path: bytes, base: bytes | None) -> list[tuple[Attr, bytes, bytes | None]]:
        created, renamed = self._lists.created(attr.ino), self._lists.renamed(attr.ino)
        below: list[tuple[Attr, bytes, bytes | None]] = []
        for entry in sorted(self._ov.readdir(Ino(attr.ino)), key=lambda entry: entry.name):
            if entry.name in (b".", b".."):
                continue
            place, found = join(path, entry.name), entry.attr
            origin = self._lists.origin(found.ino)
            listed = entry.name in created or entry.name in renamed
            if not stat.S_ISDIR(found.mode):
                self._file(found, place, listed, origin, entry.name in renamed)
            elif entry.name in created:
                self.places.append(Operation("mkdir", place))
                self.changes.append(Change("A", place))
                below.append((found, place, None))
            elif entry.name in renamed:
                assert origin is not None
                self.places.append(Operation("place", place, self._lift(origin)))
                self.changes.append(Change("R", place, origin))
                below.append((found, place, origin))
            elif self._lists.may_differ(found.ino):
                below.append((found, place, origin))
        return below

    # -- files

    def _file(self, attr: Attr, place: bytes, listed: bool, base: bytes | None, renamed: bool) -> None:
        if base is None:
            self._stage_new(attr, place)
            return
        self._seen.add(attr.ino)
        content = self._lists.modified(attr.ino)
        st = stat_or_none(self._ov.base, base)
        if st is None:
            return  # the base has lost it; there is nothing to show
        alone = st.st_nlink == 1 and attr.nlink == 1
        if listed:
            self.changes.append(Change("R", place, base) if renamed else Change("A", place))
        elif content is not None:
            self.changes.append(Change("M" if content else "m", place))
        if content and alone:
            # a whole new file takes the place at once
            name = self._stage(Staged(f"file-{len(self.staged)}", attr.ino))
            self.places.append(Operation("place", place, name))
            return
        if listed:
            name = self._stage(Staged(f"link-{len(self.staged)}", attr.ino, link=base))
            self.places.append(Operation("place", place, name))
        if content and attr.ino not in self._overwritten:
            self._overwritten.add(attr.ino)
            target = self._stage(Staged(f"link-{len(self.staged)}", attr.ino, link=base))
            source = self._stage(Staged(f"file-{len(self.staged)}", attr.ino))
            self.places.append(Operation("overwrite", place, target, source))
        if content is not None:
            self._dress(place, attr, base)

    def _unseen(self) -> None:
        """Changed base files of which only names in untouched directories are left."""
        for ino, path, content, nlink in self._lists.modified_files():
            if nlink == 0 or ino in self._seen or stat_or_none(self._ov.base, path) is None:
                continue
            attr = self._ov.getattr(ino)
            target = self._stage(Staged(f"link-{len(self.staged)}", ino, link=path))
            if content:
                source = self._stage(Staged(f"file-{len(self.staged)}", ino))
                self.places.append(Operation("overwrite", path, target, source))
            self.changes.append(Change("M" if content else "m", path))
            self._dress(path, attr, path, target)

    def _stage_new(self, attr: Attr, place: bytes) -> None:
        first = self._files.get(attr.ino)
        name = self._stage(Staged(f"file-{len(self.staged)}", attr.ino, same=first))
        self._files.setdefault(attr.ino, name)
        self.places.append(Operation("place", place, name))
        self.changes.append(Change("A", place))

    def _stage(self, staged: Staged) -> str:
        self.staged.append(staged)
        return staged.name

    # -- attributes

    def _dress(self, path: bytes, attr: Attr, base: bytes | None, name: str = "") -> None:
        # a directory without a row has its own times, which placing a file in it moves
        xattrs = None
        if self._lists.owns_xattrs(attr.ino):
            names = self._ov.listxattr(Ino(attr.ino))
            xattrs = {name: self._ov.getxattr(Ino(attr.ino), name) for name in names}
        values = (attr.mode, attr.uid, attr.gid, attr.atime, attr.mtime)
        self.dresses.append(Operation("dress", path, name, attributes=values, xattrs=xattrs))
        if base is not None and self._lists.modified(attr.ino) is not None and stat.S_ISDIR(attr.mode):
            self.changes.append(Change("m", path))

    # -- as JSON, every byte of a path by one character

    def journal(self) -> list[dict[str, Any]]:
        """The operations, in order."""
        return [encode(operation) for operation in (*self.lifts, *self.places, *self.dresses)]


def encode(operation: Operation) -> dict[str, Any]:
    """An operation as JSON takes it."""
    found: dict[str, Any] = {"kind": operation.kind, "path": operation.path.decode("latin-1"), "name": operation.name}
    found |= {"source": operation.source, "attributes": list(operation.attributes), "xattrs": None}
    if operation.xattrs is not None:
        found["xattrs"] = {k.decode("latin-1"): v.decode("latin-1") for k, v in operation.xattrs.items()}
    return found


_KINDS = frozenset({"lift", "mkdir", "place", "overwrite", "dress"})
_STAGED = re.compile(r"(lifted|file|link)-\d{1,18}")


def decode_journal(found: Any, where: str) -> tuple[str, tuple[int, int], list[Operation]]:
    """Base, times of the base's root, and operations of a journal; as one that we wrote could say, or not at all.

    Args:
        found: the JSON.
        where: the journal's path, for messages.

    Raises:
        Corrupt: naming the operation.
    """
    hint = "look at it by hand; nothing was changed"
    try:
        base, (atime, mtime), operations = found["base"], found["times"], found["operations"]
        os.fsencode(base)
        is_sound = os.path.isabs(base) and all(type(time) is int and abs(time) < 1 << 63 for time in (atime, mtime))
        count = len(operations) if isinstance(operations, list) else -1
    except (KeyError, TypeError, ValueError):
        is_sound, count = False, -1
    if not is_sound or count < 0:
        raise Corrupt(f"{where} is damaged", hint)
    decoded = []
    for number, operation in enumerate(operations):
        try:
            decoded.append(_decode(operation))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Corrupt(f"{where} is damaged at operation {number}", hint) from error
        if not _is_possible(decoded[-1]):
            raise Corrupt(f"{where} says what cannot be, at operation {number}", hint)
    return base, (atime, mtime), decoded


def _is_possible(operation: Operation) -> bool:
    """True for what ``MergePlan`` could ask for."""
    kind, names = operation.kind, (operation.name, operation.source)
    wanted = {"mkdir": (), "overwrite": names}.get(kind, names[:1])
    if kind not in _KINDS or not is_base_path(operation.path) or (operation.path == b"/" and kind != "dress"):
        return False
    if kind == "dress" and operation.name == "":
        wanted = ()
    if not all(isinstance(name, str) and _STAGED.fullmatch(name) for name in wanted):
        return False
    if kind != "dress":
        return True
    if len(operation.attributes) != 5 or not all(type(value) is int for value in operation.attributes):
        return False
    mode, *ids, atime, mtime = operation.attributes
    if not 0 <= mode <= 0xFFFF or not all(0 <= number < 0xFFFF_FFFF for number in ids):
        return False
    if not all(abs(time) < 1 << 63 for time in (atime, mtime)):
        return False
    return all(is_known_xattr(name) and b"\0" not in name for name in operation.xattrs or ())


def _decode(found: dict[str, Any]) -> Operation:
    """What ``encode`` made, back again."""
    xattrs = found["xattrs"]
    if xattrs is not None:
        xattrs = {k.encode("latin-1"): v.encode("latin-1") for k, v in xattrs.items()}
    return Operation(
        found["kind"],
        found["path"].encode("latin-1"),
        found["name"],
        found["source"],
        tuple(found["attributes"]),
        xattrs,
    )

"""The plan of a merge: operations that turn a base into the tree that its overlay shows; each can be repeated.

There are four phases.  Objects move only by renames within the base's file system:

    stage    make new files, and hard links to base files that get another name, in the staging directory
    lift     move every base object that no longer shows at its path to the staging directory, the deepest first
    place    make directories, and move staged files and lifted directories to their paths, the outermost first
    dress    set owners, modes, extended attributes and times

All lifts come before all places, so that objects can swap their names, also in longer chains of renames.  The journal
in storage contains these words, so they are part of the format.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Any, NamedTuple

from ...engine import Overlay
from ...engine.errors import Corrupt
from ...engine.model import ROOT, Attr, Ino, is_known_xattr
from ...engine.queries.four_lists import FourLists
from ...engine.store.base_view import join
from ...engine.tree.path_resolver import is_base_path
from ..copying import stat_or_none


class Staged(NamedTuple):
    """One file to make in the staging directory.

    Attributes:
        name: its name there.
        ino: the inode of the overlay with its attributes and content.
        link: the base path of a file to link instead of making a new one; else None.
        same: the name of a staged file to link instead of making a new one; else None.
    """

    name: str
    ino: int
    link: bytes | None = None
    same: str | None = None


class Operation(NamedTuple):
    """One operation of the journal.

    Attributes:
        kind: ``lift``: move *path* to the staged *name*; ``mkdir``: make the directory *path*; ``place``: move the
            staged *name* to *path*; ``overwrite``: copy the bytes of the staged *source* into the file *path*, which
            is staged as *name*; ``dress``: set attributes of *path*, or of the staged *name* if it is not empty.
        path: a base path after the merge; for ``lift`` one before the merge.
        name: a name in the staging directory.
        source: a name in the staging directory, for ``overwrite``.
        attributes: for ``dress``: mode, uid, gid, atime and mtime (ns).
        xattrs: for ``dress``: all extended attributes, or None to leave them as they are.
    """

    kind: str
    path: bytes
    name: str = ""
    source: str = ""
    attributes: tuple[int, ...] = ()
    xattrs: dict[bytes, bytes] | None = None


class Change(NamedTuple):
    """One line of the plan for the user.

    Attributes:
        letter: A added, D deleted, M content changed, m only attributes changed, R renamed.
        path: the path in the merged view.
        old: the old path of a rename; else None.
        size: bytes of a file that are written to the base.
    """

    letter: str
    path: bytes
    old: bytes | None = None
    size: int = 0


class MergePlan:
    """The staged files, operations and changes of a merge.

    Args:
        overlay: the open overlay; it is only read.

    Attributes:
        staged: the files to make in the staging directory, in order.
        lifts: operations of the phase ``lift``, in order.
        places: operations of the phase ``place``, in order.
        dresses: operations of the phase ``dress``, in order.
        changes: the lines of the plan for the user.
        directories: base directories whose entries the merge changes.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._ov = overlay
        self._lists = FourLists(overlay)
        self.staged: list[Staged] = []
        self.lifts: list[Operation] = []
        self.places: list[Operation] = []
        self.dresses: list[Operation] = []
        self.changes: list[Change] = []
        self.directories: list[bytes] = []
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
                self._lift_hidden(attr.ino, base, path)
            pending += reversed(self._children(attr, path, base))

    def _lift_hidden(self, ino: int, base: bytes, path: bytes) -> None:
        """Add a lift for each base object that a whiteout in this directory hides."""
        self.directories.append(base)
        for name in self._lists.deleted(ino):
            old = join(base, name)
            if stat_or_none(self._ov.base, old) is None:
                continue
            self._lift(old)
            if self._ov.lookup(Ino(ino), name) is None and not self._lists.is_renamed(old):
                self.changes.append(Change("D", join(path, name)))

    def _lift(self, path: bytes) -> str:
        """Add a lift of a base path unless there is one, and return its name in the staging directory."""
        name = self._lifted.get(path)
        if name is None:
            name = self._lifted[path] = f"lifted-{len(self._lifted)}"
            self.lifts.append(Operation("lift", path, name))
        return name

    def _children(self, attr: Attr, path: bytes, base: bytes | None) -> list[tuple[Attr, bytes, bytes | None]]:
        """Add the operations for the entries of a directory; return the subdirectories to visit."""
        created, renamed = self._lists.created(attr.ino), self._lists.renamed(attr.ino)
        below: list[tuple[Attr, bytes, bytes | None]] = []
        for entry in sorted(self._ov.readdir(Ino(attr.ino)), key=lambda entry: entry.name):
            if entry.name in (b".", b".."):
                continue
            child_path, found = join(path, entry.name), entry.attr
            origin = self._lists.origin(found.ino)
            listed = entry.name in created or entry.name in renamed
            if not stat.S_ISDIR(found.mode):
                self._file(found, child_path, listed, origin, entry.name in renamed)
            elif entry.name in created:
                self.places.append(Operation("mkdir", child_path))
                self.changes.append(Change("A", child_path))
                below.append((found, child_path, None))
            elif entry.name in renamed:
                assert origin is not None
                self.places.append(Operation("place", child_path, self._lift(origin)))
                self.changes.append(Change("R", child_path, origin))
                below.append((found, child_path, origin))
            elif self._lists.may_differ(found.ino):
                below.append((found, child_path, origin))
        return below

    # -- files

    def _file(self, attr: Attr, path: bytes, listed: bool, base: bytes | None, renamed: bool) -> None:
        """Add the operations for one name of an object that is not a directory."""
        if base is None:
            self._stage_new(attr, path)
            return
        self._seen.add(attr.ino)
        content = self._lists.modified(attr.ino)
        st = stat_or_none(self._ov.base, base)
        if st is None:
            return  # the base no longer has the file, so the overlay does not show it
        alone = st.st_nlink == 1 and attr.nlink == 1
        if listed:
            self.changes.append(Change("R", path, base) if renamed else Change("A", path))
        elif content is not None:
            self.changes.append(Change("M", path, size=attr.size) if content else Change("m", path))
        if content and alone:
            # the file has one name: a complete new file replaces it by a rename
            name = self._stage(Staged(f"file-{len(self.staged)}", attr.ino))
            self.places.append(Operation("place", path, name))
            return
        if listed:
            name = self._stage(Staged(f"link-{len(self.staged)}", attr.ino, link=base))
            self.places.append(Operation("place", path, name))
        if content and attr.ino not in self._overwritten:
            self._overwritten.add(attr.ino)
            target = self._stage(Staged(f"link-{len(self.staged)}", attr.ino, link=base))
            source = self._stage(Staged(f"file-{len(self.staged)}", attr.ino))
            self.places.append(Operation("overwrite", path, target, source))
        if content is not None:
            self._dress(path, attr, base)

    def _unseen(self) -> None:
        """Add operations for changed base files that have names only in directories without overlay state."""
        for ino, path, content, nlink in self._lists.modified_files():
            if nlink == 0 or ino in self._seen or stat_or_none(self._ov.base, path) is None:
                continue
            attr = self._ov.getattr(ino)
            target = self._stage(Staged(f"link-{len(self.staged)}", ino, link=path))
            if content:
                source = self._stage(Staged(f"file-{len(self.staged)}", ino))
                self.places.append(Operation("overwrite", path, target, source))
            self.changes.append(Change("M", path, size=attr.size) if content else Change("m", path))
            self._dress(path, attr, path, target)

    def _stage_new(self, attr: Attr, path: bytes) -> None:
        """Add the operations that create an object of the overlay at a path."""
        first = self._files.get(attr.ino)
        name = self._stage(Staged(f"file-{len(self.staged)}", attr.ino, same=first))
        self._files.setdefault(attr.ino, name)
        self.places.append(Operation("place", path, name))
        is_new = first is None and stat.S_ISREG(attr.mode)
        self.changes.append(Change("A", path, size=attr.size if is_new else 0))

    def _stage(self, staged: Staged) -> str:
        """Add a file to stage, and return its name."""
        self.staged.append(staged)
        return staged.name

    # -- attributes

    def _dress(self, path: bytes, attr: Attr, base: bytes | None, name: str = "") -> None:
        """Add the operation that sets the attributes of a path, or of the staged *name*."""
        # also for a directory without a row: placing a file in it changes its times, which must be set back
        xattrs = None
        if self._lists.owns_xattrs(attr.ino):
            names = self._ov.listxattr(Ino(attr.ino))
            xattrs = {name: self._ov.getxattr(Ino(attr.ino), name) for name in names}
        values = (attr.mode, attr.uid, attr.gid, attr.atime, attr.mtime)
        self.dresses.append(Operation("dress", path, name, attributes=values, xattrs=xattrs))
        if base is not None and self._lists.modified(attr.ino) is not None and stat.S_ISDIR(attr.mode):
            self.changes.append(Change("m", path))

    # -- the journal: JSON, in which each byte of a path is one character (latin-1)

    def journal(self) -> list[dict[str, Any]]:
        """Return all operations in order, as JSON values."""
        return [encode(operation) for operation in (*self.lifts, *self.places, *self.dresses)]


def encode(operation: Operation) -> dict[str, Any]:
    """Return an operation as a JSON value."""
    found: dict[str, Any] = {"kind": operation.kind, "path": operation.path.decode("latin-1"), "name": operation.name}
    found |= {"source": operation.source, "attributes": list(operation.attributes), "xattrs": None}
    if operation.xattrs is not None:
        found["xattrs"] = {k.decode("latin-1"): v.decode("latin-1") for k, v in operation.xattrs.items()}
    return found


_KINDS = frozenset({"lift", "mkdir", "place", "overwrite", "dress"})
_STAGED = re.compile(r"(lifted|file|link)-\d{1,18}")


def decode_journal(found: Any, where: str) -> tuple[str, tuple[int, int], list[Operation]]:
    """Check the JSON value of a journal and return its content.

    Args:
        found: the JSON value; it may come from an untrusted storage.
        where: the journal's path, for messages.

    Returns:
        The base, the atime and mtime of the base's root (ns), and the operations.

    Raises:
        Corrupt: ``MergePlan`` cannot have written this value; the message names the operation.
    """
    hint = "inspect it by hand; nothing was changed"
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
            raise Corrupt(f"{where} is damaged: operation {number} is impossible", hint)
    return base, (atime, mtime), decoded


def _is_possible(operation: Operation) -> bool:
    """Return whether ``MergePlan`` can have written an operation."""
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
    """Return the operation of a JSON value that ``encode`` has made."""
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

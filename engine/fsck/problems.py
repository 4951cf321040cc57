"""The catalogue of problems that minifo-fsck can find: a stable code for each, its meaning and its repair in words.

A code never changes its meaning and is never used again for another problem.  E001 to E099 are the numbered invariants
of store/invariants.py; E1xx concerns the database file, E2xx rows that contradict each other, E3xx content, N4xx
leftovers that the next mount removes, W5xx differences to the base, which are no damage because a base may be
replaced, E6xx checkpoints.  The table in docs/fsck.md has the same texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Kind(NamedTuple):
    """One kind of problem.

    Attributes:
        code: the stable code, for scripts.
        severity: ``error``, ``warning`` or ``note`` (a note needs no repair).
        meaning: what is wrong, in a sentence.
        repair: what the repair does, in a sentence; empty if fsck cannot repair it.
        safe: True if the repair changes nothing that the user sees, except that lost objects appear in lost+found.
    """

    code: str
    severity: str
    meaning: str
    repair: str
    safe: bool


_TABLE = (
    # invariants
    (
        "E001",
        "error",
        "one name is both created and renamed; only the created one shows",
        "move the hidden one to lost+found",
        True,
    ),
    ("E002", "error", "a name is in a directory that does not exist", "move it to lost+found", True),
    (
        "E003",
        "error",
        "a name refers to an object that does not exist",
        "correct the link count, or remove the name if nothing of the object is left",
        False,
    ),
    (
        "E004",
        "error",
        "the base path of a renamed object is not recorded",
        "make it a created object with the content that is stored",
        False,
    ),
    ("E005", "error", "a renamed directory also shows at its old path", "hide its old path", True),
    (
        "E006",
        "error",
        "a whiteout is in a directory that has no base directory",
        "remove the whiteout: it hides nothing",
        True,
    ),
    (
        "E007",
        "error",
        "an object on the list of modified ones is not of the base, or has no attributes",
        "remove it from the list",
        True,
    ),
    ("E008", "error", "an object is neither created nor from the base", "make it a created object", False),
    (
        "E009",
        "error",
        "a created directory does not have exactly one name",
        "keep one name; without a name, move the directory to lost+found",
        True,
    ),
    (
        "E010",
        "error",
        "a link count is not the number of names",
        "correct it; without a name, move the file to lost+found",
        True,
    ),
    (
        "E011",
        "error",
        "the unlinked files and the files waiting to be deleted are not the same",
        "keep the file; without a name, move it to lost+found",
        True,
    ),
    (
        "E012",
        "error",
        "ranges of a file overlap, are empty, or lie past its end or in no file",
        "keep what shows now; move ranges without a file to lost+found",
        False,
    ),
    (
        "E013",
        "error",
        "a size is impossible, or an object that is not a file has content",
        "correct the size; move the content to lost+found",
        False,
    ),
    (
        "E014",
        "error",
        "a content object has two owners, or is about to be deleted although it has one",
        "give each owner its own copy",
        True,
    ),
    (
        "E015",
        "error",
        "an extended attribute is impossible, belongs to no object, or does not show",
        "show it if possible, else remove it",
        False,
    ),
    (
        "E016",
        "error",
        "a symlink has no valid target, or another object has a target",
        "give the symlink the target 'lost-target'; remove the target of the other object",
        False,
    ),
    ("E017", "error", "the root directory is not recorded as the root of the base", "record it again", True),
    ("E018", "error", "a directory cannot be reached", "move it to lost+found", True),
    (
        "E019",
        "error",
        "the bytes of a small file are missing, or bytes belong to no file",
        "mark the file as damaged; move bytes without a file to lost+found",
        False,
    ),
    (
        "E020",
        "error",
        "a digest is impossible, or of a content object that does not exist or that no checkpoint has frozen",
        "remove the digest",
        True,
    ),
    # the database
    (
        "E100",
        "error",
        "the database is missing",
        "rebuild it from the metadata backup (minifo.names) and the content objects",
        False,
    ),
    (
        "E101",
        "error",
        "the file minifo.db is not a database",
        "rebuild it from every row that can still be read",
        False,
    ),
    ("E102", "error", "pages of the database are damaged", "rebuild it from every row that can still be read", False),
    ("E103", "error", "the database's application id is wrong", "set it to that of minifo", True),
    ("E104", "error", "the database's format number is impossible", "set it to that of this minifo", True),
    (
        "E105",
        "error",
        "tables of the database are missing, or are not those of minifo",
        "rebuild it from every row that can still be read",
        False,
    ),
    # rows against each other
    ("E201", "error", "changes below a directory do not show because it is not marked", "mark it", True),
    ("E202", "error", "a created directory's link count is wrong", "correct it", True),
    ("E203", "error", "a name is impossible (empty, too long, or with a slash)", "move it to lost+found", False),
    (
        "E204",
        "error",
        "attributes have impossible values",
        "correct the type and the numbers as far as they are known",
        False,
    ),
    ("E205", "error", "a directory has two names", "keep the first one", False),
    ("E206", "error", "the extended attributes of a created object do not show", "show them", True),
    ("E207", "error", "a file with content in storage is not listed as modified", "add it to the list", True),
    ("E208", "error", "a counter would assign numbers that are in use", "advance it", True),
    (
        "E209",
        "error",
        "a value in the table overlay is missing or impossible",
        "derive it again from the other tables and the content objects",
        True,
    ),
    (
        "E210",
        "error",
        "an object of the base has no name, and its path in the base is hidden",
        "show it at that path again, or in lost+found if another object has the path",
        False,
    ),
    ("E211", "error", "an entry of the journal of changes is impossible", "remove it", True),
    ("E212", "error", "a keep-list is impossible", "remove it; a reset does not keep what it named", False),
    # content
    (
        "E301",
        "error",
        "a content object is missing: those bytes are lost",
        "let those bytes read as zeros, and mark the file",
        False,
    ),
    (
        "E302",
        "error",
        "a content object is too short: its end is lost",
        "let the end read as zeros, and mark the file",
        False,
    ),
    (
        "N303",
        "note",
        "a content object ends before its file does; the rest reads as zeros, as after a growing truncate",
        "",
        False,
    ),
    ("E304", "error", "no file refers to a content object", "make a file for it in lost+found", True),
    ("E305", "error", "a content object cannot be read", "", False),
    ("W306", "warning", "an entry of content/ is not a content object", "move it to lost+found in storage", True),
    (
        "E307",
        "error",
        "bytes of a content object have changed since a checkpoint froze it: the medium does not keep them",
        "",
        False,
    ),
    # leftovers
    ("N401", "note", "files that were deleted while open; the next mount removes them", "", False),
    ("N402", "note", "content objects waiting to be deleted; the next mount removes them", "", False),
    ("N403", "note", "content objects that no commit refers to; the next mount removes them", "", False),
    (
        "N404",
        "note",
        "the redo log holds the last operations of a killed daemon; the next mount replays them",
        "",
        False,
    ),
    (
        "E405",
        "error",
        "the redo log of a killed daemon cannot be replayed: content that it needs is missing",
        "rename the redo log, so that mounts ignore it; its operations are lost",
        False,
    ),
    # checkpoints
    ("E601", "error", "a value in the row of a checkpoint is impossible", "correct it", True),
    (
        "E602",
        "error",
        "rows of the history belong to no checkpoint",
        "give them to the checkpoint before it, or remove them if there is none",
        True,
    ),
    (
        "E603",
        "error",
        "a row of the history is impossible",
        "remove it: the checkpoint shows what came later",
        False,
    ),
    (
        "E604",
        "error",
        "a content object belongs to one file here, and to another one in a checkpoint",
        "give each its own copy",
        True,
    ),
    (
        "E605",
        "error",
        "what a checkpoint holds has problems",
        "repair it like the overlay itself",
        False,
    ),
    (
        "E606",
        "error",
        "a checkpoint is damaged and cannot be repaired",
        "delete the checkpoint, with the content that only it needs",
        False,
    ),
    # the base: a change there is a note and needs no repair, whatever letter its code has
    ("W501", "note", "the base no longer has this object", "", False),
    ("W502", "note", "the base has an object of another type here", "", False),
    ("W503", "note", "the base's file changed after it was modified here", "", False),
    ("W504", "note", "the base no longer has the name that a whiteout hides", "", False),
    ("N505", "note", "this is not the base of the last mount; the next mount looks for its objects by path", "", False),
    ("W506", "note", "the base has this object under another inode number", "", False),
    ("W507", "note", "the base's object cannot be read", "", False),
)

KINDS = {row[0]: Kind(*row) for row in _TABLE}

#: Codes of problems that are repaired by a new database only (fsck/rebuild.py).
NEEDS_REBUILD = frozenset({"E100", "E101", "E102", "E105"})

#: Codes of problems that the check of all data finds, which nothing repairs.
OF_DATA = frozenset({"E305", "E307"})


@dataclass(frozen=True)
class Problem:
    """One problem in a storage.

    Attributes:
        code: its kind, a key of ``KINDS``.
        path: the object concerned: its path in the merged view, or a text such as ``<object 17>`` if that is unknown.
        detail: the values that are wrong, for messages.
        key: the arguments of the repair, usually the columns that identify the row concerned.
        safe: whether the repair of this problem is safe; None if ``kind.safe`` says it.
    """

    code: str
    path: bytes
    detail: str = ""
    key: tuple[object, ...] = ()
    safe: bool | None = None

    @property
    def kind(self) -> Kind:
        """The entry of the catalogue for this problem's code."""
        return KINDS.get(self.code) or Kind(self.code, "error", "an invariant is broken", "", False)

    @property
    def is_safe(self) -> bool:
        """True if fsck can repair the problem without asking the user."""
        return bool(self.kind.repair) and (self.kind.safe if self.safe is None else self.safe)

    @property
    def is_note(self) -> bool:
        """True if the problem needs no repair."""
        return self.kind.severity == "note"

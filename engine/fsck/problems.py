"""The catalogue of what minifo-fsck can find: stable codes, and what each means to the person who reads it.

Codes never change their meaning and are never used twice.  E001 to E099 are the numbered invariants of
store/invariants.py; E1xx is the database itself, E2xx its rows against each other, E3xx content, N4xx leftovers that a
mount cleans up by itself, W5xx the base, which may be replaced: that is no damage.  docs/fsck.md has the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Kind(NamedTuple):
    """One kind of damage.

    Attributes:
        code: stable; what scripts match.
        severity: ``error``, ``warning`` or ``note`` (a note needs no repair).
        meaning: what it means, in a sentence.
        repair: what a repair does, in a sentence; empty where fsck can do nothing.
        safe: the repair changes nothing a user sees, but that lost things appear in lost+found.
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
    ("E002", "error", "a name is in a directory that is not there", "move it to lost+found", True),
    (
        "E003",
        "error",
        "a name leads to nothing",
        "correct the link count, or remove the name where nothing is left",
        False,
    ),
    (
        "E004",
        "error",
        "a renamed object has lost its place in the base",
        "make it a created object with what is stored of it",
        False,
    ),
    ("E005", "error", "a renamed directory also shows at its old place", "hide its old name", True),
    (
        "E006",
        "error",
        "a name is hidden in a directory that has no base side",
        "remove the whiteout: it hides nothing",
        True,
    ),
    ("E007", "error", "an object on the list of modified ones has no state", "take it off the list", True),
    ("E008", "error", "an object is neither created nor of the base", "make it a created object", False),
    (
        "E009",
        "error",
        "a created directory does not have exactly one name",
        "keep one; move it to lost+found if it has none",
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
        "what is unlinked and what is waiting to be deleted disagree",
        "keep the file: in lost+found if it has no name",
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
        "a size is impossible, or something that is no file has content",
        "correct the size; move the content to lost+found",
        False,
    ),
    (
        "E014",
        "error",
        "a content object has two owners, or is about to be deleted",
        "give each owner its own copy",
        True,
    ),
    (
        "E015",
        "error",
        "an extended attribute belongs to nothing",
        "use it where its owner is there, else remove it",
        False,
    ),
    ("E016", "error", "a symlink has no target, or something else has one", "give it the target 'lost-target'", False),
    ("E017", "error", "the root has lost its place", "put it back", True),
    ("E018", "error", "a directory cannot be reached", "move it to lost+found", True),
    (
        "E019",
        "error",
        "the bytes of a small file are gone, or have no file",
        "mark the file as damaged; move bytes without a file to lost+found",
        False,
    ),
    # the database
    ("E100", "error", "the database is gone", "rebuild it from the copy of names and the content objects", False),
    (
        "E101",
        "error",
        "the file minifo.db is not a database any more",
        "rebuild it from every row that can still be read",
        False,
    ),
    ("E102", "error", "pages of the database are damaged", "rebuild it from every row that can still be read", False),
    ("E103", "error", "the database's application id is wrong", "set it", True),
    ("E104", "error", "the database's format number is one that cannot be", "set it", True),
    (
        "E105",
        "error",
        "tables of the database are missing or not ours",
        "rebuild it from every row that can still be read",
        False,
    ),
    # rows against each other
    ("E201", "error", "changes below a directory do not show, for it is not marked", "mark it", True),
    ("E202", "error", "a created directory's link count is wrong", "correct it", True),
    ("E203", "error", "a name is impossible (empty, too long, or with a slash)", "move it to lost+found", False),
    ("E204", "error", "attributes are impossible", "correct type and numbers as far as is known", False),
    ("E205", "error", "a directory has two names", "keep the first one", False),
    ("E206", "error", "the extended attributes of a created object do not show", "show them", True),
    ("E207", "error", "a file with bytes of its own is not on the list of modified ones", "put it there", True),
    ("E208", "error", "a counter would hand out numbers that are in use", "advance it", True),
    ("E209", "error", "a fact about the overlay is missing or impossible", "make it anew", True),
    (
        "E210",
        "error",
        "an object of the base has lost its name, and its place in the base is hidden",
        "show it there again, or in lost+found where something else stands there",
        False,
    ),
    # content
    (
        "E301",
        "error",
        "a content object is missing: those bytes are lost",
        "let the file read as zeros there, and mark it",
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
    ("E304", "error", "a content object is named by nobody", "move it to lost+found", True),
    ("E305", "error", "a content object cannot be read", "", False),
    ("W306", "warning", "something in content/ is not a content object", "move it to lost+found in storage", True),
    # leftovers
    ("N401", "note", "files that were deleted while open; the next mount removes them", "", False),
    ("N402", "note", "content objects waiting to be deleted; the next mount removes them", "", False),
    ("N403", "note", "content objects no commit has named; the next mount removes them", "", False),
    ("N404", "note", "a killed daemon's last operations wait in memory; the next mount does them again", "", False),
    (
        "E405",
        "error",
        "the last operations wait in memory, but cannot be done again: content they rely on is gone",
        "set the file with them aside: what they did is lost",
        False,
    ),
    # the base
    # the base: what changed there is a note, and no repair's business, whatever letter its code has
    ("W501", "note", "the base has lost this object", "", False),
    ("W502", "note", "the base has something of another kind here", "", False),
    ("W503", "note", "the base's file changed after it was modified here", "", False),
    ("W504", "note", "a hidden name is not in the base any more", "", False),
    ("N505", "note", "this is not the base of the last mount; the next mount looks for its objects by path", "", False),
    ("W506", "note", "the base has this object under another inode number", "", False),
)

KINDS = {row[0]: Kind(*row) for row in _TABLE}

#: What only a new database can mend.
SALVAGE = frozenset({"E100", "E101", "E102", "E105"})


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        code: which kind, a key of ``KINDS``.
        path: where, in the user's terms: the merged path, or what is known instead of it.
        detail: the figures.
        key: the row that shows it: what the repair works on.
        safe: whether its repair is safe here, where that differs from its kind.
    """

    code: str
    path: bytes
    detail: str = ""
    key: tuple[object, ...] = ()
    safe: bool | None = None

    @property
    def kind(self) -> Kind:
        """What it means."""
        return KINDS.get(self.code) or Kind(self.code, "error", "an invariant is broken", "", False)

    @property
    def is_safe(self) -> bool:
        """True where the repair may be made without asking."""
        return bool(self.kind.repair) and (self.kind.safe if self.safe is None else self.safe)

    @property
    def is_note(self) -> bool:
        """True where nothing needs to be done."""
        return self.kind.severity == "note"

"""The error tree: what can go wrong, and what the person who sees it should do next.

Nothing else leaves the package on purpose.  ``FsError`` is the outcome of one file-system operation and carries an
errno, ``StateError`` says that storage, database or base cannot be used, ``UsageError`` that the request itself is
wrong.  Every ``StateError`` and ``UsageError`` prints as one line; ``hint`` is the next step to take.

    MinifoError
    ├── FsError (also an OSError)   a system call's outcome: errno
    │   └── Shortage                descriptors or memory ran out before anything was done
    ├── StateError                  storage, database or base cannot be used
    │   ├── StorageBusy             another writer holds it; ``pid`` is the holder
    │   ├── NotMinifo               a directory or database that is somebody else's
    │   ├── NewerFormat             written by a newer minifo
    │   ├── OlderFormat             written by an earlier minifo
    │   ├── Corrupt                 damaged; minifo-fsck is the next step
    │   ├── WrongBase               a base that lacks most of what the overlay refers to
    │   └── CommitPostponed         no room for a commit just now; nothing is lost
    └── UsageError                  wrong or missing arguments
"""

from __future__ import annotations

import errno
import os


class MinifoError(Exception):
    """Root of all errors raised on purpose by minifo."""


class FsError(MinifoError, OSError):
    """The errno outcome of one file-system operation.

    Args:
        code: the errno the caller of the system call sees.
        what: the operation and object, for logs (``"rmdir 17/b'name'"``).
    """

    def __init__(self, code: int, what: str = "") -> None:
        OSError.__init__(self, code, os.strerror(code), what or None)


class Shortage(FsError):
    """Descriptors or memory ran out before anything was done (EMFILE, ENFILE, ENOMEM): it may be tried again."""


#: What the system answers in a shortage that passes.
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class StateError(MinifoError):
    """Storage, database or base cannot be used as they are.

    Args:
        message: what is wrong, in one line, with the path it concerns.
        hint: the next step to take, or an empty string.

    Attributes:
        redo: where the redo log is, if it has operations that are not durable and were not discarded.
    """

    redo: str | None = None

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class StorageBusy(StateError):
    """Another process holds the storage for writing (promise P7).

    Args:
        pid: process id of the holder, 0 if it could not be read.
    """

    def __init__(self, message: str, hint: str = "", pid: int = 0) -> None:
        super().__init__(message, hint)
        self.pid = pid


class NotMinifo(StateError):
    """The directory or database belongs to something else; it is left untouched."""


class NewerFormat(StateError):
    """The database was written by a newer version of minifo."""


class OlderFormat(StateError):
    """The database was written by an earlier version of minifo; ``minifo upgrade`` brings it over."""


class Corrupt(StateError):
    """The database is damaged."""


class WrongBase(StateError):
    """The base lacks most of what the overlay refers to, and nobody has said that it is meant."""


class CommitPostponed(StateError):
    """There is no room for a commit just now, or a shortage.  Nothing is lost: it is tried again.

    Args:
        code: what a caller that cannot wait gets: ENOSPC, or what there is too little of.
    """

    def __init__(self, message: str, hint: str = "", code: int = errno.ENOSPC) -> None:
        super().__init__(message, hint)
        self.code = code


class UsageError(StateError):
    """The arguments are wrong or incomplete; nothing was done."""

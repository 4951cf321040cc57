"""The errors that the engine raises.

``FsError`` is the result of one file-system operation and carries an errno; ``StateError`` says that storage, database
or base cannot be used; ``UsageError`` says that the arguments are wrong.  A ``StateError`` or ``UsageError`` prints as
one line; its ``hint`` is the next step for the user.  The engine raises no other error on purpose.

Which errno an operation fails with is decided where its rule stands: names in tree/namespace.py, attributes in
tree/attributes.py, bytes in tree/content.py and tree/ranges.py, errors of SQLite in store/database.py.

    MinifoError
    ├── FsError (also an OSError)   a system call's result: errno
    │   └── Shortage                descriptors or memory ran out before anything was done
    └── StateError                  storage, database or base cannot be used
        ├── StorageBusy             another process has locked the storage; ``pid`` is that process
        ├── NotMinifo               a directory or database that is not minifo's
        ├── NewerFormat             a database of a newer version of minifo
        ├── OlderFormat             a database of an older version of minifo
        ├── Corrupt                 damaged; minifo-fsck is the next step
        ├── WrongBase               a base that lacks most of the objects that the overlay refers to
        ├── CommitPostponed         no space or memory for a commit now; nothing is lost
        ├── NotDurable              it was done, but a power cut may undo it
        └── UsageError              wrong or missing arguments
"""

from __future__ import annotations

import errno
import os


class MinifoError(Exception):
    """Base class of all errors that minifo raises on purpose."""


class FsError(MinifoError, OSError):
    """The failure of one file-system operation, as an errno.

    Args:
        code: the errno that the caller of the system call gets.
        what: the operation and the object, for logs (``"rmdir 17/b'name'"``).
    """

    def __init__(self, code: int, what: str = "") -> None:
        OSError.__init__(self, code, os.strerror(code), what or None)


class Shortage(FsError):
    """Descriptors or memory ran out before anything was done (EMFILE, ENFILE, ENOMEM); the caller may try again."""


#: The errnos of a lack of descriptors or memory, which passes.
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


#: The errnos of a write for which the medium has no space, or the user no quota.
FULL = (errno.ENOSPC, errno.EDQUOT)


class StateError(MinifoError):
    """Storage, database or base cannot be used as they are.

    Args:
        message: what is wrong with which path, in one line.
        hint: the next step for the user, or an empty string.

    Attributes:
        redo: path of the redo log, if it holds operations that are not durable; else None.
    """

    redo: str | None = None

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class StorageBusy(StateError):
    """Another process has locked the storage (promise P7).

    Args:
        message, hint: as for StateError.
        pid: process id of the holder; 0 if it is not known.
    """

    def __init__(self, message: str, hint: str = "", pid: int = 0) -> None:
        super().__init__(message, hint)
        self.pid = pid


class NotMinifo(StateError):
    """The directory or database is not minifo's; nothing in it was changed."""


class NewerFormat(StateError):
    """The database was written by a newer version of minifo."""


class OlderFormat(StateError):
    """The database was written by an older version of minifo; ``minifo upgrade`` converts it."""


class Corrupt(StateError):
    """The database is damaged."""


class WrongBase(StateError):
    """The base lacks most of the objects that the overlay refers to, and ``base_check=ignore`` was not given."""


class CommitPostponed(StateError):
    """A commit lacks space, memory or descriptors now.  Nothing is lost: the daemon tries again.

    Args:
        message, hint: as for StateError.
        code: the errno for a caller that waits for the commit, such as fsync(2): ENOSPC or one of SHORT.
    """

    def __init__(self, message: str, hint: str = "", code: int = errno.ENOSPC) -> None:
        super().__init__(message, hint)
        self.code = code


class NotDurable(StateError):
    """What was asked for is done, but the commit with it was postponed or failed: a power cut may undo it.

    Args:
        done: what is done, for the message.
        cause: what the commit failed with.
        result: what the call would have returned.
    """

    def __init__(self, done: str, cause: StateError, result: object = None) -> None:
        super().__init__(f"{done}, but a power cut may undo that: {cause.message}", cause.hint)
        self.code = errno_of(cause)
        self.redo = cause.redo
        self.result = result


class UsageError(StateError):
    """The arguments are wrong or incomplete; nothing was done."""


def errno_of(error: StateError) -> int:
    """Return the errno for a system call that waits for a commit which failed with *error*."""
    return error.code if isinstance(error, CommitPostponed | NotDurable) else errno.EIO

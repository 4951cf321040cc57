"""What stands in the place of a storage's files leads nowhere: no link is followed, no FIFO waited for, no device used.

Each of these was a way out of storage for whoever had filled it: the lock truncated what it pointed to, ``content``
was read, emptied and deleted through, an object showed any file of the system.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable

import pytest

from tests.hostile.hostile_storage import DOORS, HostileStorage


def _link(name: str, target: str) -> Callable[[HostileStorage], None]:
    """Put a symlink in the place of a name in storage."""

    def spoil(hostile: HostileStorage) -> None:
        path = hostile.storage / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(hostile.outside / target)

    return spoil


def _hard_link(name: str) -> Callable[[HostileStorage], None]:
    def spoil(hostile: HostileStorage) -> None:
        (hostile.storage / name).unlink(missing_ok=True)
        os.link(hostile.outside / "secret", hostile.storage / name)
        hostile.know_outside()

    return spoil


def _fifo(name: str) -> Callable[[HostileStorage], None]:
    def spoil(hostile: HostileStorage) -> None:
        (hostile.storage / name).unlink(missing_ok=True)
        os.mkfifo(hostile.storage / name)

    return spoil


def _object(make: Callable[[HostileStorage], None]) -> Callable[[HostileStorage], None]:
    def spoil(hostile: HostileStorage) -> None:
        place = hostile.object
        place.unlink()
        make(hostile)
        (hostile.top / "made").rename(place)
        hostile.know_outside()

    return spoil


def _link_of_another(hostile: HostileStorage) -> None:
    """As if that user had a clone of a storage of his own."""
    secret = hostile.outside / "secret"
    os.setxattr(secret, "user.minifo.shared", b"1")
    os.chown(secret, 4321, 4321)
    os.link(secret, hostile.top / "made")


SPOILT: dict[str, Callable[[HostileStorage], None]] = {
    "lock is a symlink": _link("lock", "secret"),
    "lock is a dangling symlink": _link("lock", "empty/made"),
    "lock is a hard link": _hard_link("lock"),
    "lock is a fifo": _fifo("lock"),
    "database is a symlink": _link("minifo.db", "secret"),
    "database is a fifo": _fifo("minifo.db"),
    "log is a symlink": _link("minifo.db-wal", "secret"),
    "log is a hard link": _hard_link("minifo.db-wal"),
    "log is a fifo": _fifo("minifo.db-wal"),
    "index is a hard link": _hard_link("minifo.db-shm"),
    "rollback journal is a hard link": _hard_link("minifo.db-journal"),
    "metadata backup is a symlink": _link("minifo.names", "secret"),
    "metadata backup is a fifo": _fifo("minifo.names"),
    "new metadata backup is a hard link": _hard_link("minifo.names.new"),
    "reserve is a symlink": _link("reserve", "secret"),
    "content is a symlink": _link("content", "copy"),
    "directory of objects is a symlink": _link("content/0", "copy/0"),
    "object is a symlink": _object(lambda hostile: (hostile.top / "made").symlink_to(hostile.outside / "secret")),
    "object is a hard link": _object(lambda hostile: os.link(hostile.outside / "secret", hostile.top / "made")),
    "object is another user's shared file": _object(_link_of_another),
    "object is a fifo": _object(lambda hostile: os.mkfifo(hostile.top / "made")),
    "object is a device": _object(
        lambda hostile: os.mknod(hostile.top / "made", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    ),
}


#: To be cloned, a storage is opened as for a mount; then each object is opened.
_PAIRS = [(what, door) for what in SPOILT for door in DOORS if door != "clone" or "object" in what]


@pytest.mark.parametrize(("what", "door"), _PAIRS)
def test_nothing_leads_out(hostile: HostileStorage, what: str, door: str) -> None:
    """Whatever the storage has been filled with, nothing outside is read, changed, made or deleted."""
    SPOILT[what](hostile)
    hostile.go_through(door)
    hostile.assert_unharmed()


@pytest.mark.parametrize("door", DOORS)
def test_a_sound_storage_passes(hostile: HostileStorage, door: str) -> None:
    """The same doors are open to what is as it should be."""
    assert hostile.go_through(door) == (2 if door == "restore" else 0)
    hostile.assert_unharmed()


def test_what_is_wrong_is_said(hostile: HostileStorage) -> None:
    """One line names the file, what it is, and the next step."""
    SPOILT["lock is a symlink"](hostile)
    done = hostile.run("minifo", "mount", "-o", f"base={hostile.base},sto={hostile.storage}", hostile.mountpoint)
    assert done.returncode == 32
    text = done.stderr.decode()
    assert f"{hostile.storage}/lock is a symlink, not a file; nothing in a storage may lead out of it" in text
    assert text.count("\n") == 1

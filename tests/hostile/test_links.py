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
from jail import DOORS, Jail


def _link(name: str, target: str) -> Callable[[Jail], None]:
    """Put a symlink in the place of a name in storage."""

    def spoil(jail: Jail) -> None:
        path = jail.storage / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(jail.outside / target)

    return spoil


def _hard_link(name: str) -> Callable[[Jail], None]:
    def spoil(jail: Jail) -> None:
        (jail.storage / name).unlink(missing_ok=True)
        os.link(jail.outside / "secret", jail.storage / name)
        jail.know_outside()

    return spoil


def _fifo(name: str) -> Callable[[Jail], None]:
    def spoil(jail: Jail) -> None:
        (jail.storage / name).unlink(missing_ok=True)
        os.mkfifo(jail.storage / name)

    return spoil


def _object(make: Callable[[Jail], None]) -> Callable[[Jail], None]:
    def spoil(jail: Jail) -> None:
        place = jail.object
        place.unlink()
        make(jail)
        (jail.top / "made").rename(place)
        jail.know_outside()

    return spoil


SPOILT: dict[str, Callable[[Jail], None]] = {
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
    "copy of names is a symlink": _link("minifo.names", "secret"),
    "copy of names is a fifo": _fifo("minifo.names"),
    "fresh copy of names is a hard link": _hard_link("minifo.names.new"),
    "reserve is a symlink": _link("reserve", "secret"),
    "content is a symlink": _link("content", "copy"),
    "directory of objects is a symlink": _link("content/0", "copy/0"),
    "object is a symlink": _object(lambda jail: (jail.top / "made").symlink_to(jail.outside / "secret")),
    "object is a hard link": _object(lambda jail: os.link(jail.outside / "secret", jail.top / "made")),
    "object is a fifo": _object(lambda jail: os.mkfifo(jail.top / "made")),
    "object is a device": _object(lambda jail: os.mknod(jail.top / "made", stat.S_IFCHR | 0o666, os.makedev(1, 5))),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("what", SPOILT)
def test_nothing_leads_out(jail: Jail, what: str, door: str) -> None:
    """Whatever the storage has been filled with, nothing outside is read, changed, made or deleted."""
    SPOILT[what](jail)
    jail.go_through(door)
    jail.assert_unharmed()


@pytest.mark.parametrize("door", DOORS)
def test_a_sound_storage_passes(jail: Jail, door: str) -> None:
    """The same doors are open to what is as it should be."""
    assert jail.go_through(door) == (2 if door == "restore" else 0)
    jail.assert_unharmed()


def test_what_is_wrong_is_said(jail: Jail) -> None:
    """One line names the file, what it is, and the next step."""
    SPOILT["lock is a symlink"](jail)
    done = jail.run("minifo", "mount", "-o", f"base={jail.base},sto={jail.storage}", jail.mountpoint)
    assert done.returncode == 32
    text = done.stderr.decode()
    assert f"{jail.storage}/lock is a symlink, not a file; nothing in a storage may lead out of it" in text
    assert text.count("\n") == 1

"""A throw-away overlay in a temporary directory: mounted, written, mounted again, compared, removed (``--try``)."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import time

from ...engine.errors import StateError
from ...engine.store.writer_lock import LOCK, lock_holder
from ...fusefront.control.client import ControlClient
from ...fusefront.mount import mount_table, utab
from ...fusefront.mount.unmount import detach, unmount
from .._size import duration
from .child import NoAnswer, answer_of
from .finding import Check, Finding, note, ok, problem

log = logging.getLogger(__name__)

_TIME = 60  # seconds
_END = 2  # seconds for the daemon of a failed attempt to end
_LARGE = 256 << 10  # bytes: of such a base file only what is written is copied
_NAME = "overlay"


def checks() -> list[Check]:
    """Return the only check."""
    return [Check(_NAME, attempt)]


def attempt() -> Finding:
    """Mount an overlay, and say how that went; nothing of it is left."""
    directory = os.path.realpath(tempfile.mkdtemp(prefix="minifo-doctor-"))
    try:
        took, lacks = answer_of(lambda: _go_through(directory), _TIME)
    except NoAnswer as error:
        remedy = "settle the problems above first; try another directory (TMPDIR=DIR minifo doctor --try); see the log"
        return problem(_NAME, error.message, remedy)
    finally:
        _remove(directory)
    fact = f"mounted in {duration(took)} in {os.path.dirname(directory)}, written, mounted again: all was there"
    if lacks:
        return note(_NAME, f"{fact}; but {lacks}", "see the findings about the kernel and the session hook")
    return ok(_NAME, fact)


def _go_through(directory: str) -> tuple[int, str]:
    """Return how long the first mount took, in ns, and what its session lacks.

    Raises:
        StateError: a step failed; or what was written is not there.
    """
    from ...fusefront.launch import launch
    from ...fusefront.mount.options import MountOptions

    base, storage, mnt = (os.path.join(directory, name) for name in ("base", "sto", "mnt"))
    for path in (base, storage, mnt):
        os.mkdir(path)
    large = bytes(_LARGE)
    before = {"large": large, "kept": b"kept", "gone": b"gone", "old": b"moved"}
    after = {"large": b"changed" + large[7:], "kept": b"kept", "new": b"moved", "made": b"made" * 10_000}
    _write(base, before)
    options = MountOptions(base=base, storage=storage)
    started = time.monotonic_ns()
    launch(options, mnt)
    took = time.monotonic_ns() - started
    with ControlClient(storage) as client:
        lacks = client.call("Status")["mode_reason"]
    with open(os.path.join(mnt, "large"), "r+b") as file:
        file.write(b"changed")
    _write(mnt, {"made": after["made"]})
    os.unlink(os.path.join(mnt, "gone"))
    os.rename(os.path.join(mnt, "old"), os.path.join(mnt, "new"))
    _compare(mnt, after, "the mount")
    unmount(mnt)
    launch(options, mnt)
    _compare(mnt, after, "the second mount")
    unmount(mnt)
    _compare(base, before, "the base")
    return took, str(lacks)


def _write(directory: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        with open(os.path.join(directory, name), "wb") as file:
            file.write(data)


def _compare(directory: str, files: dict[str, bytes], what: str) -> None:
    found = {}
    for name in os.listdir(directory):
        with open(os.path.join(directory, name), "rb") as file:
            found[name] = file.read()
    wrong = sorted(name for name in {*found, *files} if found.get(name) != files.get(name))
    if wrong:
        raise StateError(f"{what} does not show what was written: {', '.join(wrong)}", "report it")


def _remove(directory: str) -> None:
    """Remove the directory; where a step failed, first the mount, and a daemon that does not end by itself."""
    mnt = os.path.join(directory, "mnt")
    for entry in mount_table.minifo_mounts():
        if entry.mountpoint != mnt:
            continue
        try:
            answer_of(lambda: unmount(mnt, timeout=_END), _END + 1)
        except NoAnswer as error:
            log.warning("the daemon of %s is killed: %s", mnt, error.message)
            with contextlib.suppress(OSError):  # it has ended meanwhile
                _kill_daemon(os.path.join(directory, "sto", LOCK))
            with contextlib.suppress(StateError):  # it is not mounted any more
                detach(mnt, lazy=True)
            utab.remove_entry(mnt, entry.source)
    shutil.rmtree(directory)


def _kill_daemon(lock: str) -> None:
    fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        daemon = lock_holder(fd)
    finally:
        os.close(fd)
    if daemon:
        os.kill(daemon, signal.SIGKILL)

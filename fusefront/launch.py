"""Start a mount: check what can be checked, become a daemon, report one clear line.

The parent of a daemon returns only when the mount answers, or raises what went wrong in the child.  The rule kept here
is fork safety: database, trio and pyfuse3 live in the process that serves, so ``session`` is imported after the fork.
Before the fork nothing on disk is changed.

The child speaks once, as JSON through a pipe: ``{}`` when the mount answers, else the error's class, message and hint.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from ..engine.errors import Corrupt, NewerFormat, NotMinifo, StateError, StorageBusy, UsageError
from .mount import mount_table, utab
from .mount.options import MountOptions, format_source
from .process import last_words, signals
from .process.system_log import LogSender, SystemLog

log = logging.getLogger(__name__)

_FUSE_DEVICE = "/dev/fuse"
_ERRORS = {kind.__name__: kind for kind in (StateError, NotMinifo, NewerFormat, Corrupt, UsageError)}


def launch(options: MountOptions, mountpoint: str, *, foreground: bool = False) -> None:
    """Mount an overlay.

    Args:
        options: what to mount and how.
        mountpoint: an existing directory; it may be the base itself.
        foreground: serve in this process until unmounted, instead of in a daemon.

    Raises:
        StateError: the mount cannot be made, or the daemon died before it answered.
    """
    options, mountpoint = check(options, mountpoint)
    if foreground:
        _serve(options, mountpoint, lambda: _announce(options, mountpoint), foreground=True)
        return
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _child(options, mountpoint, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        try:
            text = pipe.read()
        except KeyboardInterrupt:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            raise
    report = json.loads(text) if text else None
    if report == {}:
        utab.add_entry(mountpoint, format_source(options.base, options.storage))
        return
    _, status = os.waitpid(child, 0)
    raise _silent_end(status) if report is None else _rebuilt(report)


# -- before the fork


def check(options: MountOptions, mountpoint: str) -> tuple[MountOptions, str]:
    """Check all that can be seen from outside the storage, changing nothing.

    Returns:
        The options with true paths of base and storage, and the true path of the mount point.

    Raises:
        StateError: a directory is missing or unusable, the mount point is in use, or FUSE is not available.
    """
    mountpoint, entry = _mount_point(mountpoint)
    base = _directory(options.base, "base")
    storage = _directory(options.storage, "storage")
    overlay = mount_table.overlay_of(entry) if entry is not None else None
    # An overlay may be stacked on an overlay in place; anything else at a mounted overlay is the same line run twice.
    if overlay is not None and (base != mountpoint or storage == overlay[1]):
        raise StateError(
            f"an overlay is already mounted at {mountpoint} (base {overlay[0]}, storage {overlay[1]})",
            f"unmount it first: minifo umount {mountpoint}",
        )
    if len(os.fsencode(format_source(base, storage))) > mount_table.SOURCE_LIMIT:
        raise StateError("the paths of base and storage are too long together", "mount from shorter paths")
    _check_fuse()
    return replace(options, base=base, storage=storage), mountpoint


def is_mounted(options: MountOptions, mountpoint: str) -> bool:
    """Whether just this is mounted there already: the same base and storage, alike in taking changes."""
    try:
        real, entry = mount_table.locate(mountpoint)
    except OSError:
        return False  # check() says what is wrong
    if entry is None or entry.mountpoint != real or mount_table.is_dead(real):
        return False
    # base and storage may be out of sight, below the mount
    places = os.path.realpath(options.base), os.path.realpath(options.storage)
    return mount_table.overlay_of(entry) == places and ("ro" in entry.options) == options.read_only


def _mount_point(path: str) -> tuple[str, mount_table.MountEntry | None]:
    """The true path of the mount point, and the mount that is already there."""
    try:
        real, entry = mount_table.locate(path)
        if entry is not None and entry.mountpoint != real:
            entry = None
        # Asked before stat, which would be answered from what the kernel remembers of a dead mount.
        if entry is not None and entry.fstype.startswith("fuse") and mount_table.is_dead(real):
            raise StateError(f"{real} holds a mount whose daemon is gone", f"clear it: {_clearing(real)}")
        if not stat.S_ISDIR(os.stat(real).st_mode):
            raise StateError(f"mount point {path} is not a directory", "give an existing directory")
    except OSError as exc:
        raise _unusable(path, "mount point", exc) from exc
    return real, entry


def _directory(path: str, what: str) -> str:
    """The true path of a directory that can be listed; *what* names it in the error."""
    try:
        real = os.path.realpath(path, strict=True)
        os.close(os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as exc:
        raise _unusable(path, what, exc) from exc
    return real


def _unusable(path: str, what: str, exc: OSError) -> StateError:
    subject = f"{what} {path}"
    if exc.errno == errno.ENOENT:
        hint = "check the path" if what == "base" else f"create it: mkdir -p {path}"
        return StateError(f"{subject} does not exist", hint)
    if exc.errno == errno.ENOTDIR:
        return StateError(f"{subject} is not a directory", "give an existing directory")
    if exc.errno in {errno.EACCES, errno.EPERM}:
        return StateError(f"{subject} cannot be read", "check its permissions, or mount as root")
    if exc.errno == errno.ENOTCONN:
        return StateError(f"{subject} lies on a FUSE mount whose daemon is gone", "clear that mount: umount -l")
    return StateError(f"{subject} cannot be used ({exc.strerror})", "check the path")


def _clearing(mountpoint: str) -> str:
    return f"umount -l {mountpoint}" if os.geteuid() == 0 else f"fusermount3 -uz {mountpoint}"


def _check_fuse() -> None:
    try:
        os.close(os.open(_FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError as exc:
        raise StateError(f"{_FUSE_DEVICE} may not be opened", f"as root: chmod 666 {_FUSE_DEVICE}") from exc
    except OSError as exc:
        raise StateError(f"{_FUSE_DEVICE} is not available ({exc.strerror})", "load it: modprobe fuse") from exc
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise StateError("fusermount3 is not installed", "install the package fuse3")


# -- in the process that serves


def _child(options: MountOptions, mountpoint: str, report: int) -> NoReturn:
    """The daemon from its first to its last instruction; *report* is the pipe to the parent."""
    status = 1
    waiting = True

    def ready() -> None:
        nonlocal waiting
        waiting = False
        _detach()
        _send(report, {})

    try:
        os.setsid()
        # Whatever the caller had open would stay busy for as long as the mount lives.
        os.closerange(3, report)
        os.closerange(report + 1, os.sysconf("SC_OPEN_MAX"))
        _serve(options, mountpoint, ready, foreground=False)
        status = 0
    except BaseException as exc:
        # Nothing may leave this function: above it stands the parent's code.
        if waiting:
            _send(report, _described(exc))
        else:
            log.critical("the daemon of %s ends: %s", mountpoint, exc, exc_info=not isinstance(exc, StateError))
    finally:
        os._exit(status)


def _serve(options: MountOptions, mountpoint: str, ready: Callable[[], None], *, foreground: bool) -> None:
    """Serve until unmounted.

    Args:
        options: with true paths.
        mountpoint: its true path.
        ready: called once, when the mount answers.
        foreground: in the process, and the terminal, of the command.
    """
    _set_up_logging(debug=options.debug)
    signals.protect_daemon(foreground=foreground)
    last_words.enable(foreground=foreground)
    # Content objects hold bytes of files whose modes are rows of the database: nobody else may read them directly.
    os.umask(0o077)
    from . import session

    session.run(options, mountpoint, ready=ready)


def _set_up_logging(*, debug: bool) -> None:
    level = logging.DEBUG if debug else logging.WARNING
    pattern = "minifo: %(name)s: %(message)s" if debug else "minifo: %(message)s"
    logging.basicConfig(level=level, format=pattern, stream=sys.stderr, force=True)
    system = SystemLog(LogSender(os.getpid()))
    system.setFormatter(logging.Formatter("%(name)s: %(message)s" if debug else "%(message)s"))
    logging.getLogger().addHandler(system)


def _detach() -> None:
    """Let go of the terminal and of the directory the command was called in."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _announce(options: MountOptions, mountpoint: str) -> None:
    utab.add_entry(mountpoint, format_source(options.base, options.storage))
    line = f"minifo: {mountpoint} is mounted (base {options.base}, storage {options.storage}); Ctrl-C unmounts it\n"
    sys.stderr.write(line.encode("utf-8", "backslashreplace").decode())
    sys.stderr.flush()


# -- the pipe between them


def _send(report: int, message: dict[str, object]) -> None:
    data = json.dumps(message).encode()  # ASCII: surrogate escapes survive
    # The parent may have been killed meanwhile; the mount goes on without it.
    with contextlib.suppress(BrokenPipeError), open(report, "wb") as pipe:
        pipe.write(data)


def _described(exc: BaseException) -> dict[str, object]:
    log.debug("the mount failed", exc_info=exc)
    if isinstance(exc, StateError):
        pid = exc.pid if isinstance(exc, StorageBusy) else 0
        return {"kind": type(exc).__name__, "message": exc.message, "hint": exc.hint, "pid": pid}
    if isinstance(exc, OSError):
        where = f" ({os.fsdecode(exc.filename)})" if isinstance(exc.filename, str | bytes) else ""
        return {"kind": "StateError", "message": f"{exc.strerror or exc}{where}", "hint": ""}
    message = f"the daemon failed before the mount answered ({type(exc).__name__}: {exc})"
    return {"kind": "StateError", "message": message, "hint": "minifo mount -f -v shows where"}


def _rebuilt(report: dict[str, object]) -> StateError:
    message, hint = str(report["message"]), str(report["hint"])
    if report["kind"] == StorageBusy.__name__:
        return StorageBusy(message, hint, int(str(report["pid"])))
    return _ERRORS.get(str(report["kind"]), StateError)(message, hint)


def _silent_end(status: int) -> StateError:
    code = os.waitstatus_to_exitcode(status)
    how = f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with status {code}"
    return StateError(f"the daemon {how} before the mount answered", "minifo mount -f -v shows where")

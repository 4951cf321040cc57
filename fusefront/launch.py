"""Starts a mount: checks the directories, forks a daemon, and reports its failure in one line.

The parent of a daemon returns only when the mount responds, or raises the error that the child reports.  The rule kept
here is fork safety: only the process that serves uses the database, trio and pyfuse3, so ``session`` is imported after
the fork.  Before the fork nothing on disk is changed.

The child sends one JSON object through a pipe: ``{}`` when the mount responds, otherwise the class, message and hint of
an error.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import logging
import os
import signal
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from ..engine.errors import Corrupt, NewerFormat, NotMinifo, StateError, StorageBusy, UsageError
from ..engine.store.layers import join_layers, layers_of, real_base
from .mount import fuse_access, mount_table, utab
from .mount.helper_process import HelperProcess
from .mount.options import MountOptions
from .mount.source import SOURCE_LIMIT, format_source, parse_source
from .process import last_words, root_storage, signals
from .process.log_senders import senders_for, stderr_is_journal
from .process.parent import end_with_parent
from .process.service_manager import ServiceManager
from .process.system_log import LogSender, SystemLog

log = logging.getLogger(__name__)

_ERRORS = {kind.__name__: kind for kind in (StateError, NotMinifo, NewerFormat, Corrupt, UsageError)}


def launch(options: MountOptions, mountpoint: str, *, foreground: bool = False, listed: bool = True) -> None:
    """Mount an overlay.

    Args:
        options: of the mount.
        mountpoint: path of an existing directory; it may be the base itself.
        foreground: serve in this process until unmounted, instead of in a daemon.
        listed: tell umount(8) of the mount, so that it waits for the last commit; False for one that others unmount.

    Raises:
        StateError: the mount cannot be made, or the daemon ended before the mount responded.
    """
    options, mountpoint = check(options, mountpoint)
    if foreground:
        with contextlib.closing(ServiceManager()) as manager:
            _serve(options, mountpoint, lambda: _announce(options, mountpoint, manager), manager)
        return
    _start(options, mountpoint, bound=False)
    if listed:
        utab.add_entry(mountpoint, format_source(options.base, options.storage, options.at))


def launch_bound(options: MountOptions, mountpoint: str) -> int:
    """Mount an overlay whose daemon is a child of this process and is killed with it; umount(8) is not told of it.

    Args:
        options, mountpoint: as for ``launch``.

    Returns:
        The daemon's process id; the caller waits for it.

    Raises:
        StateError: as ``launch``.
    """
    options, mountpoint = check(options, mountpoint)
    return _start(options, mountpoint, bound=True)


def _start(options: MountOptions, mountpoint: str, *, bound: bool) -> int:
    """Fork a daemon; return its process id when the mount responds."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        if bound:
            end_with_parent(parent)
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
        return child
    _, status = os.waitpid(child, 0)
    raise _unreported_end(status) if report is None else _error_from(report)


# -- before the fork


def check(options: MountOptions, mountpoint: str) -> tuple[MountOptions, str]:
    """Check what can be checked before the storage is opened; change nothing.

    Returns:
        The options with the true paths of base and storage, and the true path of the mount point.

    Raises:
        StateError: a directory is missing or unusable, an overlay is mounted there already, or FUSE is not available.
    """
    mountpoint, entry = _mount_point(mountpoint)
    base = _base(options.base)
    storage = _directory(options.storage, "storage")
    source = mount_table.overlay_of(entry) if entry is not None else None
    # An overlay may be mounted over an overlay at the same mount point; another base is a command that ran twice.
    if source is not None and (base != mountpoint or storage == source.storage):
        raise StateError(
            f"an overlay is already mounted at {mountpoint} (base {source.base}, storage {source.storage})",
            f"unmount it first: minifo umount {mountpoint}",
        )
    if len(os.fsencode(format_source(base, storage, options.at))) > SOURCE_LIMIT:
        raise StateError(
            f"the paths of base and storage are too long together (more than {SOURCE_LIMIT} bytes)",
            "mount from shorter paths",
        )
    fuse_access.check_device()
    fuse_access.check_fusermount()
    metrics = os.path.abspath(options.metrics) if options.metrics is not None else None
    return replace(options, base=base, storage=storage, metrics=metrics), mountpoint


def is_mounted(options: MountOptions, mountpoint: str) -> bool:
    """Return whether *mountpoint* is a live mount already: of the same base, storage and checkpoint, alike writable."""
    try:
        real, entry = mount_table.locate(mountpoint)
    except OSError:
        return False  # check() raises the error
    if entry is None or entry.mountpoint != real or mount_table.is_dead(real):
        return False
    # without strict, for the mount may hide base and storage
    source = format_source(real_base(options.base), os.path.realpath(options.storage), options.at)
    overlay = parse_source(source)
    return mount_table.overlay_of(entry) == overlay and ("ro" in entry.options) == options.read_only


def _mount_point(path: str) -> tuple[str, mount_table.MountEntry | None]:
    """Return the true path of the mount point, and the mount that is already there, if any."""
    try:
        real, entry = mount_table.locate(path)
        if entry is not None and entry.mountpoint != real:
            entry = None
        # before stat(2), which would return cached attributes of a dead mount
        if entry is not None and entry.fstype.startswith("fuse") and mount_table.is_dead(real):
            raise StateError(
                f"the daemon of the mount at {real} has ended", f"clear the mount: {mount_table.clear_command(real)}"
            )
        if not stat.S_ISDIR(os.stat(real).st_mode):
            raise StateError(f"mount point {path} is not a directory", "give an existing directory")
    except OSError as exc:
        raise _unusable(path, "mount point", exc) from exc
    return real, entry


def _base(text: str) -> str:
    """Return the text of a base with the true paths of its directories; raise StateError if it cannot be used."""
    layers = layers_of(text)
    if len(layers) == 1:
        return join_layers([_directory(layers[0], "base")])
    return join_layers([_directory(layer, "layer") for layer in layers])


def _directory(path: str, what: str) -> str:
    """Return the true path of a directory; raise StateError if it cannot be listed.  *what* names it in the error."""
    try:
        real = os.path.realpath(path, strict=True)
        os.close(os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as exc:
        raise _unusable(path, what, exc) from exc
    return real


def _unusable(path: str, what: str, exc: OSError) -> StateError:
    """Return the error for a directory that cannot be used; *what* names it."""
    subject = f"{what} {path}"
    if exc.errno == errno.ENOENT:
        hint = f"create it: mkdir -p {path}" if what in {"storage", "mount point"} else "check the path"
        hint = "it is one of several in lowerdir=; write a colon in a path as \\:" if what == "layer" else hint
        return StateError(f"{subject} does not exist", hint)
    if exc.errno == errno.ENOTDIR:
        return StateError(f"{subject} is not a directory", "give an existing directory")
    if exc.errno in {errno.EACCES, errno.EPERM}:
        return StateError(f"{subject} cannot be read", "check its permissions, or mount as root")
    if exc.errno in mount_table.DEAD_ERRNOS:
        return StateError(f"{subject} is on a FUSE mount whose daemon has ended", "clear that mount: umount -l")
    return StateError(f"{subject} cannot be used ({exc.strerror})", "check the path")


# -- in the process that serves


def _child(options: MountOptions, mountpoint: str, report: int) -> NoReturn:
    """Run the daemon, and exit; *report* is the descriptor of the pipe to the parent."""
    status = 1
    parent_waits = True

    def ready() -> None:
        nonlocal parent_waits
        parent_waits = False
        _detach(keep_stderr=options.log == "stderr")
        _send(report, {})

    try:
        # while an automounter mounts or unmounts, autofs lets only processes of its group pass: calls of the helper on
        # the mount would wait for the mount command, which waits for them.  It signals no group.
        if not mount_table.is_automount_point(mountpoint):
            os.setsid()
        # inherited descriptors would keep files of the caller open until the unmount
        os.closerange(3, report)
        os.closerange(report + 1, os.sysconf("SC_OPEN_MAX"))
        _serve(options, mountpoint, ready)
        status = 0
    except BaseException as exc:
        # no exception may leave this function, for the code that called it is the parent's
        last_words.mark_expected_end()  # the reason is said here; the helper process would log that it was killed
        if parent_waits:
            _send(report, _report_of(exc))
        else:
            trace = not isinstance(exc, StateError)
            log.critical("the daemon of %s ends after an error: %s", mountpoint, exc, exc_info=trace)
    finally:
        logging.shutdown()
        os._exit(status)


def _serve(
    options: MountOptions, mountpoint: str, ready: Callable[[], None], manager: ServiceManager | None = None
) -> None:
    """Serve the mount in this process until it is unmounted.

    Args:
        options: of the mount, with true paths.
        mountpoint: its true path.
        ready: called once, when the mount responds.
        manager: of this process, which is that of the command, with its terminal; None for a daemon.
    """
    foreground = manager is not None
    _set_up_logging(options, mountpoint)
    signals.protect_daemon(foreground=foreground)
    if options.root_storage:
        root_storage.mark_process()
    last_words.enable(foreground=foreground)
    # Content objects hold the bytes of files whose modes are rows of the database: other users must not read them.
    os.umask(0o077)
    # Forked first: so it inherits no descriptor, and not the memory of what only this process imports.
    gc.freeze()  # a collection would write to each object, and so copy the page that it shares
    helper = HelperProcess(mountpoint, options.log)
    from . import session

    session.run(options, mountpoint, helper, ready=ready, manager=manager)


def _set_up_logging(options: MountOptions, mountpoint: str) -> None:
    """Log to where ``log=`` says; until the daemon detaches itself also to stderr, unless that is the journal."""
    pattern = "%(name)s: %(message)s" if options.debug else "%(message)s"
    system = SystemLog(
        LogSender(senders_for(options.log, os.getpid())),
        {"MINIFO_MOUNT": mountpoint, "MINIFO_STORAGE": options.storage},
    )
    system.setFormatter(logging.Formatter(pattern))
    handlers: list[logging.Handler] = [system]
    if options.log != "stderr" and not stderr_is_journal():
        terminal = logging.StreamHandler()
        terminal.setFormatter(logging.Formatter(f"minifo: {pattern}"))
        handlers.append(terminal)
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.WARNING, handlers=handlers, force=True)


def _detach(*, keep_stderr: bool) -> None:
    """Log to the system log only, change to /, and replace stdin, stdout and stderr by /dev/null.

    Args:
        keep_stderr: leave stderr, for it is the log.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1) if keep_stderr else (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _announce(options: MountOptions, mountpoint: str, manager: ServiceManager) -> None:
    utab.add_entry(mountpoint, format_source(options.base, options.storage, options.at))
    status = f"{mountpoint} is mounted (base {options.base}, storage {options.storage})"
    if manager.listens:
        manager.ready(status)
        return
    line = f"minifo: {status}; Ctrl-C unmounts it\n"
    sys.stderr.write(line.encode("utf-8", "backslashreplace").decode())
    sys.stderr.flush()


# -- the report of the child to the parent


def _send(report: int, message: dict[str, object]) -> None:
    data = json.dumps(message).encode()  # ASCII: surrogate escapes survive
    # the parent may have been killed; the mount does not need it
    with contextlib.suppress(BrokenPipeError), open(report, "wb") as pipe:
        pipe.write(data)


def _report_of(exc: BaseException) -> dict[str, object]:
    """Return the report that describes an error, for the parent."""
    log.debug("the mount failed", exc_info=exc)
    if isinstance(exc, StateError):
        pid = exc.pid if isinstance(exc, StorageBusy) else 0
        return {"kind": type(exc).__name__, "message": exc.message, "hint": exc.hint, "pid": pid}
    if isinstance(exc, OSError):
        where = f" ({os.fsdecode(exc.filename)})" if isinstance(exc.filename, str | bytes) else ""
        return {"kind": "StateError", "message": f"{exc.strerror or exc}{where}", "hint": ""}
    message = f"the daemon failed before the mount responded ({type(exc).__name__}: {exc})"
    return {"kind": "StateError", "message": message, "hint": "to see why: minifo mount -f -v"}


def _error_from(report: dict[str, object]) -> StateError:
    """Return the error that a report describes."""
    message, hint = str(report["message"]), str(report["hint"])
    if report["kind"] == StorageBusy.__name__:
        return StorageBusy(message, hint, int(str(report["pid"])))
    return _ERRORS.get(str(report["kind"]), StateError)(message, hint)


def _unreported_end(status: int) -> StateError:
    """Return the error for a daemon that ended, with a status of waitpid(2), and sent no report."""
    code = os.waitstatus_to_exitcode(status)
    how = f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with status {code}"
    return StateError(f"the daemon {how} before the mount responded", "to see why: minifo mount -f -v")

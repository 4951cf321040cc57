"""The process that keeps a sandbox: makes its namespaces and overlays, and removes everything at the end.

Its own mount namespace has the mounts of the machine, and in the sandbox's directory the overlays, whose daemons are
its children.  The command sees another one, that is made from this (first_process.py, tree.py).  So the daemons cannot
be seen in the sandbox, and no mount is made that other processes of the machine see.

The kernel kills the daemons and the first process if the keeper is killed.  The keeper ends the sandbox if the caller's
process is killed.  With its last process the namespace goes away, and with it every mount.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import NoReturn

from ...engine.errors import StateError
from ..launch import launch_bound
from ..mount.options import MountOptions
from ..mount.unmount import detach
from ..process import signals
from . import first_process, messages, namespaces
from .first_process import Command
from .layout import How, Part
from .place import Place

log = logging.getLogger(__name__)

_LAST_COMMIT = 120.0  # seconds that a daemon has for its last commit


class Keeper:
    """Makes a sandbox and removes it.

    Args:
        place: its directory.
        parts: its mounts, outer ones first.
        storages: the storage directory of each overlay, by its path.
        private: whether nothing of the overlays needs to outlive their daemons.
    """

    def __init__(self, place: Place, parts: Sequence[Part], storages: Mapping[str, str], *, private: bool) -> None:
        self._place = place
        self._parts = parts
        self._storages = storages
        self._private = private
        self._mounts: dict[str, str] = {}
        self._daemons: dict[int, str] = {}
        self._failure = ""

    def run(self, command: Command, control: socket.socket, channel: socket.socket) -> NoReturn:
        """Run a command in a sandbox, and end.

        Args:
            command: what to run.
            control: to the caller's process: how the sandbox is; whether its directory is to be removed.
            channel: to the caller's process, for the first process.
        """
        remove = True
        try:
            signals.ignore_all()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            try:
                self._make()
                self._watch(self._start(command, control, channel), control)
            finally:
                self._unmount()
            messages.send(control, ended=True, failure=self._failure)
            answer = messages.receive(control)
            remove = answer is None or answer[0]["remove"]
        except StateError as error:
            messages.send(control, error=error.message, hint=error.hint)
        except OSError as error:
            messages.send(control, error=str(error), hint="")
        finally:
            if remove:
                self._place.remove()
            os._exit(0)

    def _make(self) -> None:
        """Enter the namespaces, and mount the overlays."""
        if os.geteuid() != 0:
            namespaces.enter_user_namespace()
        try:
            namespaces.unshare(namespaces.CLONE_NEWNS)
            namespaces.make_private()
            namespaces.mount("tmpfs", self._place.memory, "tmpfs", namespaces.NOSUID | namespaces.NODEV, "mode=700")
        except OSError as error:
            raise StateError(
                f"no mount namespace can be made here ({error.strerror})", "see 'Who may use it' in docs/run.md"
            ) from error
        for number, part in enumerate(self._parts):
            if part.how is How.MEMORY and not self._overlay_in_memory(part.path, str(number)):
                storage = self._place.directory(f"storage-of-{number}")
                self._overlay(part.path, storage)
            elif part.how is How.OVERLAY:
                self._overlay(part.path, self._storages[part.path])

    def _overlay(self, path: str, storage: str) -> None:
        """Mount an overlay of a directory with storage."""
        mountpoint = self._place.directory(f"mount-{len(self._mounts)}")
        flags = os.statvfs(path).f_flag
        # the mode of the storage keeps others out, so only the flags of the base count
        words = [
            word if flags & flag else opposite
            for word, opposite, flag in (("nosuid", "suid", os.ST_NOSUID), ("nodev", "dev", os.ST_NODEV))
        ]
        options = MountOptions(
            base=path,
            storage=storage,
            allow_other=True,
            kernel=tuple(words) if os.geteuid() == 0 else (),
            hidden=(self._place.path, *self._storages.values()),
            memory=self._place.memory if self._private else None,
        )
        self._daemons[launch_bound(options, mountpoint)] = path
        self._mounts[path] = mountpoint

    def _overlay_in_memory(self, path: str, name: str) -> bool:
        """Mount an overlay of the kernel over what is in memory; return whether that is possible."""
        mountpoint = self._place.directory(f"mount-{len(self._mounts)}")
        upper, work = (os.path.join(self._place.memory, name + kind) for kind in ("-upper", "-work"))
        base = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.mkdir(upper)
            os.mkdir(work)
            _copy_attributes(base, upper)
            words = f"lowerdir=/proc/self/fd/{base},upperdir={_escaped(upper)},workdir={_escaped(work)}"
            words += ",userxattr" if os.geteuid() != 0 else ""
            namespaces.mount("overlay", mountpoint, "overlay", namespaces.NOSUID | namespaces.NODEV, words)
        except OSError as error:
            log.debug("%s gets an overlay with storage: %s", path, error)
            os.rmdir(mountpoint)
            return False
        finally:
            os.close(base)
        self._mounts[path] = mountpoint
        return True

    def _start(self, command: Command, control: socket.socket, channel: socket.socket) -> int:
        """Fork the first process in a PID namespace of its own, and return its process id."""
        namespaces.unshare(namespaces.CLONE_NEWPID)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            control.close()
            first_process.run(command, self._parts, self._mounts, channel, reader)
        os.close(reader)
        channel.close()
        return pid

    def _watch(self, first: int, control: socket.socket) -> None:
        """Return when the first process has ended; end it if the caller's process or a daemon ends."""
        watched = {os.pidfd_open(pid): pid for pid in (first, *self._daemons)}
        sources: list[socket.socket | int] = [control, *watched]
        try:
            ready = select.select(sources, [], [])[0]
            ended = {watched[source] for source in ready if isinstance(source, int)}
            if first not in ended:
                for pid in ended:
                    self._failure = f"the daemon of {self._daemons[pid]} ended before the command"
                os.kill(first, signal.SIGKILL)
            os.waitpid(first, 0)
        finally:
            for fd in watched:
                os.close(fd)

    def _unmount(self) -> None:
        """Unmount everything in the sandbox's directory, and wait for the last commits of the daemons."""
        for mountpoint in (*reversed(self._mounts.values()), self._place.memory):
            with contextlib.suppress(StateError):  # it was not mounted, or its daemon was killed
                detach(mountpoint, lazy=True)
        for pid, path in self._daemons.items():
            fd = os.pidfd_open(pid)
            if not select.select([fd], [], [], _LAST_COMMIT)[0]:
                os.kill(pid, signal.SIGKILL)
            os.close(fd)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if code and not self._failure:
                self._failure = f"the daemon of {path} ended with {code}, and its last changes may be missing"


def _copy_attributes(source: int, target: str) -> None:
    """Give the root of an upper layer the mode and the owner of the directory that it covers."""
    st = os.fstat(source)
    with contextlib.suppress(OSError):  # an owner that this user namespace does not know
        os.chown(target, st.st_uid, st.st_gid)
    os.chmod(target, st.st_mode & 0o7777)


def _escaped(path: str) -> str:
    """Return a path as a value in the options of overlayfs."""
    return path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")

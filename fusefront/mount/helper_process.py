"""What the daemon asks of its own mount, asked by a process of its own.

Some calls on the mount wait until the daemon has answered requests, and cannot be interrupted meanwhile: syncfs(2),
writing a file's pages back, stat(2), umount(2).  A thread of the daemon that makes one outlives a SIGKILL of the
daemon, and keeps the FUSE device open with it: the connection would never end, and every process that uses the mount
would hang until an administrator aborts the connection.  The rule kept here: no thread of the daemon waits for its own
mount.  A child, forked before the device and the storage are opened, does it instead; it ends with the daemon
(helper_child.py).

A child that was killed is replaced, and its unanswered calls are made again; one that was stopped (SIGSTOP) is killed,
for commits and renames wait for it.  The daemon hears of both by SIGCHLD.  A child that is lost before it has answered
any call is not replaced once more: then the daemon makes the calls itself.

The threads that serve the mount may not unmount it any more (privileges.py), and neither may what they start.  So
children are forked, and calls are made without them, by threads that kept that privilege (privileged_threads.py).
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ..process import last_words
from ..process.privileged_threads import PrivilegedThreads
from .helper_child import LOG, PACKET, HelperChild
from .mount_calls import answer, result_of
from .mount_table import find_mount

log = logging.getLogger(__name__)

_SOON = 0.2  # seconds the loop that serves the mount may wait for an answer

T = TypeVar("T")


class HelperProcess:
    """The process that uses a mount on behalf of its daemon.  Calls may come from any thread, and block.

    Args:
        mountpoint: where the mount is, or will be.
    """

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = mountpoint
        self._device = 0
        self._lock = threading.Lock()  # held by the thread that replaces the child
        self._gave_up = False  # no child is tried any more
        self._child = HelperChild(mountpoint)
        self._former: list[HelperChild] = []  # replaced, and not known to have ended
        self._threads: PrivilegedThreads | None = None

    def keep_privileges(self) -> None:
        """Keep what the calling thread may do now, for calls after it has given that up."""
        self._threads = PrivilegedThreads()

    def mounted(self) -> int:
        """Note that the mount is there now, so that calls which need its st_dev work even before ``probe`` returns.

        The mount table names its device without a request to it.

        Returns:
            The mount's st_dev, or 0 where the table shows nothing (a chroot that the mount point lies outside of): then
            ``probe`` is the first to know.

        Raises:
            OSError: the mount table cannot be read.
        """
        entry = find_mount(self._mountpoint)
        if entry is not None:
            self._device = entry.device
        return self._device

    def probe(self) -> int:
        """Return when the mount answers, with its st_dev.

        Raises:
            OSError: it does not.
        """
        self._device = int(self._ask("probe"))
        return self._device

    def write_back_all(self) -> None:
        """Make the kernel write back everything it holds of the mount; nothing if the mount is gone already.

        Raises:
            OSError: something could not be written; its owner hears of it at close or fsync.
        """
        if self._device:
            self._ask("write_back_all", self._device)

    def write_back(self, ino: int) -> None:
        """Make the kernel write back what it holds of one file.

        Raises:
            OSError: something could not be written.
        """
        self._ask("write_back", self._device, ino)

    def start_write_back(self, ino: int) -> int:
        """Ask for ``write_back`` and do not wait.

        Returns:
            A descriptor that can be read when it is done; to be given to ``finish_write_back``.
        """
        reader, writer = os.pipe()
        self._child.send(writer, "write_back", self._device, ino, wait=False)
        return reader

    def finish_write_back(self, reader: int) -> bool:
        """Take the answer to ``start_write_back``.

        Returns:
            False if the child ended without an answer: then ``write_back`` is still to be called.

        Raises:
            OSError: something could not be written.
        """
        try:
            text = os.read(reader, PACKET)
        finally:
            os.close(reader)
        if text:
            self._child.has_answered = True
            self._result(text)
        return bool(text)

    def forget_names(self) -> None:
        """Make the kernel forget all names of the mount that are not in use.

        Raises:
            OSError: EPERM unless the mount is root's, ENOSYS on an old kernel.
        """
        self._ask("forget_names", self._device)

    def is_writing(self, pid: int, ino: int) -> bool:
        """Return whether a process has a file open for writing (proc_info.py); False where no answer comes at once."""
        child = self._child
        reader, writer = os.pipe()
        with open(reader, "rb") as pipe:
            child.send(writer, "is_writing", pid, ino, wait=False)
            # the loop that serves the mount waits here, and it is also what kills a child that was stopped
            text = pipe.read() if select.select([pipe], [], [], _SOON)[0] else b""
        return bool(text) and bool(self._result(text))

    def unmark(self, source: str) -> None:
        """Take back umount(8)'s note of the mount (utab.py)."""
        self._ask("unmark", source)

    def is_root(self) -> bool:
        """Return whether the mount is the root directory of process 1: the whole system runs on it.

        Raises:
            OSError: that cannot be told.
        """
        return bool(self._ask("is_root", self._device))

    def detach(self, *, lazy: bool) -> None:
        """Unmount.

        Raises:
            StateError: it is busy, or this user may not unmount it.
        """
        self._ask("detach", lazy)

    def relay(self, severity: int, line: str) -> bool:
        """Pass a line on to the system log, without waiting and without logging anything itself.

        Returns:
            False if it could not be passed on.
        """
        return self._child.send(None, LOG, severity, line, wait=False)

    def check_child(self) -> None:
        """Replace a child that has ended, kill one that was stopped.  To be called at SIGCHLD."""
        with self._lock:
            self._former = [child for child in self._former if child.state() is None]
            child = self._child
            state = None if self._gave_up else child.state()
        if state == os.CLD_STOPPED:
            child.was_stopped = True  # logged by _replace: only another child can pass the line on
            child.kill()
        elif state is not None:
            self._replace(child)

    def close(self) -> None:
        """End the child: the daemon ends, or has said why it does."""
        last_words.mark_expected_end()
        self._gave_up = True
        self._child.close()

    def _ask(self, call: str, *arguments: int | str) -> Any:
        while True:
            child = self._child
            text = child.ask(call, *arguments)
            if text:
                return self._result(text)
            if not self._replace(child):
                message = self._with_privileges(lambda: answer(self._mountpoint, call, *arguments))
                return result_of(message, self._mountpoint)

    def _result(self, text: bytes) -> Any:
        return result_of(json.loads(text), self._mountpoint)

    def _with_privileges(self, function: Callable[[], T]) -> T:
        return function() if self._threads is None else self._threads.call(function)

    def _replace(self, child: HelperChild) -> bool:
        """Fork another child in the place of one that has ended, unless another thread has done so already.

        Returns:
            False if there is none.
        """
        # the process that killed the child did not mean the mount, so the mount goes on; but what killed a child in the
        # middle of its first call would kill the next one as well
        with self._lock:
            if self._gave_up or self._child is not child:
                return not self._gave_up
            self._gave_up = not child.has_answered
            if not self._gave_up:
                self._child = self._with_privileges(lambda: HelperChild(self._mountpoint))
            self._former.append(child)
            child.close()
        end = "was stopped" if child.was_stopped else "was killed"
        what = "the daemon does its work by itself" if self._gave_up else f"{self._child.pid} takes its place"
        log.warning("%s: the helper process %d %s; %s", self._mountpoint, child.pid, end, what)
        return not self._gave_up

"""The helper process of a daemon, which makes blocking calls on the daemon's own mount.

Some calls on a mount wait until the daemon has answered requests, and cannot be interrupted meanwhile: syncfs(2),
writing a file's pages back, stat(2), umount(2).  A thread of the daemon that makes such a call outlives a SIGKILL of
the daemon and keeps the FUSE device open: the connection would never end, and every process that uses the mount would
hang until an administrator aborts the connection.  The rule kept here: no thread of the daemon waits for its own mount.
A child makes these calls instead.  It is forked before the device and the storage are opened, and ends with the daemon
(helper_child.py).

A child that was killed is replaced, and its unanswered calls are made again.  A child that was stopped (SIGSTOP) is
killed first, for commits and renames wait for it.  SIGCHLD tells the daemon of both.  If a child ends before it has
answered any call, it is not replaced: from then on the daemon makes the calls itself.

The threads that serve the mount have dropped the privilege to unmount it (privileges.py), and so have threads and
processes that they start.  So other threads, which have kept that privilege, fork the children and make the calls if
there is no child (privileged_threads.py).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ..process import last_words
from ..process.log_senders import Entry
from ..process.privileged_threads import PrivilegedThreads
from .helper_child import LOG, PACKET, HelperChild
from .mount_calls import answer, result_of
from .mount_table import find_mount

log = logging.getLogger(__name__)

_SOON = 0.2  # seconds that the event loop may wait for an answer

T = TypeVar("T")


class HelperProcess:
    """Makes calls on the mount by a child process.  Any thread may use this object; its methods block.

    Args:
        mountpoint: where the mount is, or will be.
        log_target: where the child sends log entries to (``log=``).
    """

    def __init__(self, mountpoint: str, log_target: str = "auto") -> None:
        self._mountpoint = mountpoint
        self._log_target = log_target
        self._device = 0
        self._lock = threading.Lock()  # held by the thread that replaces the child
        self._gave_up = False  # no other child is forked; the daemon makes the calls
        self._child = HelperChild(mountpoint, log_target)
        self._former: list[HelperChild] = []  # replaced children that may not have ended yet
        self._threads: PrivilegedThreads | None = None

    def keep_privileges(self) -> None:
        """Start threads that keep the privileges of the calling thread, before that drops them."""
        self._threads = PrivilegedThreads()

    def mounted(self) -> int:
        """Read the st_dev of the new mount, so that calls which need it work even before ``probe`` returns.

        The mount table has it, so no request is sent to the daemon.

        Returns:
            The mount's st_dev; 0 if the table does not show the mount (in a chroot, if the mount point is outside):
            then ``probe`` finds it.

        Raises:
            OSError: the mount table cannot be read.
        """
        entry = find_mount(self._mountpoint)
        if entry is not None:
            self._device = entry.device
        return self._device

    def probe(self) -> int:
        """Return the mount's st_dev when the mount responds.

        Raises:
            OSError: the mount returned an error.
        """
        self._device = int(self._ask("probe"))
        return self._device

    def await_answer(self) -> None:
        """Return when the daemon has answered a request that the kernel does not answer by itself.

        Raises:
            OSError: the mount returned an error.
        """
        self._ask("await_answer", self._device)

    def write_back_all(self) -> None:
        """Return when the kernel has written back all dirty pages of the mount; at once if it is unmounted already.

        Raises:
            OSError: a page could not be written; the program that wrote it gets the error at close(2) or fsync(2).
        """
        if self._device:
            self._ask("write_back_all", self._device)

    def write_back(self, ino: int) -> None:
        """Return when the kernel has written back all dirty pages of one file.

        Raises:
            OSError: a page could not be written.
        """
        self._ask("write_back", self._device, ino)

    def start_write_back(self, ino: int) -> int:
        """Start to write back the dirty pages of one file; do not wait.

        Returns:
            A descriptor that becomes readable when it is done; pass it to ``finish_write_back``.
        """
        reader, writer = os.pipe()
        self._child.send(writer, "write_back", self._device, ino, wait=False)
        return reader

    def finish_write_back(self, reader: int) -> bool:
        """Read the result of ``start_write_back`` and close its descriptor.

        Returns:
            False if the child ended without an answer: then the caller must call ``write_back``.

        Raises:
            OSError: a page could not be written.
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
        """Return whether a process has a file open for writing (proc_info.py); False if no answer comes at once."""
        child = self._child
        reader, writer = os.pipe()
        with open(reader, "rb") as pipe:
            child.send(writer, "is_writing", pid, ino, wait=False)
            # not longer: the event loop waits here, and only the event loop can kill a child that was stopped
            text = pipe.read() if select.select([pipe], [], [], _SOON)[0] else b""
        return bool(text) and bool(self._result(text))

    def unmark(self, source: str) -> None:
        """Remove the entry of the mount in umount(8)'s file utab (utab.py)."""
        self._ask("unmark", source)

    def is_root(self) -> bool:
        """Return whether the mount is the root directory of process 1: the whole system runs on it.

        Raises:
            OSError: the root directory of process 1 cannot be examined.
        """
        return bool(self._ask("is_root", self._device))

    def detach(self, *, lazy: bool) -> None:
        """Unmount the mount.

        Args:
            lazy: also if files are open.

        Raises:
            StateError: it is busy, or this user may not unmount it.
        """
        self._ask("detach", lazy)

    def relay(self, entry: Entry) -> bool:
        """Make the child send an entry to the log; neither wait nor log.

        Returns:
            False if the entry could not be passed to the child.
        """
        return self._child.send(None, LOG, *entry, wait=False)

    def check_child(self) -> None:
        """Replace the child if it has ended; kill it if it was stopped.  To be called at SIGCHLD."""
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
        """End the child; it reports nothing, for the daemon ends as expected or has logged why it ends."""
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
                return self._call(call, *arguments)

    def _call(self, call: str, *arguments: int | str) -> Any:
        """Make a call without a child."""
        sent = contextlib.ExitStack()
        message = self._with_privileges(lambda: answer(self._mountpoint, call, *arguments, sent=sent))
        threading.Thread(target=sent.close, daemon=True).start()  # it may wait for what waits for the answer
        return result_of(message, self._mountpoint)

    def _result(self, text: bytes) -> Any:
        return result_of(json.loads(text), self._mountpoint)

    def _with_privileges(self, function: Callable[[], T]) -> T:
        return function() if self._threads is None else self._threads.call(function)

    def _replace(self, child: HelperChild) -> bool:
        """Fork another child in the place of one that has ended, unless another thread has done so already.

        Returns:
            False if there is no child: the daemon must make the calls.
        """
        # if a child ends before its first answer, the next one would probably end, too
        with self._lock:
            if self._gave_up or self._child is not child:
                return not self._gave_up
            self._gave_up = not child.has_answered
            if not self._gave_up:
                self._child = self._with_privileges(lambda: HelperChild(self._mountpoint, self._log_target))
            self._former.append(child)
            child.close()
        end = "was stopped" if child.was_stopped else "was killed"
        what = "the daemon does its work itself" if self._gave_up else f"{self._child.pid} takes its place"
        log.warning("%s: the helper process %d %s; %s", self._mountpoint, child.pid, end, what)
        return not self._gave_up

"""What the daemon asks of its own mount, asked by a process of its own.

Some calls on the mount wait until the daemon has answered requests, and cannot be interrupted meanwhile: syncfs(2),
writing a file's pages back, stat(2), umount(2).  A thread of the daemon that makes one outlives a SIGKILL of the
daemon, and keeps the FUSE device open with it: the connection would never end, and every process that uses the mount
would hang until somebody aborts it by hand.  The rule kept here: no thread of the daemon waits for its own mount.  A
child, forked before the device and the storage are opened, does it instead; it ends with the daemon.

Each request goes as one packet, with the writing end of a pipe for its answer, so requests do not wait for each other:
the child has as many threads as it once had requests at a time, and one that waits for the next.

A child that was killed is replaced, and what it was asked is asked again; one that was stopped (SIGSTOP) is killed, for
commits and renames wait for it.  The daemon hears of both by SIGCHLD.  A child that is lost before it has answered
anything is not replaced once more: then the daemon does the work by itself.

The threads that serve the mount may not unmount it any more (privileges.py), and neither may what they start.  So
children are made, and work is done without them, by threads that come from one which was there before.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import json
import logging
import os
import queue
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import outcome

from ...engine.errors import StateError
from ...engine.store.syscalls import forget_names, syncfs
from ..process import last_words, privileges, signals
from ..process.proc_info import is_writing
from ..process.system_log import LogSender
from . import utab
from .mount_table import find_mount, read_mounts
from .unmount import detach

log = logging.getLogger(__name__)

_PACKET = 8192  # bytes; a request is a word and a few numbers, or a line of a log
_DONT_WAIT = socket.MSG_DONTWAIT
_FILEID_INO64_GEN = 0x81  # the kernel's fs/fuse/inode.c, fuse_encode_fh: node number (high word first), generation
_ROOT_OF_INIT = "/proc/1/root"
_WRITE_AND_WAIT = 1 | 2 | 4  # sync_file_range(2)

_SOON = 0.2  # seconds the loop that serves the mount may wait for an answer
_READ_AHEAD = 1024  # KiB; 128 is the most that INIT can ask for, and half as fast on large files

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


class MountHelper:
    """The child that uses a mount on behalf of its daemon.  Calls may come from any thread, and block.

    Args:
        mountpoint: where the mount is, or will be.
    """

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = mountpoint
        self._device = 0
        self._lock = threading.Lock()  # of who replaces the child
        self._alone = False  # no child is tried any more
        self._child = _Child(mountpoint)
        self._former: list[_Child] = []  # replaced, and not known to have ended
        self._unbound: _Unbound | None = None

    def stay_unbound(self) -> None:
        """Let what this thread may do now be done for it later, when it may not any more."""
        self._unbound = _Unbound()

    def mounted(self) -> int:
        """Note that the mount is there now: what is asked of its files before ``probe`` has an answer is done too.

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

    def write_back(self) -> None:
        """Make the kernel write back everything it holds of the mount; nothing if the mount is gone already.

        Raises:
            OSError: something could not be written; its owner hears of it at close or fsync.
        """
        if self._device:
            self._ask("write_back", self._device)

    def flush(self, ino: int) -> None:
        """Make the kernel write back what it holds of one file.

        Raises:
            OSError: something could not be written.
        """
        self._ask("flush", self._device, ino)

    def post_flush(self, ino: int) -> int:
        """Ask for ``flush`` and do not wait.

        Returns:
            A descriptor that can be read when it is done; to be given to ``flushed``.
        """
        reader, writer = os.pipe()
        self._child.send(writer, "flush", self._device, ino, wait=False)
        return reader

    def flushed(self, reader: int) -> bool:
        """Take the answer to ``post_flush``.

        Returns:
            False if there was nobody to answer: then ``flush`` is still to be done.

        Raises:
            OSError: something could not be written.
        """
        try:
            text = os.read(reader, _PACKET)
        finally:
            os.close(reader)
        if text:
            self._child.has_answered = True
            self._result(json.loads(text))
        return bool(text)

    def forget(self) -> None:
        """Make the kernel forget all names of the mount that nobody uses just now.

        Raises:
            OSError: EPERM unless the mount is root's, ENOSYS on an old kernel.
        """
        self._ask("forget", self._device)

    def is_writing(self, pid: int, ino: int) -> bool:
        """True if a process has a file open for writing (proc_info.py); False where nobody says so at once."""
        child = self._child
        reader, writer = os.pipe()
        with open(reader, "rb") as pipe:
            child.send(writer, "is_writing", pid, ino, wait=False)
            # not for long: the loop that serves the mount waits, and sees to a child that was stopped
            text = pipe.read() if select.select([pipe], [], [], _SOON)[0] else b""
        return bool(text) and bool(self._result(json.loads(text)))

    def unmark(self, source: str) -> None:
        """Take back umount(8)'s note of the mount (utab.py)."""
        self._ask("unmark", source)

    def is_root(self) -> bool:
        """True if the mount is the root directory of process 1: the whole system runs on it.

        Raises:
            OSError: that cannot be told.
        """
        return bool(self._ask("is_root", self._device))

    def detach(self, *, lazy: bool) -> None:
        """Unmount.

        Raises:
            StateError: it is busy, or we may not.
        """
        self._ask("detach", lazy)

    def relay(self, severity: int, line: str) -> bool:
        """Pass a line on to the system log; without waiting, and without a word of its own.

        Returns:
            False if it could not be passed on.
        """
        return self._child.send(None, "log", severity, line, wait=False)

    def look_after(self) -> None:
        """See how the child is: replace one that has ended, end one that was stopped.  To be called at SIGCHLD."""
        with self._lock:
            self._former = [child for child in self._former if child.state() is None]
            child = self._child
            state = None if self._alone else child.state()
        if state == os.CLD_STOPPED:
            child.was_stopped = True  # told when there is another to tell it through
            child.kill()
        elif state is not None:
            self._replace(child)

    def close(self) -> None:
        """End the child: the daemon ends, or has said why it does."""
        last_words.mark_expected_end()
        self._alone = True
        self._child.close()

    def _ask(self, word: str, *arguments: int | str) -> Any:
        while True:
            child = self._child
            text = child.ask(word, *arguments)
            if text:
                return self._result(json.loads(text))
            if not self._replace(child):
                return self._result(self._freely(lambda: _answer(self._mountpoint, word, *arguments)))

    def _freely(self, action: Callable[[], T]) -> T:
        return action() if self._unbound is None else self._unbound.call(action)

    def _replace(self, child: _Child) -> bool:
        """Put another in the place of a child that has ended, unless somebody has done so already.

        Returns:
            False if there is none.
        """
        # whoever killed it did not mean the mount: it goes on, but must not be killed in the middle of a call
        with self._lock:
            if self._alone or self._child is not child:
                return not self._alone
            self._alone = not child.has_answered
            if not self._alone:
                self._child = self._freely(lambda: _Child(self._mountpoint))
            self._former.append(child)
            child.close()
        end = "was stopped" if child.was_stopped else "was killed"
        what = "the daemon does its work by itself" if self._alone else f"{self._child.pid} takes its place"
        log.warning("%s: the helper process %d %s; %s", self._mountpoint, child.pid, end, what)
        return not self._alone

    def _result(self, answer: dict[str, Any]) -> Any:
        if "state" in answer:
            raise StateError(*answer["state"])
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]), self._mountpoint)
        return answer["value"]


class _Unbound:
    """Calls functions in threads that may do what the one may do that makes this."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._begin, daemon=True).start()

    def _begin(self) -> None:
        while True:
            # each in a thread of its own, which inherits: some wait long
            threading.Thread(target=self._calls.get(), daemon=True).start()

    def call(self, action: Callable[[], T]) -> T:
        """The result of a function, or what it raises."""
        answers: queue.SimpleQueue[outcome.Outcome[T]] = queue.SimpleQueue()
        self._calls.put(lambda: answers.put(outcome.capture(action)))
        return answers.get().unwrap()


class _Child:
    """One child, as the daemon has it."""

    def __init__(self, mountpoint: str) -> None:
        self.has_answered = False
        self.was_stopped = False
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        daemon = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _live(theirs.fileno(), mountpoint, daemon)
        theirs.close()

    def send(self, answer: int | None, word: str, *arguments: int | str, wait: bool) -> bool:
        """Send a request.

        Args:
            answer: where the answer is to be written; it is closed here.
            word, arguments: the request.
            wait: until there is room for it.
        """
        packet = json.dumps([word, *arguments]).encode()
        try:
            socket.send_fds(self._socket, [packet], [] if answer is None else [answer], 0 if wait else _DONT_WAIT)
        except OSError:
            return False  # it has ended, or is stopped: whoever waits for the answer finds out
        finally:
            if answer is not None:
                os.close(answer)
        return True

    def ask(self, word: str, *arguments: int | str) -> bytes:
        """The answer to a request; empty if there is nobody to give it."""
        reader, writer = os.pipe()
        with open(reader, "rb") as pipe:
            self.send(writer, word, *arguments, wait=True)
            text = pipe.read()
        self.has_answered = self.has_answered or bool(text)
        return text

    def state(self) -> int | None:
        """What has become of it, told once: CLD_STOPPED, another code of waitid(2) if it has ended, None if nothing."""
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:
            return os.CLD_EXITED  # somebody else has asked
        return None if found is None else found.si_code

    def kill(self) -> None:
        """End it, even if it is stopped."""
        # it is a child that nobody has waited for yet, so the number is still its own
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let it end, if it has not."""
        self._socket.close()


# -- in the child


def _live(channel: int, mountpoint: str, daemon: int) -> NoReturn:
    """Serve requests until the daemon has ended."""
    try:
        # it ends with the daemon and never before: a terminal or a service manager signals all of a group
        signals.ignore_all()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.chdir("/")
        # what the caller of the daemon has open would look as if it were still running
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        faulthandler.disable()  # what the file is for are the daemon's last words
        begin = 3
        for kept in sorted({channel, last_words.descriptor() or channel}):
            os.closerange(begin, kept)
            begin = kept + 1
        os.closerange(begin, os.sysconf("SC_OPEN_MAX"))
        with socket.socket(fileno=channel) as requests:
            outlet = LogSender(daemon)
            privileges.drop_in_helper()
            servants = _Servants(mountpoint, requests, outlet)
            servants.hire()
            servants.serve()
    finally:
        os._exit(0)


class _Servants:
    """Threads that each wait for a request, serve it, and wait again; one more when there is none left to wait."""

    def __init__(self, mountpoint: str, requests: socket.socket, outlet: LogSender) -> None:
        self._mountpoint = mountpoint
        self._requests = requests
        self._outlet = outlet
        self._lock = threading.Lock()
        self._idle = 1

    def hire(self) -> None:
        """Start one more."""
        self._idle += 1
        threading.Thread(target=self._serve_until_the_end, daemon=True).start()

    def _serve_until_the_end(self) -> None:
        try:
            self.serve()
        finally:
            os._exit(0)

    def serve(self) -> None:
        """Serve until the daemon has ended."""
        while True:
            packet, fds, _, _ = socket.recv_fds(self._requests, _PACKET, 1)
            if not packet:
                with self._lock:
                    for severity, line in last_words.take_report(self._mountpoint):
                        self._outlet.send(severity, line)
                return
            word, *arguments = json.loads(packet)
            with self._lock:
                if word == "log":
                    self._outlet.send(*arguments)
                    continue
                self._idle -= 1
                if self._idle == 0:
                    self.hire()
            answer = _answer(self._mountpoint, word, *arguments)
            # the daemon may have been killed meanwhile
            with contextlib.suppress(BrokenPipeError), open(fds[0], "wb") as pipe:
                pipe.write(json.dumps(answer).encode())
            with self._lock:
                self._idle += 1


def _answer(mountpoint: str, word: str, *arguments: int | str) -> dict[str, Any]:
    try:
        return {"value": _CALLS[word](mountpoint, *arguments)}
    except StateError as error:
        return {"state": [error.message, error.hint]}
    except OSError as error:
        return {"errno": error.errno or errno.EIO}


def _probe(mountpoint: str) -> int:
    device = os.stat(mountpoint).st_dev
    _read_ahead(device)
    return device


def _read_ahead(device: int) -> None:
    """Let the kernel read further ahead than INIT can ask for; root only (sysfs, bdi)."""
    path = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(_READ_AHEAD))
    except OSError as error:
        log.debug("%s: %s", path, error)


def _is_writing(mountpoint: str, pid: int, ino: int) -> bool:
    return is_writing(pid, ino)


def _unmark(mountpoint: str, source: str) -> None:
    utab.remove_entry(mountpoint, source)


def _is_root(mountpoint: str, device: int) -> bool:
    return os.stat(_ROOT_OF_INIT).st_dev == device


def _open_root(mountpoint: str, device: int) -> int | None:
    """Open the mount's root directory, wherever it is mounted now; None if it is nowhere to be seen.

    For the call only: a descriptor that stays would keep the mount busy.
    """
    for place in _places(mountpoint, device):
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if place == mountpoint and not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise
            continue
        if os.fstat(fd).st_dev == device:
            return fd
        os.close(fd)
    return None


def _places(mountpoint: str, device: int) -> Iterator[str]:
    """Where a mount may be: where it was made, and where it was moved to."""
    yield mountpoint
    # at boot it is moved over the root directory, which the daemon and its helper stay beneath of
    yield _ROOT_OF_INIT
    yield from (entry.mountpoint for entry in read_mounts() if entry.device == device)


def _write_back(mountpoint: str, device: int) -> None:
    root = _open_root(mountpoint, device)
    if root is not None:
        try:
            syncfs(root)
        finally:
            os.close(root)


def _forget(mountpoint: str, device: int) -> None:
    root = _open_root(mountpoint, device)
    if root is not None:
        try:
            forget_names(root)
        finally:
            os.close(root)


def _flush(mountpoint: str, device: int, ino: int) -> None:
    root = _open_root(mountpoint, device)
    if root is None:
        return  # unmounted, or something is mounted over it: there is nobody left who could write
    try:
        try:
            fd = _open_by_number(root, ino)
        except PermissionError:
            syncfs(root)  # not for root only, but everything is written, not one file
            return
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            return  # the kernel does not know it, so it holds nothing of it
        try:
            _check(_libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE_AND_WAIT))
        finally:
            os.close(fd)
    finally:
        os.close(root)


def _open_by_number(root: int, ino: int) -> int:
    """Open a file of the mount by its inode number (open_by_handle_at(2))."""
    handle = struct.pack("=IiIII", 12, _FILEID_INO64_GEN, ino >> 32, ino & 0xFFFFFFFF, 0)
    return _check(_libc.open_by_handle_at(root, handle, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _detach(mountpoint: str, lazy: int) -> None:
    detach(mountpoint, lazy=bool(lazy))


_CALLS: dict[str, Callable[..., Any]] = {
    "probe": _probe, "is_root": _is_root, "write_back": _write_back, "flush": _flush, "forget": _forget,
    "detach": _detach, "is_writing": _is_writing, "unmark": _unmark,
}  # fmt: skip

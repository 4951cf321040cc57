"""Where log lines go: the journal, the system log, the kernel's log or a descriptor.  Nothing here waits.

A system log that writes to our own mount may itself be waiting for the daemon.  So a line that a log does not take at
once goes to the next log, or nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
from collections.abc import Mapping
from typing import NamedTuple, Protocol

SYSLOG = "/dev/log"
KERNEL_LOG = "/dev/kmsg"
JOURNAL = "/run/systemd/journal/socket"

_DAEMON = 3  # syslog(3), LOG_DAEMON
_PIECE = 800  # characters of one line; the kernel cuts lines of about 1,000 bytes


class Entry(NamedTuple):
    """One event.

    Attributes:
        severity: of syslog(3), 0 to 7.
        text: what happened; several lines, if it is a trace.
        fields: what a journal keeps beside it: names of capital letters, digits and underscores.
    """

    severity: int
    text: str
    fields: Mapping[str, str] = {}


class Sender(Protocol):
    """A log.

    Attributes:
        resolves_path: it resolves its path at each new connection.
    """

    resolves_path: bool

    def send(self, entry: Entry) -> bool:
        """Send an entry without waiting; return whether the log took it."""

    def close(self) -> None:
        """Close its descriptors."""


class _Datagrams:
    """A datagram socket whose other end may come and go.

    Args:
        path: where the other end listens.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def send(self, packet: bytes) -> None:
        """Send through the connected socket, or through a new one if that is closed.

        Raises:
            OSError: EAGAIN, EMSGSIZE, ENOBUFS; or nobody listens.
        """
        if self._socket is not None:
            try:
                self._socket.send(packet)
                return
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                self.close()
        self._connected().send(packet)

    def pass_on(self, fd: int) -> None:
        """Send an empty datagram with a descriptor.

        Raises:
            OSError: as ``send``.
        """
        socket.send_fds(self._socket or self._connected(), [b""], [fd])

    def _connected(self) -> socket.socket:
        fresh = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            fresh.connect(self._path)
        except OSError:
            fresh.close()
            raise
        self._socket = fresh
        return fresh

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Syslog:
    """The system log, in the form of syslog(3): each line of an entry is one of the log, long ones are cut in pieces.

    Args:
        pid: process id that each line shows as its sender.
        path: where it listens.
    """

    resolves_path = True

    def __init__(self, pid: int, path: str = SYSLOG) -> None:
        self._pid = pid
        self._datagrams = _Datagrams(path)

    def send(self, entry: Entry) -> bool:
        """Send an entry without waiting; return whether the log took it."""
        try:
            for line in _lines(entry, self._pid):
                self._datagrams.send(line)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        self._datagrams.close()


class KernelLog:
    """The kernel's log, which only root may write; dmesg shows it.

    Args:
        pid: process id that each line shows as its sender.
        path: its device, opened now, for later its path may lead through the mount.
    """

    resolves_path = False

    def __init__(self, pid: int, path: str = KERNEL_LOG) -> None:
        self._pid = pid
        self._fd: int | None = None
        with contextlib.suppress(OSError):
            self._fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def send(self, entry: Entry) -> bool:
        """Send an entry without waiting; return whether the log took it."""
        if self._fd is None:
            return False
        try:
            for line in _lines(entry, self._pid):
                os.write(self._fd, line + b"\n")
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the device."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Stream:
    """A descriptor, such as standard error; a line that a full pipe does not take at once is dropped.

    Args:
        fd: the descriptor, which stays open.
    """

    resolves_path = False

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, entry: Entry) -> bool:
        """Send an entry without waiting; return whether the log took it."""
        try:
            for line in entry.text.splitlines():
                # poll(2) says that a pipe has room for PIPE_BUF bytes, which are written at once (pipe(7))
                data = f"minifo: {line}".encode("utf-8", "backslashreplace")[: select.PIPE_BUF - 1] + b"\n"
                if not select.select([], [self._fd], [], 0)[1]:
                    return False
                os.write(self._fd, data)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Leave the descriptor open: others use it, too."""


class Journal:
    """systemd's journal, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): an entry stays whole.

    Args:
        pid: of the daemon; the journal sees the process that sends, which may be its helper.
        path: where it listens.
    """

    resolves_path = True

    def __init__(self, pid: int, path: str = JOURNAL) -> None:
        self._pid = pid
        self._datagrams = _Datagrams(path)

    def send(self, entry: Entry) -> bool:
        """Send an entry without waiting; return whether the log took it."""
        fields = {
            "MESSAGE": entry.text,
            "PRIORITY": str(entry.severity),
            "SYSLOG_FACILITY": str(_DAEMON),
            "SYSLOG_IDENTIFIER": "minifo",
            "SYSLOG_PID": str(self._pid),
            **entry.fields,
        }
        data = b"".join(_field(name, value) for name, value in fields.items())
        try:
            try:
                self._datagrams.send(data)
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                self._send_in_memory(data)
        except OSError:
            return False
        return True

    def _send_in_memory(self, data: bytes) -> None:
        """Send what is too large for a datagram as a file in memory, sealed so that the journal can trust it."""
        fd = os.memfd_create("minifo-log-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            self._datagrams.pass_on(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the socket."""
        self._datagrams.close()


def _field(name: str, value: str) -> bytes:
    """Return a field as it is sent: ``NAME=value``, or with its length where the value has several lines."""
    data = value.encode("utf-8", "surrogateescape")  # a path is bytes; the journal takes any
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def _lines(entry: Entry, pid: int) -> list[bytes]:
    signature = f"<{_DAEMON << 3 | entry.severity}>minifo[{pid}]: "
    return [
        f"{signature}{line[begin : begin + _PIECE]}".encode("utf-8", "backslashreplace")
        for line in entry.text.splitlines()
        for begin in range(0, len(line), _PIECE)
    ]


#: What ``log=`` may say.
TARGETS = ("auto", "stderr", "journal", "syslog", "kmsg")


def _is_in_unit() -> bool:
    """Return whether systemd has started this process (systemd.exec(5))."""
    return "INVOCATION_ID" in os.environ


def stderr_is_journal() -> bool:
    """Return whether standard error leads to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def senders_for(target: str, pid: int) -> list[Sender]:
    """Return the logs for a target of ``log=``, the best one first: a later one takes what an earlier one does not.

    Args:
        target: of TARGETS; ``auto`` is the journal in a unit of systemd, and elsewhere the system log.
        pid: process id that lines show as their sender.
    """
    if target == "journal" or (target == "auto" and _is_in_unit() and os.path.exists(JOURNAL)):
        return [Journal(pid), Syslog(pid), KernelLog(pid)]
    if target == "kmsg":
        return [KernelLog(pid)]
    if target == "stderr":
        return [Stream(2)]
    return [Syslog(pid), KernelLog(pid)]

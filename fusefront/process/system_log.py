"""Sends a daemon's warnings to the system log, or to the kernel's log while no system log runs.

At boot a mount is made before a system log runs, and a system log may restart at any time.  So a line that cannot be
sent makes the process connect to ``/dev/log`` again; if that fails, the line goes to ``/dev/kmsg`` (root only; dmesg
shows it, and most system logs read it when they start).

Two rules.  Nothing here waits: a system log that writes to our own mount may itself be waiting for the daemon.  And
once the mount is there, the daemon does not resolve the path ``/dev/log`` itself, for that path may lead through the
mount (after pivot_root it does): its helper process does (helper_process.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator

SYSLOG = "/dev/log"
KERNEL_LOG = "/dev/kmsg"

_DAEMON = 3 << 3  # syslog(3), LOG_DAEMON
_SEVERITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7
_PIECE = 800  # characters of one line; the kernel cuts lines of about 1,000 bytes, a packet to the helper holds 8,192

Relay = Callable[[int, str], bool]


class LogSender:
    """Sends single lines to the system log or the kernel's log, without waiting.

    Args:
        pid: process id that each line shows as its sender.
        syslog, kernel_log: the paths of the two logs.
    """

    def __init__(self, pid: int, syslog: str = SYSLOG, kernel_log: str = KERNEL_LOG) -> None:
        self._signature = f"minifo[{pid}]: "
        self._path = syslog
        self._socket: socket.socket | None = None
        self._kernel: int | None = None
        # opened now, for later its path may lead through the mount; only root may open it
        with contextlib.suppress(OSError):
            self._kernel = os.open(kernel_log, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def send(self, severity: int, line: str) -> None:
        """Send one line to the system log, or to the kernel's log if that fails.

        Args:
            severity: of syslog(3), 0 to 7.
            line: its text.
        """
        if not self._to_system(self._packet(severity, line)):
            self.to_kernel(severity, line)

    def to_kernel(self, severity: int, line: str) -> None:
        """Send one line to the kernel's log; do nothing if this process could not open that."""
        if self._kernel is not None:
            with contextlib.suppress(OSError):  # no log is left in which the failure could be recorded
                os.write(self._kernel, self._packet(severity, line) + b"\n")

    def close(self) -> None:
        """Close the descriptors of both logs."""
        if self._socket is not None:
            self._socket.close()
        if self._kernel is not None:
            os.close(self._kernel)

    def _packet(self, severity: int, line: str) -> bytes:
        return f"<{_DAEMON | severity}>{self._signature}{line}".encode("utf-8", "backslashreplace")

    def _to_system(self, packet: bytes) -> bool:
        """Send through the connected socket, or through a new one if that is closed; return whether it was sent."""
        if self._socket is not None:
            try:
                self._socket.send(packet)
            except BlockingIOError:
                return False
            except OSError:
                self._socket.close()
                self._socket = None
            else:
                return True
        fresh = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            fresh.connect(self._path)
            fresh.send(packet)
        except OSError:
            fresh.close()
            return False
        self._socket = fresh
        return True


class SystemLog(logging.Handler):
    """A logging handler that sends each record line by line.

    Args:
        sender: sends the lines.
    """

    def __init__(self, sender: LogSender) -> None:
        super().__init__()
        self._sender = sender
        self._relay: Relay | None = None

    def set_relay(self, relay: Relay | None) -> None:
        """From now on pass lines for the system log to *relay*.

        Args:
            relay: takes a severity and a line, and returns False if it cannot pass them on.  It must neither wait nor
                log.  None: this process sends to the system log itself.
        """
        self._relay = relay

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record to the system log, or to the kernel's log if that fails."""
        try:
            severity = next((number for level, number in _SEVERITIES if record.levelno >= level), _DEBUG)
            for piece in _pieces(self.format(record)):
                if self._relay is None:
                    self._sender.send(severity, piece)
                elif not self._relay(severity, piece):
                    self._sender.to_kernel(severity, piece)
        except Exception:
            self.handleError(record)


def _pieces(text: str) -> Iterator[str]:
    for line in text.splitlines():
        for begin in range(0, len(line), _PIECE):
            yield line[begin : begin + _PIECE]


def set_relay(relay: Relay | None) -> None:
    """Call ``set_relay`` of every SystemLog handler of this process's root logger."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, SystemLog):
            handler.set_relay(relay)

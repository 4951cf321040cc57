"""Where a daemon's warnings go: the system log, and the kernel's as long as there is no other.

At boot a mount is made before a system log runs, and a system log may be restarted at any time.  So each line is sent
to ``/dev/log`` anew if need be, and to ``/dev/kmsg`` where nobody takes it (root only; dmesg shows it, and most system
logs read it when they start).

Two rules.  Nothing here waits: a system log that writes to our own mount may itself be waiting for us.  And once there
is a mount the daemon does not look for ``/dev/log`` itself, for the way there may lead through the mount (after
pivot_root it does): its helper process does (helper_process.py).
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


class Outlet:
    """Sends single lines, without waiting.

    Args:
        pid: the process that they are signed with.
        syslog, kernel_log: the paths of both.
    """

    def __init__(self, pid: int, syslog: str = SYSLOG, kernel_log: str = KERNEL_LOG) -> None:
        self._signature = f"minifo[{pid}]: "
        self._path = syslog
        self._socket: socket.socket | None = None
        self._kernel: int | None = None
        # opened now, for later the way to it may lead through the mount; a user who is not root has none
        with contextlib.suppress(OSError):
            self._kernel = os.open(kernel_log, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def send(self, severity: int, line: str) -> None:
        """Send one line to the system log, or else to the kernel's.

        Args:
            severity: as of syslog(3), 0 to 7.
            line: its text.
        """
        if not self._to_system(self._packet(severity, line)):
            self.to_kernel(severity, line)

    def to_kernel(self, severity: int, line: str) -> None:
        """Send one line to the kernel's log, if there is one to us."""
        if self._kernel is not None:
            with contextlib.suppress(OSError):  # nobody is left to whom it could be told
                os.write(self._kernel, self._packet(severity, line) + b"\n")

    def close(self) -> None:
        """Let go of both logs."""
        if self._socket is not None:
            self._socket.close()
        if self._kernel is not None:
            os.close(self._kernel)

    def _packet(self, severity: int, line: str) -> bytes:
        return f"<{_DAEMON | severity}>{self._signature}{line}".encode("utf-8", "backslashreplace")

    def _to_system(self, packet: bytes) -> bool:
        """Send to the one connected to, else to whoever listens there now."""
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
    """Hands what is logged to an outlet, line by line.

    Args:
        outlet: where it goes.
    """

    def __init__(self, outlet: Outlet) -> None:
        super().__init__()
        self._outlet = outlet
        self._relay: Relay | None = None

    def through(self, relay: Relay | None) -> None:
        """From now on let somebody else reach the system log.

        Args:
            relay: takes severity and line; False if it cannot.  It must neither wait nor log.  None: nobody else.
        """
        self._relay = relay

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            severity = next((number for level, number in _SEVERITIES if record.levelno >= level), _DEBUG)
            for piece in _pieces(self.format(record)):
                if self._relay is None:
                    self._outlet.send(severity, piece)
                elif not self._relay(severity, piece):
                    self._outlet.to_kernel(severity, piece)
        except Exception:
            self.handleError(record)


def _pieces(text: str) -> Iterator[str]:
    for line in text.splitlines():
        for begin in range(0, len(line), _PIECE):
            yield line[begin : begin + _PIECE]


def relay_through(relay: Relay | None) -> None:
    """Let *relay* reach the system log for this process from now on, or nobody else with None."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, SystemLog):
            handler.through(relay)

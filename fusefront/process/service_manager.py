"""What a daemon in the foreground tells the service manager that has started it: sd_notify(3), without a library.

systemd gives the address of a datagram socket in the environment.  It is connected before the mount, for afterwards its
path may lead through the mount, and nothing here waits: a word that systemd does not take at once is lost.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping


class ServiceManager:
    """The end of that socket; it says nothing where no service manager listens.

    Args:
        environment: has its address; what it says to this process alone is removed.

    Attributes:
        watchdog: the longest time in seconds between two calls of ``alive``, or None if the manager does not wait for
            them (``WatchdogSec=``).
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", str(os.getpid()))
        self.watchdog: float | None = None
        self._socket: socket.socket | None = None
        if not address.startswith(("/", "@")):
            return
        found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            found.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        except OSError:
            found.close()
            return
        self._socket = found
        if microseconds.isdigit() and int(microseconds) and pid == str(os.getpid()):
            self.watchdog = int(microseconds) / 1_000_000

    @property
    def listens(self) -> bool:
        """Whether there is a service manager to tell."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """Say that the mount answers; *status* is what ``systemctl status`` shows."""
        self._say("READY=1", f"STATUS={status}")

    def alive(self) -> None:
        """Say that the mount still answers."""
        self._say("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """Say that the daemon is about to end; *status* is what ``systemctl status`` shows."""
        self._say("STOPPING=1", f"STATUS={status}")

    def close(self) -> None:
        """Close the socket; nothing more is said."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _say(self, *lines: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(
                    "\n".join(line.replace("\n", " ") for line in lines).encode("utf-8", "backslashreplace")
                )

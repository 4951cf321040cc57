"""Calls to the control socket of a mount, from a tool; needs no event loop."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from typing import Any

from ...engine.errors import StateError
from .varlink import LONGEST, encode

NAME = "control"  # of the socket, in the storage directory
_INTERFACE = "org.minifo.Overlay"


class Refused(StateError):
    """The daemon's answer is an error.

    Args:
        message, hint: as for StateError.
        name: the error, without its interface.
        parameters: what the interface says about it.
    """

    def __init__(self, message: str, hint: str, name: str, parameters: dict[str, Any]) -> None:
        super().__init__(message, hint)
        self.name = name
        self.parameters = parameters


class ControlClient:
    """A connection to the daemon of a mount.

    Args:
        storage: the storage directory.
        timeout: seconds that one answer may take; None for any time.

    Raises:
        StateError: nothing listens there.
    """

    def __init__(self, storage: str, timeout: float | None = 30.0) -> None:
        self._storage = storage
        self._timeout = timeout
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._buffer = bytearray()
        try:
            fd = _open_socket(storage)
            try:
                self._socket.connect(f"/proc/self/fd/{fd}")
            finally:
                os.close(fd)
        except OSError as error:
            self._socket.close()
            raise StateError(
                f"the daemon of storage {storage} cannot be asked ({error.strerror or error})",
                "ask as root or as the owner of the mount; a daemon of an older minifo has no control socket",
            ) from error

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a method of org.minifo.Overlay.

        Raises:
            Refused: the daemon does not know the method, or says that it failed.
            StateError: the daemon does not answer, or not in time.
        """
        try:
            self._socket.sendall(encode({"method": f"{_INTERFACE}.{method}", "parameters": parameters}))
            reply = json.loads(self._receive())
        except TimeoutError as error:
            raise StateError(
                f"the daemon of storage {self._storage} has not answered for {self._timeout:g} s",
                "it may be waiting for its base or its storage: see the system log",
            ) from error
        except (OSError, ValueError) as error:
            raise StateError(
                f"the daemon of storage {self._storage} gave no answer ({error})", "is it still mounted?"
            ) from error
        if "error" in reply:
            name, parameters = reply["error"].rpartition(".")[2], reply.get("parameters") or {}
            said = parameters.get("reason") or name
            message = f"the daemon of storage {self._storage} cannot do that ({said})"
            is_other = name in ("MethodNotFound", "InterfaceNotFound")
            hint = "it runs another version of minifo: unmount, and mount again" if is_other else "see the system log"
            raise Refused(message, hint, name, parameters)
        found = reply.get("parameters")
        return found if isinstance(found, dict) else {}

    def _receive(self) -> bytes:
        while (end := self._buffer.find(b"\0")) < 0:
            data = self._socket.recv(65536)
            if not data or len(self._buffer) > LONGEST:
                raise ValueError("the connection ended")
            self._buffer += data
        message = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return message

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def listens(storage: str) -> bool:
    """Return whether a daemon listens in a storage directory; also True where only it can say why it cannot be asked.

    A daemon that was killed leaves its socket.
    """
    try:
        ControlClient(storage).close()
    except StateError as error:
        return not isinstance(error.__cause__, (ConnectionRefusedError, FileNotFoundError, NotADirectoryError))
    return True


def _open_socket(storage: str) -> int:
    """Return a descriptor of the socket itself: what a storage has in its place may lead elsewhere."""
    directory = os.open(storage, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = os.open(NAME, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)
    st = os.fstat(fd)
    if not stat.S_ISSOCK(st.st_mode) or st.st_uid not in (0, os.geteuid()):
        os.close(fd)
        raise OSError(errno.ENOTSOCK, "its control socket is something else, or another user's")
    return fd

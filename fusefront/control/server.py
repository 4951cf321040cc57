"""The server at the control socket: who may ask, and how many at a time.

Answers are given between requests of the kernel, and each is short.  The socket is made before the daemon gives up its
privileges, and goes with the mount; one that a killed daemon left is replaced.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable

import trio

from .client import NAME
from .varlink import Service, messages

log = logging.getLogger(__name__)

_CONNECTIONS = 16  # at a time; more wait
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_BUFFER = 65536  # bytes received at once

Conversation = Callable[[], contextlib.AbstractAsyncContextManager[Service]]


class ControlSocket:
    """The listening socket of one mount.

    Args:
        storage: the storage directory.
    """

    def __init__(self, storage: str) -> None:
        self._directory = os.open(storage, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket: socket.socket | None = None
        self._identity: tuple[int, int] | None = None

    def listen(self) -> None:
        """Make the socket; a storage that can hold none (read-only, vfat, some network file systems) is logged."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        place = f"/proc/self/fd/{self._directory}/{NAME}"  # a path of any length; sun_path has 108 bytes (unix(7))
        try:
            self._remove()
            before = os.umask(0o177)
            try:
                listener.bind(place)
            finally:
                os.umask(before)
            st = os.stat(NAME, dir_fd=self._directory, follow_symlinks=False)
            listener.listen(_CONNECTIONS)
        except OSError as error:
            listener.close()
            log.info("no control socket in this storage: %s", error)
            return
        self._socket, self._identity = listener, (st.st_dev, st.st_ino)

    def _remove(self, identity: tuple[int, int] | None = None) -> None:
        """Remove a socket of that name; of that identity, where one is given."""
        try:
            st = os.stat(NAME, dir_fd=self._directory, follow_symlinks=False)
            if stat.S_ISSOCK(st.st_mode) and identity in (None, (st.st_dev, st.st_ino)):
                os.unlink(NAME, dir_fd=self._directory)
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """Remove the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            try:
                self._remove(self._identity)
            except OSError as error:
                log.info("the control socket stays: %s", error)
        os.close(self._directory)

    async def serve(self, conversation: Conversation) -> None:
        """Answer calls until cancelled.

        Args:
            conversation: gives each connection its service, and is left when the connection ends.
        """
        if self._socket is None:
            return
        listener = trio.socket.from_stdlib_socket(self._socket)
        places = trio.Semaphore(_CONNECTIONS)
        async with trio.open_nursery() as nursery:
            while True:
                await places.acquire()
                try:
                    connection, _ = await listener.accept()
                except OSError as error:  # no descriptor is left, or the caller is gone already
                    log.warning("control socket: %s", error)
                    places.release()
                    await trio.sleep(1)
                    continue
                nursery.start_soon(_converse, connection, conversation, places.release)


async def _converse(connection: trio.socket.SocketType, conversation: Conversation, done: Callable[[], None]) -> None:
    try:
        with connection:
            if not _may_ask(connection):
                return
            async with conversation() as service:
                async for message in messages(lambda: connection.recv(_BUFFER)):
                    answer = await service.answer(message)
                    while answer:
                        answer = answer[await connection.send(answer) :]
    except (OSError, ValueError, RecursionError) as error:
        log.debug("control socket: %s", error)  # the caller went away, or speaks something else
    except Exception:
        log.exception("control socket")  # a question must never end the mount
    finally:
        done()


def _may_ask(connection: trio.socket.SocketType) -> bool:
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(found)
    return uid in (0, os.geteuid())

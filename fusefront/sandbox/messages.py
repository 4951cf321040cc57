"""Messages between the processes of a sandbox: JSON objects, each in a packet of a socket pair."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from typing import Any

_PACKET = 65_536  # bytes
_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid; unix(7)


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets; at the first one, messages show who sent them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs


def send(channel: socket.socket, **message: object) -> None:
    """Send a message; do nothing if the other side has ended."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        channel.send(json.dumps(message).encode())


def receive(channel: socket.socket) -> tuple[dict[str, Any], int] | None:
    """Return the next message and the process id of its sender, as this process sees it; None at the end.

    The process id is 0 at the second socket of a pair.
    """
    try:
        data, ancillary, _, _ = channel.recvmsg(_PACKET, socket.CMSG_SPACE(_UCRED.size))
    except ConnectionResetError:
        return None
    if not data:
        return None
    senders = [_UCRED.unpack(value)[0] for _, kind, value in ancillary if kind == socket.SCM_CREDENTIALS]
    return json.loads(data), senders[0] if senders else 0

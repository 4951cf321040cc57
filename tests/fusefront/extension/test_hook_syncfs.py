"""SYNCFS, which the kernel sends to no server like ours before Linux 7.3, is answered as FSYNCDIR is.

The kernel's end of the connection is a socket here: libfuse takes any descriptor for a mount point of the form
``/dev/fd/N``.  Run as a program, this file is the file system.
"""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

INIT, FSYNCDIR, SYNCFS, DESTROY = 26, 30, 50, 38
_NO_OPEN = 1 << 17 | 1 << 24  # FUSE_NO_OPEN_SUPPORT, FUSE_NO_OPENDIR_SUPPORT
_READDIRPLUS = 1 << 13


def serve(channel: str, outcome: str) -> None:
    """Be the file system, and print how often a directory was synced."""
    from minifo.fusefront.extension import loader

    assert loader.load() is not None
    loader.activate(True)

    import pyfuse3
    import trio

    class Empty(pyfuse3.Operations):
        async def fsyncdir(self, fh: int, datasync: bool) -> None:
            await trio.sleep(0.05)
            print("fsyncdir", datasync, flush=True)
            if outcome != "good":
                raise pyfuse3.FUSEError(errno.EIO)

    pyfuse3.init(Empty(), f"/dev/fd/{channel}", {"fsname=empty"})
    trio.run(pyfuse3.main)


def request(opcode: int, unique: int, body: bytes) -> bytes:
    """A request about the root directory, as the kernel has it."""
    return struct.pack("=IIQQIIII", 40 + len(body), opcode, unique, 1, 0, 0, 0, 0) + body


@pytest.mark.parametrize("opcode", [SYNCFS, FSYNCDIR])
@pytest.mark.parametrize("outcome", ["good", "bad"])
def test_answered_when_everything_is_durable(opcode: int, outcome: str) -> None:
    """The reply is fsyncdir's, after the handler has waited; requests that follow are served."""
    kernel, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kernel.settimeout(20)
    words = [sys.executable, str(Path(__file__)), str(server.fileno()), outcome]
    with kernel, subprocess.Popen(words, pass_fds=[server.fileno()], stdout=subprocess.PIPE, text=True) as process:
        server.close()
        kernel.send(request(INIT, 2, struct.pack("=IIII", 7, 34, 1 << 17, _NO_OPEN | _READDIRPLUS)))
        assert struct.unpack_from("=IiQ", kernel.recv(4096))[1:] == (0, 2)
        error = 0 if outcome == "good" else -errno.EIO
        for unique in (4, 6):
            kernel.send(request(opcode, unique, bytes(8 if opcode == SYNCFS else 16)))
            assert struct.unpack("=IiQ", kernel.recv(4096)) == (16, error, unique)
        process.kill()
        assert process.stdout is not None
        assert process.stdout.read() == "fsyncdir False\n" * 2


if __name__ == "__main__":
    serve(*sys.argv[1:])

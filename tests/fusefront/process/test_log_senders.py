"""The logs take what they are sent: each in its form, whole or not at all, and nobody waits."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.fusefront.process.log_senders import Entry, Journal, Stream, Syslog

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def parsed(data: bytes) -> dict[str, bytes]:
    """The fields of a journal entry (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""
    found = {}
    while data:
        line, newline, rest = data.partition(b"\n")
        assert newline
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, newline, rest = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert newline == b"\n"
        assert name.decode() not in found
        found[name.decode()] = value
        data = rest
    return found


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket at ``log``, as journald's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(tmp_path / "log"))
        found.settimeout(10)
        yield found


def received(listening: socket.socket) -> dict[str, bytes]:
    """The next entry, from the datagram or from the file in memory that comes with it."""
    data, fds, _, _ = socket.recv_fds(listening, 1 << 20, 2)
    if not fds:
        return parsed(data)
    assert data == b""
    (fd,) = fds
    try:
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == SEALS
        return parsed(os.pread(fd, 1 << 24, 0))
    finally:
        os.close(fd)


def test_journal(tmp_path: Path, listening: socket.socket) -> None:
    """One line, several lines, and bytes that are no text arrive as they are."""
    journal = Journal(4711, str(tmp_path / "log"))
    assert journal.send(Entry(4, "one line", {"MINIFO_PATH": os.fsdecode(b"/a=b\xff")}))
    assert received(listening) == {
        "MESSAGE": b"one line",
        "PRIORITY": b"4",
        "SYSLOG_FACILITY": b"3",
        "SYSLOG_IDENTIFIER": b"minifo",
        "SYSLOG_PID": b"4711",
        "MINIFO_PATH": b"/a=b\xff",
    }
    assert journal.send(Entry(2, "two\nlines\n", {"MINIFO_PATH": "PRIORITY=0\nFAKE=1"}))
    found = received(listening)
    assert (found["MESSAGE"], found["PRIORITY"]) == (b"two\nlines\n", b"2")
    assert found["MINIFO_PATH"] == b"PRIORITY=0\nFAKE=1"
    journal.close()


def test_journal_entry_larger_than_a_datagram(tmp_path: Path, listening: socket.socket) -> None:
    """It comes as a sealed file in memory, also as the first one of a connection."""
    journal = Journal(1, str(tmp_path / "log"))
    for size in (4 << 20, 10, 1 << 20):
        assert journal.send(Entry(6, "x" * size))
        assert received(listening)["MESSAGE"] == b"x" * size
    journal.close()


def test_journal_comes_and_goes(tmp_path: Path) -> None:
    """An entry is refused while nobody listens, and taken by who listens next."""
    journal = Journal(1, str(tmp_path / "log"))
    for turn in range(3):
        assert not journal.send(Entry(4, "lost"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
            listening.bind(str(tmp_path / "log"))
            assert journal.send(Entry(4, f"turn {turn}"))
            assert received(listening)["MESSAGE"] == f"turn {turn}".encode()
        os.unlink(tmp_path / "log")
    journal.close()


@pytest.mark.parametrize("kind", [Journal, Syslog])
def test_full_socket_is_not_waited_for(tmp_path: Path, listening: socket.socket, kind: type[Journal]) -> None:
    """An entry that finds no room is refused, large and small; what was taken is whole."""
    sender = kind(1, str(tmp_path / "log"))
    taken = 0
    while sender.send(Entry(4, f"entry {taken}")):
        taken += 1
        assert taken < 100_000
    assert not sender.send(Entry(4, "x" * (4 << 20)))
    for number in range(taken):
        assert f"entry {number}".encode() in listening.recv(1000)
    assert sender.send(Entry(4, "again"))
    assert b"again" in listening.recv(1000)
    sender.close()


def test_syslog_has_lines(tmp_path: Path, listening: socket.socket) -> None:
    """The priority is facility and severity; long lines are cut, odd bytes shown."""
    syslog = Syslog(4711, str(tmp_path / "log"))
    assert syslog.send(Entry(3, "first\nsecond \udcff\n" + "y" * 1000))
    lines = [listening.recv(2000).decode() for _ in range(4)]
    assert [line.removeprefix("<27>minifo[4711]: ") for line in lines] == [
        "first",
        "second \\udcff",
        "y" * 800,
        "y" * 200,
    ]
    syslog.close()


def test_full_pipe_is_not_waited_for() -> None:
    """Standard error may be a pipe that nobody reads: then lines are dropped, and none is cut."""
    reader, writer = os.pipe()
    stream = Stream(writer)
    taken = 0
    while stream.send(Entry(4, f"{taken} " + "z" * 3000)):
        taken += 1
        assert taken < 1000
    os.close(writer)
    with open(reader) as pipe:
        lines = pipe.read().splitlines()
    assert lines == [f"minifo: {number} " + "z" * 3000 for number in range(taken)]

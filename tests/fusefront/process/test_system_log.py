"""Warnings reach the system log, or the kernel's while there is none, and nobody ever waits for either."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.engine.errors import StateError
from minifo.fusefront.process import signals
from minifo.fusefront.process.log_senders import Entry, KernelLog, Syslog
from minifo.fusefront.process.system_log import EVENTS, LogSender, RateLimit, SystemLog


class Logs:
    """A system log that comes and goes, and a file in the place of the kernel's."""

    def __init__(self, home: Path) -> None:
        self.syslog = home / "log"
        self.kernel = home / "kmsg"
        self.kernel.touch()
        self.outlet = LogSender([Syslog(4711, str(self.syslog)), KernelLog(4711, str(self.kernel))])
        self.socket: socket.socket | None = None

    def start(self) -> None:
        """Start the system log."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind(str(self.syslog))

    def stop(self) -> None:
        """End it."""
        assert self.socket is not None
        self.socket.close()
        self.syslog.unlink()

    def heard(self) -> str:
        """The next line of the system log."""
        assert self.socket is not None
        return self.socket.recv(9000).decode()


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    """Both logs; the system's has not started."""
    made = Logs(tmp_path)
    yield made
    made.outlet.close()
    if made.socket is not None:
        made.socket.close()


def test_the_kernels_log_until_there_is_another(logs: Logs) -> None:
    """A line goes to the kernel's log as long as no system log runs, also between its end and its new start."""
    logs.outlet.send(Entry(4, "early"))
    logs.start()
    logs.outlet.send(Entry(3, "noted"))
    assert logs.heard() == "<27>minifo[4711]: noted"
    logs.stop()
    logs.outlet.send(Entry(4, "between"))
    logs.start()
    logs.outlet.send(Entry(4, "again"))
    assert logs.heard() == "<28>minifo[4711]: again"
    assert logs.kernel.read_text() == "<28>minifo[4711]: early\n<28>minifo[4711]: between\n"


def test_nobody_waits_for_a_system_log_that_does_not_read(logs: Logs) -> None:
    """A full queue makes lines go to the kernel's log."""
    logs.start()
    begin = time.monotonic()
    for number in range(3000):
        logs.outlet.send(Entry(4, f"{number} " + "x" * 700))
    assert time.monotonic() - begin < 5
    lines = logs.kernel.read_text().splitlines()
    assert len(lines) > 1000
    assert lines[-1].startswith("<28>minifo[4711]: 2999 x")


@contextlib.contextmanager
def logger_to(handler: SystemLog) -> Iterator[logging.Logger]:
    """A logger that nothing but *handler* listens to."""
    logger = logging.getLogger("test_systemlog")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)


@pytest.mark.logs("first", "back", "through")
def test_records_become_lines(logs: Logs) -> None:
    """Each line of a record is one of the log, long ones are cut into pieces, odd bytes are shown."""
    handler = SystemLog(logs.outlet)
    with logger_to(handler) as logger:
        logger.error("first\nsecond \udcff\n%s", "y" * 1000)
        told: list[tuple[int, str]] = []
        handler.set_relay(lambda entry: told.append((entry.severity, entry.text)) or entry.text != "back")
        logger.warning("through")
        logger.warning("back")
    lines = [line.removeprefix("<27>minifo[4711]: ") for line in logs.kernel.read_text().splitlines()]
    assert lines == ["first", "second \\udcff", "y" * 800, "y" * 200, "<28>minifo[4711]: back"]
    assert told == [(4, "through"), (4, "back")]


class Memory:
    """A log in memory."""

    resolves_path = False

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def send(self, entry: Entry) -> bool:
        """Take an entry."""
        self.entries.append(entry)
        return True

    def close(self) -> None:
        """Nothing is to be closed."""


@pytest.mark.logs("failed", "full", "trace")
def test_fields() -> None:
    """An entry has the fields of its mount, of the place in the code, of its event, and of the error that it tells."""
    memory = Memory()
    with logger_to(SystemLog(LogSender([memory]), {"MINIFO_MOUNT": "/mnt"})) as logger:
        logger.error("failed: %s", OSError(errno.EIO, "Input/output error", "/base/file"))
        logger.warning("full", extra={"event": "storage-full", "path": "/sto"})
        try:
            raise StateError("outer") from OSError(errno.ENOSPC, "no space")
        except StateError:
            logger.exception("trace")
    one, two, three = (entry.fields for entry in memory.entries)
    assert [entry.severity for entry in memory.entries] == [3, 4, 3]
    assert one.items() >= {"MINIFO_MOUNT": "/mnt", "ERRNO": "5", "MINIFO_PATH": "/base/file"}.items()
    assert one["CODE_FILE"] == __file__
    assert two["MESSAGE_ID"] == EVENTS["storage-full"]
    assert two["MINIFO_PATH"] == "/sto"
    assert "ERRNO" not in two
    assert three["ERRNO"] == str(errno.ENOSPC)
    assert memory.entries[2].text.startswith("trace\nOSError: [Errno 28] no space\n")


def test_message_ids_are_those_of_the_journal() -> None:
    """128 bits, and none twice (sd-id128(3))."""
    assert all(len(found) == 32 and int(found, 16) for found in EVENTS.values())
    assert len(set(EVENTS.values())) == len(EVENTS)


def test_rate_limit() -> None:
    """Of each kind so many in a window; the first of the next window says how many were refused."""
    limit = RateLimit(3, 30.0)
    assert [limit.admit("a", now) for now in (0, 1, 2, 3, 4, 29.9)] == [0, 0, 0, None, None, None]
    assert limit.admit("b", 5) == 0
    assert [limit.admit("a", now) for now in (30, 31, 32, 33)] == [3, 0, 0, None]
    assert limit.take_rest() == 1
    assert limit.take_rest() == 0


@pytest.mark.logs("over and over", "other")
def test_too_many_records_are_counted(logs: Logs) -> None:
    """Those from one place in the code; what was not told is told at the end. Traces are not limited."""
    memory = Memory()
    handler = SystemLog(LogSender([memory]))
    with logger_to(handler) as logger:
        logger.setLevel(logging.DEBUG)
        for number in range(100):
            logger.warning("over and over: %d", number)
            logger.debug("trace")
        logger.warning("other")
    handler.close()
    texts = [entry.text for entry in memory.entries if entry.text != "trace"]
    assert texts == [*(f"over and over: {number}" for number in range(10)), "other", "90 messages suppressed"]
    assert len(memory.entries) == 112


@pytest.mark.parametrize(("before", "after"), [("0\n", "-900"), ("500\n", "500\n"), ("-1000\n", "-1000\n")])
def test_oom_score(before: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's daemon lowers a score that nobody has chosen."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    file = tmp_path / "oom_score_adj"
    file.write_text(before)
    signals._spare_from_oom(str(file))
    assert file.read_text() == after


def test_oom_score_that_may_not_be_lowered(tmp_path: Path) -> None:
    """Where it is not to be had nothing is said."""
    signals._spare_from_oom(str(tmp_path / "missing"))
    assert os.listdir(tmp_path) == []

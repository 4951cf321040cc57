"""Warnings reach the system log, or the kernel's while there is none, and nobody ever waits for either."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.fusefront.process import signals
from minifo.fusefront.process.system_log import LogSender, SystemLog


class Logs:
    """A system log that comes and goes, and a file in the place of the kernel's."""

    def __init__(self, home: Path) -> None:
        self.syslog = home / "log"
        self.kernel = home / "kmsg"
        self.kernel.touch()
        self.outlet = LogSender(4711, str(self.syslog), str(self.kernel))
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
    logs.outlet.send(4, "early")
    logs.start()
    logs.outlet.send(3, "noted")
    assert logs.heard() == "<27>minifo[4711]: noted"
    logs.stop()
    logs.outlet.send(4, "between")
    logs.start()
    logs.outlet.send(4, "again")
    assert logs.heard() == "<28>minifo[4711]: again"
    assert logs.kernel.read_text() == "<28>minifo[4711]: early\n<28>minifo[4711]: between\n"


def test_nobody_waits_for_a_system_log_that_does_not_read(logs: Logs) -> None:
    """A full queue makes lines go to the kernel's log."""
    logs.start()
    begin = time.monotonic()
    for number in range(3000):
        logs.outlet.send(4, f"{number} " + "x" * 700)
    assert time.monotonic() - begin < 5
    lines = logs.kernel.read_text().splitlines()
    assert len(lines) > 1000
    assert lines[-1].startswith("<28>minifo[4711]: 2999 x")


@pytest.mark.logs("first", "second", "back", "through", "yyyy")
def test_records_become_lines(logs: Logs) -> None:
    """Each line of a record is one of the log, long ones are cut into pieces, odd bytes are shown."""
    logger = logging.getLogger("test_systemlog")
    logger.propagate = False
    handler = SystemLog(logs.outlet)
    logger.addHandler(handler)
    try:
        logger.error("first\nsecond \udcff\n%s", "y" * 1000)
        told: list[tuple[int, str]] = []
        handler.set_relay(lambda severity, line: told.append((severity, line)) or line != "back")
        logger.warning("through")
        logger.warning("back")
    finally:
        logger.removeHandler(handler)
    lines = [line.removeprefix("<27>minifo[4711]: ") for line in logs.kernel.read_text().splitlines()]
    assert lines == ["first", "second \\udcff", "y" * 800, "y" * 200, "<28>minifo[4711]: back"]
    assert told == [(4, "through"), (4, "back")]


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

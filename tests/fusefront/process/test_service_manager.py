"""What a service manager is told, through a real socket; what a daemon makes of a strange environment."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.fusefront.process.service_manager import ServiceManager


@pytest.fixture
def manager_socket(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that a service manager listens at."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"{tmp_path}/notify")
        listening.settimeout(5)
        yield listening


def test_words(manager_socket: socket.socket) -> None:
    """Each word is a datagram; a line break in a path adds no assignment; nobody else sees the environment."""
    environment = {"NOTIFY_SOCKET": manager_socket.getsockname(), "WATCHDOG_USEC": "1500000", "OTHER": "1"}
    with contextlib.closing(ServiceManager(environment)) as manager:
        assert environment == {"OTHER": "1"}
        assert manager.listens
        assert manager.watchdog == 1.5
        manager.ready("/mnt/a\nERRNO=5 is mounted")
        manager.alive()
        manager.stopping("the last commit")
    manager.alive()  # nobody hears it
    said = [manager_socket.recv(1000) for _ in range(3)]
    assert said == [
        b"READY=1\nSTATUS=/mnt/a ERRNO=5 is mounted",
        b"WATCHDOG=1",
        b"STOPPING=1\nSTATUS=the last commit",
    ]


def test_abstract_socket() -> None:
    """An address that begins with @ has no file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0minifo-test-{os.getpid()}")
        listening.settimeout(5)
        with contextlib.closing(ServiceManager({"NOTIFY_SOCKET": f"@minifo-test-{os.getpid()}"})) as manager:
            manager.alive()
        assert listening.recv(1000) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "relative", "/nonexistent/socket", "vsock:2:1234"])
def test_nobody_listens(address: str) -> None:
    """Then nothing is said, and no watchdog waits."""
    manager = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    assert not manager.listens
    assert manager.watchdog is None
    manager.ready("nobody hears it")


@pytest.mark.parametrize("words", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}])
def test_no_watchdog(words: dict[str, str], manager_socket: socket.socket) -> None:
    """The watchdog of another process, or none."""
    environment = {"NOTIFY_SOCKET": manager_socket.getsockname(), "WATCHDOG_USEC": "1000000"}
    with contextlib.closing(ServiceManager(environment | words)) as manager:
        assert manager.watchdog is None


def test_full_socket(manager_socket: socket.socket) -> None:
    """A manager that does not listen for a while holds up nobody."""
    with contextlib.closing(ServiceManager({"NOTIFY_SOCKET": manager_socket.getsockname()})) as manager:
        for _ in range(10_000):
            manager.alive()

"""Fixtures of the tests with live crashes; what they hand out is in tests/mount/mount_sandbox.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, watchdog

_HERE = Path(__file__).parent
_AFTER_A_KILL = ("operations of a killed daemon were replayed", "is not the one of the last mount")
_LIMIT = 240.0  # seconds for one test; a daemon that hangs is killed before
_LONG = 3600.0  # the same for a long run by hand (MINIFO_ROUNDS)


def _limit() -> float:
    return _LONG if "MINIFO_ROUNDS" in os.environ else _LIMIT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test here its time limit, and announce what the engine says of a killed daemon's storage.

    A test may open that storage in its own process, to check it.
    """
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.timeout(_limit()))
            item.add_marker(pytest.mark.logs(*_AFTER_A_KILL, always=False))


@pytest.fixture
def sandbox(fuse_required: None) -> Iterator[MountSandbox]:
    """A place to mount things in, cleared afterwards."""
    made = MountSandbox()
    try:
        with watchdog(made, _limit() - 20):
            yield made
    finally:
        made.close()

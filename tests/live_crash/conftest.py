"""Fixtures of the tests with live crashes; what they hand out is in tests/mount/mount_sandbox.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, watchdog

_HERE = Path(__file__).parent
_LIMIT = 240.0  # seconds for one test; a daemon that hangs is killed before
_LONG = 3600.0  # the same for a long run by hand (MINIFO_ROUNDS)


def _limit() -> float:
    return _LONG if "MINIFO_ROUNDS" in os.environ else _LIMIT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test here its time limit."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.timeout(_limit()))


@pytest.fixture
def sandbox(fuse_required: None) -> Iterator[MountSandbox]:
    """A place to mount things in, cleared afterwards."""
    made = MountSandbox()
    try:
        with watchdog(made, _limit() - 20):
            yield made
    finally:
        made.close()

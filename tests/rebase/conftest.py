"""The fixture of rebase tests: an overlay whose base is replaced."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "legacy"))

from room import Room


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """A base, an overlay over it, and a way to replace the base."""
    found = Room(tmp_path)
    yield found
    found.close()

"""The fixture of the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """An empty base and an empty storage."""
    found = Lab(tmp_path)
    yield found
    found.close()

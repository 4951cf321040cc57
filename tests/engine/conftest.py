"""The fixture of the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared.overlay_sandbox import OverlaySandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """An empty base and an empty storage."""
    found = OverlaySandbox(tmp_path)
    yield found
    found.close()

"""The fixture of the tests with hostile storages."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.hostile_storage import HostileStorage


@pytest.fixture
def hostile(fuse_required: None) -> Iterator[HostileStorage]:
    """A sound storage, its base, and files outside that nothing may touch."""
    top = tempfile.mkdtemp(prefix="minifo-hostile-")
    found = HostileStorage(Path(top))
    try:
        yield found
    finally:
        found.clear()
        shutil.rmtree(top)

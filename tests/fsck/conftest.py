"""The fixture of the tests of minifo-fsck: a storage that a test may damage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.fsck.sample_storage import SampleStorage


@pytest.fixture
def sample() -> Iterator[SampleStorage]:
    """A sound storage with something of everything."""
    found = SampleStorage()
    try:
        yield found
    finally:
        shutil.rmtree(found.top)

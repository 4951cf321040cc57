"""Makes the modules of this folder importable for its tests, and gives each test a storage of its own."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from patient import Patient


@pytest.fixture
def patient() -> Iterator[Patient]:
    """A sound storage with something of everything."""
    found = Patient()
    try:
        yield found
    finally:
        shutil.rmtree(found.top)

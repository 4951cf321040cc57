"""Makes the modules of this folder importable for its tests, and gives each test a jail of its own."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from jail import Jail


@pytest.fixture
def jail(fuse_required: None) -> Iterator[Jail]:
    """A sound storage, its base, and files outside that nothing may touch."""
    top = tempfile.mkdtemp(prefix="minifo-hostile-")
    found = Jail(Path(top))
    try:
        yield found
    finally:
        found.clear()
        shutil.rmtree(top)

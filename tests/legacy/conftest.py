"""Legacy tests make their trees in memory, with owners and device nodes of all kinds; they use the crash explorer."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "crash"))
sys.path.insert(0, str(Path(__file__).parent))

from support import scratch


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory in memory; the test needs root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    path = scratch()
    yield path
    shutil.rmtree(path)

"""The engine over bases that are replaced between any two operations, and the oracle that says what shows."""

from __future__ import annotations

import os

import pytest
import support
from hypothesis import settings
from machine_bases import Bases

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners are compared"),
    pytest.mark.skipif(support.scratch_root() is None, reason="needs a tmpfs at /dev/shm that takes user attributes"),
]

TestBases = Bases.TestCase
TestBases.settings = settings(stateful_step_count=50)

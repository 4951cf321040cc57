"""The engine over bases that are replaced between any two operations, and the oracle that says what shows."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.model.state_machine_bases import Bases
from tests.shared import file_trees

pytestmark = [
    pytest.mark.logs(
        "operations of a killed daemon were replayed",
        "is not the one of the last mount",
        "was replaced in the base after a part of it was written here",
        always=False,
    ),
    pytest.mark.root,  # owners are compared
    pytest.mark.skipif(
        file_trees.scratch_root() is None, reason="needs a tmpfs at /dev/shm that takes user attributes"
    ),
]


@pytest.fixture(autouse=True, scope="module")
def second_device() -> Iterator[None]:
    """A file system of its own, for bases on another device."""
    device = file_trees.scratch()
    subprocess.run(["mount", "-t", "tmpfs", "none", device], check=True)
    Bases.second_device = device
    try:
        yield
    finally:
        subprocess.run(["umount", device], check=True)
        device.rmdir()


TestBases = Bases.TestCase
TestBases.settings = settings(stateful_step_count=50)

"""What the tests of documents share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mount.mount_sandbox import MountSandbox


@pytest.fixture
def sandbox(fuse_required: None) -> Iterator[MountSandbox]:
    """A place to mount things in."""
    made = MountSandbox()
    try:
        yield made
    finally:
        made.close()

"""Fixtures of the tests on real mounts; what they hand out is in mount_sandbox.py and parity_mount.py."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.tools.install_helpers import HELPERS
from tests.mount.mount_sandbox import MountSandbox, minifo, watchdog
from tests.mount.parity_mount import Pair, ParityMount

_HERE = Path(__file__).parent
_AFTER_A_KILL = ("operations of a killed daemon were replayed", "is not the one of the last mount")
_LIMIT = 300.0  # seconds for one test, ten times what the slowest takes; a daemon that hangs is killed before


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test here a time limit, and announce what the engine says of a killed daemon's storage.

    A test may open that storage in its own process, to check it.  A test that has a time limit of its own keeps it.
    """
    for item in items:
        if item.path.is_relative_to(_HERE):
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_LIMIT))
            item.add_marker(pytest.mark.logs(*_AFTER_A_KILL, always=False))


@pytest.fixture
def sandbox(fuse_required: None, request: pytest.FixtureRequest) -> Iterator[MountSandbox]:
    """A place to mount things in, cleared afterwards; its daemons are killed 20 seconds before the test's limit."""
    made = MountSandbox()
    limit = request.node.get_closest_marker("timeout")
    assert limit is not None
    try:
        with watchdog(made, limit.args[0] - 20):
            yield made
    finally:
        made.close()


@pytest.fixture
def fuse_for_all(fuse_required: None) -> Iterator[None]:
    """/dev/fuse as distributions have it: open to everybody."""
    mode = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
    os.chmod("/dev/fuse", 0o666)
    yield
    os.chmod("/dev/fuse", mode)


@pytest.fixture
def helpers(fuse_required: None) -> Iterator[None]:
    """The mount(8) helpers in /sbin, as this installation has them; what was there before is put back."""
    there = {name: os.readlink(f"/sbin/{name}") for name in HELPERS if os.path.islink(f"/sbin/{name}")}
    minifo("install-helpers", "--remove")
    for name in there:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"/sbin/{name}")
    minifo("install-helpers", "--anyway")  # the checkout may be anybody's
    yield
    minifo("install-helpers", "--remove")
    for name, target in there.items():
        os.symlink(target, f"/sbin/{name}")


@pytest.fixture(scope="module", params=["hook", "plain"])
def parity_mount(request: pytest.FixtureRequest, fuse_required: None) -> Iterator[ParityMount]:
    """One overlay for all tests of a module, in either mode, beside a plain copy of its base."""
    made = MountSandbox()
    try:
        yield ParityMount(made, plain_mode=request.param == "plain")
    finally:
        made.close()


@pytest.fixture
def pair(parity_mount: ParityMount, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two equal trees, one on a mount, one plain; if the test passes they must be equal afterwards, too."""
    with watchdog(parity_mount.sandbox, _LIMIT - 20):
        made = parity_mount.take(request.node.name)
        yield made
        made.compare()

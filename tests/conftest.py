"""What all tests share: the check that real mounts are possible, how hard hypothesis tries, figures at the end.

A test that needs a mount takes the fixture ``fuse_required``.  Where mounts are impossible it is skipped with the
reason on show, but in CI (``CI=true``) it fails: there a skip would pass for a test that ran.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.shared.file_trees import scratch
from tests.shared.rebase_sandbox import RebaseSandbox

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}

settings.register_profile("dev", max_examples=25, **_COMMON)
settings.register_profile("ci", max_examples=100, derandomize=True, **_COMMON)
settings.register_profile("thorough", max_examples=2000, **_COMMON)


def in_ci() -> bool:
    """Say whether this run is one of continuous integration."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if in_ci() else "dev"))


def fuse_obstacle() -> str | None:
    """Return why real mounts are impossible here, or None if they are possible."""
    if os.geteuid() != 0:
        return "needs root"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"cannot open /dev/fuse: {error.strerror}"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is not installed"
    return None


@pytest.fixture(scope="session")
def fuse_required() -> None:
    """Let the test run only where FUSE file systems can be mounted by root."""
    obstacle = fuse_obstacle()
    if obstacle is None:
        return
    if in_ci():
        pytest.fail(f"real mounts must be possible in CI: {obstacle}", pytrace=False)
    pytest.skip(f"REAL MOUNT NOT TESTED: {obstacle}")


@pytest.fixture
def memory_dir() -> Iterator[Path]:
    """An empty directory in memory, for trees with owners and device nodes; the test needs root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    path = scratch()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def rebase_sandbox(tmp_path: Path) -> Iterator[RebaseSandbox]:
    """A base, an overlay over it, and a way to replace the base."""
    made = RebaseSandbox(tmp_path)
    yield made
    made.close()


FIGURES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no figures."""
    config.stash[FIGURES] = []


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> list[str]:
    """Lines to print when all tests have run."""
    return pytestconfig.stash[FIGURES]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print them."""
    for line in config.stash[FIGURES]:
        terminalreporter.write_line(line)

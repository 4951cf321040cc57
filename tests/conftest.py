"""What all tests share: markers, the check of log lines, how hard hypothesis tries, figures at the end.

A test that needs a mount takes the fixture ``fuse_required`` and is marked ``mount`` by that; one that needs root for
anything else is marked ``root``.  Where that is impossible it is skipped with the reason on show, but in CI
(``CI=true``) it fails: there a skip would pass for a test that ran.

A test fails if it logs a warning or an error that it does not announce with the marker ``logs``.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.shared.file_trees import scratch
from tests.shared.rebase_sandbox import RebaseSandbox

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}

settings.register_profile("dev", max_examples=25, **_COMMON)
settings.register_profile("ci", max_examples=50, derandomize=True, **_COMMON)
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


# -- markers (pyproject.toml says what they mean)

_HERE = Path(__file__).parent
_SLOW_FOLDERS = ("crash", "live_crash", "model")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set markers by fixture and by folder, before ``-m`` chooses."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "fuse_required" in fixtures:
            item.add_marker("mount")
        if "memory_dir" in fixtures:
            item.add_marker("root")
        if item.path.relative_to(_HERE).parts[0] in _SLOW_FOLDERS:
            item.add_marker("slow")


# -- log lines: each warning of a test's own process is announced, or a finding

_LOGGED: list[logging.LogRecord] = []
_OF_A_BUSY_MACHINE = "a commit stopped all changes for"  # may come wherever something is committed
_MAKE_RECORD = logging.getLogRecordFactory()


def _keep_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = _MAKE_RECORD(*args, **kwargs)
    if record.levelno >= logging.WARNING:
        _LOGGED.append(record)
    return record


def _check_logs(item: pytest.Item, *, at_end: bool) -> None:
    """Fail if a line was not announced or, at the end of the test, if an announced one did not come."""
    lines = [line for line in (record.getMessage() for record in _LOGGED) if _OF_A_BUSY_MACHINE not in line]
    marks = list(item.iter_markers("logs"))
    patterns = [pattern for mark in marks for pattern in mark.args]
    if wrong := [line for line in lines if not any(re.search(pattern, line) for pattern in patterns)]:
        pytest.fail("logged, but not announced (marker logs):\n" + "\n".join(wrong), pytrace=False)
    wanted = [pattern for mark in marks if mark.kwargs.get("always", True) for pattern in mark.args]
    missing = [pattern for pattern in wanted if not any(re.search(pattern, line) for line in lines)]
    if at_end and missing:
        pytest.fail("announced (marker logs), but not logged:\n" + "\n".join(missing), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Refuse what needs root to others, and listen to what is logged."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        if in_ci():
            pytest.fail("all tests must be possible in CI: needs root", pytrace=False)
        pytest.skip("needs root")
    _LOGGED.clear()
    result = yield
    _check_logs(item, at_end=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Look at what a test has logged that has passed otherwise."""
    result = yield
    _check_logs(item, at_end=True)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Look at what was logged when its fixtures were taken away."""
    _LOGGED.clear()
    result = yield
    _check_logs(item, at_end=False)
    return result


@pytest.fixture
def memory_dir() -> Iterator[Path]:
    """An empty directory in memory, for trees with owners and device nodes; the test is marked ``root``."""
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
    """Begin with no figures, and see every record that is made, whatever becomes of the handlers meanwhile.

    Storages of tests are on a disk, with its blocks and holes, also where /tmp is in memory, as on Debian 13.
    """
    kind = subprocess.run(["stat", "-f", "-c", "%T", tempfile.gettempdir()], check=True, capture_output=True, text=True)
    if kind.stdout.strip() == "tmpfs":
        os.environ["TMPDIR"] = tempfile.tempdir = "/var/tmp"
    config.stash[FIGURES] = []
    logging.setLogRecordFactory(_keep_record)


def pytest_unconfigure() -> None:
    """Leave logging as it was."""
    logging.setLogRecordFactory(_MAKE_RECORD)


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> list[str]:
    """Lines to print when all tests have run."""
    return pytestconfig.stash[FIGURES]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print them."""
    for line in config.stash[FIGURES]:
        terminalreporter.write_line(line)

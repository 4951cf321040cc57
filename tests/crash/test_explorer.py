"""Promises P1 to P3: the power is cut everywhere in every workload, and what is left is mounted and judged.

How many states there are over all workloads is set by CRASH_STATES; a line is printed for each.  By hand, and for many
more: ``python -m tests.crash.explorer --exhaustive``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.engine.store.storage import Storage
from tests.crash.disk_model import Disk
from tests.crash.explorer import Summary, explore, replay, save
from tests.crash.recorder import Recorder
from tests.crash.seeded_faults import FAULTS
from tests.crash.workloads import WORKLOADS

_STATES = int(os.environ.get("CRASH_STATES", "8000"))
_TO_FIND = 10_000  # states after which a seeded fault must have been found

_HARMLESS = {"database", "database_bytes", "log_bytes", "identity", "is_formatted", "has_holes", "check_empty", "lock"}
_HARMLESS |= {"close", "exists", "stat", "names", "statvfs", "space", "copy_out", "is_beside", "hold", "is_held"}
_HARMLESS |= {"has_writer", "check_cloned", "open_object_in_thread"}
_HARMLESS |= {"offer"}  # its mark counts where an object has several names: tests/engine/test_clone.py
_COMPOSED = {"format"}  # of recorded effects
_NO_CONTENT = {"allocate"}  # blocks, but neither bytes nor a size


@pytest.fixture(scope="module")
def total(figures: list[str]) -> Iterator[Summary]:
    summary = Summary()
    yield summary
    figures.append(summary.line("crash states"))


@pytest.mark.logs(
    "operations of a killed daemon were replayed",
    "is not the one of the last mount",
    "a transaction that was not committed was taken back",
    always=False,
)
@pytest.mark.parametrize("name", WORKLOADS)
def test_every_crash_leaves_a_tree_that_was_committed(
    name: str, total: Summary, figures: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After a power cut anywhere the overlay mounts and shows the tree of one commit, with nothing left over."""
    every = WORKLOADS[name].every
    summary = explore(name, states=_STATES // len(WORKLOADS) // every, share=(0, every))
    total.add(summary)
    figures.append(summary.line(name))
    if summary.failures:
        failure = summary.failures[0]
        path = save(failure, str(tmp_path_factory.getbasetemp() / "crash-failures"))
        pytest.fail(f"{failure.what}\nreplay it: python -m tests.crash.explorer --replay {path}", pytrace=False)


@pytest.mark.logs("", always=False)
@pytest.mark.parametrize("name", FAULTS)
def test_every_seeded_fault_is_found(name: str) -> None:
    """With any one ordering step taken out, the explorer finds a broken promise."""
    fault = FAULTS[name]
    summary = explore(fault.workload, states=_TO_FIND, fault=name, share=(0, fault.every), stop=1)
    assert summary.failures, f"not found in {summary.states} states: {fault.what}"


@pytest.mark.logs("", always=False)
def test_a_failing_state_can_be_replayed(tmp_path: object) -> None:
    """A saved failure fails again with the one command its report names, and its disk lies beside it."""
    summary = explore("untar", states=_TO_FIND, fault="objects-unsynced", stop=1)
    path = save(summary.failures[0], str(tmp_path))
    assert replay(path) == summary.failures[0].what
    assert os.path.isdir(path.removesuffix(".json") + ".disk")
    words = [sys.executable, "-m", "tests.crash.explorer", "--replay", path]
    again = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "power cut at" in again.stdout


def test_nothing_reaches_storage_unrecorded() -> None:
    """Every method of Storage that has an effect is recorded."""
    recorder = Recorder()
    recorded = set(vars(type(recorder.storage("/"))))
    recorder.close()
    public = {name for name in vars(Storage) if not name.startswith("_")}
    assert public - recorded == (_HARMLESS | _COMPOSED | _NO_CONTENT) & public


def test_the_disk_keeps_what_was_synced_and_nothing_else() -> None:
    """The disk model: bytes by the file's sync, names by the directory's, renames whole, sectors apart."""
    disk = Disk()
    for op in (("create", "a"), ("write", "a", 0, b"1" * 1024), ("sync", "a")):
        disk.apply(op)
    assert disk.build("lost") == {}, "a synced file without a synced name is gone"
    assert disk.build("kept") == {"a": b"1" * 1024}
    disk.apply(("syncdir", "."))
    disk.apply(("write", "a", 0, b"2" * 1024))
    disk.apply(("rename", "a", "b"))
    assert disk.build("lost") == {"a": b"1" * 1024}
    seen = {tuple(sorted(disk.build(str(seed)).items())) for seed in range(300)}
    sectors = (b"1" * 512, b"2" * 512)
    assert seen == {((name, x + y),) for name in "ab" for x in sectors for y in sectors}
    disk.apply(("syncfs",))
    assert disk.is_clean
    assert disk.build("lost") == disk.build("kept") == {"b": b"2" * 1024}
    disk.apply(("mkdir", "d"))
    disk.apply(("create", "d/x"))
    disk.apply(("syncdir", "d"))
    assert "d/x" not in disk.build("lost"), "what lies in a directory that is lost is lost"

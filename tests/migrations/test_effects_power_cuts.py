"""A power cut at any effect of an import, an export, a merge or a migration: the old state, or one to go on from.

How many states there are over all cases is set by LEGACY_CRASH_STATES; a line is printed for each.  By hand, and for
many more: ``python -m tests.migrations.power_cut_explorer``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from minifo.engine.trial import Trial
from minifo.migrations.effects import Effects
from minifo.migrations.merge.apply import _Application
from tests.crash.recorder import RecordedEffects, _File
from tests.migrations import power_cut_explorer
from tests.migrations.carry_cases import CASES
from tests.migrations.power_cut_explorer import explore, explore_killed

pytestmark = [
    pytest.mark.root,
    pytest.mark.logs(
        "is not the one of the last mount",
        "operations of a killed daemon were replayed",
        "a transaction that was not committed was taken back",
        always=False,
    ),
]

_STATES = int(os.environ.get("LEGACY_CRASH_STATES", "800"))
_TO_FIND = 4000  # states after which a seeded fault must have been found
_SEED = 2  # one that finds them soon

_COMPOSED = {"write_durably", "make_directories", "remove_tree"}  # of recorded effects


@pytest.mark.parametrize("name", CASES)
def test_power_cut_leaves_the_old_state_or_one_to_go_on_from(name: str, figures: list[str]) -> None:
    """Whatever the disk kept: the same command comes to the right result, and nothing else is left."""
    summary = explore(name, states=_STATES // len(CASES))
    figures.append(summary.line(name))
    assert summary.failures == []


@pytest.mark.parametrize("name", CASES)
def test_power_cut_after_a_kill(name: str, figures: list[str]) -> None:
    """The same where the command was killed before and given again: what it had done may be in memory only."""
    summary = explore_killed(name, states=_STATES // len(CASES) // 4, kills=5)
    figures.append(summary.line(f"{name}, killed"))
    assert summary.failures == []


def _nothing(self: object, what: object) -> None:
    """A sync, or a return, that does not happen."""


def _no_order(self: _Application, operation: object) -> None:
    """Operations of a merge become durable in any order."""


FAULTS: dict[str, tuple[str, object, str, Callable[..., Any]]] = {
    "import: directories unsynced": ("import", RecordedEffects, "sync", _nothing),
    "restore: directories unsynced": ("restore", RecordedEffects, "sync", _nothing),
    "merge: the base unsynced": ("merge", RecordedEffects, "sync_all", _nothing),
    "merge: no order": ("merge", _Application, "_keep_order", _no_order),
    "upgrade: the database unsynced": ("upgrade", _File, "xSync", _nothing),
    "export: the tree unsynced": ("export", RecordedEffects, "sync_all", _nothing),
    "export_directory: unsynced": ("export_directory", RecordedEffects, "sync_all", _nothing),
    "export_archive: unsynced": ("export_archive", RecordedEffects, "sync", _nothing),
    "import_layer: directories unsynced": ("import_layer", RecordedEffects, "sync", _nothing),
    "backup: unsynced": ("backup", RecordedEffects, "sync", _nothing),
    "backup_directory: unsynced": ("backup_directory", RecordedEffects, "sync_all", _nothing),
    "restore_backup: content unsynced": ("restore_backup", RecordedEffects, "sync_all", _nothing),
    "apply_bundle: not taken back": ("apply_bundle", Trial, "_take_back", _nothing),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_seeded_fault_is_found(name: str) -> None:
    """With one sync or one order left out, something is wrong after a power cut."""
    case, owner, method, wrong = FAULTS[name]
    with patch.object(owner, method, wrong):
        summary = explore(case, states=_TO_FIND, seed=_SEED, stop=1)
    assert summary.failures, f"not found in {summary.states} states"


def test_no_effect_is_unrecorded() -> None:
    """Every method of Effects is recorded, or made of those that are."""
    public = {name for name in vars(Effects) if not name.startswith("_")}
    assert public - set(vars(RecordedEffects)) == _COMPOSED


def test_what_is_laid_out_is_what_was_seen() -> None:
    """Types, links, attributes and bytes of a tree survive the way through a state."""
    with power_cut_explorer.scratch_directory() as scratch:
        case = CASES["in_place"](power_cut_explorer.Path(scratch))
        image = power_cut_explorer.image_of(str(case.workdir))
        power_cut_explorer.lay_out(str(case.workdir), image)
        again = power_cut_explorer.image_of(str(case.workdir))
        assert power_cut_explorer.Disk(image).build("kept") == power_cut_explorer.Disk(again).build("lost")
        assert len({inode.kind for inode in image.values() if isinstance(inode, power_cut_explorer.Inode)}) == 4

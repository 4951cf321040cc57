"""State machines: the engine and a plain directory under the same operations, compared all the while.

Eleven machines draw from different groups of rules; a narrow one meets more often, a broad one finds what lies between.
How hard they try follows the hypothesis profile: ``ci`` runs above 1,000 examples of 50 steps, ``thorough`` far more.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

from tests.model.compared_trees import NarrowDenseStorage, NarrowStorage
from tests.model.state_machine import AttributeRules, ContentRules, LifeRules
from tests.model.state_machine_carry import CarryRules
from tests.model.state_machine_checkpoints import CheckpointRules
from tests.model.state_machine_ranges import RangeRules
from tests.model.state_machine_unnamed import UnnamedRules
from tests.model.state_machine_vacuum import VacuumRules
from tests.shared import file_trees

pytestmark = [
    pytest.mark.logs("operations of a killed daemon were replayed", always=False),
    pytest.mark.root,  # owners and devices are compared
    # other file systems differ in symlink lengths and in when ctime moves
    pytest.mark.skipif(
        file_trees.scratch_root() is None, reason="needs a tmpfs at /dev/shm that takes user attributes"
    ),
]


class Names(UnnamedRules, LifeRules):
    """Names, and files without, in a small tree where they meet often."""

    build = staticmethod(file_trees.build_small)
    pool = (b"a", b"b", b"c", b"d", b"z" * 256)
    full_every = 4


class Contents(ContentRules, LifeRules):
    """File bytes, with commits and crashes in between."""

    build = staticmethod(file_trees.build_files)


class Ranges(RangeRules, LifeRules):
    """Ranges of files beside reads and writes, with commits and crashes in between."""

    build = staticmethod(file_trees.build_files)


class Narrow(RangeRules, LifeRules):
    """The same on storage that holds no large files: they are spread over several."""

    build = staticmethod(file_trees.build_files)

    @staticmethod
    def options(clone: bool, dense: bool) -> dict[str, Any]:
        return {"clone": clone, "storage_io": NarrowDenseStorage if dense else NarrowStorage}


class Attributes(AttributeRules, LifeRules):
    """Attributes, on every type of object."""


class Everything(UnnamedRules, RangeRules, AttributeRules, LifeRules):
    """All rules on the full tree."""


class Checkpoints(CheckpointRules, UnnamedRules, RangeRules, AttributeRules, LifeRules):
    """Checkpoints and returns to them, among all other rules."""


class Carried(CarryRules, UnnamedRules, AttributeRules, LifeRules):
    """Backups and bundles among checkpoints and all other rules."""


class CheckpointsNarrow(CheckpointRules, RangeRules, LifeRules):
    """The same with files only, on storage that holds no large ones."""

    build = staticmethod(file_trees.build_files)
    options = staticmethod(Narrow.options)


class Vacuumed(VacuumRules, CheckpointRules, UnnamedRules, RangeRules, AttributeRules, LifeRules):
    """A vacuum at any moment, among all rules."""


class VacuumedFiles(VacuumRules, CheckpointRules, RangeRules, LifeRules):
    """The same with files only, also on storage that holds no large ones."""

    build = staticmethod(file_trees.build_files)
    options = staticmethod(Narrow.options)


def _settings(share: int) -> settings:
    return settings(max_examples=max(1, settings().max_examples * share * 2 // 5), stateful_step_count=50)


TestNames = Names.TestCase
TestNames.settings = _settings(3)
TestContents = Contents.TestCase
TestContents.settings = _settings(2)
TestRanges = Ranges.TestCase
TestRanges.settings = _settings(2)
TestNarrow = Narrow.TestCase
TestNarrow.settings = _settings(1)
TestAttributes = Attributes.TestCase
TestAttributes.settings = _settings(1)
TestEverything = Everything.TestCase
TestEverything.settings = _settings(2)
TestCarried = Carried.TestCase
TestCarried.settings = _settings(1)
TestCheckpoints = Checkpoints.TestCase
TestCheckpoints.settings = _settings(2)
TestCheckpointsNarrow = CheckpointsNarrow.TestCase
TestCheckpointsNarrow.settings = _settings(1)
TestVacuumed = Vacuumed.TestCase
TestVacuumed.settings = _settings(1)
TestVacuumedFiles = VacuumedFiles.TestCase
TestVacuumedFiles.settings = _settings(1)

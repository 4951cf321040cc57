"""Storages edited as an attacker would: root goes through every door, and nothing outside is touched.

``MINIFO_HOSTILE`` is the number of storages (default: 20 in CI, elsewhere 10).  By hand, for
many: ``MINIFO_HOSTILE=20000 pytest tests/hostile/test_random_edits.py``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minifo.engine.model import FILE_MAX, OBJECTS_END
from minifo.engine.store.redo_records import encode_operation, frame
from tests.conftest import in_ci
from tests.hostile.redo_edits import RECORDS
from tests.hostile.root_commands import AttackedStorages
from tests.hostile.storage_edits import (
    EDITS,
    LABELS,
    SCHEMAS,
    AddRow,
    Blob,
    Edit,
    Extents,
    Past,
    Put,
    Rename,
    Schema,
    SetCells,
    SetFact,
)

STORAGES = int(os.environ.get("MINIFO_HOSTILE", "0")) or (20 if in_ci() else 10)

pytestmark = pytest.mark.timeout(300 + 3 * STORAGES)


@pytest.fixture(scope="module")
def attacked(fuse_required: None) -> Iterator[AttackedStorages]:
    """A base, sound storages, and what is outside."""
    found = AttackedStorages()
    yield found
    found.close()


_COUNT = {"storages": 0, "seconds": 0.0}


_UNFINISHED = ".minifo-import/minifo.db"  # an import in place goes on from it
_FORMAT_1 = Schema(SCHEMAS.index("PRAGMA user_version = 1"))
_META = "META_dAfFgHE39ktF3HD2sr"

#: Edits that were found to do harm once, and what a checkpoint cannot have been.
FOUND: tuple[tuple[Edit, ...], ...] = (
    *((Past(kind),) for kind in range(7)),
    *((SetCells("checkpoint", "name", label, 0),) for label in LABELS),
    (SetCells("checkpoint", "name", b"\xff", 0), SetCells("checkpoint", "time", "text", 1)),
    (SetCells("checkpoint", "next_object", None, None),),
    (SetCells("was_inode", "size", None, None),),
    (SetCells("was_inode", "mode", 1 << 40, None), SetCells("was_origin", "path", b"/../outside", None)),
    (Blob("was_small", "data"), Blob("was_xattr", "value")),
    (SetCells("created", "parent", 0, 0), SetCells("extent", "object", b"", 0)),  # no object of any number
    (SetCells("inode", "mode", -1, 1),),
    (SetCells("inode", "mode", 1 << 32, 1),),
    (SetCells("extent", "end", FILE_MAX, 0),),
    (SetCells("origin", "ino", 1 << 31, None),),
    (SetCells("extent", "object", (1 << 63) - 1, None),),
    (SetCells("inode", "object", OBJECTS_END - 1, None),),
    (SetFact("base", b"\x80"),),
    (AddRow("origin", (0, 0, 0, 0, 0)),),  # a return to a checkpoint took the path for bytes
    (AddRow("created", (b"", 0, b"")),),
    (
        SetCells("renamed", "parent", 0, 0),
        Rename("origin", b"/a/b/mid", 1),
        SetCells("inode", "mode", 0, 1),
        SetCells("created", "parent", 0, 0),
    ),
    (Extents(3), SetCells("created", "parent", 0, None), Rename("origin", b"", 0)),
    (AddRow("overlay", (b"", 0)),),  # the choice of keep-lists ended with a traceback
    (AddRow("was_origin", (b"", 0, 1, 0, 0, 0, 0)),),  # a mount over another base ended with a traceback
    (_FORMAT_1, Put("minifo.db.bak-v1.new", "dangling")),  # the copy before an upgrade was made where it led
    (Put(_UNFINISHED, "to-secret"),),
    (Put(_UNFINISHED, "hard"),),
    (Put(_UNFINISHED, "fifo"),),  # waited for ever
    (Put(".minifo-import/complete", "empty"), Put(_UNFINISHED, "empty"), Put(f"{_UNFINISHED}-journal", "hard")),
    (Put(_META, "to-secret"),),  # minifo meta show printed it
    (Put(_META, "fifo"),),
    (Put(_META, "huge"),),
    (Put("content/0/3f", "huge"),),  # of no file; a rescue read all of its hole
)


#: Ends of redo logs that were found to do harm once: next numbers that were used as they were.
FOUND_RECORDS = tuple(
    frame(encode_operation([], next_ino, next_object, []))
    for next_ino, next_object in ((0, 0), (1 << 40, (1 << 63) - 1), ((1 << 63) - 1, 1), (-(1 << 63), 1))
)


@pytest.mark.parametrize("records", FOUND_RECORDS)
def test_records_that_did_harm_once(attacked: AttackedStorages, records: bytes) -> None:
    """The first commit after such a replay ended with a traceback."""
    attacked.run((), "killed", records)


@pytest.mark.parametrize("edits", FOUND)
def test_what_did_harm_once(attacked: AttackedStorages, edits: tuple[Edit, ...]) -> None:
    """Each of these ended a command with a traceback, held it up, or led it out of the storage."""
    attacked.run(edits, "closed")


@settings(max_examples=STORAGES, suppress_health_check=list(HealthCheck))
@given(edits=EDITS, model=st.sampled_from(("closed", "closed", "killed")), records=RECORDS)
def test_no_door_leads_out(attacked: AttackedStorages, edits: tuple[Edit, ...], model: str, records: bytes) -> None:
    """Whatever was edited: nothing outside changed or read, no traceback, an end in time, memory within bounds."""
    start = time.monotonic()
    attacked.run(edits, model, records)
    _COUNT["storages"] += 1
    _COUNT["seconds"] += time.monotonic() - start


def test_a_sound_storage_passes_every_door(attacked: AttackedStorages) -> None:
    """So that the rest says something."""
    for model in ("closed", "killed"):
        attacked.run((), model)


def test_counts_are_told(figures: list[str]) -> None:
    """Says how many storages there were."""
    figures.append(f"hostile storages: {_COUNT['storages']} in {_COUNT['seconds']:.0f} s")

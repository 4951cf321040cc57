"""Owners of base objects in a user namespace."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from minifo.engine.store.owners import Owners, owners_here

OVERFLOW = 65534
ME, MINE = 1000, 100


def shown(path: Path, mode: int, uid: int, gid: int) -> os.stat_result:
    """The attributes of a file as the overlay of user ME, group MINE, shows them."""
    os.chown(path, uid, gid)
    path.chmod(mode)
    return Owners(ME, MINE, OVERFLOW, OVERFLOW).shown(os.lstat(path))


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "shows"),
    [
        (0o640, ME, MINE, 0o640),
        (0o640, ME, OVERFLOW, 0o640),
        (0o644, OVERFLOW, OVERFLOW, 0o444),
        (0o1777, OVERFLOW, OVERFLOW, 0o1777),
        (0o4755, OVERFLOW, OVERFLOW, 0o0555),
        (0o640, OVERFLOW, OVERFLOW, 0o040),
        (0o660, OVERFLOW, MINE, 0o660),
        (0o640, OVERFLOW, MINE, 0o440),
    ],
)
def test_foreign_object_gives_the_rights_that_this_process_has(
    tmp_path: Path, mode: int, uid: int, gid: int, shows: int
) -> None:
    """The owner's rights become those of the group or of others, and set-id bits of others are dropped."""
    path = tmp_path / "file"
    path.write_text("content")
    st = shown(path, mode, uid, gid)
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (shows, ME, MINE)
    real = os.lstat(path)
    for name in ("st_ino", "st_dev", "st_nlink", "st_size", "st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blocks"):
        assert getattr(st, name) == getattr(real, name)


def test_nothing_is_shown_otherwise_where_all_users_have_numbers() -> None:
    """In the first user namespace an overlay shows owners as they are."""
    assert owners_here() is None

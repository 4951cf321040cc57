"""Gone objects at any depth, and damaged rows that make a circle of them."""

from __future__ import annotations

import os
import shutil

import apsw
import pytest

from minifo.engine.recovery import BaseCheck
from tests.shared.overlay_sandbox import OverlaySandbox

pytestmark = pytest.mark.logs("is not the one of the last mount", always=False)

DEEP = "/".join(["d"] * 400)  # each level took six calls within each other; Python allows a thousand


@pytest.fixture(autouse=True)
def any_base(sandbox: OverlaySandbox) -> None:
    """Accept any base."""
    sandbox.base_check = BaseCheck.IGNORE


def remove_from_base(sandbox: OverlaySandbox, name: str) -> None:
    """Close the overlay, and remove a directory from its base."""
    sandbox.close()
    shutil.rmtree(os.path.join(sandbox.base, name))


def test_a_file_deep_below_keeps_all_directories_above_it(sandbox: OverlaySandbox) -> None:
    """Every directory on the way to a file with bytes of its own shows."""
    sandbox.put(f"{DEEP}/f", b"old")
    sandbox.write(f"{DEEP}/f", b"ours!")
    remove_from_base(sandbox, "d")
    assert sandbox.names() == ["d"]
    assert sandbox.read(f"{DEEP}/f") == b"ours!"
    assert sandbox.ov.check() == []


def test_directories_that_hold_nothing_do_not_show(sandbox: OverlaySandbox) -> None:
    """What held only a file with the base's bytes is gone with it, at any depth."""
    sandbox.put(f"{DEEP}/f", b"old")
    sandbox.put("other")
    sandbox.set(f"{DEEP}/f", mode=0o600)
    remove_from_base(sandbox, "d")
    assert sandbox.names() == ["other"]
    assert sandbox.find("d") is None
    assert sandbox.ov.check() == []


def test_a_circle_of_gone_directories_has_an_end(sandbox: OverlaySandbox) -> None:
    """Two gone directories, each of which damaged rows put into the other, do not show and hang nobody."""
    for name in ("a", "b"):
        sandbox.put(f"{name}/f", b"old")
        sandbox.set(f"{name}/f", mode=0o600)
        sandbox.mkdir(f"new{name}")
        sandbox.rename(name, f"new{name}/moved")
    a, b = (sandbox.ino(f"new{name}/moved") for name in ("a", "b"))
    sandbox.close()
    db = apsw.Connection(os.path.join(sandbox.sto, "minifo.db"))
    db.execute("UPDATE renamed SET parent = CASE ino WHEN ? THEN ? ELSE ? END", (a, b, a))
    db.close()
    for name in ("a", "b"):
        shutil.rmtree(os.path.join(sandbox.base, name))
    assert sandbox.names() == ["newa", "newb"]
    assert [sandbox.names(name) for name in ("newa", "newb")] == [[], []]

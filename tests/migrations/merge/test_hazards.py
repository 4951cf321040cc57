"""A merge loses and overwrites nothing unasked: not what others did to the base, nor checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.engine.errors import StateError
from minifo.migrations.merge.apply import merge
from minifo.tools.cli import main
from tests.shared.overlay_sandbox import OverlaySandbox

pytestmark = pytest.mark.logs("is not the one of the last mount", always=False)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """An overlay with a change of each kind."""
    found = OverlaySandbox(tmp_path)
    for name in ("edited", "gone", "same"):
        found.put(name, name.encode())
    found.write("edited", b"ours", 0)
    found.unlink("gone")
    found.create("new", b"x" * 5000)
    yield found
    found.close()


def words(sandbox: OverlaySandbox) -> tuple[str, str]:
    """Storage and base, of an overlay that is closed."""
    sandbox.close()
    return str(sandbox.sto), str(sandbox.base)


@pytest.mark.parametrize("name", ["edited", "new", "gone", "same"])
def test_a_base_that_was_changed(sandbox: OverlaySandbox, name: str) -> None:
    """Where the overlay has changes too it is refused, and nothing is touched; elsewhere it does not matter."""
    storage, base = words(sandbox)
    file = sandbox.base / name
    file.unlink(missing_ok=True)
    file.write_bytes(b"theirs, and longer")
    if name in ("same", "gone"):  # what is deleted is not there, whatever it is
        assert merge(storage, base, apply=True).applied
        return
    plan = merge(storage, base)
    assert plan.found is not None
    assert plan.found.drifted == [b"/" + name.encode()]
    with pytest.raises(StateError, match=f"the base was changed since .*/{name}"):
        merge(storage, base, apply=True)
    assert file.read_bytes() == b"theirs, and longer"
    assert (sandbox.base / "gone").exists()
    assert merge(storage, base, apply=True, overwrite=True).applied
    assert file.read_bytes() == (b"oursed" if name == "edited" else b"x" * 5000)
    assert sorted(path.name for path in sandbox.base.iterdir()) == ["edited", "new", "same"]


def test_checkpoints(sandbox: OverlaySandbox) -> None:
    """Those that users made are not lost unasked; those that commands made are told of."""
    sandbox.ov.checkpoints.create("mine")
    sandbox.ov.checkpoints.rollback("mine")
    storage, base = words(sandbox)
    with pytest.raises(StateError, match=r"has checkpoints .*\(mine\)"):
        merge(storage, base, apply=True)
    assert (sandbox.base / "gone").exists()
    sandbox.ov.checkpoints.delete(["mine"])
    words(sandbox)
    plan = merge(storage, base)
    assert plan.found is not None
    assert (plan.found.checkpoints, plan.found.automatic) == ([], 1)
    merge(storage, base, apply=True)
    assert sandbox.ov.checkpoints.all() == []


def test_checkpoints_that_may_go(sandbox: OverlaySandbox) -> None:
    """Asked for, they are dropped."""
    sandbox.ov.checkpoints.create("mine")
    storage, base = words(sandbox)
    merge(storage, base, apply=True, drop_checkpoints=True)
    assert (sandbox.base / "new").read_bytes() == b"x" * 5000
    assert sandbox.ov.checkpoints.all() == []


@pytest.mark.parametrize("how", ["trial", "txn"])
def test_a_trial(sandbox: OverlaySandbox, how: str) -> None:
    """What may still be taken back is not merged."""
    (sandbox.ov.trial.start if how == "trial" else sandbox.ov.trial.begin)()
    storage, base = words(sandbox)
    with pytest.raises(StateError, match="has not ended"):
        merge(storage, base, apply=True, overwrite=True, drop_checkpoints=True)
    if how == "trial":
        sandbox.ov.trial.confirm()
    else:
        sandbox.ov.trial.commit()
    words(sandbox)
    assert merge(storage, base, apply=True).applied


def test_what_is_told(sandbox: OverlaySandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan has sizes, and says what is in the way."""
    sandbox.ov.checkpoints.create("mine")
    storage, base = words(sandbox)
    (sandbox.base / "edited").write_bytes(b"theirs, and longer")
    assert main(["merge", "--dry-run", storage, "--base", base]) == 0
    told = capsys.readouterr().out
    assert "would merge: 3 changes, 4.9 KiB\n" in told
    assert "! /edited: the base was changed since" in told
    assert "! checkpoint mine would be lost" in told
    assert main(["merge", "--json", storage, "--base", base]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["drifted"], found["checkpoints"], found["trial"]) == (["/edited"], ["mine"], False)
    assert {change["path"]: change["size"] for change in found["changes"]} == {"/edited": 6, "/new": 5000, "/gone": 0}
    assert main(["merge", "--dry-run", "--apply", storage, "--base", base]) == 1

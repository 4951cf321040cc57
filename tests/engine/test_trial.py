"""Trials: mounts are counted before they serve, and what is not confirmed falls back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.engine.errors import StateError
from minifo.engine.model import TRIAL_MOUNTS_MAX
from tests.shared.overlay_sandbox import OverlaySandbox

FELL_BACK = "its changes were not confirmed"


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """An overlay with one file."""
    found = OverlaySandbox(tmp_path)
    found.create("config", b"good")
    yield found
    found.close()


def mount(sandbox: OverlaySandbox, mounts: int | None = None) -> bool:
    """What a mount does before it serves; return whether it fell back."""
    sandbox.reopen()
    return sandbox.ov.trial.mounting(mounts) is not None


def test_without_a_trial_all_is_good(sandbox: OverlaySandbox) -> None:
    """Mounts count nothing, and write nothing."""
    assert not mount(sandbox)
    commits = sandbox.ov.commits.count
    sandbox.ov.trial.mounting(None)
    assert sandbox.ov.commits.count == commits
    assert sandbox.ov.trial.state() == ("good", None, None, False, None, None, False)
    with pytest.raises(StateError, match="no trial is running"):
        sandbox.ov.trial.abandon()
    sandbox.ov.trial.confirm()
    assert sandbox.ov.checkpoints.all() == []


@pytest.mark.logs(FELL_BACK)
def test_an_update_that_is_not_confirmed_falls_back(sandbox: OverlaySandbox) -> None:
    """After its mounts; what it was is in a checkpoint, and undo brings it back."""
    sandbox.ov.trial.start(2)
    sandbox.write("config", b"evil")
    for left in (1, 0):
        assert not mount(sandbox)
        assert sandbox.ov.trial.state()[:3] == ("indeterminate", left, 2)
        assert sandbox.read("config") == b"evil"
    assert mount(sandbox)
    assert sandbox.read("config") == b"good"
    state = sandbox.ov.trial.state()
    assert (state.verdict, state.left, state.failed) == ("bad", None, "before-trial")
    assert not mount(sandbox)
    assert sandbox.ov.trial.state().verdict == "bad"
    sandbox.ov.checkpoints.undo()
    assert sandbox.read("config") == b"evil"
    sandbox.ov.trial.confirm()
    assert sandbox.ov.trial.state().verdict == "good"


def test_a_confirmed_update_stays(sandbox: OverlaySandbox) -> None:
    """The trial ends, and its checkpoint goes."""
    sandbox.ov.trial.start(1)
    with pytest.raises(StateError, match="already"):
        sandbox.ov.trial.start(1)
    sandbox.write("config", b"new!")
    assert not mount(sandbox)
    sandbox.ov.trial.confirm()
    assert sandbox.ov.checkpoints.all() == []
    for _ in range(3):
        assert not mount(sandbox)
    assert sandbox.read("config") == b"new!"


@pytest.mark.logs(FELL_BACK)
def test_the_mount_option_always_has_a_trial(sandbox: OverlaySandbox) -> None:
    """The first mount takes what it finds; each confirmation makes a new fallback, so that only later changes go."""
    assert not mount(sandbox, 2)
    assert sandbox.ov.trial.state()[:4] == ("indeterminate", 1, 2, True)
    sandbox.write("config", b"mine")
    sandbox.ov.trial.confirm()
    assert len(sandbox.ov.checkpoints.all()) == 1
    sandbox.write("config", b"evil")
    assert not mount(sandbox, 2)
    assert not mount(sandbox, 2)
    assert mount(sandbox, 2)
    assert sandbox.read("config") == b"mine"
    assert sandbox.ov.trial.state()[:4] == ("bad", 2, 2, True)
    sandbox.ov.trial.confirm()
    assert sandbox.ov.trial.state()[:4] == ("indeterminate", 2, 2, True)
    assert sandbox.ov.check() == []


def test_nothing_falls_back_where_nothing_was_changed(sandbox: OverlaySandbox) -> None:
    """A device that never confirms, and changes nothing, gathers no checkpoints."""
    for _ in range(7):
        assert not mount(sandbox, 2)
    assert len(sandbox.ov.checkpoints.all()) == 1


@pytest.mark.logs(FELL_BACK)
def test_abandon(sandbox: OverlaySandbox) -> None:
    """Falls back at once."""
    sandbox.ov.trial.start()
    sandbox.write("config", b"evil")
    assert sandbox.ov.trial.abandon().left.cause == "abandon"
    assert sandbox.read("config") == b"good"
    assert sandbox.ov.trial.state().verdict == "bad"


def test_a_fallback_is_not_deleted(sandbox: OverlaySandbox) -> None:
    """Nor one with an impossible number of mounts begun."""
    made = sandbox.ov.trial.start()
    with pytest.raises(StateError, match="a trial may fall back to checkpoint confirmed"):
        sandbox.ov.checkpoints.delete([made.name])
    sandbox.ov.trial.confirm()
    for mounts in (0, -1, TRIAL_MOUNTS_MAX + 1):
        with pytest.raises(StateError, match="cannot have"):
            sandbox.ov.trial.start(mounts)


@pytest.mark.parametrize("fact", ["trial_good", "trial_left", "trial_mounts", "trial_always", "trial_bad"])
@pytest.mark.parametrize("value", [None, -1, 1 << 62, "text", b"bytes", 1.5])
@pytest.mark.logs(FELL_BACK, always=False)
def test_damaged_facts(sandbox: OverlaySandbox, fact: str, value: object) -> None:
    """A mount goes on, whatever they say, and loses nothing."""
    sandbox.ov.trial.start(1)
    sandbox.write("config", b"new!")
    with sandbox.ov.db.operation():
        sandbox.ov.db.change_unlogged("INSERT OR REPLACE INTO overlay VALUES (?, ?)", (fact, value))  # type: ignore[arg-type]
    for _ in range(3):
        mount(sandbox)
    assert sandbox.read("config") in (b"good", b"new!")
    sandbox.ov.trial.confirm()
    assert sandbox.ov.check() == []


@pytest.mark.logs("a transaction that was not committed was taken back")
def test_a_transaction_that_is_not_committed(sandbox: OverlaySandbox) -> None:
    """The next mount takes it back, whatever trials that mount has; a commit keeps it, and undo takes that back."""
    sandbox.create("before", b"x")
    sandbox.ov.trial.begin()
    assert sandbox.ov.trial.state().txn
    for refused in (sandbox.ov.trial.begin, sandbox.ov.trial.start, sandbox.ov.trial.confirm):
        with pytest.raises(StateError, match="a transaction is running"):
            refused()
    sandbox.create("lost", b"x")
    sandbox.reopen()
    sandbox.ov.trial.mounting(3)
    assert sorted(sandbox.names("")) == ["before", "config"]
    assert sandbox.ov.trial.state().always


@pytest.mark.logs("a transaction that was not committed was taken back", "its changes were not confirmed")
def test_a_transaction_in_the_trial_of_a_mount_option(sandbox: OverlaySandbox) -> None:
    """It begins and ends, or is taken back; that trial goes on, and has as many mounts left as before."""
    mount(sandbox, 3)
    before = sandbox.ov.trial.state()
    sandbox.ov.trial.begin()
    assert sandbox.ov.trial.state().txn
    for refused in (sandbox.ov.trial.begin, sandbox.ov.trial.start, sandbox.ov.trial.confirm):
        with pytest.raises(StateError, match="a transaction is running"):
            refused()
    sandbox.create("lost", b"x")
    sandbox.ov.trial.take_back()
    assert sandbox.ov.trial.state() == before
    sandbox.ov.trial.begin()
    sandbox.create("new", b"x")
    assert sandbox.ov.trial.commit() is not None
    assert sandbox.ov.trial.state() == before
    sandbox.ov.trial.begin()
    sandbox.create("lost", b"x")
    mount(sandbox, 3)  # the power went in the middle
    assert sandbox.names("") == ["config", "new"]
    assert sandbox.ov.trial.state() == before._replace(left=1)
    sandbox.ov.trial.begin()
    sandbox.create("newer", b"x")
    sandbox.ov.trial.commit(2)
    assert sandbox.ov.trial.state() == before._replace(left=3)
    for _ in range(3):
        assert not mount(sandbox, 3)
    assert mount(sandbox, 3)
    assert sandbox.names("") == ["config"]


@pytest.mark.logs("its changes were not confirmed")
def test_a_transaction_that_is_on_trial(sandbox: OverlaySandbox) -> None:
    """It falls back to what there was before it; confirmed, it stays."""
    for confirms in (True, False):
        sandbox.ov.trial.begin()
        with pytest.raises(StateError, match="cannot have 0 mounts"):
            sandbox.ov.trial.commit(0)
        sandbox.create(f"new-{confirms}", b"x")
        assert sandbox.ov.trial.commit(1) is not None
        assert sandbox.ov.trial.state()[:3] == ("indeterminate", 1, 1)
        assert not mount(sandbox)
        if confirms:
            sandbox.ov.trial.confirm()
        mount(sandbox)
    assert sandbox.names("") == ["config", "new-True"]
    sandbox.ov.trial.begin()
    assert sandbox.ov.trial.commit(3) is None  # it changed nothing: there is nothing to try
    assert sandbox.ov.trial.state().left is None


def test_a_transaction_that_is_committed(sandbox: OverlaySandbox) -> None:
    """It stays; undo takes it back; one that has changed nothing leaves no checkpoint."""
    for _ in range(2):
        sandbox.ov.trial.begin()
        assert sandbox.ov.trial.commit() is None
        sandbox.ov.trial.begin()
        assert sandbox.ov.trial.take_back() is None
        with pytest.raises(StateError, match="there is no transaction"):
            sandbox.ov.trial.commit()
    assert sandbox.ov.checkpoints.all() == []
    sandbox.ov.trial.begin()
    sandbox.create("new", b"x")
    before = sandbox.ov.trial.commit()
    assert before is not None
    sandbox.reopen()
    assert sandbox.ov.trial.mounting(None) is None
    assert sandbox.names("") == ["config", "new"]
    sandbox.ov.checkpoints.undo()
    assert sandbox.names("") == ["config"]

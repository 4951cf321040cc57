"""Making bundles: what they leave out, where they go, and what stays after a failure."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from minifo.engine import StateError, UsageError
from minifo.migrations.bundle.create import CreateOptions
from tests.migrations.bundle.bundle_sandbox import BundleSandbox
from tests.shared.overlay_sandbox import ME


@pytest.fixture
def sandbox(memory_dir: Path) -> BundleSandbox:
    """An overlay in its second state."""
    made = BundleSandbox(memory_dir)
    made.update()
    return made


def test_what_a_layer_cannot_carry(sandbox: BundleSandbox) -> None:
    """It is told, and left out with all below it, if asked for."""
    sandbox.ov.mknod(*sandbox.split("socket"), socket.AF_UNIX and 0o140644, 0, ME)
    sandbox.mkdir(".wh.dir")
    sandbox.create(".wh.dir/file", b"x")
    out = str(sandbox.top / "out")
    report = sandbox.create_at(out, CreateOptions())
    assert (report.written, sorted(os.fsdecode(loss.place) for loss in report.losses)) == (
        False,
        ["/.wh.dir", "/socket"],
    )
    assert not os.path.exists(out)
    device = sandbox.device()
    sandbox.apply(sandbox.bundle(CreateOptions(lossy=True)), device)
    left_out = (b"/socket", b"/.wh.dir", b"/.wh.dir/file", b"/")
    expected = {path: seen for path, seen in sandbox.shown(sandbox.sto).items() if path not in left_out}
    assert {path: seen for path, seen in sandbox.shown(device).items() if path != b"/"} == expected


def test_paths_can_be_left_out(sandbox: BundleSandbox) -> None:
    """They stay as the device has them."""
    device = sandbox.device()
    sandbox.apply(sandbox.bundle(CreateOptions(is_left_out=lambda path: path.startswith(b"/etc"))), device)
    shown = sandbox.shown(device)
    assert b"/etc/gone" in shown
    assert b"/both/new" in shown


def test_where_it_cannot_go(sandbox: BundleSandbox) -> None:
    """A file that has bytes, a directory, the storage itself, a directory that is not there: nothing is changed."""
    taken = sandbox.top / "taken"
    taken.write_text("mine")
    for path in (taken, sandbox.top, sandbox.sto / "x", sandbox.top / "no" / "x"):
        with pytest.raises(UsageError):
            sandbox.create_at(str(path), CreateOptions())
    assert taken.read_text() == "mine"
    with pytest.raises(UsageError, match="the note"):
        sandbox.create_at(str(sandbox.top / "x"), CreateOptions(note="two\nlines"))


def test_a_key_that_does_not_sign_leaves_nothing(sandbox: BundleSandbox) -> None:
    """No file, no key, a key of something else."""
    wrong = sandbox.top / "key"
    wrong.write_text("no key")
    for key in (str(wrong), str(sandbox.top / "none")):
        with pytest.raises(StateError):
            sandbox.create_at(str(sandbox.top / "out"), CreateOptions(key=key))
    assert not list(sandbox.top.glob("out*"))


def test_no_space_leaves_nothing(sandbox: BundleSandbox) -> None:
    """Of a destination that is full."""
    small = sandbox.top / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", small], check=True)
    try:
        with pytest.raises(StateError, match="No space left"):
            sandbox.create_at(str(small / "out"), CreateOptions())
        assert os.listdir(small) == []
    finally:
        subprocess.run(["umount", small], check=True)

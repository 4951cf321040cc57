"""Bundles: a device that has the first state gets the second one as a whole; every other one stays as it is."""

from __future__ import annotations

import contextlib
import errno
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from minifo.engine import Overlay, StateError
from minifo.engine.errors import FsError
from minifo.engine.queries.at_rest import open_at_rest
from minifo.migrations.bundle.create import CreateOptions
from minifo.migrations.exchange.compression import Compression
from tests.migrations.bundle.bundle_sandbox import BundleSandbox, Lines, edited, rebuilt, with_more

TAKEN_BACK = "a transaction that was not committed was taken back"


@pytest.fixture
def sandbox(memory_dir: Path) -> BundleSandbox:
    """An overlay in its second state."""
    made = BundleSandbox(memory_dir)
    made.update()
    return made


@pytest.mark.parametrize("compression", list(Compression))
def test_a_device_gets_the_second_state(sandbox: BundleSandbox, compression: Compression) -> None:
    """Bytes, names, links, attributes, times in ns; the digest is the same; a second time nothing is done."""
    device = sandbox.device()
    before = sandbox.shown(device)
    bundle = sandbox.bundle(CreateOptions(compression))
    result = sandbox.apply(bundle, device)
    assert (result.mismatches, result.is_done, result.checkpoint) == ([], False, "before-txn")
    assert sandbox.shown(device) == sandbox.shown(sandbox.sto)
    assert sandbox.digest(device) == sandbox.digest(sandbox.sto)
    again = sandbox.apply(bundle, device)
    assert (again.mismatches, again.is_done, again.checkpoint) == ([], True, None)
    with contextlib.closing(Overlay.open(str(sandbox.base), str(device))) as overlay:
        assert overlay.trial.state().left is None
        overlay.checkpoints.undo()
    assert sandbox.shown(device) == before


def test_between_two_checkpoints(sandbox: BundleSandbox) -> None:
    """What was done after the second one is not in it, and the same states give the same bytes."""
    sandbox.ov.checkpoints.create("second")
    expected = sandbox.digest_now()
    sandbox.create("later", b"x")
    device = sandbox.device()
    bundle = sandbox.bundle(second="second")
    assert sandbox.bundle(second="second").read_bytes() == bundle.read_bytes()
    sandbox.apply(bundle, device)
    assert sandbox.digest(device) == expected


def test_the_way_back(sandbox: BundleSandbox) -> None:
    """After a rollback, the bundle from the newer state to the older one takes a device back."""
    device = sandbox.device()
    sandbox.apply(sandbox.bundle(), device)
    sandbox.ov.checkpoints.create("second")
    expected = sandbox.shown(device)
    sandbox.ov.checkpoints.rollback("first")
    first = sandbox.digest_now()
    sandbox.close()
    with patch.object(sandbox, "start", "second"):
        sandbox.apply(sandbox.bundle(), device)
    assert sandbox.digest(device) == first
    assert sandbox.shown(device) != expected


@pytest.mark.logs("its changes were not confirmed")
def test_on_trial(sandbox: BundleSandbox) -> None:
    """It falls back to what there was before, unless it is confirmed."""
    device = sandbox.device()
    before = sandbox.shown(device)
    sandbox.apply(sandbox.bundle(), device, mounts=2)
    for left in (1, 0):
        with contextlib.closing(Overlay.open(str(sandbox.base), str(device))) as overlay:
            assert overlay.trial.mounting(None) is None
            assert overlay.trial.state().left == left
    with contextlib.closing(Overlay.open(str(sandbox.base), str(device))) as overlay:
        assert overlay.trial.mounting(None) is not None
    assert sandbox.shown(device) == before


DIFFERENCES: dict[str, tuple[Callable[[BundleSandbox], object], str, str]] = {
    "bytes": (lambda s: s.write("etc/conf", b"CONF"), "/etc/conf", "has other bytes than expected"),
    "size": (lambda s: s.write("etc/conf", b"more", 100), "/etc/conf", "has 104 bytes, expected 8"),
    "mode": (lambda s: s.set("mine", mode=0o600), "/mine", "has mode 0600, expected 0644"),
    "owner": (lambda s: s.set("mine", uid=5), "/mine", "belongs to 5:0, expected 0:0"),
    "xattrs": (lambda s: s.ov.setxattr(s.ino("mine"), b"user.x", b""), "/mine", "has other extended attributes than"),
    "missing": (lambda s: s.unlink("mine"), "/mine", "there is nothing, expected a file"),
    "taken": (lambda s: s.create("null"), "/null", "there is a file, expected nothing"),
    "type": (lambda s: (s.unlink("mine"), s.mkdir("mine")), "/mine", "is a directory, expected a file"),
    "more": (lambda s: s.create("dir/sub/more"), "/dir/sub/more", "it is in a directory that goes, expected nothing"),
    "no directory": (
        lambda s: (s.unlink("etc/conf"), s.unlink("etc/gone"), s.rmdir("etc"), s.create("etc")),
        "/etc",
        "there is a file, expected a directory",
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_device_that_differs_stays_as_it_is(sandbox: BundleSandbox, name: str) -> None:
    """The path is named, with what is there and what was expected."""
    change, path, why = DIFFERENCES[name]
    device = sandbox.device()
    other = sandbox.beside(device)
    change(other)
    other.close()
    before = sandbox.shown(device)
    result = sandbox.apply(sandbox.bundle(), device)
    assert any(os.fsdecode(found.path) == path and why in found.why for found in result.mismatches), result.mismatches
    assert sandbox.shown(device) == before
    with contextlib.closing(open_at_rest(str(device))) as overlay:
        assert overlay.checkpoints.all() == []


def test_what_a_device_has_elsewhere_stays(sandbox: BundleSandbox) -> None:
    """Only paths of the bundle count, and a path that is as the bundle makes it does not hinder."""
    device = sandbox.device()
    other = sandbox.beside(device)
    other.create("own", b"own")
    other.create("dir/own", b"own")
    other.unlink("etc/gone")
    other.close()
    assert not sandbox.apply(sandbox.bundle(), device).mismatches
    assert {b"/own", b"/dir/own", b"/both/new"} <= set(sandbox.shown(device))


def entry(name: str, **changes: Any) -> tarfile.TarInfo:
    """An entry of a layer."""
    found = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(found, key, value)
    return found


HOSTILE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "absolute": (lambda b: rebuilt(b, layer=lambda one: with_more(one, entry("/etc/x"))), "an absolute name"),
    "out": (lambda b: rebuilt(b, layer=lambda one: with_more(one, entry("../x"))), "leads out of it"),
    "unknown": (lambda b: rebuilt(b, layer=lambda one: with_more(one, entry("x"))), "where its paths have another one"),
    "twice": (lambda b: rebuilt(b, layer=lambda one: with_more(one, entry("null"))), "where its paths have"),
    "opaque": (lambda b: rebuilt(b, layer=lambda one: with_more(one, entry("both/.wh..wh..opq"))), "where its paths"),
    "whiteout": (lambda b: rebuilt(b, layer=lambda one: with_more(one, entry(".wh.etc"))), "where its paths have"),
    "link out": (
        lambda b: rebuilt(b, layer=lambda one: with_more(one, entry("l", type=tarfile.LNKTYPE, linkname="/etc/x"))),
        "absolute name",
    ),
    "link to what is not in it": (
        lambda b: rebuilt(b, layer=lambda one: edited(one, _link_to("etc/conf-device"))),
        "where its paths have",
    ),
    "missing": (
        lambda b: rebuilt(b, layer=lambda one: edited(one, lambda info: info.name != "pipe")),
        "where its paths have",
    ),
    "other mode": (
        lambda b: rebuilt(b, layer=lambda one: edited(one, lambda info: setattr(info, "mode", 0o7777))),
        "does not give",
    ),
    "other owner": (
        lambda b: rebuilt(b, layer=lambda one: edited(one, lambda info: setattr(info, "uid", 1))),
        "does not give",
    ),
    "cut short": (lambda b: b.read_bytes()[:-2000], "damaged"),
    "other bytes": (lambda b: _flipped(b.read_bytes()), "damaged"),
    "path out": (lambda b: rebuilt(b, lambda lines: lines.append(_line("/z/../../x"))), "damaged"),
    "path relative": (lambda b: rebuilt(b, lambda lines: lines.append(_line("z"))), "damaged"),
    "path with a NUL": (lambda b: rebuilt(b, lambda lines: lines.append(_line("/z\0"))), "damaged"),
    "path too long": (lambda b: rebuilt(b, lambda lines: lines.append(_line("/" + "z" * 256))), "damaged"),
    "path twice": (lambda b: rebuilt(b, lambda lines: lines.append(lines[-1])), "damaged"),
    "no such type": (lambda b: rebuilt(b, lambda lines: lines.append(_line("/z", type="z"))), "impossible"),
    "no such owner": (lambda b: rebuilt(b, lambda lines: lines.append(_line("/z", uid=-1))), "impossible"),
    "a path for nothing": (lambda b: rebuilt(b, lambda lines: lines.append(_line("/z"))), "where its paths have"),
}


def _line(path: str, **changes: Any) -> dict[str, Any]:
    after = {"type": "p", "mode": "0644", "uid": 0, "gid": 0, **changes}
    return {"path": path, "before": None, "after": after}


def _link_to(target: str) -> Callable[[tarfile.TarInfo], None]:
    def edit(info: tarfile.TarInfo) -> None:
        if info.islnk():
            info.linkname = target

    return edit


def _flipped(data: bytes) -> bytes:
    at = data.index(b"layer.tar.gz", 1024) + 1500
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.logs(TAKEN_BACK, always=False)
def test_hostile_bundles(sandbox: BundleSandbox, name: str) -> None:
    """Digests fit, and what they are of does not: the device stays as it is, and keeps nothing of it."""
    make, text = HOSTILE[name]
    device = sandbox.device()
    before, names = sandbox.shown(device), sorted(os.listdir(sandbox.top))
    data = make(sandbox.bundle())
    with pytest.raises(StateError, match=text):
        sandbox.apply(data, device)
    assert sandbox.shown(device) == before
    assert sorted(os.listdir(sandbox.top)) == sorted({*names, "up.bundle"})
    with contextlib.closing(open_at_rest(str(device))) as overlay:
        assert overlay.checkpoints.all() == []


def test_a_directory_that_is_not_empty_stays(sandbox: BundleSandbox) -> None:
    """Even if a bundle that no minifo has made says that it goes."""

    def forget(lines: Lines) -> None:
        lines[:] = [line for line in lines if line["path"] != "/dir/sub/deep"]

    device = sandbox.device()
    before = sandbox.shown(device)
    result = sandbox.apply(rebuilt(sandbox.bundle(), forget), device)
    assert [found.path for found in result.mismatches] == [b"/dir/sub/deep"]
    assert sandbox.shown(device) == before


@pytest.mark.logs(TAKEN_BACK, always=False)
@pytest.mark.parametrize("at", [1, 3, 10, 25, 40])
def test_storage_that_fails_in_the_middle(sandbox: BundleSandbox, at: int) -> None:
    """No space after so many operations: all of it is taken back, and later it can be applied."""
    device = sandbox.device()
    before, bundle = sandbox.shown(device), sandbox.bundle()
    count = 0
    original = Overlay._claim_space

    def claim(self: Overlay, size: int) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise FsError(errno.ENOSPC)
        original(self, size)

    with patch.object(Overlay, "_claim_space", claim), pytest.raises(StateError, match="No space left"):
        sandbox.apply(bundle, device)
    assert sandbox.shown(device) == before
    with contextlib.closing(open_at_rest(str(device))) as overlay:
        assert overlay.checkpoints.all() == []
    sandbox.apply(bundle, device)
    assert sandbox.digest(device) == sandbox.digest(sandbox.sto)


@pytest.mark.logs(TAKEN_BACK)
def test_a_run_that_was_killed_is_taken_back_by_the_next_one(sandbox: BundleSandbox) -> None:
    """And that one applies it."""
    device = sandbox.device()
    bundle = sandbox.bundle()
    other = sandbox.beside(device)
    other.ov.trial.begin()
    other.create("half", b"x")
    other.close()
    sandbox.apply(bundle, device)
    assert sandbox.shown(device) == sandbox.shown(sandbox.sto)

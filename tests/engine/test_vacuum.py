"""Vacuum: what it gives back, what it leaves, and that nothing shows it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.engine import Overlay
from minifo.engine.store.database_file import compact
from minifo.engine.store.object_paths import object_name
from minifo.engine.vacuum import KINDS, Found, Vacuum
from tests.shared.overlay_sandbox import NOTHING, PAST, OverlaySandbox

BIG = os.urandom(300_000)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """A base with some files, and an empty storage."""
    found = OverlaySandbox(tmp_path)
    for path in ("f", "d/a", "d/b", "d/sub/c"):
        found.put(path, path.encode())
    found.put("big", BIG)
    found.put("copied", BIG[:100_000])
    yield found
    found.close()


def vacuum(sandbox: OverlaySandbox, *kinds: str) -> dict[str, Found]:
    """What was given back, without the kinds of which there was none; the dry run before it says the same."""
    chosen = kinds or KINDS
    tried = Vacuum(sandbox.ov, chosen, apply=False)
    tried.run()
    work = Vacuum(sandbox.ov, chosen, apply=True)
    before = {path: sandbox.attr(path)._replace(blocks=0) for path in ("f", "d", "d/b", "big", "copied")}
    work.run()
    assert before == {path: sandbox.attr(path)._replace(blocks=0) for path in before}
    assert work.skipped == tried.skipped == 0
    assert work.found == tried.found
    assert sandbox.ov.check() == []
    return {kind: found for kind, found in work.found.items() if found.number}


def objects(sandbox: OverlaySandbox) -> int:
    """How many content objects lie in storage."""
    return sum(len(files) for _, _, files in os.walk(sandbox.sto / "content"))


def test_bytes_that_are_the_bases_go(sandbox: OverlaySandbox) -> None:
    """Written with the same bytes: the file is the base's again, with the times that it has."""
    sandbox.write("f", b"f")
    sandbox.write("big", BIG[5000:90_000], 5000)
    sandbox.write("copied", BIG[:100], 0)
    assert objects(sandbox) == 2
    found = vacuum(sandbox)
    assert found["copies"].number == 3
    assert found["copies"].freed > 180_000
    assert objects(sandbox) == 0
    assert sandbox.lists() == NOTHING._replace(modified={"f": 0, "big": 0, "copied": 0})  # their mtime is another one
    assert sandbox.read("big") == BIG
    assert vacuum(sandbox) == {}
    sandbox.write("big", b"x", 7)  # and it can be written again
    assert sandbox.read("big") == BIG[:7] + b"x" + BIG[8:]
    assert vacuum(sandbox) == {}


def test_a_file_with_the_bases_times_counts_as_unmodified(sandbox: OverlaySandbox) -> None:
    """As rsync and tar leave it; and so does what got other attributes, and these back."""
    sandbox.write("f", b"f")
    sandbox.set("f", mtime=PAST)
    mode = sandbox.attr("d/b").mode
    sandbox.set("d/b", mode=0o600)
    sandbox.set("d/b", mode=mode & 0o7777)
    sandbox.ov.setxattr(sandbox.ino("d"), b"user.x", b"y")
    sandbox.ov.removexattr(sandbox.ino("d"), b"user.x")
    found = vacuum(sandbox)
    assert {kind: given.number for kind, given in found.items()} == {"copies": 1, "attributes": 2}
    assert sandbox.lists() == NOTHING
    sandbox.reopen()
    assert sandbox.read("f") == b"f"
    assert vacuum(sandbox) == {}


@pytest.mark.parametrize("how", ["bytes", "size", "mode", "xattr", "mtime"])
def test_what_differs_stays(sandbox: OverlaySandbox, how: str) -> None:
    """One byte, one bit, one attribute."""
    if how == "bytes":
        sandbox.write("big", b"x", 299_999)
    elif how == "size":
        sandbox.write("f", b"f!")
    elif how == "mode":
        sandbox.set("f", mode=0o600)
    elif how == "xattr":
        sandbox.ov.setxattr(sandbox.ino("f"), b"user.x", b"y")
    else:
        sandbox.set("f", mtime=PAST + 1)
    lists = sandbox.lists()
    assert vacuum(sandbox) == {}
    assert sandbox.lists() == lists


def test_what_another_base_has_is_left_to_rebase(sandbox: OverlaySandbox) -> None:
    """The bytes were written over another version."""
    sandbox.write("f", b"g")
    sandbox.close()
    (sandbox.base / "f").write_bytes(b"g")
    assert vacuum(sandbox) == {}


def test_stale_whiteouts(sandbox: OverlaySandbox) -> None:
    """Names that the base lost are not hidden any more; nor is one kept that a directory needs."""
    for path in ("d/a", "d/b", "d/sub/c"):
        sandbox.unlink(path)
    sandbox.rename("d", "moved")
    sandbox.close()
    (sandbox.base / "d/a").unlink()
    (sandbox.base / "d/sub/c").unlink()  # an empty directory may be where something is mounted at other times
    work = Vacuum(sandbox.ov, apply=True)
    work.run()
    assert work.found["whiteouts"].number == 1
    assert sandbox.names("moved") == ["sub"]
    assert sandbox.ov.check() == []
    assert sandbox.lists().deleted == {"d", "moved/b", "moved/sub/c"}


def test_content_that_no_row_names(sandbox: OverlaySandbox) -> None:
    """A file that a bug or a repair has left; one that the running transaction made stays."""
    sandbox.create("own", BIG)
    sandbox.ov.commits.run()
    left = sandbox.sto / object_name(1)
    number = sandbox.ov.objects.next_object
    (sandbox.sto / object_name(number)).write_bytes(b"x" * 5000)
    sandbox.ov.objects.next_object = number + 1
    sandbox.ov.commits.run()
    sandbox.create("young", BIG)
    assert vacuum(sandbox, "objects") == {"objects": Found(1, 8192, 0)}
    assert not (sandbox.sto / object_name(number)).exists()
    assert left.exists()
    assert sandbox.read("own") == sandbox.read("young") == BIG


def test_a_file_in_pieces_is_made_whole(sandbox: OverlaySandbox) -> None:
    """All of it was written anew over what a checkpoint had; then the checkpoint went."""
    sandbox.create("own", BIG)
    sandbox.ov.checkpoints.create("one")
    for offset in range(0, len(BIG), 8192):
        sandbox.write("own", b"y" * min(8192, len(BIG) - offset), offset)
    assert vacuum(sandbox) == {}  # the checkpoint needs the old bytes
    sandbox.ov.checkpoints.delete(["one"])
    before = objects(sandbox)
    work = Vacuum(sandbox.ov, apply=True)
    work.run()
    assert work.found["extents"].number == 1
    assert work.found["extents"].freed > 290_000
    assert objects(sandbox) < before
    assert sandbox.read("own") == b"y" * len(BIG)
    assert sandbox.ov.check() == []
    sandbox.reopen()
    assert sandbox.read("own") == b"y" * len(BIG)
    assert vacuum(sandbox) == {}


def test_what_a_checkpoint_needs_is_not_freed(sandbox: OverlaySandbox) -> None:
    """It is told apart; and the checkpoint has it still."""
    sandbox.write("copied", b"x", 0)
    sandbox.ov.checkpoints.create("one")
    sandbox.write("copied", BIG[:1], 0)
    sandbox.ov.checkpoints.create("two")
    found = vacuum(sandbox)
    assert found["copies"].number == 1
    assert found["copies"].kept > 90_000
    assert found["copies"].freed < 1000
    sandbox.ov.checkpoints.rollback("one")
    assert sandbox.read("copied") == b"x" + BIG[1:100_000]
    sandbox.ov.checkpoints.rollback("two")
    assert sandbox.read("copied") == BIG[:100_000]


def test_a_write_between_two_steps_is_not_lost(sandbox: OverlaySandbox) -> None:
    """A large file is compared in steps: what is written meanwhile, also without a trace in its row, counts."""
    data = os.urandom(3 << 20)
    sandbox.put("large", data)
    sandbox.reopen(copy_whole=True)
    sandbox.write("large", data[:1], 0)
    sandbox.ov.commits.run()
    steps = Vacuum(sandbox.ov, ("copies",), apply=True).steps()
    next(steps)
    sandbox.ov.write(sandbox.ino("large"), 5, b"new", times=False)
    for _ in steps:
        pass
    assert sandbox.read("large") == data[:5] + b"new" + data[8:]


def test_the_database_is_compacted(sandbox: OverlaySandbox) -> None:
    """Its unused pages go, and it is the same database."""
    for number in range(2000):
        sandbox.create(f"file{number:04}" + "x" * 100, b"x" * 200)
    for number in range(2000):
        sandbox.unlink(f"file{number:04}" + "x" * 100)
    sandbox.write("f", b"kept")
    sandbox.close()
    file = sandbox.sto / "minifo.db"
    before = file.stat().st_size
    compact(str(file))
    assert file.stat().st_size < before / 2
    assert sandbox.read("f") == b"kept"
    assert sandbox.ov.check() == []


def test_a_read_only_overlay_is_only_looked_at(sandbox: OverlaySandbox) -> None:
    """A dry run needs no right to write."""
    sandbox.write("f", b"f")
    sandbox.close()
    overlay = Overlay.open(str(sandbox.base), str(sandbox.sto), read_only=True)
    work = Vacuum(overlay, apply=False)
    work.run()
    assert work.found["copies"].number == 1
    overlay.close()

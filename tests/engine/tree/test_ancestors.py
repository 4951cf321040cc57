"""keep_origin: the base's versions of changed files are kept, so that a merge needs no old base."""

from __future__ import annotations

import pytest

from minifo.engine import Overlay
from minifo.engine.model import ORIGIN_MAX
from minifo.tools.cli import main
from tests.shared.rebase_sandbox import RebaseSandbox, rewrite

pytestmark = pytest.mark.logs("is not the one of the last mount", always=False)

OLD, OURS = b"a\nb\nc\nd\ne\n", b"A\nb\nc\nd\ne\n"
THEIRS, MERGED = b"a\nb\nc\nd\nE\n", b"A\nb\nc\nd\nE\n"


def save(rebase_sandbox: RebaseSandbox, name: str, data: bytes) -> None:
    """Save a file as editors do: write a new file, and rename it over the old one."""
    rebase_sandbox.create(name + "~", data)
    rebase_sandbox.rename(name + "~", name)


def kept(overlay: Overlay) -> set[bytes]:
    """Return the paths of the base files of which a version is kept."""
    return {path for (path,) in overlay.db.rows("SELECT path FROM ancestor")}


def test_merging_without_the_old_base(rebase_sandbox: RebaseSandbox) -> None:
    """A file is merged without the old base, be it changed in place, saved by an editor, or deleted and created."""
    for name in ("inplace", "saved", "anew", "untouched"):
        rebase_sandbox.put(name, OLD)
    rebase_sandbox.open(keep_origin=ORIGIN_MAX)
    rebase_sandbox.write("inplace", OURS)
    save(rebase_sandbox, "saved", OURS)
    rebase_sandbox.unlink("anew")
    rebase_sandbox.create("anew", OURS)
    assert kept(rebase_sandbox.ov) == {b"/inplace", b"/saved", b"/anew"}
    rebase_sandbox.replace(lambda base: [rewrite(base, name, THEIRS) for name in ("inplace", "saved", "anew")])
    report = rebase_sandbox.rebase("merge")
    assert {decision.action.value for decision in report.decisions} == {"merge"}
    assert [rebase_sandbox.read(name) for name in ("inplace", "saved", "anew", "untouched")] == [MERGED] * 3 + [OLD]
    assert rebase_sandbox.rebase("merge").decisions == []  # settled


def test_the_next_base_is_merged_from_the_last_one(rebase_sandbox: RebaseSandbox) -> None:
    """After a rebase the new base's version is kept, for the merge with the next base."""
    rebase_sandbox.put("f", OLD)
    rebase_sandbox.open(keep_origin=ORIGIN_MAX)
    save(rebase_sandbox, "f", OURS)
    rebase_sandbox.replace(lambda base: rewrite(base, "f", THEIRS))
    rebase_sandbox.rebase("merge")
    rebase_sandbox.old = rebase_sandbox.old.with_name("older")
    rebase_sandbox.replace(lambda base: rewrite(base, "f", b"a\nb\nc\nD\nE\n"))
    rebase_sandbox.rebase("merge")
    assert rebase_sandbox.read("f") == b"A\nb\nc\nD\nE\n"


def test_what_is_not_kept(rebase_sandbox: RebaseSandbox) -> None:
    """No version is kept of large files, of other types, after a rename or chmod only, and without the option."""
    rebase_sandbox.put("large", b"x" * (ORIGIN_MAX + 1))
    for name in ("moved", "mode", "d/inside", "plain"):
        rebase_sandbox.put(name, OLD)
    rebase_sandbox.open(keep_origin=ORIGIN_MAX)
    rebase_sandbox.write("large", b"y")
    rebase_sandbox.rename("moved", "elsewhere")
    rebase_sandbox.set("mode", mode=0o600)
    rebase_sandbox.rename("d", "e")
    assert kept(rebase_sandbox.ov) == set()
    rebase_sandbox.reopen()
    rebase_sandbox.write("plain", OURS)
    assert kept(rebase_sandbox.ov) == set()


def test_salvage_knows_it(rebase_sandbox: RebaseSandbox) -> None:
    """The kept versions survive a rebuild of the database."""
    rebase_sandbox.put("f", OLD)
    rebase_sandbox.open(keep_origin=ORIGIN_MAX)
    rebase_sandbox.write("f", OURS)
    rebase_sandbox.close()
    database = rebase_sandbox.sto / "minifo.db"
    data = bytearray(database.read_bytes())
    data[0:16] = bytes(16)
    database.write_bytes(data)
    assert main(["fsck", "-y", str(rebase_sandbox.sto)]) in (1, 5)
    assert kept(rebase_sandbox.ov) == {b"/f"}

"""Whatever the operations of an overlay lead to is clean: fsck finds notes at most, and a repair changes no byte.

The state machines of tests/model/ do the operations, with objects held open, commits, kills and power cuts in between.
fsck looks at every storage they leave, at copies of it between two commits, and at the mounted one.  By hand, for many
more examples: ``HYPOTHESIS_PROFILE=thorough python -m pytest tests/fsck/test_no_false_alarm.py``.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from minifo.engine import ROOT, Ino, Overlay, SetAttr
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE
from minifo.tools.fsck_helper import Outcome, Request, check_storage
from tests.fsck.sample_storage import SampleStorage, kept, wrong
from tests.model.compared_trees import caller
from tests.model.state_machine import PICK, AttributeRules, LifeRules, Machine
from tests.model.state_machine_checkpoints import CheckpointRules
from tests.model.state_machine_ranges import RangeRules
from tests.model.state_machine_unnamed import UnnamedRules
from tests.shared import file_trees

pytestmark = [
    pytest.mark.logs("operations of a killed daemon were replayed", always=False),
    pytest.mark.root,  # owners and devices are made
    pytest.mark.skipif(
        file_trees.scratch_root() is None, reason="needs a tmpfs at /dev/shm that takes user attributes"
    ),
]


def look(mode: str, storage: Path, base: Path | None, redo: Path) -> Outcome:
    """What ``minifo-fsck`` does."""
    with patch("minifo.engine.fsck.session.memory_directory", lambda: str(redo)):
        return check_storage(Request(str(storage), mode, full=True, base=None if base is None else str(base)))


# -- what was seen in the field


def _ino(overlay: Overlay, path: str) -> Ino:
    at = ROOT
    for name in path.split("/"):
        attr = overlay.lookup(at, os.fsencode(name))
        assert attr is not None
        at = Ino(attr.ino)
    return at


def _remove_x(overlay: Overlay) -> None:
    """``rm -r x``."""
    if overlay.lookup(_ino(overlay, "x/y/z"), b"deep") is not None:
        overlay.unlink(_ino(overlay, "x/y/z"), b"deep")
    overlay.rmdir(_ino(overlay, "x/y"), b"z")
    overlay.rmdir(_ino(overlay, "x"), b"y")
    overlay.rmdir(ROOT, b"x")


def _move_out(overlay: Overlay) -> None:
    overlay.rename(_ino(overlay, "x/y/z"), b"deep", ROOT, b"out")
    _remove_x(overlay)


def _link_out(overlay: Overlay) -> None:
    overlay.link(_ino(overlay, "x/y/z/deep"), ROOT, b"out")
    _remove_x(overlay)


def _move_directory_out(overlay: Overlay) -> None:
    overlay.rename(_ino(overlay, "x/y"), b"z", ROOT, b"out")
    overlay.rmdir(_ino(overlay, "x"), b"y")
    overlay.rmdir(ROOT, b"x")


def _reserve_in_a_hole(overlay: Overlay) -> None:
    overlay.mknod(ROOT, b"f", stat.S_IFREG | 0o644, 0, caller())
    overlay.setattr(_ino(overlay, "f"), SetAttr(size=8192))
    overlay.ranges.fallocate(_ino(overlay, "f"), FALLOC_FL_KEEP_SIZE, 16384, 4096)


def expect_untouched(sample: SampleStorage) -> None:
    """Clean in every mode, and the same afterwards."""
    sample.look()
    before = kept(sample.storage)
    for mode in ("n", "p", "y"):
        for base in (None, sample.base):
            outcome = check_storage(Request(sample.storage, mode, full=True, base=base))
            assert [finding.code for finding in outcome.found if not finding.is_note] == []
            assert outcome.code == 0
            assert kept(sample.storage) == before


@pytest.mark.parametrize("act", [_move_out, _link_out, _move_directory_out, _reserve_in_a_hole])
def test_healthy_storage_is_left_alone(act: Callable[[Overlay], None], sample: SampleStorage) -> None:
    """What was taken out of a base directory before it was deleted lives on; a reserved file is whole."""
    overlay = sample.open()
    act(overlay)
    overlay.close()
    expect_untouched(sample)


def test_attributes_of_a_file_the_base_has_lost_are_kept(sample: SampleStorage) -> None:
    """chmod of a base file, then a base without it, then ``rm -r`` of its directory: nothing is damaged."""
    overlay = sample.open()
    overlay.setattr(_ino(overlay, "a/b/mid"), SetAttr(mode=0o600))
    overlay.close()
    os.unlink(os.path.join(sample.base, "a/b/mid"))
    overlay = sample.open()
    overlay.rmdir(_ino(overlay, "a"), b"b")
    overlay.rmdir(ROOT, b"a")
    overlay.close()
    expect_untouched(sample)


@pytest.mark.parametrize("known", [True, False])
def test_bytes_below_a_directory_without_a_place_come_back(known: bool, sample: SampleStorage) -> None:
    """Where damage took the place of a renamed directory, what was changed in it is not taken for deleted."""
    overlay = sample.open()
    overlay.write(_ino(overlay, "made/newdir/in/f"), 0, b"precious")
    overlay.close()
    sample.sql("DELETE FROM origin WHERE ino = {/made/newdir}")
    assert {"E004", "E201"} == set(wrong(sample.examine(base=known)))
    left, _ = sample.repair(base=known)
    assert wrong(left) == []
    assert sample.look()["/olddir/in/f"][1].startswith(b"precious")


# -- whatever the operations lead to


class CleanRules(Machine):
    """Looks at what the other rules have done."""

    @initialize(clone=st.booleans(), dense=st.booleans())
    def start(self, clone: bool, dense: bool) -> None:
        """Look whenever nobody holds storage."""
        super().start(clone, dense)
        self.t.on_down = lambda: self.see_clean(self.t.storage)

    def see_clean(self, storage: Path) -> None:
        """fsck finds nothing but notes, with the base and without, and no repair changes a byte."""
        before = kept(str(storage))
        for mode, base in (("n", None), ("p", self.t.base), ("y", None), ("y", self.t.base)):
            self.expect_clean(mode, look(mode, storage, base, self.t.redo))
            after = kept(str(storage))
            assert after == before, self.t.told(f"-{mode} changed {[p for p in after if after[p] != before.get(p)]}")

    def expect_clean(self, mode: str, outcome: Outcome) -> None:
        told = [(f.code, f.path, f.detail) for f in (*outcome.found, *outcome.left) if not f.is_note]
        assert (outcome.code, told) == (0, []), self.t.told(f"-{mode}: {told}")

    @rule(begun=st.booleans())
    def look_at_a_copy(self, begun: bool) -> None:
        """Storage as it lies after a commit, with what is held open, and with the log beside the database."""
        self.t.log.append(f"look at a copy, {begun}")
        if begun:
            self.t.begin_commit()
        else:
            self.t.commit()
        copy = self.t.work / "copy"
        shutil.copytree(self.t.storage, copy, ignore=shutil.ignore_patterns("*-shm", "lock"))
        self.see_clean(copy)
        shutil.rmtree(copy)

    @rule()
    def look_at_the_mounted(self) -> None:
        """A mount holds storage, and has not committed everything."""
        self.t.log.append("look at the mounted storage")
        self.expect_clean("n", look("n", self.t.storage, self.t.base, self.t.redo))


class EmptiedRules(UnnamedRules, CleanRules):
    """Directories are emptied by moving and linking things out of them, and go: the base's too."""

    @rule(pick=PICK, link=st.booleans(), again=st.booleans())
    def rescue_and_remove(self, pick: int, link: bool, again: bool) -> None:
        """``mv`` or ``ln`` out of a directory, ``rm -r`` of it, and perhaps ``mkdir`` at its place."""
        inner = [path for path in self.paths() if path.count(b"/") > 1]
        if not inner:
            return
        path = inner[pick % len(inner)]
        top = path[: path.index(b"/", 1)]
        parent, _, name = path.rpartition(b"/")
        new = b"out%d" % self.steps
        if link and not stat.S_ISDIR(self.mode(path)):
            self.t.both(
                f"link {path!r} {new!r}",
                lambda: self.t.ov.link(self.t.ino(path), self.t.ino(b""), new),
                lambda: os.link(self.t.root + path, self.t.root + b"/" + new, follow_symlinks=False),
            )
        else:
            self.do_rename(parent, name, b"", new)
        self._paths = None
        self.remove_all(([b"", *self.paths()]).index(top))
        if again:
            with self.t.place(b"") as (ino, fd):
                self.made(
                    f"mkdir {top!r}",
                    b"",
                    top[1:],
                    lambda: self.t.ov.mkdir(ino(), top[1:], 0o755, caller()),
                    lambda: os.mkdir(top[1:], 0o755, dir_fd=fd),
                )


class Names(EmptiedRules, LifeRules):
    """Names only, in a small tree where they meet often."""

    build = staticmethod(file_trees.build_small)
    pool = (b"a", b"b", b"c", b"d", b"z" * 256)


class Ranges(RangeRules, CleanRules, LifeRules):
    """Bytes and ranges of files."""

    build = staticmethod(file_trees.build_files)


class Everything(EmptiedRules, RangeRules, AttributeRules, LifeRules):
    """All rules on the full tree."""


class Checkpoints(CheckpointRules, EmptiedRules, RangeRules, LifeRules):
    """Checkpoints among names and bytes: each state of the past is sound, too."""

    build = staticmethod(file_trees.build_small)


def _settings(share: int) -> settings:
    return settings(max_examples=max(1, settings().max_examples * share // 10), stateful_step_count=40)


TestNames = Names.TestCase
TestNames.settings = _settings(1)
TestRanges = Ranges.TestCase
TestRanges.settings = _settings(1)
TestCheckpoints = Checkpoints.TestCase
TestCheckpoints.settings = _settings(1)
TestEverything = Everything.TestCase
TestEverything.settings = _settings(1)

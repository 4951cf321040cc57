"""Hypothesis rules for checkpoints: what the plain directory was is kept as a copy, and compared after a return."""

from __future__ import annotations

import os
import shutil
import stat
import time
from pathlib import Path
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import initialize, rule

from minifo.engine import ROOT, Ino, Overlay, SetAttr
from minifo.engine.checkpoint_values import Restored
from minifo.engine.checkpoints import KEPT
from minifo.engine.clone import clone_overlay
from minifo.engine.errors import StateError
from minifo.engine.reset import reset
from minifo.engine.revert import Reverted
from minifo.engine.revert_to import revert_paths
from minifo.fusefront.control.patterns import Choice
from tests.model.compared_trees import Snapshot
from tests.model.reset_oracle import ResetOracle
from tests.model.state_machine import LENGTHS, OFFSETS, PICK, Machine
from tests.shared import file_trees
from tests.shared.digests import record_digests

#: What is kept by a reset, made of a path or of its name.
PATTERNS = ("{path}", "{path}", "{path}", "{name}", "{path}/*", "{path}*", "!{name}", "/*", "*")


class Clone(NamedTuple):
    """A clone, and a copy of the plain tree that goes along with it."""

    storage: Path
    state: Snapshot


def shares(overlay: Overlay, ino: Ino) -> bool:
    """Whether a file has content in an object with several names."""
    numbers = overlay.db.rows(
        "SELECT object FROM inode WHERE ino = ?1 AND object > 0 UNION"
        " SELECT object FROM extent WHERE ino = ?1 AND object > 0",
        (ino,),
    )
    return any(overlay.objects.stat(number).st_nlink > 1 for (number,) in numbers)


def change(overlay: Overlay, ino: Ino, plain: bytes, offset: int, data: bytes, *, cut: bool) -> None:
    """Cut a file on both sides, or write into it."""
    if cut:
        overlay.setattr(ino, SetAttr(size=offset, mtime=time.time_ns()))  # as the kernel sends it
        os.truncate(plain, offset)
        return
    overlay.write(ino, offset, data)
    fd = os.open(plain, os.O_WRONLY)
    try:
        os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


class CheckpointRules(Machine):
    """create, rollback, undo, redo, delete and a look at a checkpoint, among all other operations."""

    @initialize()
    def remember_nothing(self) -> None:
        self.states: dict[int, Snapshot] = {}  # by the id of the checkpoint
        self.done: list[int] = []  # the checkpoints to which undo returns
        self.undone: list[tuple[int, int]] = []  # those to which redo returns, and undo after it
        self.copies = 0
        self.clones: list[Clone] = []

    def state(self) -> Snapshot:
        """A copy of the plain tree as it is."""
        self.copies += 1
        tree = self.t.work / f"state{self.copies}"
        file_trees.copy_tree(self.t.plain, tree)
        return Snapshot(tree, self.t.numbers())

    def forget_deleted(self) -> None:
        """The copies of checkpoints that are gone; their ids may be used again."""
        known = {checkpoint.id for checkpoint in self.t.ov.checkpoints.all()}
        self.done = [number for number in self.done if number in known]
        self.undone = [pair for pair in self.undone if pair[0] in known]
        assert known <= set(self.states)
        for number in set(self.states) - known:
            shutil.rmtree(self.states.pop(number).tree)

    @rule()
    def checkpoint(self) -> None:
        self.t.finish_commit()
        made = self.t.ov.checkpoints.create(f"c{self.steps}")
        self.t.log.append(f"checkpoint {made.name}")
        self.t.snap()
        self.states[made.id] = self.state()

    @rule(pick=PICK, kept=st.booleans())
    def rollback(self, pick: int, kept: bool) -> None:
        checkpoints = self.t.ov.checkpoints.all()
        if not checkpoints:
            return
        wanted = checkpoints[pick % len(checkpoints)]
        self.prepare(kept=kept)
        result = self.t.ov.checkpoints.rollback(wanted.name)
        self.done.append(result.left.id)
        self.undone.clear()
        self.arrive(f"rollback {wanted.name}", result, wanted.id)

    @rule(kept=st.booleans())
    def undo(self, kept: bool) -> None:
        self.prepare(kept=kept)
        if not self.done:
            with pytest.raises(StateError, match="nothing to undo"):
                self.t.ov.checkpoints.undo()
            return
        result = self.t.ov.checkpoints.undo()
        expected = self.done.pop()
        self.undone.append((result.left.id, expected))
        self.arrive("undo", result, expected)

    @rule(kept=st.booleans())
    def redo(self, kept: bool) -> None:
        self.prepare(kept=kept)
        if not self.undone:
            with pytest.raises(StateError, match="nothing to redo"):
                self.t.ov.checkpoints.redo()
            return
        expected, undone = self.undone.pop()
        self.done.append(undone)
        self.arrive("redo", self.t.ov.checkpoints.redo(), expected)

    def prepare(self, *, kept: bool) -> None:
        """What comes before a return: programs close what is open; the kernel may keep its numbers."""
        self.t.finish_commit()
        self.t.release_all()
        if kept:
            for _, ino in self.t.numbers().values():
                self.t.ov.add_lookup(ino)
        self.left = self.state()

    def arrive(self, what: str, result: Restored, expected: int) -> None:
        """Put the kept copy in the plain tree's place, and compare everything."""
        self.t.log.append(what)
        assert result.to.id == expected
        self.states[result.left.id] = self.left
        target = self.states[expected]
        shutil.rmtree(self.t.plain)
        file_trees.copy_tree(target.tree, self.t.plain)
        self.t.adopt_plain(target.numbers)
        for _, ino in self.t.numbers().values():
            self.t.ov.add_lookup(ino)  # the kernel looks up again what was changed
        self.forget_deleted()
        automatic = [checkpoint for checkpoint in self.t.ov.checkpoints.all() if checkpoint.cause]
        assert len(automatic) <= KEPT
        self.t.compare_all()
        self.t.check_storage()

    @rule(pick=PICK)
    def delete(self, pick: int) -> None:
        checkpoints = self.t.ov.checkpoints.all()
        if checkpoints:
            self.t.finish_commit()
            name = checkpoints[pick % len(checkpoints)].name
            self.t.log.append(f"delete checkpoint {name}")
            self.t.ov.checkpoints.delete([name])
            self.t.snap()
            self.forget_deleted()
            self.t.check_storage()

    @rule()
    def digest(self) -> None:
        """Nobody needs the overlay for a while: what is frozen gets digests, which must stay right from then on."""
        self.t.log.append("digests")
        record_digests(self.t.ov)
        assert not self.t.ov.digests.is_behind
        self.t.check_storage()

    @rule(pick=PICK)
    def look(self, pick: int) -> None:
        """A checkpoint shows beside the overlay, whatever has happened since."""
        checkpoints = self.t.ov.checkpoints.all()
        if not checkpoints:
            return
        shown = checkpoints[pick % len(checkpoints)]
        self.t.log.append(f"look at {shown.name}")
        overlay = Overlay.open(str(self.t.base), str(self.t.storage), at=shown.name)
        try:
            self.t.compare_with(overlay, self.states[shown.id])
        finally:
            overlay.close()

    @rule(pick=PICK, of_checkpoint=st.booleans(), before=LENGTHS, after=LENGTHS, at=OFFSETS)
    def clone(self, pick: int, of_checkpoint: bool, before: int, after: int, at: int) -> None:
        """A storage that goes its own way from here on, written again in later steps.

        The oldest one is deleted, so that what it shared has a name less.
        """
        if self.clones and pick % 3:
            self.write_to_clone(self.clones[pick % len(self.clones)], pick, at % 9000, before % 600 + 1, cut=not after)
            return
        files = [path for path in self.paths() if stat.S_ISREG(self.mode(path))]
        path = files[pick % len(files)] if files else None
        if path is not None:
            self.put(path, 0, 3000 + before)  # so that there is something to share
        self.t.finish_commit()
        checkpoints = self.t.ov.checkpoints.all() if of_checkpoint else []
        chosen = checkpoints[pick % len(checkpoints)] if checkpoints else None
        self.copies += 1
        storage = self.t.work / f"clone{self.copies}"
        self.t.log.append(f"clone {chosen.name if chosen else ''} to {storage.name}")
        clone_overlay(self.t.ov, chosen.name if chosen else None, str(storage))
        self.t.snap()
        was = self.states[chosen.id] if chosen else Snapshot(self.t.plain, self.t.numbers())
        tree = self.t.work / f"cloned{self.copies}"
        file_trees.copy_tree(was.tree, tree)
        self.clones.append(Clone(storage, Snapshot(tree, was.numbers)))
        if len(self.clones) > 2:
            gone = self.clones.pop(0)
            shutil.rmtree(gone.storage)
            shutil.rmtree(gone.state.tree)
        if path is not None:
            self.put(path, at, after)
        self.write_to_clone(self.clones[-1], pick, at % 9000, before % 600 + 1, cut=not after)

    def put(self, path: bytes, offset: int, size: int) -> None:
        """Write into a file of the overlay, and of the plain tree."""
        self.t.make_room()
        self.writes += 1
        data = file_trees.noise(self.writes, size)
        fd = os.open(self.t.root + path, os.O_RDWR | os.O_NOATIME)
        try:
            self.t.both(
                f"write {path!r} {size} at {offset}",
                lambda: self.t.ov.write(self.t.ino(path), offset, data),
                lambda: os.pwrite(fd, data, offset),
            )
            self.t.wrote(fd)
        finally:
            os.close(fd)
        self.see(path, content=True)

    def write_to_clone(self, clone: Clone, pick: int, offset: int, size: int, *, cut: bool) -> None:
        """It has what it had, however the overlay has changed, and takes changes of its own."""
        self.writes += 1
        data = file_trees.noise(self.writes, size)
        tree = os.fsencode(clone.state.tree)
        found = sorted(path for path in clone.state.numbers if stat.S_ISREG(os.lstat(tree + path).st_mode))
        overlay = Overlay.open(str(self.t.base), str(clone.storage))
        try:
            self.t.compare_with(overlay, clone.state)
            shared = [path for path in found if shares(overlay, clone.state.numbers[path][1])]
            found = shared or found
            if found:
                path = found[pick % len(found)]
                self.t.log.append(f"write to {clone.storage.name}{path!r} at {offset}, {size} bytes, cut {cut}")
                ino = clone.state.numbers[path][1]
                change(overlay, ino, tree + path, offset, data, cut=cut)
            overlay.commits.run()
            self.t.compare_with(overlay, clone.state)
        finally:
            overlay.close()
        self.t.compare_all()

    @rule(pick=PICK, from_base=st.booleans(), kept=st.booleans())
    def revert(self, pick: int, from_base: bool, kept: bool) -> None:
        """Everything at a path is as in the base, nothing is broken, and undo brings back what was there."""
        base = os.fsencode(self.t.base)
        below = [path[len(base) :] for path in sorted(file_trees.walk(base))] if from_base else self.paths()
        found = [b"/", *below]
        path = found[pick % len(found)]
        self.prepare(kept=kept)
        self.t.log.append(f"revert {path!r}")
        ov = self.t.ov
        try:
            tried = revert_paths(ov, [path], dry_run=True)
        except StateError as error:
            self.t.log.append(str(error))
            self.t.snap()
            self.t.compare_all()
            return
        self.t.snap()  # all was committed first
        self.t.compare_all()
        place = self.place_in_base(path)
        done = revert_paths(ov, [path])
        assert done.actions == tried.actions
        self.t.check()
        if place is not None:
            self.compare_with_tree(path, os.fsencode(self.t.base), place, times=bool(done.actions))
        if path == b"/":
            assert {name: rows for name, rows in self.t.lists().items() if rows} == {}, self.t.told("rows are left")
        self.undo_revert(done)

    def undo_revert(self, done: Reverted) -> None:
        """Undo brings back what was there; of the state in between only the checkpoint is looked at."""
        if done.restored is None:
            self.t.snap()  # what was acknowledged before is durable all the same
        else:
            self.take_back("revert", done.restored)

    def take_back(self, what: str, restored: Restored) -> None:
        """Undo a verb after which nothing here says what the overlay holds."""
        checkpoints = self.t.ov.checkpoints
        self.undone.clear()
        self.states[restored.left.id] = self.left
        self.left = Snapshot(self.left.tree.with_name("unknown"), {})
        self.left.tree.mkdir(exist_ok=True)  # of that state only the checkpoint is looked at
        result = checkpoints.undo()
        self.undone.clear()
        left = result.left.id
        self.arrive(f"undo {what}", result, restored.left.id)
        checkpoints.delete([checkpoint.name for checkpoint in checkpoints.all() if checkpoint.id == left])
        self.t.snap()
        self.forget_deleted()

    @rule(pick=PICK, which=PICK, then=st.booleans(), kept=st.booleans())
    def revert_to(self, pick: int, which: int, then: bool, kept: bool) -> None:
        """Everything at a path is as at a checkpoint, nothing is broken, and undo brings back what was there."""
        checkpoints = self.t.ov.checkpoints.all()
        if not checkpoints:
            return
        wanted = checkpoints[which % len(checkpoints)]
        tree = os.fsencode(self.states[wanted.id].tree)
        found = [b"/", *([path[len(tree) :] for path in sorted(file_trees.walk(tree))] if then else self.paths())]
        path = found[pick % len(found)]
        self.prepare(kept=kept)
        self.t.log.append(f"revert {path!r} to {wanted.name}")
        ov = self.t.ov
        try:
            tried = revert_paths(ov, [path], to=wanted.name, dry_run=True)
        except StateError as error:
            self.t.log.append(str(error))
            self.t.snap()
            self.t.compare_all()
            return
        self.t.snap()  # all was committed first
        self.t.compare_all()
        done = revert_paths(ov, [path], to=wanted.name)
        assert done.actions == tried.actions
        self.t.check()
        self.compare_with_tree(path, tree, path, times=bool(done.actions))
        if os.path.lexists(tree + path):
            again = revert_paths(ov, [path], to=wanted.name, dry_run=True)
            assert again.actions == [], self.t.told("it is done twice")
        self.undo_revert(done)

    @rule(picks=st.lists(st.tuples(PICK, st.sampled_from(PATTERNS)), max_size=4), kept=st.booleans())
    def reset(self, picks: list[tuple[int, str]], kept: bool) -> None:
        """All that patterns do not keep is as in the base, nothing is broken, and undo brings back what was there."""
        base = os.fsencode(self.t.base)
        known = [*self.paths(), *(path[len(base) :] for path in sorted(file_trees.walk(base)))]
        patterns = []
        for pick, form in picks:
            path = os.fsdecode(known[pick % len(known)])
            patterns.append(form.format(path=path, name=path.rpartition("/")[2]))
        self.prepare(kept=kept)
        self.t.log.append(f"reset {patterns!r}")
        before = {b"": ROOT, **{path: ino for path, (_, ino) in self.t.numbers().items()}}
        touched = "SELECT ino FROM created UNION SELECT ino FROM renamed UNION SELECT ino FROM modified"
        inos = {ino for (ino,) in self.t.ov.db.rows(touched)}
        done = reset(self.t.ov, Choice(patterns))
        self.t.check()
        ResetOracle(self.t, patterns, before, inos).compare()
        if not patterns:
            assert {name: rows for name, rows in self.t.lists().items() if rows} == {}, self.t.told("rows are left")
        if done.restored is None:
            self.t.snap()  # what was acknowledged before is durable all the same
            self.t.compare_all()
        else:
            self.take_back("reset", done.restored)

    def place_in_base(self, path: bytes) -> bytes | None:
        """Where the base has what stands at a path: in the place of the directory that holds it."""
        if path == b"/":
            return b"/"
        directory, _, name = path.rpartition(b"/")
        node = self.t.ov.inodes.node(self.t.ino(directory))
        return None if node.path is None else (b"" if node.path == b"/" else node.path) + b"/" + name

    def compare_with_tree(self, path: bytes, tree: bytes, place: bytes, *, times: bool) -> None:
        """Compare all at a path with all at a place in a plain tree, but for link counts and ctime.

        Args:
            path: in the overlay.
            tree, place: where to compare it with.
            times: whether those of directories count: names that came and went leave them, and are no change.
        """
        top = tree + place.rstrip(b"/")
        found = {b"": path} if os.path.lexists(top) else {}
        if os.path.isdir(top) and not os.path.islink(top):
            found |= {full[len(top) :]: path.rstrip(b"/") + full[len(top) :] for full in file_trees.walk(top)}
        for name, shown in found.items():
            ino = self.t.ino(b"" if shown == b"/" else shown)
            self.t.ov.add_lookup(ino)
            mine, theirs = self.t.seen_by_engine(ino), self.t.seen_on_disk(top + name)
            mine, theirs = (seen._replace(nlink=0, changed=None, atime=None) for seen in (mine, theirs))
            if not times and stat.S_ISDIR(mine.mode):
                mine, theirs = (seen._replace(mtime=None) for seen in (mine, theirs))
            assert mine == theirs, self.t.told(f"{shown!r} after a revert: {mine}, not {theirs}")
            if stat.S_ISREG(mine.mode):
                assert self.t.ov.read(ino, 0, 1 << 20) == file_trees.content(top + name), self.t.told(
                    f"bytes of {shown!r}"
                )
            elif stat.S_ISDIR(mine.mode):
                names = [entry.name for entry in self.t.ov.readdir(ino)][2:]
                expected = file_trees.list_names(top + name)
                assert sorted(names) == sorted(expected), self.t.told(f"names in {shown!r} after a revert: {names}")
        if not found:
            directory, _, last = path.rpartition(b"/")
            assert self.t.ov.lookup(self.t.ino(directory), last) is None, self.t.told(f"{path!r} shows after a revert")

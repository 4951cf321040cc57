"""Random system calls on a real mount that is brought back now and then, beside copies of a plain directory.

Programs keep files open and mapped over each return.  One whose file did not change goes on: it reaches the file that
is there now.  Any other gets an error, and nothing that it writes reaches a file.

``MINIFO_CHECKPOINTS`` is the number of examples, of 50 steps each, for a long run by hand: about a second each.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minifo.fusefront.control.client import ControlClient, Refused
from tests.mount.mount_sandbox import (
    MountSandbox,
    OverlayMount,
    describe,
    differences,
    fingerprint,
    minifo,
    tree,
    watchdog,
)
from tests.mount.test_parity_random import NAMES, Side, paths, small_tree, steps
from tests.shared import file_trees

_BY_HAND = int(os.environ.get("MINIFO_CHECKPOINTS", "0"))
EXAMPLES = _BY_HAND or max(3, settings().max_examples // 10)
LENGTH = 50
MARK = b"from before"
STALE = (errno.ESTALE, errno.EIO)
pytestmark = pytest.mark.timeout(300 + 15 * _BY_HAND)

which = st.integers(0, 40)
returns = st.one_of(
    st.tuples(st.just("checkpoint")),
    st.tuples(st.just("rollback"), which),
    st.tuples(st.just("undo")),
    st.tuples(st.just("redo")),
    st.tuples(st.just("delete"), which),
    st.tuples(st.just("prune"), which),
    st.tuples(st.just("revert"), paths),
    st.tuples(st.just("revert to"), paths, which),
    st.tuples(st.just("map"), paths),
    st.tuples(st.just("map"), paths),
    st.tuples(st.just("look"), which),
    st.tuples(st.just("clone"), which),
)


class Twins:
    """A mount, its plain twin, and what the twin was at each checkpoint.

    Args:
        overlay: mounted.
        plain: the twin.
        copies: an empty directory.
        shown: an empty directory, where checkpoints are mounted.
    """

    def __init__(self, overlay: OverlayMount, plain: Path, copies: Path, shown: Path) -> None:
        self.overlay = overlay
        self.plain_root = plain
        self.copies = copies
        self.shown = shown
        self.mounted, self.plain = Side(overlay.mnt), Side(plain)
        self.since = 1 << 62
        self.maps: dict[int, tuple[mmap.mmap, mmap.mmap]] = {}  # by the descriptor in the mount
        self.states: dict[int, Path] = {}  # by the id of the checkpoint
        self.made = 0
        self.done: list[Any] = []

    def begin(self) -> None:
        """Everything as in the base, without checkpoints; the plain twin, too."""
        if names := [checkpoint["name"] for checkpoint in self.checkpoints()]:
            self.ask("DeleteCheckpoints", names=names)
        self.ask("Revert", paths=["/"])
        if names := [checkpoint["name"] for checkpoint in self.checkpoints()]:
            self.ask("DeleteCheckpoints", names=names)
        shutil.rmtree(self.copies)
        self.copies.mkdir()
        self.states.clear()
        self._replace_plain(self.overlay.base)
        self.done.clear()
        self.since = time.time_ns() - 10**9

    def _replace_plain(self, source: Path) -> None:
        shutil.rmtree(self.plain_root)
        file_trees.copy_tree(source, self.plain_root)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the daemon."""
        with ControlClient(str(self.overlay.sto)) as client:
            return client.call(method, **parameters)

    def checkpoints(self) -> list[dict[str, Any]]:
        """All checkpoints, in the order in which they were made."""
        found: list[dict[str, Any]] = self.ask("Checkpoints")["checkpoints"]
        return found

    # -- steps

    def act(self, step: tuple[Any, ...]) -> None:
        """Do a step on both sides, and compare what came of it."""
        what, *words = step
        self.done.append(step)
        if what == "remount":
            if not self.mounted.held:
                self.overlay.remount()
        elif (method := getattr(self, f"do_{what.replace(' ', '_')}", None)) is not None:
            method(*words)
        else:
            found, expected = self.mounted.act(step), self.plain.act(step)
            assert found == expected, f"mount {found}, plain {expected} after {self.done}"

    def do_map(self, name: str) -> None:
        """Map a file that is open, and write to it."""
        held = len(self.mounted.held)
        step = ("hold", name)
        assert self.mounted.act(step) == self.plain.act(step), self.done
        if len(self.mounted.held) == held:
            return
        pair = self.mounted.held[-1], self.plain.held[-1]
        if size := os.fstat(pair[0]).st_size:
            views = mmap.mmap(pair[0], size), mmap.mmap(pair[1], size)
            for view in views:
                view[size // 2 : size // 2 + 1] = b"m"
                view.flush()
            self.maps[pair[0]] = views

    def do_checkpoint(self) -> None:
        """Make one."""
        made = self.ask("CreateCheckpoint")["checkpoint"]
        self.states[made["id"]] = self._copy()

    def do_rollback(self, number: int) -> None:
        """Return to one."""
        if wanted := self._one(number):
            self._go_back("Rollback", name=wanted["name"])

    def do_undo(self) -> None:
        """Take back the last return."""
        self._go_back("Undo")

    def do_redo(self) -> None:
        """Take back the last undo."""
        self._go_back("Redo")

    def do_delete(self, number: int) -> None:
        """Delete one."""
        if wanted := self._one(number):
            self.ask("DeleteCheckpoints", names=[wanted["name"]])
            self._forget_deleted()

    def do_prune(self, number: int) -> None:
        """Delete all up to one."""
        if wanted := self._one(number):
            self.ask("PruneCheckpoints", ids=[c["id"] for c in self.checkpoints() if c["id"] <= wanted["id"]])
            self._forget_deleted()

    def do_look(self, number: int) -> None:
        """A checkpoint that is mounted beside the overlay shows what it holds."""
        if number % 8 == 0 and (wanted := self._one(number)):  # a mount takes as long as fifty other steps
            at = f"at={wanted['name']}"
            minifo("mount", "-o", at, "--base", self.overlay.base, "--sto", self.overlay.sto, self.shown)
            try:
                self._alike(self.shown, self.states[wanted["id"]], f"checkpoint {wanted['name']}")
            finally:
                minifo("umount", self.shown)

    def do_clone(self, number: int) -> None:
        """A clone shows what the overlay holds, or held at a checkpoint; what is written there stays there."""
        if number % 8:
            return
        wanted = self._one(number // 8)
        at, state = (["--at", wanted["name"]], self.states[wanted["id"]]) if wanted else ([], self.plain_root)
        clone = self.copies / "clone"
        minifo("clone", *at, self.overlay.sto, clone)
        other = OverlayMount(self.copies, base=self.overlay.base, sto=clone, mnt=self.shown)
        other.mount()
        try:
            self._alike(self.shown, state, f"a clone of {wanted}")
            for path in [path for path in self.shown.rglob("*") if path.is_file() and not path.is_symlink()]:
                with path.open("r+b") as file:
                    file.write(b"in the clone")
        finally:
            other.umount()
        assert other.violations() == []
        shutil.rmtree(clone)
        self.compare()

    def do_revert(self, name: str) -> None:
        """Let a path be as in the base, and take that back."""
        self._revert(name, None, self.overlay.base)

    def do_revert_to(self, name: str, number: int) -> None:
        """Let a path be as at a checkpoint, and take that back."""
        if wanted := self._one(number):
            self._revert(name, wanted["name"], self.states[wanted["id"]])

    # -- helpers

    def _one(self, number: int) -> dict[str, Any] | None:
        found = self.checkpoints()
        return found[number % len(found)] if found else None

    def _copy(self) -> Path:
        self.made += 1
        copy = self.copies / str(self.made)
        file_trees.copy_tree(self.plain_root, copy)
        return copy

    def _forget_deleted(self) -> None:
        known = {checkpoint["id"] for checkpoint in self.checkpoints()}
        assert known <= self.states.keys()
        for number in self.states.keys() - known:
            shutil.rmtree(self.states.pop(number))

    def _go_back(self, method: str, **parameters: Any) -> None:
        left = self._copy()
        result = self._asked(method, "nothing to", **parameters)
        if result is None:
            return
        self.states[result["left"]["id"]] = left
        self._arrive(self.states[result["to"]["id"]])
        self._forget_deleted()
        self.compare()

    def _asked(self, method: str, reason: str, **parameters: Any) -> dict[str, Any] | None:
        """What a call answers; None if it is refused for that reason."""
        try:
            return self.ask(method, **parameters)
        except Refused as error:
            if error.name == "Refused" and reason in str(error.parameters["reason"]):
                return None
            raise

    def _arrive(self, state: Path) -> None:
        """The twin is replaced by a copy; what programs have open goes on, or it fails."""
        held, maps = list(zip(self.mounted.held, self.plain.held, strict=True)), self.maps
        self.mounted.held, self.plain.held, self.maps = [], [], {}
        same = []
        for fd, old in held:
            if self._is_stale(fd, maps.get(fd)):
                os.close(old)
                continue
            assert os.pread(fd, 300_000, 0) == os.pread(old, 300_000, 0), f"an open file after {self.done}"
            os.close(old)
            same.append(fd)
        self._replace_plain(state)
        self.compare()
        for fd in same:
            if fd in maps and min(len(maps[fd][0]), os.fstat(fd).st_size) > len(MARK):
                maps[fd][0][: len(MARK)] = MARK
                maps[fd][0].flush()
                self._write_plain(os.fstat(fd).st_ino, 0)
            os.pwrite(fd, MARK, 3)
            self._write_plain(os.fstat(fd).st_ino, 3)
            os.close(fd)
        for views in maps.values():
            for view in views:
                view.close()

    def _is_stale(self, fd: int, views: tuple[mmap.mmap, mmap.mmap] | None) -> bool:
        """Whether a file is another one now: then everything fails, and nobody sees what a program writes there."""
        try:
            os.pread(fd, 1, 0)
            os.fstat(fd)
            os.fsync(fd)
        except OSError as error:
            if error.errno not in STALE:
                raise
            for call in (lambda: os.pwrite(fd, b"late", 0), lambda: os.ftruncate(fd, 0)):
                with pytest.raises(OSError, match=r"Stale|Input/output"):
                    call()
            if views is not None and (child := os.fork()) == 0:
                views[0][:1] = b"l"  # this may be the end of it: SIGBUS
                os._exit(0)
            elif views is not None:
                os.waitpid(child, 0)
            with contextlib.suppress(OSError):
                os.close(fd)
            return True
        return False

    def _write_plain(self, ino: int, offset: int) -> None:
        """Write what was written to a file that went on, if it has a name."""
        for path in file_trees.walk(os.fsencode(self.overlay.mnt)):
            if os.lstat(path).st_ino == ino:
                twin = os.fsencode(self.plain_root) + path[len(os.fsencode(self.overlay.mnt)) :]
                fd = os.open(twin, os.O_WRONLY)
                os.pwrite(fd, MARK, offset)
                os.close(fd)
                return

    def _revert(self, name: str, to: str | None, source: Path) -> None:
        before = self._copy()
        told = self._asked("Revert", "", paths=["/" + name], to=to)
        if told is None:
            self.compare()
            return
        if to is not None or self._is_in_its_place(name):
            self._alike(self.overlay.mnt / name, source / name, f"{name} reverted to {to}", links=False)
        if told["left"] is None:
            return
        self.states[told["left"]["id"]] = before
        self._arrive_reverted(told["left"]["id"])

    def _is_in_its_place(self, name: str) -> bool:
        """Whether the directory of a path is the one that the base has there."""
        above = [(top / name).parent for top in (self.overlay.mnt, self.overlay.base)]
        return all(path.is_dir() for path in above) and (
            name.count("/") == 0 or len({path.stat().st_ino for path in above}) == 1
        )

    def _arrive_reverted(self, number: int) -> None:
        """Take a revert back at once; what it has made is looked at no more."""
        result = self.ask("Undo")
        assert result["to"]["id"] == number, self.done
        self._arrive(self.states[number])
        self.ask("DeleteCheckpoints", names=[result["left"]["name"], result["to"]["name"]])
        self._forget_deleted()

    def _alike(self, mounted: Path, plain: Path, what: str, *, links: bool = True) -> None:
        if not (os.path.lexists(mounted) and os.path.lexists(plain)):
            assert os.path.lexists(mounted) == os.path.lexists(plain), f"{what} after {self.done}"
            return
        found = differences(self._seen(mounted), self._seen(plain))
        if not links:
            found = [line for line in found if not any(word in line for word in (" nlink: ", " same as: ", " atime: "))]
        assert not found, f"{what}: {found} after {self.done}"

    def _seen(self, path: Path) -> dict[bytes, dict[str, Any]]:
        if path.is_dir() and not path.is_symlink():
            return tree(path, since=self.since)
        return {b"": describe(os.fsencode(path), since=self.since)}

    def compare(self) -> None:
        """Both show the same."""
        self._alike(self.overlay.mnt, self.plain_root, "the trees differ")

    def let_go(self) -> None:
        """Close what is open."""
        for views in self.maps.values():
            for view in views:
                view.close()
        self.maps.clear()
        for side in (self.mounted, self.plain):
            held, side.held = side.held, []
            for fd in held:
                os.close(fd)


@pytest.mark.parametrize("mode", ["hook", "plain"])
def test_random_returns(sandbox: MountSandbox, mode: str) -> None:
    """After each return the mount shows what the twin was then; files that did not change stay open and mapped."""
    home = sandbox.file_system("tmpfs")
    overlay = sandbox.overlay(*(["plain"] if mode == "plain" else []), base=home / "base")
    small_tree(overlay.base)
    before = fingerprint(overlay.base)
    overlay.mount()
    places = [home / name for name in ("twin", "copies", "shown")]
    for place in places:
        place.mkdir()
    twins = Twins(overlay, *places)
    share = 1 if mode == "hook" else 3

    @settings(
        max_examples=max(1, EXAMPLES // share),
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.one_of(steps, returns, returns), min_size=5, max_size=LENGTH))
    def check(sequence: list[tuple[Any, ...]]) -> None:
        twins.begin()
        try:
            for step in sequence:
                twins.act(step)
            twins.compare()
        finally:
            twins.let_go()

    with watchdog(sandbox, 250 + 10 * _BY_HAND):
        check()
        overlay.umount()
    assert overlay.violations() == []
    assert fingerprint(overlay.base) == before


def test_names_are_those_of_the_tree() -> None:
    """Paths that a step may name are in the small tree, or may come to be there."""
    assert {"f", "d/e"} <= set(NAMES)

"""The crash explorer for migrations: cuts the power at every effect of a command, in many ways, and goes on from there.

Each case (migration_cases.py) is run once under the recorder of ``tests/crash``.  From the record the disk model builds
what may be left at each point; that is laid out, must be the old state or one to go on from, and the same command must
bring it to the right result.  A share of what is left is gone on from under the recorder again, and the power is cut
there, too.

By hand:

    python -m tests.migrations.power_cut_explorer           20,000 states over all cases
    python -m tests.migrations.power_cut_explorer --case merge --states 50000 --seed 1
    python -m tests.migrations.power_cut_explorer --case merge --look PLACE RECIPE [--keep DIR]
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import random
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from minifo.engine import StateError, UsageError
from minifo.migrations.effects import DiskAccess
from tests.crash.disk_checker import Wrong
from tests.crash.disk_model import Disk, Inode, State
from tests.crash.explorer import FIXED, Failure, Summary, scratch_directory
from tests.crash.recorded_overlay import reproducible
from tests.crash.recorder import MARKS, Op, RecordedEffects, Recorder, attributes_of, special
from tests.migrations.carry_cases import CASES
from tests.migrations.migration_cases import MigrationCase

_THOROUGH = 6  # one disk in so many is looked at in every way
_UNRECORDED = ("lock", "-shm")


def image_of(top: str, plain: tuple[str, ...] = ()) -> State:
    """What a directory holds, with all attributes; below *plain* ones, bytes alone."""
    state: State = {}
    for directory, names, files in os.walk(top):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            place = os.path.relpath(path, top)
            st = os.lstat(path)
            if place.split("/")[0] in plain:
                if not name.endswith(_UNRECORDED):
                    state[place] = None if stat.S_ISDIR(st.st_mode) else Path(path).read_bytes()
                continue
            kind, content = "dir", b""
            if stat.S_ISREG(st.st_mode):
                kind, content = "file", Path(path).read_bytes()
            elif not stat.S_ISDIR(st.st_mode):
                kind, content = special(path)
            number = st.st_ino if st.st_nlink > 1 and kind != "dir" else 0
            state[place] = Inode(kind, content, tuple(sorted(attributes_of(path).items())), number)
    return state


def lay_out(top: str, state: State) -> None:
    """Make a directory hold exactly *state*."""
    shutil.rmtree(top)
    os.mkdir(top)
    first: dict[int, str] = {}
    for place, content in state.items():
        path = os.path.join(top, place)
        if content is None:
            os.mkdir(path)
        elif isinstance(content, bytes):
            _write(path, content)
        elif content.number in first:
            os.link(first[content.number], path, follow_symlinks=False)
        else:
            if content.number:
                first[content.number] = path
            _make(path, content)
    for place, content in reversed(state.items()):
        if isinstance(content, Inode):
            _dress(os.path.join(top, place), content)


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, content)
    os.close(fd)


def _make(path: str, inode: Inode) -> None:
    if inode.kind == "dir":
        os.mkdir(path)
    elif inode.kind == "file":
        _write(path, inode.content)
    elif inode.kind == "symlink":
        os.symlink(inode.content, os.fsencode(path))
    else:
        mode, device = map(int, inode.content.split())
        os.mknod(path, mode, device)


def _dress(path: str, inode: Inode) -> None:
    attributes = dict(inode.attributes)
    uid, gid = attributes["owner", b""]  # type: ignore[misc]
    os.chown(path, uid, gid, follow_symlinks=False)
    if ("mode", b"") in attributes:
        os.chmod(path, attributes["mode", b""])  # type: ignore[arg-type]
    for (facet, key), value in inode.attributes:
        if facet == "xattr":
            os.setxattr(path, key, value, follow_symlinks=False)  # type: ignore[arg-type]
    mtime: int = attributes["mtime", b""]  # type: ignore[assignment]
    atime = time.time_ns() + 10**12 if inode.kind == "symlink" else mtime  # so that reading it does not move it
    os.utime(path, ns=(atime, mtime), follow_symlinks=False)


def record(case: MigrationCase, killed_at: int | None = None) -> tuple[State, list[Op]]:
    """Run a case in what its directory holds; killed at an effect if asked to, and then run again."""
    image = image_of(str(case.workdir), case.plain)
    ops: list[Op] = []
    if killed_at is not None:
        ops = _run_and_die(case, killed_at)
    recorder = Recorder(str(case.workdir))
    try:
        with suppress(UsageError, StateError):  # it had come to its end, but did not say so
            _run(case, recorder)
            recorder.note("acked", 0)
    finally:
        recorder.close()
    return image, _with_meaning(image, ops + recorder.ops)


def _run(case: MigrationCase, recorder: Recorder) -> None:
    effects = RecordedEffects(recorder)
    with reproducible():
        case.run(DiskAccess(effects) if case.reads else DiskAccess(effects, recorder.storage, recorder.vfs))


class _Dying(Recorder):
    """Ends its process after so many effects, and leaves the record behind."""

    def __init__(self, root: str, last: int, left: str) -> None:
        super().__init__(root)
        self._last = last
        self._left = left

    def note(self, *op: object) -> None:
        super().note(*op)
        if len(self.ops) == self._last:
            Path(self._left).write_bytes(pickle.dumps(self.ops))
            os._exit(0)


def _run_and_die(case: MigrationCase, last: int) -> list[Op]:
    left = str(case.place / "record")
    child = os.fork()
    if child == 0:
        try:
            _run(case, _Dying(str(case.workdir), last, left))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 0, f"no effect has the number {last}"
    ops: list[Op] = pickle.loads(Path(left).read_bytes())
    return ops


def _with_meaning(image: State, ops: list[Op]) -> list[Op]:
    """A record without what happens to files that mean nothing after a power cut, and were not recorded."""
    disk = Disk(image)
    found = []
    for op in ops:
        if op[0] in ("unlink", "rename") and not disk.holds(op[1]):
            assert op[1].endswith(_UNRECORDED), f"never made: {op[1]}"
            continue
        if op[0] not in MARKS:
            disk.apply(op)
        found.append(op)
    return found


class Exploration:
    """Cuts the power everywhere in one record."""

    def __init__(self, case: MigrationCase, image: State, ops: list[Op]) -> None:
        self._case = case
        self._image = image
        self._ops = ops
        self._seen: dict[int, bool] = {}
        self._clean: set[int] = set()
        self.summary = Summary()
        self.left: list[tuple[int, str]] = []  # points and recipes of different disks

    def replay(self) -> Iterator[tuple[int, Disk, bool]]:
        """Every point: its place, the disk, and whether the command had come to its end."""
        disk = Disk(self._image)
        yield 0, disk, False
        for place, op in enumerate(self._ops, 1):
            if op[0] not in MARKS:
                disk.apply(op)
            yield place, disk, op[0] == "acked"

    def round(
        self, recipes: list[str], share: tuple[int, int] = (0, 1), first: int = 0
    ) -> Iterator[tuple[int, str, str]]:
        """Judge the disks that these recipes give at each point after the *first*, or at each n-th from the k-th on.

        Yields:
            Place, recipe and what is wrong, for each violation.
        """
        start = time.perf_counter()
        count = 0
        for place, disk, ended in self.replay():
            if place < first or (place % share[1] != share[0] and not ended) or place in self._clean:
                continue
            count += 1
            if disk.is_clean:
                self._clean.add(place)
            for template in recipes[:1] if disk.is_clean else recipes:
                recipe = template.replace("*", str(place))
                try:
                    self.judge(disk.build(recipe), ended, (place, recipe))
                except Wrong as wrong:
                    self.summary.seconds += time.perf_counter() - start
                    yield place, recipe, str(wrong)
                    start = time.perf_counter()
        self.summary.points = max(self.summary.points, count)
        self.summary.seconds += time.perf_counter() - start

    def judge(self, state: State, ended: bool, trail: tuple[int, str]) -> None:
        """Lay out a disk and go on from it, unless the same was seen to be right before.

        Raises:
            Wrong: it is neither the old state, nor does the command come to the right result.
        """
        self.summary.states += 1
        key = hash(frozenset(state.items()))
        if key in self._seen and (self._seen[key] or not ended):
            return
        self.summary.disks += 1
        lay_out(str(self._case.workdir), state)
        thorough = key % _THOROUGH == 0
        try:
            if not ended:
                self._case.old()
            self._case.new(thorough)
        except Wrong:
            raise
        except Exception as error:
            raise Wrong(f"does not go on: {type(error).__name__}: {error}") from error
        self._seen[key] = ended
        self.left.append(trail)


def explore(name: str, *, states: int, seed: int = 0, stop: int = 5) -> Summary:
    """Explore one case: so many states, a fifth of them while what an earlier cut left is gone on from.

    Args:
        name: of the case.
        states: how many to build and judge, at least one for each recipe at a share of the points.
        seed: of all random choices.
        stop: end after so many violations.
    """
    with scratch_directory() as scratch:
        case = CASES[name](Path(scratch))
        exploration = Exploration(case, *record(case))
        summary = exploration.summary
        wanted = states - states // 5
        turn = 0
        while summary.states < wanted:
            recipes = list(FIXED) if turn == 0 else [f"{seed}.{turn}.{n}.*" for n in range(4)]
            points = sum(1 for _ in exploration.replay())
            of = max(1, -(-points * len(recipes) // max(1, wanted - summary.states)))
            for place, recipe, what in exploration.round(recipes, ((seed + turn) % of, of)):
                summary.failures.append(Failure(name, None, seed, [(place, recipe)], what))
                if len(summary.failures) >= stop:
                    return summary
            turn += 1
        for trail, what, part in _again(exploration, case, seed, states // 5):
            summary.add(part)
            if what is not None:
                summary.failures.append(Failure(name, None, seed, trail, what))
                if len(summary.failures) >= stop:
                    return summary
    return summary


def explore_killed(name: str, *, states: int, kills: int, seed: int = 0, stop: int = 5) -> Summary:
    """Explore one case whose command is killed, and given again, before the power goes.

    Args:
        name, states, seed, stop: as for ``explore``.
        kills: at how many points it is killed, one record each.
    """
    total = Summary()
    with scratch_directory() as scratch:
        case = CASES[name](Path(scratch))
        image, ops = record(case)
        rng = random.Random(seed)
        for killed in sorted(rng.sample(range(1, len(ops)), min(kills, len(ops) - 1))):
            lay_out(str(case.workdir), image)
            exploration = Exploration(case, *record(case, killed))
            recipes = [f"{seed}.k{killed}.{n}.*" for n in range(3)]
            points = sum(1 for _ in exploration.replay()) - killed
            of = max(1, points * len(recipes) * kills // states)
            for place, recipe, what in exploration.round(recipes, (rng.randrange(of), of), killed):
                total.failures.append(Failure(f"{name} killed at {killed}", None, seed, [(place, recipe)], what))
                if len(total.failures) >= stop:
                    return total
            total.add(exploration.summary)
    return total


def _again(
    outer: Exploration, case: MigrationCase, seed: int, states: int
) -> Iterator[tuple[list[tuple[int, str]], str | None, Summary]]:
    """Cut the power while what an earlier cut left is gone on from."""
    chosen = random.Random(seed).sample(outer.left, min(len(outer.left), 4))
    disks = {place: disk for place, disk in _built(outer, chosen)}
    for number, trail in enumerate(chosen):
        lay_out(str(case.workdir), disks[trail])
        image, ops = record(case)
        inner = Exploration(case, image, ops)
        each = max(1, len(ops) * 4 * len(chosen) // max(1, states))
        for place, recipe, what in inner.round(["lost", "kept", f"{seed}.r.*", f"{seed}.s.*"], (number % each, each)):
            yield [trail, (place, recipe)], what, Summary()
        inner.summary.points = 0
        yield [], None, inner.summary


def _built(outer: Exploration, chosen: list[tuple[int, str]]) -> Iterator[tuple[tuple[int, str], State]]:
    for place, disk, _ in outer.replay():
        for trail in chosen:
            if trail[0] == place:
                yield trail, disk.build(trail[1])


def look(name: str, place: int, recipe: str, keep: str | None) -> str | None:
    """Come back to one state, tell what led to it, and what is wrong with it."""
    with scratch_directory() as scratch:
        case = CASES[name](Path(scratch))
        image, ops = record(case)
        exploration = Exploration(case, image, ops)
        for at, op in enumerate(ops[max(0, place - 25) : place + 3], max(0, place - 25) + 1):
            shown = [part if not isinstance(part, bytes) or len(part) < 60 else f"{len(part)} bytes" for part in op]
            print(f"  {at:5} {'->' if at == place else '  '} {shown}")
        disk, ended = next((disk, ended) for at, disk, ended in exploration.replay() if at == place)
        state = disk.build(recipe)
        print("\n".join(f"  {name}" for name in state))
        if keep is not None:
            os.makedirs(keep)
            lay_out(keep, state)
        try:
            exploration.judge(state, ended, (place, recipe))
        except Wrong as wrong:
            return f"{wrong}\n{wrong.__cause__!r}"
    return None


def main() -> int:
    """The command line; exit status 1 if something is wrong."""
    parser = argparse.ArgumentParser(description="Cut the power everywhere in migrations, and go on.")
    parser.add_argument("--states", type=int, default=20_000, help="how many, over all cases")
    parser.add_argument("--case", choices=sorted(CASES), action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", type=int, default=5, help="violations per case to stop at")
    parser.add_argument("--look", nargs=2, metavar=("PLACE", "RECIPE"), help="one state of the (first) case")
    parser.add_argument("--keep", metavar="DIR", help="with --look: where to write the disk")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    names = arguments.case or list(CASES)
    if arguments.look:
        wrong = look(names[0], int(arguments.look[0]), arguments.look[1], arguments.keep)
        print(wrong or "right")
        return 1 if wrong else 0
    total = Summary()
    for name in names:
        summary = explore(name, states=arguments.states // len(names), seed=arguments.seed, stop=arguments.stop)
        print(summary.line(name), flush=True)
        for failure in summary.failures:
            print(f"  {failure.trail}: {failure.what}"[:1500], flush=True)
        total.add(summary)
        summary = explore_killed(name, states=arguments.states // len(names) // 4, kills=20, stop=arguments.stop)
        print(summary.line(f"{name}, killed"), flush=True)
        for failure in summary.failures:
            print(f"  {failure.workload}: {failure.trail}: {failure.what}"[:1500], flush=True)
        total.add(summary)
    print(total.line("total"))
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""The crash explorer: cuts the power at every point of a record, in many ways, and looks at what is left.

For each point the disk model (disk_model.py) gives possible disks; each is mounted by the engine and must

    open without repair, and show the tree of one commit, not older than the last one acknowledged, never a mix;
    have the checkpoints of that commit, each with exactly the tree that it was made of;
    (bytes overwritten in place since that commit may be old or new, block by block: promise P1's parenthesis)
    break no numbered invariant, and leave nothing over in storage: no object without a name, no orphan, no garbage;
    show the same tree after an unmount and another mount, and take new files.

A share of what is left is mounted under the recorder again, and the power is cut during that recovery.

By hand:

    python -m tests.crash.explorer                 100,000 states over all workloads
    python -m tests.crash.explorer --exhaustive    1,000,000
    python -m tests.crash.explorer --replay FILE   one saved state again
    --workload NAME --states N --seed N --jobs N --fault NAME
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from minifo.engine import StateError
from tests.crash.commit_match import differences, match
from tests.crash.contents import fill
from tests.crash.disk_checker import DiskChecker, Wrong
from tests.crash.disk_model import Disk, State
from tests.crash.recorded_overlay import RecordedOverlay, Recording, Seen, Tree, make_base, materialise, reproducible
from tests.crash.recorder import MARKS
from tests.crash.seeded_faults import FAULTS
from tests.crash.workloads import WORKLOADS, Workload

FIXED = ("lost", "kept", "names", "sizes", "bytes")
_REOPEN = 8  # one disk in so many is mounted a second time and written to


class Failure(NamedTuple):
    """A violation, and how to come back to it."""

    workload: str
    fault: str | None
    seed: int
    trail: list[tuple[int, str]]  # (place in the record, recipe); a second pair is of the recovery from the first
    what: str


@dataclass
class Summary:
    """What was looked at."""

    points: int = 0
    states: int = 0  # built and judged
    disks: int = 0  # different ones, each mounted
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Summary) -> None:
        """Take another one's figures in."""
        self.points += other.points
        self.states += other.states
        self.disks += other.disks
        self.seconds += other.seconds
        self.failures += other.failures

    def line(self, name: str) -> str:
        """One line for a report."""
        rate = self.disks / self.seconds if self.seconds else 0.0
        return (
            f"{name:20} {self.points:6} points {self.states:8} states {self.disks:8} different disks "
            f"{self.seconds:7.1f} s {rate:6.0f}/s {len(self.failures)} violations"
        )


# -- one record


class Exploration:
    """Cuts the power everywhere in one record.

    Args:
        recording: the record.
        scratch: a directory to work in.
        share: (k, n): look at every n-th point from the k-th on.
    """

    def __init__(self, recording: Recording, scratch: str, share: tuple[int, int] = (0, 1)) -> None:
        self._recording = recording
        self._share = share
        path = tempfile.mkdtemp(dir=scratch)
        self._bench = DiskChecker(path, recording.base)
        self._seen: dict[int, int | None] = {}
        self._clean: set[int] = set()  # points where nothing is volatile: there is one disk only
        self.summary = Summary()
        self.seen: dict[tuple[int, str], Seen] = {}

    def replay(self) -> Iterator[tuple[int, Disk, int, int]]:
        """Every point: its place, the disk, and the numbers of the oldest and newest commit it may show."""
        disk = Disk(self._recording.image)
        oldest = newest = 0
        yield 0, disk, oldest, newest
        for place, op in enumerate(self._recording.ops, 1):
            if op[0] == "seal":
                newest = op[1]
            elif op[0] == "acked":
                oldest = op[1]
                yield place, disk, oldest, newest
            elif op[0] not in MARKS:
                disk.apply(op)
                yield place, disk, oldest, newest

    def round(self, recipes: list[str], keep_seen: bool = False) -> Iterator[tuple[int, str, str]]:
        """Judge the disks that these recipes give at each point.

        A recipe with ``*`` is a random one of its own at each point.

        Yields:
            Place, recipe and what is wrong, for each violation.
        """
        start = time.perf_counter()
        mine, of = self._share
        count = 0
        for index, (place, disk, oldest, newest) in enumerate(self.replay()):
            if index % of != mine or place in self._clean:
                continue
            count += 1
            if disk.is_clean:
                self._clean.add(place)
            for template in recipes:
                recipe = template.replace("*", str(place))
                try:
                    seen = self.judge(disk.build(recipe), place, oldest, newest)
                except Wrong as wrong:
                    self.summary.seconds += time.perf_counter() - start
                    yield place, recipe, str(wrong)
                    start = time.perf_counter()
                    continue
                if keep_seen and seen is not None:
                    self.seen[place, recipe] = seen
        self.summary.points = max(self.summary.points, count)
        self.summary.seconds += time.perf_counter() - start

    def judge(self, state: State, place: int, oldest: int, newest: int) -> Seen | None:
        """Mount a disk and check everything; None if the same disk was seen to be right before.

        Raises:
            Wrong: a promise is broken.
        """
        self.summary.states += 1
        key = hash(frozenset(state.items()))
        if (known := self._seen.get(key)) is not None and known >= oldest:
            return None
        self.summary.disks += 1
        self._bench.lay_out(state)
        seen = self._bench.look()
        found = match(self._recording, seen, place, oldest, newest)
        if found is None:
            found_instead = {
                number: next((why for why in differences(self._recording, number, seen, place) if why), "")
                for number in range(oldest, newest + 1)
            }
            raise Wrong(f"the tree is of no commit from {oldest} to {newest}: {found_instead}")
        for point in seen.points:
            if self._bench.shown[point.time] != self._recording.shown[point.time]:
                raise Wrong(f"checkpoint {point.name} does not hold what it held when it was made")
        if key % _REOPEN == 0:
            self._bench.look_again(seen)
        self._seen[key] = found
        return seen


# -- one workload


@contextmanager
def scratch_directory() -> Iterator[str]:
    """A directory in memory, removed afterwards."""
    root = "/dev/shm" if os.path.isdir("/dev/shm") else None
    path = tempfile.mkdtemp(prefix="minifo-crash-", dir=root)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def record(workload: Workload, scratch: str, base: str, fault: str | None = None) -> Recording:
    """Run a workload under the recorder, and let the power go at its end, or where it cannot go on for its fault."""
    image: State = {}
    start, shown = None, None
    if workload.before is not None:
        before = record(Workload(workload.before), scratch, base)
        disk = Disk()
        for op in before.ops:
            if op[0] not in MARKS:
                disk.apply(op)
        image = disk.build("kept")
        base = make_base(tempfile.mkdtemp(dir=scratch))
        checker = DiskChecker(tempfile.mkdtemp(dir=scratch), base)
        checker.lay_out(image)
        start, shown = checker.look(), checker.shown
    with reproducible():
        recorded = RecordedOverlay(
            tempfile.mkdtemp(dir=scratch),
            base,
            image=image,
            start=start,
            shown=shown,
            packed=workload.packed,
            wal_limit=workload.wal_limit,
            small_max=workload.small_max,
            redo=workload.redo,
        )
        if workload.killed_at_birth:
            recorded.open_and_kill()
        recorded.open()
        try:
            workload.run(recorded)
        except (OSError, StateError):
            if fault is None:
                raise
        return recorded.end()


def record_recovery(
    state: State, start: Seen, shown: dict[int, Tree], packed: bool, scratch: str, base: str
) -> Recording:
    """Mount what a crash left under the recorder, do a little, and let the power go again."""
    with reproducible():
        recorded = RecordedOverlay(
            tempfile.mkdtemp(dir=scratch), base, image=state, start=start, shown=shown, packed=packed
        )
        recorded.open()
        recorded.create("fresh", fill(900, 700))
        recorded.commit()
        recorded.replace("fresh", fill(901, 700))
        recorded.commit()
        return recorded.end()


def explore(
    name: str, *, states: int, seed: int = 0, fault: str | None = None, share: tuple[int, int] = (0, 1), stop: int = 5
) -> Summary:
    """Explore one workload: so many states, a tenth of them during recoveries.

    Args:
        name: of the workload.
        states: how many to build and judge; each different disk among them is mounted once.
        seed: of all random choices.
        fault: a seeded fault to run with (seeded_faults.py).
        share: (k, n): the k-th of n processes.
        stop: end after so many violations.
    """
    workload = WORKLOADS[name]
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_directory())
        if fault is not None:
            stack.enter_context(FAULTS[fault].plant())
        base = make_base(os.path.join(scratch, "base"))
        recording = record(workload, scratch, base, fault)
        exploration = Exploration(recording, scratch, share)
        summary = exploration.summary

        def fail(trail: list[tuple[int, str]], what: str) -> bool:
            summary.failures.append(Failure(name, fault, seed, trail, what))
            return len(summary.failures) >= stop

        wanted = states - states // 10
        turn = 0
        while summary.states < wanted:
            recipes = list(FIXED) if turn == 0 else [f"{seed}.{turn}.{n}.*" for n in range(4)]
            for place, recipe, what in exploration.round(recipes, keep_seen=turn <= 1):
                if fail([(place, recipe)], what):
                    return summary
            turn += 1
        for trail, what, part in _recoveries(exploration, workload, seed, states // 10, scratch):
            summary.add(part)
            if what is not None and fail(trail, what):
                return summary
    return summary


def _recoveries(
    outer: Exploration, workload: Workload, seed: int, states: int, scratch: str
) -> Iterator[tuple[list[tuple[int, str]], str | None, Summary]]:
    """Cut the power while what an earlier cut left is being recovered."""
    rng = random.Random(seed)
    chosen = rng.sample(sorted(outer.seen), min(len(outer.seen), max(1, states // 250)))
    done = 0
    by_place: dict[int, list[str]] = {}
    for place, recipe in chosen:
        by_place.setdefault(place, []).append(recipe)
    for place, disk, _, _ in outer.replay():
        for recipe in by_place.pop(place, ()):
            base = outer._recording.base
            state = disk.build(recipe)
            start, shown = outer.seen[place, recipe], outer._recording.shown
            recording = record_recovery(state, start, shown, workload.packed, scratch, base)
            inner = Exploration(recording, scratch)
            for found in inner.round([*FIXED, f"{seed}.r.*", f"{seed}.s.*"]):
                yield [(place, recipe), found[:2]], found[2], Summary()
            done += inner.summary.states
            inner.summary.points = 0
            yield [], None, inner.summary
            if done >= states:
                return


# -- by hand


def save(failure: Failure, directory: str) -> str:
    """Write a failure where ``--replay`` finds it, with the disk it is about beside it."""
    os.makedirs(directory, exist_ok=True)
    place, recipe = failure.trail[-1]
    path = os.path.join(directory, f"{failure.workload}-{place}-{recipe}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(failure._asdict(), file, indent=1)
    replay(path, keep=path.removesuffix(".json") + ".disk")
    return path


def replay(path: str, keep: str | None = None) -> str | None:
    """Come back to a saved failure.

    Args:
        path: of the saved failure.
        keep: a directory to write the disk to, as it was before it was mounted.

    Returns:
        What is wrong, None if it is right now.
    """
    with open(path, encoding="utf-8") as file:
        failure: dict[str, Any] = json.load(file)
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_directory())
        if failure["fault"] is not None:
            stack.enter_context(FAULTS[failure["fault"]].plant())
        workload = WORKLOADS[failure["workload"]]
        base = make_base(os.path.join(scratch, "base"))
        recording = record(workload, scratch, base, failure["fault"])
        for depth, (place, recipe) in enumerate(failure["trail"], 1):
            exploration = Exploration(recording, scratch)
            disk, oldest, newest = next((d, o, n) for p, d, o, n in exploration.replay() if p == place)
            state = disk.build(recipe)
            if depth == len(failure["trail"]) and keep is not None:
                os.makedirs(keep)
                materialise(keep, state)
            tail = [op[:3] if op[0] == "write" else op for op in recording.ops[max(0, place - 12) : place]]
            for at, op in enumerate(tail, max(0, place - 12)):
                print(f"  {at:5} {op}")
            print(f"power cut at {place}, recipe {recipe}: commits {oldest} to {newest} may show")
            try:
                seen = exploration.judge(state, place, oldest, newest)
            except Wrong as wrong:
                return str(wrong)
            if depth < len(failure["trail"]):
                assert seen is not None
                recording = record_recovery(state, seen, recording.shown, workload.packed, scratch, base)
    return None


def _explore_share(arguments: tuple[str, int, int, str | None, tuple[int, int], int]) -> Summary:
    logging.disable(logging.WARNING)
    name, states, seed, fault, share, stop = arguments
    return explore(name, states=states, seed=seed, fault=fault, share=share, stop=stop)


def explore_parallel(
    name: str, *, states: int, seed: int = 0, fault: str | None = None, jobs: int = 1, stop: int = 5
) -> Summary:
    """``explore`` in several processes."""
    start = time.perf_counter()
    shares = [(name, states // jobs, seed, fault, (k, jobs), stop) for k in range(jobs)]
    total = Summary()
    if jobs == 1:
        total.add(_explore_share(shares[0]))
    else:
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            for part in pool.imap(_explore_share, shares):
                total.add(part)
    total.seconds = time.perf_counter() - start
    return total


def main() -> int:
    """The command line; exit status 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description="Cut the power everywhere and look at what is left.")
    parser.add_argument("--states", type=int, default=100_000, help="how many, over all workloads")
    parser.add_argument("--exhaustive", action="store_true", help="1,000,000 of them")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), action="append")
    parser.add_argument("--fault", choices=sorted(FAULTS), help="run with a seeded fault: it must be found")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--stop", type=int, default=5, help="violations per workload to stop at")
    failures = os.path.join(tempfile.gettempdir(), "minifo-crash-failures")
    parser.add_argument("--save", default=failures, help=f"directory for failing states ({failures})")
    parser.add_argument("--replay", metavar="FILE", help="look at one saved state again")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    if arguments.replay:
        wrong = replay(arguments.replay)
        print(wrong or "right")
        return 1 if wrong else 0
    names = arguments.workload or list(WORKLOADS)
    states = (1_000_000 if arguments.exhaustive else arguments.states) // len(names)
    total = Summary()
    for name in names:
        summary = explore_parallel(
            name,
            states=states,
            seed=arguments.seed,
            fault=arguments.fault,
            jobs=arguments.jobs,
            stop=arguments.stop,
        )
        print(summary.line(name), flush=True)
        for failure in summary.failures:
            print(f"  {save(failure, arguments.save)}: {failure.what}"[:1500], flush=True)
        total.add(summary)
    print(total.line("total"))
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())

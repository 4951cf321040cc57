"""The benchmark: the same work on each file system, interleaved, repeated; medians, ratios, tables and a picture.

    python tests/bench/bench.py                             all of it, about 45 minutes
    python tests/bench/bench.py --write                     also into docs/performance.md and docs/performance.svg
    python tests/bench/bench.py --resume --write            go on after an interruption
    python tests/bench/bench.py --only create --only unlink --repeat 5 --results /tmp/names.jsonl
    python tests/bench/bench.py --report RESULTS --write    render once more what was measured

Needs root, /dev/fuse and a C compiler, and Debian's fuse-overlayfs, unionfs-fuse and git; a file system that is
missing is left out and said so.  Everything happens below --dir, which needs 10 GiB.  Ends with 1 if a workload failed
somewhere or left another tree than on the plain directory.
"""

from __future__ import annotations

import argparse
import compileall
import os
import random
import signal
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.bases import Sizes
from tests.bench.catalogue import Workload, workloads
from tests.bench.machine_name import machine
from tests.bench.measure import Bench, measure
from tests.bench.mounting import memory_rows, mount_rows, mounting
from tests.bench.report import text, write_docs
from tests.bench.results import Document, Header, Log, Run, read
from tests.bench.schedule import Progress, affordable
from tests.bench.systems import SYSTEMS, System
from tests.bench.volume import Volume

_SEED = 4


def _line(clock: str, name: str, document: Document, systems: list[System]) -> None:
    """Print what is known of a workload."""
    times = [(s.name, document.median(name, s.name, lambda run: run.seconds)) for s in systems]
    sizes = [(s.name, document.median(name, s.name, lambda run: run.memory)) for s in systems]
    words = [f"{system} {value:.4f}" for system, value in times if value is not None]
    words += [f"{system} {value / (1 << 20):.1f} MiB" for system, value in sizes if value is not None]
    print(f"{clock} {name}: {'  '.join(words)}", flush=True)
    for system, what in document.wrong(name).items():
        print(f"    WRONG: {system}: {what}", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp/minifo-bench"), help="where everything happens")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each pair; the median counts")
    parser.add_argument("--minutes", type=float, default=40, help="when slow workloads are to be repeated less (40)")
    parser.add_argument("--only", action="append", default=[], help="workloads whose name contains this")
    parser.add_argument("--system", action="append", default=[], help="file systems whose name contains this")
    parser.add_argument("--scale", type=float, default=1.0, help="all sizes, 1 is what the documentation shows")
    parser.add_argument("--seed", type=int, default=_SEED, help="of the order of the systems")
    parser.add_argument("--results", type=Path, help="where each run is noted, by default results.jsonl in --dir")
    parser.add_argument("--resume", action="store_true", help="keep the runs noted there")
    parser.add_argument("--report", type=Path, metavar="RESULTS", help="run nothing, show these")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its picture")
    parser.add_argument("--list", action="store_true", help="name workloads and file systems, and run nothing")
    return parser.parse_args()


def _chosen(name: str, words: list[str]) -> bool:
    return not words or any(word in name for word in words)


_stopped_by: list[int] = []


def _stop(number: int, _frame: object) -> None:
    """Remember a signal: in the middle of a run is no good time, something may be about to be mounted."""
    _stopped_by.append(number)


def _note(log: Log, run: Run) -> None:
    """Note a run, and go if a signal asked for it."""
    log.add(run)
    if _stopped_by:
        sys.exit(128 + _stopped_by[0])


def _round(bench: Bench, log: Log, workload: Workload, systems: list[System], repetition: int) -> None:
    """Run a workload once on each system, in another order each time."""
    order = list(systems)
    random.Random(f"{log.document.header.seed} {workload.name} {repetition}").shuffle(order)
    for system in order:
        if not log.has(workload.name, system.name, repetition):
            _note(log, measure(bench, workload, system, repetition))


def _compare(bench: Bench, log: Log, chosen: list[Workload], systems: list[System], progress: Progress) -> None:
    """Run all workloads once, then again as often as was asked for and there is time."""
    repeat = log.document.header.repeat
    for workload in chosen:
        missing = sum(not log.has(workload.name, system.name, 0) for system in systems)
        _round(bench, log, workload, systems, 0)
        progress.made(missing)
        _line(progress.first_pass(repeat), workload.name, log.document, systems)
    costs = {
        workload.name: sum(run.wall for system in systems for run in log.document.of(workload.name, system.name)[:1])
        for workload in chosen
    }
    for repetition in range(1, repeat):
        times = affordable(costs, repeat - repetition, progress.left)
        rest = sum(costs[name] * number for name, number in times.items())
        for workload in chosen:
            if not times[workload.name]:
                continue
            _round(bench, log, workload, systems, repetition)
            rest -= costs[workload.name]
            _line(progress.clock(rest), workload.name, log.document, systems)


def _mounts(bench: Bench, log: Log, rows: list[str], systems: list[System], progress: Progress) -> None:
    """Measure mounting and memory."""
    header = log.document.header
    done = {(run.workload, run.system, run.repetition) for run in log.document.runs}
    start = time.monotonic()
    with closing(mounting(bench, systems, header.repeat, header.seed, done)) as runs:
        for run in runs:
            _note(log, replace(run, wall=round(time.monotonic() - start, 3)))
            start = time.monotonic()
    for row in rows:
        _line(progress.clock(progress.left), row, log.document, systems)


def _compile() -> None:
    """Compile minifo's modules, as installing a package does; an editable installation need not have been."""
    for package in ("engine", "fusefront", "migrations", "tools"):
        compileall.compile_dir(Path(__file__).parents[2] / package, quiet=1)


def _run(asked: argparse.Namespace) -> Document:
    _compile()
    sizes = Sizes.scaled(asked.scale)
    systems = [s for s in SYSTEMS if s.available and _chosen(s.name, asked.system)]
    for missing in (s.name for s in SYSTEMS if not s.available):
        print(f"{missing} is not installed and left out")
    chosen = [w for w in workloads(sizes) if _chosen(w.name, asked.only)]
    mounted = [row for row in (*mount_rows(sizes), *memory_rows(sizes)) if _chosen(row, asked.only)]
    asked.dir.mkdir(parents=True, exist_ok=True)
    header = Header(machine(asked.dir), asked.scale, asked.repeat, asked.seed)
    log = Log(asked.results or asked.dir / "results.jsonl", header, resume=asked.resume)
    volume = Volume(asked.dir, mebibytes=round(1024 + 7 * 1024 * asked.scale))
    try:
        bench = Bench(asked.dir, volume, sizes, asked.scale)
        bench.prepare_tools()
        for kind in dict.fromkeys(workload.base for workload in chosen):
            bench.base(kind)
        spent = sum(run.wall for run in log.document.runs)
        first = sum(not log.has(w.name, s.name, 0) for w in chosen for s in systems)
        if mounted:
            _mounts(bench, log, mounted, systems, Progress(asked.minutes * 60, spent, first))
            spent = sum(run.wall for run in log.document.runs)
        _compare(bench, log, chosen, systems, Progress(asked.minutes * 60, spent, first))
        bench.work().rmdir()
    finally:
        volume.close()
    return log.document


def main() -> int:
    """Do what the command line asks for."""
    asked = _parse()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    if asked.list:
        sizes = Sizes.scaled(asked.scale)
        rows = [*(workload.name for workload in workloads(sizes)), *mount_rows(sizes), *memory_rows(sizes)]
        print(*rows, "", sep="\n")
        print(*(system.name for system in SYSTEMS), sep="\n")
        return 0
    if asked.report:
        document = read(asked.report)
    elif os.geteuid() != 0:
        sys.exit("needs root: it mounts")
    else:
        document = _run(asked)
    print(text(document))
    if asked.write:
        write_docs(document)
    for line in document.complaints():
        print(line, file=sys.stderr)
    return 1 if document.complaints() else 0


if __name__ == "__main__":
    sys.exit(main())

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
import os
import random
import signal
import sys
import time
from pathlib import Path

from bases import Sizes
from catalogue import Workload, workloads
from machine_name import machine
from measure import Bench, measure
from mounting import AT_LEAST, memory_rows, mount_rows, mounting
from report import text, write_docs
from results import Document, Header, Log, read
from systems import SYSTEMS, System
from volume import Volume

_BUDGET = 30.0  # seconds one pair may take for all its runs: beyond, it is not repeated any more
_SEED = 4


class Progress:
    """Says what was measured, and when the rest will be."""

    def __init__(self, runs: int) -> None:
        self._left = self._all = runs
        self._start = time.monotonic()

    def passed(self, runs: int) -> None:
        """That many runs are done, or need not be made."""
        self._left -= runs

    def skipped(self, runs: int) -> None:
        """That many runs had been made before this program started."""
        self._left -= runs
        self._all -= runs

    def line(self, name: str, document: Document, systems: list[System]) -> None:
        """Print a line for a workload."""
        times = [(s.name, document.median(name, s.name, lambda run: run.seconds)) for s in systems]
        sizes = [(s.name, document.median(name, s.name, lambda run: run.memory)) for s in systems]
        words = [f"{system} {value:.4f}" for system, value in times if value is not None]
        words += [f"{system} {value / (1 << 20):.1f} MiB" for system, value in sizes if value is not None]
        figures = "  ".join(words)
        spent = time.monotonic() - self._start
        made = self._all - self._left
        left = f", {spent / made * self._left / 60:.0f} min left" if made else ""
        print(f"[{spent / 60:4.1f} min{left}] {name}: {figures}", flush=True)
        for system, what in document.wrong(name).items():
            print(f"    WRONG: {system}: {what}", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp/minifo-bench"), help="where everything happens")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each pair; the median counts")
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


def _compare(bench: Bench, log: Log, chosen: list[Workload], systems: list[System], progress: Progress) -> None:
    """Run the workloads, in another order of the systems in each repetition."""
    header = log.document.header
    for workload in chosen:
        for repetition in range(header.repeat):
            order = list(systems)
            random.Random(f"{header.seed} {workload.name} {repetition}").shuffle(order)
            for system in order:
                if log.has(workload.name, system.name, repetition):
                    continue
                progress.passed(1)
                if sum(run.wall for run in log.document.of(workload.name, system.name)) < _BUDGET:
                    log.add(measure(bench, workload, system, repetition))
        progress.line(workload.name, log.document, systems)


def _run(asked: argparse.Namespace) -> Document:
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
        done = {(run.workload, run.system, run.repetition) for run in log.document.runs}
        progress = Progress(len(chosen) * len(systems) * asked.repeat + len(mounted) * len(systems) * AT_LEAST)
        progress.skipped(len(done))
        _compare(bench, log, chosen, systems, progress)
        if mounted:
            for run in mounting(bench, systems, asked.repeat, asked.seed, done):
                progress.passed(1)
                log.add(run)
            for row in mounted:
                progress.line(row, log.document, systems)
        bench.work().rmdir()
    finally:
        volume.close()
    return log.document


def main() -> int:
    """Do what the command line asks for."""
    asked = _parse()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # unmounts everything on its way out
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

"""The benchmark: the same work on each file system, interleaved, repeated; medians, ratios, a table and a picture.

    python tests/bench/bench.py                 all of it, about an hour
    python tests/bench/bench.py --repeat 3 --only create --only unlink
    python tests/bench/bench.py --write         also into docs/performance.md and docs/performance.svg

Needs root, /dev/fuse, and Debian's fuse-overlayfs and unionfs-fuse for the comparison; what is missing is left out and
said so.  Everything happens below --dir, best on a disk with 10 GiB free.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(__file__))

from report import table, write_docs
from systems import SYSTEMS, System
from workloads import WORKLOADS, Workload, make_archive, make_base


def drop_caches() -> None:
    """Make the next reads cold."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def once(system: System, workload: Workload, base: Path, work: Path) -> float:
    """Seconds one run takes, in a mount of its own."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    mnt = system.mount(base, work)
    try:
        workload.before(mnt)
        if workload.cold:
            drop_caches()
        else:
            os.sync()
        start = time.perf_counter()
        workload.timed(mnt)
        return time.perf_counter() - start
    finally:
        system.unmount()


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp/minifo-bench"), help="where everything happens")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each pair; the median counts")
    parser.add_argument("--only", action="append", default=[], help="workloads whose name contains this")
    parser.add_argument("--system", action="append", default=[], help="file systems whose name contains this")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the bases, 1 is the documented one")
    parser.add_argument("--json", type=Path, help="write the medians there")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its picture")
    asked = parser.parse_args()

    systems = [s for s in SYSTEMS if s.available and (not asked.system or any(w in s.name for w in asked.system))]
    for missing in (s.name for s in SYSTEMS if not s.available):
        print(f"{missing} is not installed and left out")
    workloads = [w for w in WORKLOADS if not asked.only or any(word in w.name for word in asked.only)]
    asked.dir.mkdir(parents=True, exist_ok=True)
    if any("untar" in w.name for w in workloads) and not (asked.dir / "many.tar").exists():
        make_archive(asked.dir / "many.tar")

    medians: dict[str, dict[str, float]] = {}
    for workload in workloads:
        base = asked.dir / f"base-{workload.base}-{asked.scale:g}"
        if not base.exists():
            base.mkdir()
            make_base(workload.base, base, scale=asked.scale)
        seconds: dict[str, list[float]] = {system.name: [] for system in systems}
        for _ in range(asked.repeat):
            for system in systems:
                try:
                    seconds[system.name].append(once(system, workload, base, asked.dir / "work"))
                except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                    print(f"{system.name}, {workload.name}: {error}")
        medians[workload.name] = {name: statistics.median(found) for name, found in seconds.items() if found}
        print(workload.name, {name: round(value, 4) for name, value in medians[workload.name].items()}, flush=True)
    machine = f"Linux {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(table(medians, [s.name for s in systems]))
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine, "medians": medians}, indent=1))
    if asked.write:
        write_docs(medians, [s.name for s in systems], machine, asked.repeat)
    shutil.rmtree(asked.dir / "work", ignore_errors=True)


if __name__ == "__main__":
    main()

"""What it costs a mount under load to be asked, and what the answer costs: run by hand, as root.

    python tests/bench/asking.py
    python tests/bench/asking.py --ask status --ask du --turns 5 --seconds 4

An overlay of many changes over a base of as many entries is mounted, and a program makes, stats, renames and deletes
files in it as fast as it can.  In turns the overlay is left alone, and asked once a second by each command.  A turn is
compared with those without questions just before and after it; the first table has medians.  The second one has the
processor time that a question takes, from the daemon and from the command.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from minifo.engine import Overlay as Engine
from minifo.engine.model import ROOT, Process, SetAttr
from minifo.fusefront.control.client import ControlClient
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo_program

_ASKED = ("status", "metrics", "diff", "du")
_IN_ONE_DIRECTORY = 1000
_CONTENT = b"x" * 100
_PERIOD = 1.0  # seconds from one question to the next


class Turn(NamedTuple):
    """What a program measured in one turn.

    Attributes:
        rate: its system calls a second.
        typical: the median time of one, in seconds.
        late: the 99.9th percentile.
        longest: the longest.
    """

    rate: float
    typical: float
    late: float
    longest: float


def populate(overlay: OverlayMount, entries: int) -> None:
    """As many base files as changes: six of ten changes are new files, two are deletions, two are chmods."""
    for first in range(0, entries, _IN_ONE_DIRECTORY):
        directory = overlay.base / f"d{first // _IN_ONE_DIRECTORY}"
        directory.mkdir()
        for number in range(_IN_ONE_DIRECTORY):
            (directory / f"f{number}").write_bytes(_CONTENT)
    engine = Engine.open(str(overlay.base), str(overlay.sto))
    caller = Process()
    for first in range(0, entries, _IN_ONE_DIRECTORY):
        found = engine.lookup(ROOT, b"d%d" % (first // _IN_ONE_DIRECTORY))
        assert found is not None
        for number in range(_IN_ONE_DIRECTORY):
            kind, name = number % 10, b"f%d" % number
            if kind < 6:
                made = engine.mknod(found.ino, b"new" + name, 0o644, 0, caller)
                engine.write(made.ino, 0, _CONTENT if kind else _CONTENT * 50)
            elif kind < 8:
                engine.unlink(found.ino, name)
            else:
                child = engine.lookup(found.ino, name)
                assert child is not None
                engine.setattr(child.ino, SetAttr(mode=0o600))
    engine.close()


def _work(where: str, seconds: float) -> Turn:
    """Make, write, stat, rename and delete files until the time is over."""
    times: list[float] = []
    note, clock = times.append, time.perf_counter
    end = (begin := clock()) + seconds
    old, new = os.path.join(where, "old"), os.path.join(where, "new")
    while (start := clock()) < end:
        fd = os.open(old, os.O_WRONLY | os.O_CREAT, 0o644)
        note((made := clock()) - start)
        os.write(fd, _CONTENT)
        os.close(fd)
        note((closed := clock()) - made)
        os.stat(old)
        note((seen := clock()) - closed)
        os.rename(old, new)
        note((moved := clock()) - seen)
        os.unlink(new)
        note(clock() - moved)
    rate = len(times) / (clock() - begin)
    times.sort()
    return Turn(rate, times[len(times) // 2], times[len(times) * 999 // 1000], times[-1])


def _ask(command: str, target: Path, seconds: float) -> list[float]:
    """Ask once a period, and return how long each answer took."""
    times = []
    begin = time.monotonic()
    while (start := time.monotonic()) < begin + seconds - _PERIOD / 2:
        subprocess.run([minifo_program(), command, str(target)], stdout=subprocess.DEVNULL, check=True)
        times.append(time.monotonic() - start)
        time.sleep(max(0.0, start + _PERIOD - time.monotonic()))
    return times


def compare(overlay: OverlayMount, asked: list[str], turns: int, seconds: float) -> None:
    """Print the table."""
    where = overlay.mnt / "load"
    where.mkdir()
    found: defaultdict[str, list[Turn]] = defaultdict(list)
    losses: defaultdict[str, list[float]] = defaultdict(list)
    answers: defaultdict[str, list[float]] = defaultdict(list)
    with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
        pool.submit(_work, str(where), 1.0).result()
        before = pool.submit(_work, str(where), seconds).result()
        for _ in range(turns):
            for command in asked:
                work = pool.submit(_work, str(where), seconds)
                answers[command] += _ask(command, overlay.mnt, seconds)
                turn = work.result()
                after = pool.submit(_work, str(where), seconds).result()
                found[command].append(turn)
                found[""].append(after)
                losses[command].append(1 - turn.rate / statistics.mean((before.rate, after.rate)))
                before = after
    print(f"{'asked':10}{'calls/s':>9}{'loss':>8}{'answer':>10}{'call':>9}{'99.9 %':>10}{'longest':>10}")
    for command in ("", *asked):
        turns_of = found[command]
        rate = statistics.median(turn.rate for turn in turns_of)
        typical = statistics.median(turn.typical for turn in turns_of)
        late = statistics.median(turn.late for turn in turns_of)
        longest = statistics.median(turn.longest for turn in turns_of)
        loss = f"{statistics.median(losses[command]) * 100:.1f} %" if command else ""
        answer = f"{statistics.median(answers[command]) * 1e3:.0f} ms" if command else ""
        print(
            f"{command or 'nothing':10}{rate:9.0f}{loss:>8}{answer:>10}{typical * 1e6:6.0f} µs{late * 1e3:7.2f} ms"
            f"{longest * 1e3:7.1f} ms"
        )


def costs(overlay: OverlayMount, asked: list[str], turns: int) -> None:
    """Print the processor time of a question, which other programs on the machine hardly change."""
    print(f"\n{'asked':10}{'daemon':>10}{'command':>10}")
    for command in ("", *asked):
        of_daemon, of_command = [], []
        for _ in range(turns):
            _change(overlay)
            subprocess.run([minifo_program(), "sync", overlay.mnt], check=True)  # status knows nothing from before
            _change(overlay)  # and the others let the daemon commit
            before, begin = _processor(overlay), _of_children()
            if command:
                subprocess.run([minifo_program(), command, overlay.mnt], stdout=subprocess.DEVNULL, check=True)
            of_command.append(_of_children() - begin)
            of_daemon.append(_processor(overlay) - before)
        times = (statistics.median(found) * 1e3 for found in (of_daemon, of_command))
        print(f"{command or 'nothing':10}" + "".join(f"{found:7.1f} ms" for found in times))


def _change(overlay: OverlayMount) -> None:
    for number in range(50):
        (overlay.mnt / f"made{number}").mkdir()
        (overlay.mnt / f"made{number}").rmdir()


def _processor(overlay: OverlayMount) -> float:
    """The processor time that a daemon has used, in seconds."""
    with ControlClient(str(overlay.sto)) as client:
        metrics = {metric["name"]: metric["samples"] for metric in client.call("Metrics")["metrics"]}
    return float(metrics["minifo_cpu_seconds_total"][0]["value"])


def _of_children() -> float:
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description="what it costs a mount under load to be asked")
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--ask", action="append", default=[], metavar="COMMAND", help=f"of {', '.join(_ASKED)}")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root: it mounts")
    sandbox = MountSandbox()
    try:
        overlay = sandbox.overlay()
        populate(overlay, arguments.entries)
        overlay.mount()
        asked = arguments.ask or list(_ASKED)
        compare(overlay, asked, arguments.turns, arguments.seconds)
        overlay.umount()
        overlay.mount("commit=600")
        costs(overlay, asked, arguments.turns)
    finally:
        sandbox.close()


if __name__ == "__main__":
    main()

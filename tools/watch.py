"""``minifo watch``: what a mounted overlay does, live."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from ..engine.errors import StateError
from ..fusefront.control.client import ControlClient, Refused
from . import _colour, _common, _screen
from ._complete import targets
from ._output import json_name, plain
from ._rates import Busy, Rates, Reading, Spread, rates
from ._screen import Line
from ._size import duration, size
from ._target import storage_of

_PATIENCE = 30.0  # seconds that the daemon may take to answer
_PATHS = 20  # that are asked for
_ENDED = 1  # the exit code where the daemon ended while it was watched


@click.command(
    "watch",
    epilog="""\b
Examples:
  minifo watch /mnt/usr                   # q or Ctrl-C ends it
  minifo watch --json /mnt/usr | jq .requests_per_s
  minifo watch -n 1 --interval 10 /mnt/usr     # the next ten seconds in a line
  minifo watch /mnt/usr | tee usr.log          # a line each second

\b
Exit codes: 0 success, 1 the daemon ended meanwhile, 2 failure.""",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line: times in ns, sizes in bytes.")
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="COUNT", help="End after so many.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=86_400),
    default=1.0,
    metavar="SECONDS",
    help="From one to the next (default 1, at least 0.1).",
)
@click.argument("target", default=".", shell_complete=targets)
def command(as_json: bool, count: int | None, interval: float, target: str) -> int:
    """Show what the mounted overlay TARGET does, live.

    Requests and their times, changes and their paths, errors, commits, bytes, memory. On a terminal the screen is drawn
    anew each second; elsewhere a line is printed. A request is what the kernel asks; what it answers from its own
    caches is none. Medians and percentiles are exact to a factor of two. A name that is made, removed or renamed is a
    change of its directory, and the daemon counts by path only while it is watched.
    """
    _common.log_to_stderr("minifo")
    on_screen = not as_json and _colour.is_terminal()
    try:
        with ControlClient(storage_of(target), _PATIENCE) as client:
            first = _read(client)
            try:
                with _screen.taken(wanted=on_screen) as screen:
                    for found in _each(client, first, interval, count, screen):
                        if screen is None:
                            click.echo(json.dumps(as_object(found)) if as_json else as_line(found))
                            sys.stdout.flush()
                        else:
                            screen.show(as_page(found, interval, screen.size.lines))
            except StateError as error:
                return _common.fail("minifo", error, _ENDED)
    except KeyboardInterrupt:
        pass
    return 0


def _read(client: ControlClient) -> Reading:
    busiest: dict[str, Any] | None = None
    with contextlib.suppress(Refused):  # by a daemon of an older minifo
        busiest = client.call("Busiest", most=_PATHS)
    return Reading(client.call("Metrics"), busiest, time.monotonic())


def _each(
    client: ControlClient, before: Reading, interval: float, count: int | None, screen: _screen.Screen | None
) -> Iterator[Rates]:
    """Yield what happened in each interval, until there were *count* or the user quits.

    Raises:
        StateError: the daemon does not answer any more.
    """
    if screen is not None:
        screen.show([_head(before.mountpoint, interval)])
    due = before.at
    while count is None or count > 0:
        due = max(due + interval, time.monotonic())  # after a pause (Ctrl-Z) no answers are made up for
        if screen is None:
            time.sleep(due - time.monotonic() if due > time.monotonic() else 0)
        elif screen.wait(due):
            return
        after = _read(client)
        yield rates(before, after)
        before = after
        count = count if count is None else count - 1


# -- for programs


def as_object(found: Rates) -> dict[str, Any]:
    """Return what ``--json`` prints; members may be added, and none changes its meaning."""
    return {
        "time_ns": time.time_ns(),
        "mountpoint": _common.printable(found.mountpoint),
        "seconds": round(found.seconds, 6),
        "requests_per_s": _rounded(found.requests),
        "cached_per_s": _rounded(found.cached),
        "errors_per_s": {name: _rounded(value) for name, value in sorted(found.errors.items())},
        "changes_per_s": _rounded(found.operations),
        "rows_per_s": _rounded(found.rows),
        "written_per_s": _rounded(found.written),
        "commits_per_s": _rounded(found.commits),
        "commit_holds": _times(found.holds),
        "processor": round(found.processor, 4),
        **found.now,
        "pending": bool(found.now["pending"]),
        "failed": bool(found.now["failed"]),
        "requests": [
            {
                "request": kind.name,
                "served_per_s": _rounded(kind.served),
                "cached_per_s": _rounded(kind.cached),
                "busy": round(kind.busy, 4),
                "times": _times(kind.times),
            }
            for kind in found.kinds
        ],
        "paths": None if found.paths is None else [_path_object(busy) for busy in found.paths],
        "other_paths": found.others,
    }


def _path_object(busy: Busy) -> dict[str, Any]:
    return {
        **({"path": None} if busy.path is None else json_name("path", busy.path)),
        "directory": busy.is_dir,
        "changes_per_s": _rounded(busy.changes),
        "written_per_s": _rounded(busy.written),
    }


def _rounded(value: float) -> float:
    return round(value, 3)


def _times(times: Spread | None) -> dict[str, int] | None:
    if times is None:
        return None
    return {"mean_ns": times.mean, "median_ns": times.median, "p99_ns": times.p99}


# -- for people


def as_line(found: Rates) -> str:
    """Return a line for a log: the time of day, rates, and the request that took most time."""
    words = [
        time.strftime("%H:%M:%S"),
        f"requests {_number(found.requests)}/s",
        f"cached {_number(found.cached)}/s",
        f"changes {_number(found.operations)}/s",
        f"written {size(round(found.written))}/s",
        f"commits {_number(found.commits)}/s",
    ]
    if found.holds is not None:
        words.append(f"held up {duration(found.holds.mean)}")
    if found.errors:
        words.append(f"errors {_errors(found)}")
    top = found.kinds[0] if found.kinds else None
    if top is not None and top.times is not None:
        words.append(f"most time: {top.name} {duration(top.times.median)}, 99 % {duration(top.times.p99)}")
    if found.paths:
        words.append(f"most changes: {_path(found.paths[0])} {_number(found.paths[0].changes)}/s")
    return "  ".join(words)


def _errors(found: Rates) -> str:
    most = sorted(found.errors.items(), key=lambda error: -error[1])
    return ", ".join(f"{name} {_number(value)}/s" for name, value in most)


def as_page(found: Rates, interval: float, rows: int) -> list[Line]:
    """Return the lines of a screen that has so many rows, the most important ones first."""
    now = found.now
    holds = f", held up requests for {duration(found.holds.mean)}" if found.holds is not None else ""
    state = "changes wait for the next commit" if now["pending"] else "all is durable"
    share = f" ({found.cached / found.requests:.0%})" if found.requests else ""
    log = now["database_log"] + now["redo_log"]
    told = [
        ("requests", f"{_number(found.requests)} a second, {_number(found.cached)} of them from the cache{share}"),
        ("changes", f"{_number(found.operations)} a second, {_number(found.rows)} rows; {state}"),
        ("written", f"{size(round(found.written))} a second to content objects"),
        ("commits", f"{_number(found.commits)} a second{holds}"),
        ("daemon", f"{found.processor:.0%} of a processor, {size(now['memory'])} of memory, {now['names']:,} names"),
        ("storage", f"database {size(now['database'])}, logs {size(log)}; free {size(now['free'])}"),
        ("errors", _errors(found) or "none"),
    ]
    lines: list[Line] = [
        _head(found.mountpoint, interval),
        ("", ""),
        *(("", f"{label:10}{text}") for label, text in told),
    ]
    if now["failed"]:
        lines.append(("bad", "It takes no changes since a commit failed: see minifo status."))
    paths = _paths(found)
    room = rows - len(lines) - 2  # for the lines of both tables, less their headings
    if paths:
        room -= 2
        paths = paths[
            : max(room - min(len(found.kinds), room // 2), 2)
        ]  # each table has half, and what the other leaves
    lines += [("", ""), *_kinds(found, room - len(paths))]
    if found.paths is not None:
        left = found.others + len(found.paths) - len(paths)
        heading = f"{'changes/s':>10}{'written/s':>12}  path" + (f" (and {left:,} more)" if left and paths else "")
        lines += [("", ""), ("bold", heading), *(paths or [("dim", "      none")])]
    return lines


def _kinds(found: Rates, most: int) -> list[Line]:
    """Return the table of requests."""
    columns = "".join(f"{text:>10}" for text in ("served/s", "cached/s", "mean", "median", "99 %"))
    lines: list[Line] = [("bold", f"{'request':16}{columns}{'busy':>8}")]
    for kind in found.kinds[: max(most, 1)]:
        times = [""] * 3 if kind.times is None else [duration(ns) for ns in kind.times]
        rest = "".join(f"{text:>10}" for text in (_number(kind.served), _number(kind.cached), *times))
        lines.append(("", f"{kind.name:16}{rest}{kind.busy:8.1%}"))
    return lines if found.kinds else [*lines, ("dim", "none")]


def _paths(found: Rates) -> list[Line]:
    """Return the lines of what was changed most."""
    lines = []
    for busy in found.paths or ():
        written = size(round(busy.written)) if busy.written else ""
        lines.append(("", f"{_number(busy.changes):>10}{written:>12}  {_path(busy)}"))
    return lines


def _path(busy: Busy) -> str:
    """A path for people; of a directory, whose names were changed, with a slash at its end."""
    if busy.path is None:
        return "(without a name)"
    return plain(busy.path) + ("/" if busy.is_dir and busy.path != b"/" else "")


def _head(mountpoint: str, interval: float) -> Line:
    return "head", f"minifo watch  {_common.printable(mountpoint)}  (every {interval:g} s, q quits)"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"

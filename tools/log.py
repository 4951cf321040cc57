"""``minifo log``: who changed what in an overlay, and when."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cache
from typing import NamedTuple

import click

from ..engine.errors import StateError, UsageError
from ..engine.model import JOURNAL_OPERATIONS, JournalEntry
from ..fusefront.control.patterns import Patterns
from . import _common
from ._journal import Journal, opened_journal, user_name, where
from ._listing import listing
from ._output import json_name, plain

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BEFORE_FOLLOWING = 10  # entries that --follow begins with, as tail(1)


class _Wanted(NamedTuple):
    """Which entries to print."""

    patterns: Patterns
    since: int | None
    ops: frozenset[str]
    uids: frozenset[int]

    def match(self, entry: JournalEntry) -> bool:
        return (
            (self.since is None or entry.time >= self.since)
            and (not self.ops or entry.op in self.ops)
            and (not self.uids or entry.uid in self.uids)
            and self.patterns.match(entry.path, entry.other)
        )


@click.command(
    "log",
    epilog="""\b
Each line: time, operation, user, process id, command, path.
  old -> new      renamed           one <-> other   exchanged
  new => other    a hard link       -               not known (the kernel writes pages in its own name)

\b
Examples:
  minifo log /mnt/usr                              # the oldest first
  minifo log -n 20 /mnt/usr lib/*.conf             # the last 20 changes of these paths
  minifo log --follow --op unlink --op rmdir /mnt/usr
  minifo log --since 10m --uid www-data /mnt/usr
  minifo log --since 2026-11-29T07:00 --json /var/lib/usr-changes | jq .path

\b
The journal is kept by mounts with -o journal=N.
Exit codes: 0 success, 1 wrong request, 2 failure: there is no journal, among others.""",
)
@click.option("-n", "count", metavar="COUNT", type=click.IntRange(0), help="The last COUNT entries only.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new entries as they come, until it is unmounted.")
@click.option("--since", metavar="TIME", help="Not before: 90s, 10m, 2h, 3d ago, or a date: 2026-11-29T07:00.")
@click.option(
    "--op", "ops", metavar="OP", multiple=True, type=click.Choice(JOURNAL_OPERATIONS), help="These operations only."
)
@click.option("--uid", "users", metavar="USER", multiple=True, help="Changes by these users only, by number or name.")
@listing
def command(
    target: str,
    patterns: tuple[str, ...],
    count: int | None,
    follow: bool,
    since: str | None,
    ops: tuple[str, ...],
    users: tuple[str, ...],
    as_json: bool,
    null: bool,
    base: str | None,
) -> int:
    """Show who changed what in the overlay TARGET, and when.

    This is its journal, which mounts with -o journal=N keep. TARGET is a storage directory, or any path in a mounted
    overlay. PATHs limit the list to these and what is below them; they may hold wildcards as in .gitignore.
    """
    if as_json and null:
        raise UsageError("--json and -z exclude each other", "give one of them")
    start = None if since is None else _time(since, time.time_ns())
    wanted = _Wanted(Patterns(patterns), start, frozenset(ops), frozenset(map(_uid, users)))
    told = _json_line if as_json else _fields if null else _line
    _common.log_to_stderr("minifo")
    with opened_journal(target, base) as journal:
        _check(journal, target, follow=follow)
        at = journal.end
        if follow and count is None and start is None:
            count = _BEFORE_FOLLOWING
        found = journal.forward() if count is None and start is None else _last(journal, wanted, count)
        _print(filter(wanted.match, found), told)
        if follow:
            _follow(journal, at, wanted, told)
        if journal.impossible:
            print(f"minifo: damaged entries left out: {journal.impossible}; run minifo-fsck", file=sys.stderr)
    return 0


def _check(journal: Journal, target: str, *, follow: bool) -> None:
    """Say what is missing where there is no journal, or none that goes on."""
    if follow and journal.limit is None:
        raise StateError(f"{target} is not mounted, so there are no new entries", "leave out --follow")
    if journal.limit == 0 and follow:
        raise StateError(f"the mount of {target} keeps no journal", "mount it with -o journal=10000")
    if journal.is_empty and not journal.limit:
        raise StateError(f"the overlay {target} has no journal", "mount it with -o journal=10000 to begin one")
    if journal.limit == 0:
        print("minifo: the journal does not go on: this mount is without -o journal=N", file=sys.stderr)


def _last(journal: Journal, wanted: _Wanted, count: int | None) -> Iterable[JournalEntry]:
    """Return the last entries that are wanted: *count* of them, or all of the time asked for."""
    found: list[JournalEntry] = []
    for piece in journal.backward() if count != 0 else ():
        found += filter(wanted.match, piece)
        if count is not None and len(found) >= count:
            break
        # by the time of a whole piece, for a clock may have been set back
        if wanted.since is not None and piece and max(entry.time for entry in piece) < wanted.since:
            break
    return reversed(found[:count])


def _follow(journal: Journal, at: int, wanted: _Wanted, told: Callable[[JournalEntry], bytes]) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        for piece in journal.follow(at):
            if journal.dropped:
                print(f"minifo: {journal.dropped} entries came and went too fast", file=sys.stderr)
                journal.dropped = 0
            _print(filter(wanted.match, piece), told)


def _print(entries: Iterable[JournalEntry], told: Callable[[JournalEntry], bytes]) -> None:
    for entry in entries:
        sys.stdout.buffer.write(told(entry))
    sys.stdout.buffer.flush()


# -- what the user says


def _time(text: str, now: int) -> int:
    """Return a time in ns since the epoch."""
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text, re.ASCII)
    if match is not None:
        return now - int(match[1]) * _UNITS[match[2]] * 10**9
    try:
        return int(datetime.fromisoformat(text).timestamp() * 10**6) * 1000
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"--since {text} is not a time", "give 90s, 10m, 2h or 3d, or a date: 2026-11-29, 2026-11-29T07:00"
        ) from None


def _uid(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) < 1 << 32:
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise UsageError(f"--uid {text} is no user", "give a number, or a name that this machine knows") from None


# -- what is printed


@cache
def _second(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, OSError, ValueError):
        return f"@{seconds}"


def _line(entry: JournalEntry) -> bytes:
    seconds, ns = divmod(entry.time, 10**9)
    user = "-" if entry.uid is None else user_name(entry.uid)
    pid = "-" if entry.pid is None else str(entry.pid)
    command_name = "-" if entry.command is None else plain(entry.command)
    words = f"{entry.op:<11} {user:<8} {pid:>7} {command_name:<15} {where(entry)}"
    return f"{_second(seconds)}.{ns // 10**6:03d} {words}\n".encode()


def _json_line(entry: JournalEntry) -> bytes:
    members = {
        "id": entry.id,
        "time": entry.time,
        "iso_time": _iso(entry.time),
        "op": entry.op,
        **json_name("path", entry.path),
        **({} if entry.other is None else json_name("other_path", entry.other)),
        "uid": entry.uid,
        "pid": entry.pid,
        **({"command": None} if entry.command is None else json_name("command", entry.command)),
    }
    return json.dumps(members).encode() + b"\n"


def _iso(ns: int) -> str | None:
    try:
        return datetime.fromtimestamp(ns // 10**9).astimezone().replace(microsecond=ns % 10**9 // 1000).isoformat()
    except (OverflowError, OSError, ValueError):
        return None


def _fields(entry: JournalEntry) -> bytes:
    numbers = (b"" if number is None else b"%d" % number for number in (entry.uid, entry.pid))
    fields = (b"%d" % entry.time, os.fsencode(entry.op), *numbers, entry.command, entry.other, entry.path)
    return b"".join((field or b"") + b"\0" for field in fields)

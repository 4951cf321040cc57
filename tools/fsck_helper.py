"""``minifo-fsck``, ``fsck.minifo`` and ``fsck.fuse.minifo``: check an overlay's storage, and repair it.

The arguments and exit codes are those of fsck(8), so that fsck and systemd find what they expect.  ``minifo fsck``
(tools/fsck.py) is the same.  Nothing here mounts, and nothing is imported that could.
"""

from __future__ import annotations

import contextlib
import getopt
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TextIO

from ..engine.errors import MinifoError, StateError, UsageError
from ..engine.fsck.problems import SALVAGE, Problem
from ..engine.fsck.session import FsckSession, acting_as_owner
from . import _common
from ._progress import Progress

# fsck(8); the sum of those that apply
CLEAN, CORRECTED, LEFT, FAILED, USAGE, CANCELLED = 0, 1, 4, 8, 16, 32

SYNOPSIS = "[-n | -y | -p | -a] [-f] [-v] [-V] [-C[fd]] [--base DIR] [--verify-data] [--json] [--rescue DIR] \
[--untrusted-sto] STO"
_LETTERS = "nypafvVhC:lMPRrsTt:"
_LONG = ["json", "base=", "verify-data", "rescue=", "untrusted-sto", "help", "version"]
_IGNORED = {"-l", "-M", "-P", "-R", "-r", "-s", "-T", "-t"}  # words of fsck(8) itself, and of e2fsck's boot line
_SHOWN = 20  # findings of one kind that are shown without -v

HELP = f"""\
usage: minifo-fsck {SYNOPSIS}

Checks the storage STO of an overlay, and repairs it.

  -n             change nothing, ask nothing
  -p, -a         make the safe repairs only: what shows does not change
  -y             make every repair
                 (without these: ask on a terminal, change nothing elsewhere)
  -f             check every page of the database, not only quickly
  -v             show notes and every finding, with what it means
  -V             show the version
  -C[FD]         show progress, on a terminal or to a file descriptor
  --base DIR     compare with the base as well
  --verify-data  read every byte of every content object
  --json         print one JSON document
  --rescue DIR   write what the overlay holds to DIR as plain files; changes nothing in STO
  --untrusted-sto  take a storage that others may change: it is only read, and a rescue leaves out devices,
                 set-id bits and capabilities

Exit code, the sum of: 0 clean, 1 repaired, 4 something is left, 8 it could not be checked, 16 wrong arguments,
32 interrupted. A repair keeps a copy of the database beside it (minifo.db.bak-...) and discards nothing: what has lost
its name goes to lost+found in the overlay. A storage that is mounted is only read. Root checks and repairs a user's
storage with that user's rights.
"""


@dataclass
class Request:
    """What is asked for."""

    storage: str
    mode: str = ""  # n, p, y, or empty: ask
    full: bool = False
    verbose: bool = False
    json: bool = False
    verify: bool = False
    base: str | None = None
    rescue: str | None = None
    progress: int | None = None
    untrusted: bool = False


@dataclass
class Outcome:
    """What came of it."""

    holder: int | None = None
    found: list[Problem] = field(default_factory=list)
    repaired: list[Problem] = field(default_factory=list)
    left: list[Problem] = field(default_factory=list)
    salvage: dict[str, Any] | None = None
    rescue: dict[str, Any] | None = None
    said: list[str] = field(default_factory=list)

    @property
    def code(self) -> int:
        """The exit code of fsck(8)."""
        code = CORRECTED if self.repaired else CLEAN
        is_short = self.rescue is not None and bool(self.rescue["damaged"])
        return code | (LEFT if is_short or any(not finding.is_note for finding in self.left) else 0)


def main(arguments: list[str] | None = None) -> int:
    """Check a storage as fsck(8) asks; *arguments* are those after the program's name.  Returns the exit code."""
    program = os.path.basename(sys.argv[0]) if arguments is None else "minifo-fsck"
    return _common.run_tool(lambda: run(program, sys.argv[1:] if arguments is None else arguments), FAILED)


def run(program: str, arguments: list[str]) -> int:
    """The same under any name."""
    try:
        request = parse(arguments)
        if isinstance(request, str):
            print(request)
            return CLEAN
        outcome = examine(request)
        report(program, request, outcome)
    except BrokenPipeError:
        raise
    except UsageError as exc:
        _common.fail(program, exc, USAGE)
        return USAGE
    except (MinifoError, OSError) as exc:
        return _common.fail(program, exc, FAILED)
    except MemoryError:
        return _common.fail(program, StateError("there is not enough memory for this storage"), FAILED)
    except KeyboardInterrupt:
        print(f"{program}: interrupted; call it again to finish", file=sys.stderr)
        return CANCELLED
    return outcome.code


def parse(arguments: list[str]) -> Request | str:
    """The request in *arguments*, or the text that is asked for instead.

    Raises:
        UsageError: they are wrong.
    """
    # -C takes a number that must stand right behind it: fsck(8) calls it -C0 as well as -C
    arguments = [argument + "0" if argument == "-C" else argument for argument in arguments]
    try:
        given, named = getopt.gnu_getopt(arguments, _LETTERS, _LONG)
    except getopt.GetoptError as exc:
        raise UsageError(exc.msg, "see minifo-fsck --help") from exc
    flags = dict(given)
    if "-h" in flags or "--help" in flags:
        return HELP.rstrip()
    if "-V" in flags or "--version" in flags:
        from importlib.metadata import version

        return f"minifo-fsck (minifo {version('minifo')})"
    modes = sorted({{"-a": "p"}.get(flag, flag[1:]) for flag in flags if flag in ("-n", "-y", "-p", "-a")})
    if len(modes) > 1:
        raise UsageError(f"-{modes[0]} and -{modes[1]} exclude each other", "give one of -n, -p, -a, -y")
    if len(named) != 1:
        raise UsageError(f"{len(named)} arguments instead of 1", f"usage: minifo-fsck {SYNOPSIS}")
    channel = flags.get("-C", "")
    if "-C" in flags and not (channel.isdigit() and _is_open(int(channel))):
        raise UsageError(f"-C takes an open file descriptor, not {channel!r}", "see minifo-fsck --help")
    storage, base = _place(named[0])
    mode = modes[0] if modes else ""
    if "--rescue" in flags:
        if mode in ("y", "p"):
            raise UsageError("--rescue changes nothing and does not go with a repair", "call it without -y, -p, -a")
        mode = "n"
    return Request(
        storage,
        mode,
        "-f" in flags,
        "-v" in flags,
        "--json" in flags,
        "--verify-data" in flags,
        flags.get("--base", base),
        flags.get("--rescue"),
        int(channel) if channel else None,
        "--untrusted-sto" in flags,
    )


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except (OSError, OverflowError):
        return False
    return True


def _place(text: str) -> tuple[str, str | None]:
    """Storage and base of what fsck(8) calls a device: a directory, or the source text of a mount."""
    if not os.path.exists(text) and text.startswith("base="):
        from ..fusefront.mount.options import parse_source

        source = parse_source(text)
        if source is not None:
            return source[1], source[0]
    return text, None


def examine(request: Request) -> Outcome:
    """Do what is asked for.

    Raises:
        StateError: it could not be done.
    """
    outcome = Outcome()
    progress = Progress(request.progress, request.storage, quiet=request.json)
    asks = not request.mode and not request.json and sys.stdin.isatty() and sys.stdout.isatty()
    write = request.mode in ("p", "y") or asks
    with contextlib.ExitStack() as stack:
        if request.rescue is None:
            import minifo.engine.fsck.rebuild  # noqa: F401 (now: our own files may be for root only)

            stack.enter_context(acting_as_owner(request.storage))
        examination = stack.enter_context(
            FsckSession(request.storage, request.base, write=write, untrusted=request.untrusted)
        )
        outcome.holder = examination.holder
        outcome.found = outcome.left = examination.check(full=request.full, verify=request.verify, progress=progress)
        if request.rescue is not None:
            progress.clear()
            _rescue(request, examination, outcome, progress)
        elif write and any(not finding.is_note for finding in outcome.found):
            if examination.writable:
                progress.clear()
                _repair(request, examination, outcome, progress)
            else:
                outcome.said.append(f"nothing was repaired: {examination.obstacle}")
        progress.clear()
    return outcome


def _repair(request: Request, examination: FsckSession, outcome: Outcome, progress: Progress) -> None:
    def choose(finding: Problem) -> bool:
        if request.mode == "y":
            return True
        if request.mode == "p":
            return finding.is_safe
        progress.clear()
        _print_finding(finding, request.verbose, sys.stdout)
        return _asked(f"  {_common.printable(finding.kind.repair)}? [y/N] ")

    broken = [finding for finding in outcome.found if finding.code in SALVAGE]
    if not broken:
        outcome.repaired, outcome.left = examination.repair(outcome.found, choose, progress=progress)
        return
    if all(choose(finding) for finding in broken[:1]):
        from ..engine.fsck.rebuild import salvage

        result = salvage(examination)
        outcome.repaired, outcome.left = broken + result.repaired, result.left
        if request.verify:
            outcome.left = examination.check(full=request.full, verify=True, progress=progress)
        outcome.salvage = {
            "rows": result.read,
            "rows_from_copy": result.copied,
            "bad_pages": result.bad,
            "lost": [os.fsdecode(path) for path in result.lost],
            "backup": result.backup,
        }


def _rescue(request: Request, examination: FsckSession, outcome: Outcome, progress: Progress) -> None:
    from ..engine.fsck.rebuild import readable

    assert request.rescue is not None
    result = readable(examination, outcome.found).run(request.rescue, progress)
    outcome.rescue = {
        "directory": request.rescue,
        "written": result.written,
        "damaged": [{"path": os.fsdecode(path), "reason": reason} for path, reason in result.damaged],
    }


def _asked(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


# -- saying it


def report(program: str, request: Request, outcome: Outcome) -> None:
    """Say what was found and done."""
    if request.json:
        print(json.dumps(_document(request, outcome), indent=1))
        return
    left = {(finding.code, *finding.key) for finding in outcome.left}
    counts: Counter[str] = Counter()
    for finding in [*outcome.repaired, *(f for f in outcome.left if f not in outcome.repaired)]:
        if finding.is_note and not request.verbose:
            continue
        counts[finding.code] += 1
        if request.verbose or counts[finding.code] <= _SHOWN:
            mended = finding in outcome.repaired and (finding.code, *finding.key) not in left
            _print_finding(finding, request.verbose, sys.stdout, "repaired" if mended else "")
    for code, count in counts.items():
        if not request.verbose and count > _SHOWN:
            print(f"{code}: {count - _SHOWN} more, see -v")
    if outcome.salvage is not None:
        _print_salvage(outcome.salvage)
    if outcome.rescue is not None:
        print(
            _common.printable(f"{_count(outcome.rescue['written'], 'file')} written to {outcome.rescue['directory']}")
        )
        for item in outcome.rescue["damaged"]:
            print(_common.printable(f"  not whole: {item['path']}: {item['reason']}"))
    if outcome.holder is not None:
        outcome.said.append(f"it is mounted (process {outcome.holder or 'unknown'}) and was only read")
    _print_sum(program, request, outcome)


def _print_salvage(told: dict[str, Any]) -> None:
    print(f"{_count(told['rows'], 'row')} read, {told['rows_from_copy']} more from the copy of names")
    for path in told["lost"]:
        print(_common.printable(f"  lost: {path}"))
    if told["backup"]:
        print(f"the old database is kept as {told['backup']}")


def _print_sum(program: str, request: Request, outcome: Outcome) -> None:
    wrong = sum(not finding.is_note for finding in outcome.left)
    words = "clean" if not wrong else f"{_count(wrong, 'finding')} left"
    if outcome.repaired:
        words = f"{_count(len(outcome.repaired), 'repair')} made, " + words
    elif wrong and request.mode != "y" and any(finding.kind.repair for finding in outcome.left):
        words += ", repair with: minifo-fsck -y"
    print(_common.printable("; ".join([f"{program}: {request.storage}: {words}", *outcome.said])))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


def _print_finding(finding: Problem, verbose: bool, out: TextIO, state: str = "") -> None:
    kind = finding.kind
    text = f"{finding.code} {kind.severity}: {os.fsdecode(finding.path)}: {kind.meaning}"
    text += (f" ({finding.detail})" if finding.detail else "") + (f" [{state}]" if state else "")
    print(_common.printable(text), file=out)
    if verbose and kind.repair and not state:
        print(f"  repair{' (safe)' if finding.is_safe else ''}: {kind.repair}", file=out)


def _document(request: Request, outcome: Outcome) -> dict[str, Any]:
    left = {(finding.code, *finding.key) for finding in outcome.left}

    def told(finding: Problem, *, repaired: bool) -> dict[str, Any]:
        kind = finding.kind
        return {
            "code": finding.code,
            "severity": kind.severity,
            "path": os.fsdecode(finding.path),
            "detail": finding.detail,
            "meaning": kind.meaning,
            "repair": kind.repair or None,
            "safe": finding.is_safe,
            "repaired": repaired,
        }

    mended = [finding for finding in outcome.repaired if (finding.code, *finding.key) not in left]
    return {
        "format": 1,
        "storage": request.storage,
        "mounted_by": outcome.holder,
        "clean": not any(not finding.is_note for finding in outcome.left),
        "findings": [told(f, repaired=True) for f in mended] + [told(f, repaired=False) for f in outcome.left],
        "salvage": outcome.salvage,
        "rescue": outcome.rescue,
        "said": outcome.said,
        "exit": outcome.code,
    }

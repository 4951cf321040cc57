"""``minifo-fsck``, ``fsck.minifo`` and ``fsck.fuse.minifo``: check an overlay's storage, and repair it.

The arguments and exit codes are those of fsck(8), so that fsck(8) and systemd can run the program.  ``minifo fsck``
(tools/fsck.py) runs it, too.  The program mounts nothing and does not import the code that mounts.

The option ``--rescue`` and the JSON keys ``findings``, ``salvage`` and ``rescue`` are public names that stay; the code
says problem, rebuild and extract (engine/fsck/__init__.py).
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
from ..engine.fsck.data_checks import DataReport
from ..engine.fsck.problems import NEEDS_REBUILD, Problem
from ..engine.fsck.session import FsckSession, acting_as_owner
from . import _common
from ._progress import Progress
from ._size import size

# exit codes of fsck(8): the sum of those that apply
CLEAN, CORRECTED, LEFT, FAILED, USAGE, CANCELLED = 0, 1, 4, 8, 16, 32

SYNOPSIS = "[-n | -y | -p | -a] [-f] [-v] [-V] [-C[fd]] [--base DIR] [--verify-data] [--json] [--rescue DIR] \
[--untrusted-sto] STO"
_LETTERS = "nypafvVhC:lMPRrsTt:"
_LONG = ["json", "base=", "verify-data", "rescue=", "untrusted-sto", "help", "version"]
_IGNORED = {"-l", "-M", "-P", "-R", "-r", "-s", "-T", "-t"}  # options of fsck(8) itself, and those of e2fsck at boot
_SHOWN = 20  # problems of one kind that are printed without -v

HELP = f"""\
usage: minifo-fsck {SYNOPSIS}

Check the storage STO of an overlay, and repair it.

  -n             only check: ask nothing and change nothing
  -p, -a         make safe repairs only: they change nothing that the overlay shows, but lost objects appear in
                 lost+found
  -y             make all repairs
                 (without -n, -p, -a, -y: ask before each repair on a terminal, else change nothing)
  -f             check every page of the database thoroughly
  -v             show notes and all problems, and explain each repair
  -V             show the version
  -C[FD]         show progress on the terminal, or write it to the file descriptor FD
  --base DIR     also compare the storage with its base DIR
  --verify-data  read every byte of every content object, and compare it with the digest, if its object has one
                 (with -y: record those that are missing)
  --json         print one JSON document
  --rescue DIR   extract the content of the overlay to the empty directory DIR, as plain files; STO is not changed
  --untrusted-sto  accept a storage that other users may change: it is only read, and --rescue leaves out devices,
                 set-id bits and capabilities

The exit code is the sum of: 0 no problem, 1 problems were repaired, 4 problems are left, 8 the check failed,
16 wrong arguments, 32 interrupted. A repair first copies the database to minifo.db.bak-... in STO. It discards nothing:
an object that has lost its name gets one in the directory lost+found of the overlay. Only -y deletes a checkpoint, one
that is damaged and cannot be repaired. A mounted storage is only read.
If root runs this on a user's storage, the check and the repairs run with the rights of that user.
"""


@dataclass
class Request:
    """What the user asks for: the parsed command line."""

    storage: str
    mode: str = ""  # n, p or y, as the options; empty: ask before each repair
    full: bool = False
    verbose: bool = False
    json: bool = False
    verify: bool = False
    base: str | None = None
    extract_to: str | None = None
    progress: int | None = None
    untrusted: bool = False


@dataclass
class Outcome:
    """The result of a run, for the report."""

    holder: int | None = None  # process id of the daemon that uses the storage, as in FsckSession
    found: list[Problem] = field(default_factory=list)
    repaired: list[Problem] = field(default_factory=list)
    left: list[Problem] = field(default_factory=list)
    rebuilt: dict[str, Any] | None = None  # the JSON value of salvage
    extracted: dict[str, Any] | None = None  # the JSON value of rescue
    data: DataReport | None = None  # the JSON value of data
    remarks: list[str] = field(default_factory=list)  # the JSON value of said; printed after the result

    @property
    def code(self) -> int:
        """The exit code as fsck(8) defines it."""
        code = CORRECTED if self.repaired else CLEAN
        is_incomplete = self.extracted is not None and bool(self.extracted["damaged"])
        return code | (LEFT if is_incomplete or any(not problem.is_note for problem in self.left) else 0)


def main(arguments: list[str] | None = None) -> int:
    """Check a storage as fsck(8) asks and return the exit code.

    Args:
        arguments: the words after the program's name; None for those of the process.
    """
    program = os.path.basename(sys.argv[0]) if arguments is None else "minifo-fsck"
    return _common.run_tool(lambda: run(program, sys.argv[1:] if arguments is None else arguments), FAILED)


def run(program: str, arguments: list[str]) -> int:
    """Check a storage as the arguments say, print the report, and return the exit code.

    Args:
        program: the program's name, for messages.
        arguments: the words after the program's name.
    """
    try:
        request = parse(arguments)
        if isinstance(request, str):
            print(request)
            return CLEAN
        outcome = check_storage(request)
        report(program, request, outcome)
    except BrokenPipeError:
        raise
    except UsageError as exc:
        _common.fail(program, exc, USAGE)
        return USAGE
    except (MinifoError, OSError) as exc:
        return _common.fail(program, exc, FAILED)
    except MemoryError:
        error = StateError("there is not enough memory to check this storage", "check it on a larger machine")
        return _common.fail(program, error, FAILED)
    except KeyboardInterrupt:
        print(f"{program}: interrupted; run it again to finish", file=sys.stderr)
        return CANCELLED
    return outcome.code


def parse(arguments: list[str]) -> Request | str:
    """Parse the command line; return the request, or the text to print if help or the version is asked for.

    Raises:
        UsageError: the arguments are wrong.
    """
    # the number of -C is optional and follows it without a blank, which getopt cannot parse: make -C the same as -C0
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
    storage, base = _parse_operand(named[0])
    mode = modes[0] if modes else ""
    if "--rescue" in flags:
        if mode in ("y", "p"):
            raise UsageError("--rescue changes nothing and does not go with a repair", "give it without -y, -p, -a")
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


def _parse_operand(text: str) -> tuple[str, str | None]:
    """Return the storage and, if known, the base that the operand *text* means.

    fsck(8) passes the first field of a line in fstab: the storage directory, or the source text of a mount
    (``base=...,sto=...``).
    """
    if not os.path.exists(text) and text.startswith("base="):
        from ..fusefront.mount.source import is_cut, parse_source

        source = parse_source(text)
        if source is not None:
            return source.storage, None if is_cut(source.base) else source.base
    return text, None


def check_storage(request: Request) -> Outcome:
    """Check the storage, and repair or extract it if the request says so.

    Raises:
        StateError: the storage cannot be checked, repaired or extracted.
    """
    outcome = Outcome()
    progress = Progress(request.progress, request.storage, quiet=request.json)
    is_interactive = not request.mode and not request.json and sys.stdin.isatty() and sys.stdout.isatty()
    write = request.mode in ("p", "y") or is_interactive
    with contextlib.ExitStack() as stack:
        if request.extract_to is None:
            # loaded now, while this process is root: minifo's files may be readable by root only
            import minifo.engine.fsck.rebuild  # noqa: F401

            stack.enter_context(acting_as_owner(request.storage))
        session = stack.enter_context(
            FsckSession(request.storage, request.base, write=write, untrusted=request.untrusted)
        )
        outcome.holder = session.holder
        outcome.found = outcome.left = session.check(full=request.full, verify=request.verify, progress=progress)
        if request.extract_to is not None:
            progress.clear()
            _extract(request, session, outcome, progress)
        elif write and any(not problem.is_note for problem in outcome.found):
            if session.writable:
                progress.clear()
                _repair(request, session, outcome, progress)
            else:
                outcome.remarks.append(f"nothing was repaired: {session.obstacle}")
        if session.data is not None:
            outcome.data = session.data.report
            if request.mode == "y" and session.writable:
                session.data.record(session.storage, outcome.left)
        progress.clear()
    return outcome


def _repair(request: Request, session: FsckSession, outcome: Outcome, progress: Progress) -> None:
    def choose(problem: Problem) -> bool:
        if request.mode == "y":
            return True
        if request.mode == "p":
            return problem.is_safe
        progress.clear()
        _print_problem(problem, request.verbose, sys.stdout)
        return _ask(f"  {_common.printable(problem.kind.repair)}? [y/N] ")

    broken = [problem for problem in outcome.found if problem.code in NEEDS_REBUILD]
    if not broken:
        outcome.repaired, outcome.left = session.repair(outcome.found, choose, progress=progress)
        return
    if all(choose(problem) for problem in broken[:1]):
        from ..engine.fsck.rebuild import rebuild

        result = rebuild(session)
        outcome.repaired, outcome.left = broken + result.repaired, result.left
        if request.verify:
            outcome.left = session.check(full=request.full, verify=True, progress=progress)
        outcome.rebuilt = {
            "rows": result.read,
            "rows_from_copy": result.copied,
            "bad_pages": result.bad,
            "lost": [os.fsdecode(path) for path in result.lost],
            "backup": result.backup,
            "checkpoints_kept": result.checkpoints.kept,
            "checkpoints_lost": result.checkpoints.lost,
            "checkpoints_sure": result.checkpoints.is_sure,
        }


def _extract(request: Request, session: FsckSession, outcome: Outcome, progress: Progress) -> None:
    from ..engine.fsck.rebuild import open_extraction

    assert request.extract_to is not None
    result = open_extraction(session, outcome.found).run(request.extract_to, progress)
    outcome.extracted = {
        "directory": request.extract_to,
        "written": result.written,
        "damaged": [{"path": os.fsdecode(path), "reason": reason} for path, reason in result.damaged],
    }


def _ask(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


# -- the report


def report(program: str, request: Request, outcome: Outcome) -> None:
    """Print which problems were found, repaired and left: as text, or as a JSON document if the request says so."""
    if request.json:
        print(json.dumps(_document(request, outcome), indent=1))
        return
    left = {(problem.code, *problem.key) for problem in outcome.left}
    counts: Counter[str] = Counter()
    for problem in [*outcome.repaired, *(f for f in outcome.left if f not in outcome.repaired)]:
        if problem.is_note and not request.verbose:
            continue
        counts[problem.code] += 1
        if request.verbose or counts[problem.code] <= _SHOWN:
            is_repaired = problem in outcome.repaired and (problem.code, *problem.key) not in left
            _print_problem(problem, request.verbose, sys.stdout, "repaired" if is_repaired else "")
    for code, count in counts.items():
        if not request.verbose and count > _SHOWN:
            print(f"{code}: {count - _SHOWN} more; -v shows all")
    if outcome.rebuilt is not None:
        _print_rebuild(outcome.rebuilt)
    if outcome.extracted is not None:
        written = _count(outcome.extracted["written"], "file")
        print(_common.printable(f"{written} written to {outcome.extracted['directory']}"))
        for item in outcome.extracted["damaged"]:
            print(_common.printable(f"  incomplete: {item['path']}: {item['reason']}"))
    if outcome.data is not None:
        _print_data(outcome.data)
    if outcome.holder is not None:
        outcome.remarks.append(f"it is mounted (process {outcome.holder or 'unknown'}) and was only read")
    _print_result(program, request, outcome)


def _print_rebuild(rebuilt: dict[str, Any]) -> None:
    rows = _count(rebuilt["rows"], "row")
    print(f"{rows} read from the old database, {rebuilt['rows_from_copy']} more from the metadata backup")
    for path in rebuilt["lost"]:
        print(_common.printable(f"  lost: {path}"))
    kept, lost = rebuilt["checkpoints_kept"], rebuilt["checkpoints_lost"]
    if kept or lost or not rebuilt["checkpoints_sure"]:
        unknown = "" if rebuilt["checkpoints_sure"] else "; there may have been others"
        print(f"{_count(len(kept), 'checkpoint')} kept, {len(lost)} lost{unknown}")
    for name in lost:
        print(_common.printable(f"  lost: checkpoint {name}; its content is in lost+found of the overlay"))
    if rebuilt["backup"]:
        print(f"the old database is kept as {rebuilt['backup']}")


def _print_data(data: DataReport) -> None:
    said = [f"{_count(data.objects, 'content object')} read ({size(data.size)})", f"{data.verified} as recorded"]
    said += [f"{_count(data.recorded, 'digest')} recorded"] if data.recorded else []
    said += [f"{data.missing} without a digest (-y records them)"] if data.missing else []
    print(", ".join(said))
    if data.damaged:
        print(
            "lost bytes cannot be repaired: write these files again, or let them be as in the base (minifo revert) or"
            " at a checkpoint that is not named (minifo revert --to)"
        )


def _print_result(program: str, request: Request, outcome: Outcome) -> None:
    left = sum(not problem.is_note for problem in outcome.left)
    result = "clean" if not left else f"{_count(left, 'problem')} left"
    if outcome.repaired:
        result = f"{_count(len(outcome.repaired), 'repair')} made, " + result
    elif left and request.mode != "y" and any(problem.kind.repair for problem in outcome.left):
        result += ", repair with: minifo-fsck -y"
    print(_common.printable("; ".join([f"{program}: {request.storage}: {result}", *outcome.remarks])))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


def _print_problem(problem: Problem, verbose: bool, out: TextIO, result: str = "") -> None:
    kind = problem.kind
    text = f"{problem.code} {kind.severity}: {os.fsdecode(problem.path)}: {kind.meaning}"
    text += (f" ({problem.detail})" if problem.detail else "") + (f" [{result}]" if result else "")
    print(_common.printable(text), file=out)
    if verbose and kind.repair and not result:
        print(f"  repair{' (safe)' if problem.is_safe else ''}: {kind.repair}", file=out)


def _document(request: Request, outcome: Outcome) -> dict[str, Any]:
    left = {(problem.code, *problem.key) for problem in outcome.left}

    def as_json(problem: Problem, *, repaired: bool) -> dict[str, Any]:
        kind = problem.kind
        return {
            "code": problem.code,
            "severity": kind.severity,
            "path": os.fsdecode(problem.path),
            "detail": problem.detail,
            "meaning": kind.meaning,
            "repair": kind.repair or None,
            "safe": problem.is_safe,
            "repaired": repaired,
        }

    repaired = [problem for problem in outcome.repaired if (problem.code, *problem.key) not in left]
    return {
        "format": 1,
        "storage": request.storage,
        "mounted_by": outcome.holder,
        "clean": not any(not problem.is_note for problem in outcome.left),
        "findings": [
            *(as_json(problem, repaired=True) for problem in repaired),
            *(as_json(problem, repaired=False) for problem in outcome.left),
        ],
        "salvage": outcome.rebuilt,
        "rescue": outcome.extracted,
        "data": _data(outcome.data) if outcome.data is not None else None,
        "said": outcome.remarks,
        "exit": outcome.code,
    }


def _data(data: DataReport) -> dict[str, Any]:
    return {
        "objects": data.objects,
        "bytes": data.size,
        "verified": data.verified,
        "without_digest": data.missing,
        "recorded": data.recorded,
        "damaged": [
            {
                "object": shown.number,
                "path": None if shown.path is None else os.fsdecode(shown.path),
                "checkpoints": [{"name": name, "path": os.fsdecode(path)} for name, path in shown.checkpoints],
            }
            for shown in data.damaged
        ],
    }

"""``minifo run``: run a command in a throw-away overlay, and say what it changed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import TextIO

import click

from ..engine.errors import MinifoError, UsageError
from . import _common
from ._around import CONTEXT, EXIT_CODES, FAILED, Around
from ._changes import Changed, changes_of, json_of, lines_of
from ._common import printable
from ._complete import targets
from ._decision import Outcome, decide
from ._output import json_name


@click.command(
    "run",
    cls=Around,
    context_settings=CONTEXT,
    epilog="""\b
Examples:
  minifo run -- make install                     # what would it install?
  minifo run --keep /var/lib/try -- apt-get install -y tree
  minifo run --discard -- rm -rf /usr/share/doc
  minifo run --base ~/project -- ./cleanup.sh    # only this directory is protected
  minifo run --from /var/lib/etc-changes@night --discard -- cat /etc/hosts
  minifo run                                     # your shell
  minifo run --json --discard -- ./configure | tail -n 1

\b
"""
    + EXIT_CODES,
)
@click.option("--base", "bases", metavar="DIR", multiple=True, help="Overlay this directory (default /); repeatable.")
@click.option(
    "--from",
    "source",
    metavar="TARGET[@NAME]",
    shell_complete=targets,
    help="Start with a clone of this overlay, or of its checkpoint NAME, over its base.",
)
@click.option("--keep", metavar="STO", help="Keep the changes in the storage STO; go on with those that it has.")
@click.option("--discard", is_flag=True, help="Drop the changes.")
@click.option("--ask", "asks", is_flag=True, help="Ask what to do with the changes (default on a terminal).")
@click.option("--share", "shared", metavar="PATH", multiple=True, help="What is changed there is changed; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one line of JSON, at the end of stdout.")
@click.option("--output", metavar="FILE", help="Write the summary to FILE instead.")
@click.argument("words", metavar="[CMD]...", nargs=-1, type=click.UNPROCESSED)
def command(
    bases: tuple[str, ...],
    source: str | None,
    keep: str | None,
    discard: bool,
    asks: bool,
    shared: tuple[str, ...],
    as_json: bool,
    output: str | None,
    words: tuple[str, ...],
) -> int:
    """Run CMD in a sandbox, and say what it changed.

    CMD sees the machine as it is. What it writes, deletes or renames goes to a throw-away storage, and nothing of it
    happens outside. Network and devices are those of the machine: this is no protection against an attacker.
    """
    from ..fusefront.sandbox.session import CannotRun, Interrupted

    _common.log_to_stderr("minifo")
    words = words or (os.environ.get("SHELL") or "/bin/sh",)
    try:
        if sum((keep is not None, discard, asks)) > 1:
            raise UsageError("--keep, --discard and --ask exclude each other", "give one of them")
        has_terminal = sys.stdin.isatty() and sys.stderr.isatty()
        if asks and not has_terminal:
            raise UsageError("--ask needs a terminal", "give --keep STO or --discard")
        asks = has_terminal and keep is None and not discard
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(output, "w", encoding="utf-8")) if output is not None else None
            report = _Report(as_json, file)
            return _run(words, _true_paths(bases or ("/",)), source, _true_paths(shared), keep, report, asks=asks)
    except CannotRun as error:
        print(f"minifo run: {printable(words[0])}: {error}", file=sys.stderr)
        return error.code
    except Interrupted as error:
        return 128 + error.number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (MinifoError, OSError) as error:
        _common.fail("minifo run", error, FAILED)
        return FAILED


def _true_paths(paths: tuple[str, ...]) -> list[str]:
    """Return existing paths with symbolic links resolved.

    Raises:
        UsageError: one does not exist.
    """
    found = []
    for path in paths:
        try:
            found.append(os.path.realpath(path, strict=True))
        except OSError as error:
            raise UsageError(f"{path} cannot be used ({error.strerror})", "name what exists") from error
    return found


def _run(
    words: Sequence[str],
    bases: list[str],
    source: str | None,
    shared: list[str],
    keep: str | None,
    report: _Report,
    *,
    asks: bool,
) -> int:
    """Run a command in a sandbox, report what it changed, and return the exit code."""
    from ..fusefront.sandbox.layout import parts
    from ..fusefront.sandbox.place import Place
    from ..fusefront.sandbox.session import Session
    from ..fusefront.sandbox.storages import storages
    from ._run_from import START, begin, place_beside, start_of

    start = start_of(source) if source is not None else None
    directory = os.environ.get("TMPDIR") or "/var/tmp"
    place = Place(directory if start is None else place_beside(start, directory))
    session = None
    try:
        mounts = parts(bases if start is None else [*bases, start.base], shared)
        stored = storages(mounts, place, keep, None if start is None else start.base)
        if start is not None:
            begin(start, stored[start.base])
        session = Session(place, mounts, stored, private=keep is None)
        code = session.run(words)
        found = changes_of(stored, {} if start is None else {start.base: START})
        outcome = Outcome("kept", stored) if keep is not None else Outcome("discarded", {})
        if asks and found:
            report.show(found)
            outcome = decide(found, stored, place, may_merge=start is None)
        report.write(found, code, outcome, shown=asks and bool(found))
    finally:
        if session is not None:
            session.close()
        else:
            place.remove()
    return code if code >= 0 else 128 - code


class _Report:
    """Writes the summary.

    Args:
        as_json: as JSON, to stdout.
        file: where to write it instead; None for stdout or stderr.
    """

    def __init__(self, as_json: bool, file: TextIO | None) -> None:
        self._as_json = as_json
        self._file = file

    def show(self, found: list[Changed]) -> None:
        """Show a summary to the user who is asked."""
        _write(sys.stderr, [f"minifo: {line}" for line in lines_of(found)[:1]] + lines_of(found)[1:])

    def write(self, found: list[Changed], code: int, outcome: Outcome, *, shown: bool) -> None:
        """Write the summary.

        Args:
            found: what the command changed.
            code: the command's exit code, or the negative number of the signal that killed it.
            outcome: what became of the changes.
            shown: the user has seen it.
        """
        if not self._as_json:
            head, *lines = lines_of(found)
            text = [] if shown and self._file is None else [f"minifo: {head}", *lines]
            _write(
                self._file or sys.stderr, [*text, *([f"minifo: {line}" for line in outcome.lines()] if found else [])]
            )
            return
        kept = [
            {**json_name("base", os.fsencode(base)), **json_name("storage", os.fsencode(storage))}
            for base, storage in outcome.storages.items()
        ]
        ended = {"exit_code": code if code >= 0 else 128 - code, "signal": -code if code < 0 else None}
        known = {"command": ended, **json_of(found), "outcome": outcome.word, "storages": kept}
        _write(self._file or sys.stdout, [json.dumps(known)])


def _write(stream: TextIO, lines: list[str]) -> None:
    """Write lines; a reader that has gone away does not change the exit code, which is the command's."""
    try:
        stream.write("".join(f"{line}\n" for line in lines))
        stream.flush()
    except BrokenPipeError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # Python writes the rest of its buffer at exit
        os.close(null)

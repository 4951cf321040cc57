"""What every command shares: one line per error, exit codes, text that is safe to print.

The rule: a user never sees a traceback, and a file name never breaks a message, whatever bytes it is made of.
This module does not import click, so that the mount(8) helpers start fast.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from ..engine.errors import UsageError

# Exit codes of mount(8), used by every command.
USAGE = 1
SYSTEM = 2
MOUNT_FAILED = 32
INTERRUPTED = 130


def run_tool(work: Callable[[], int], failed: int) -> int:
    """Do the work of a program: the one way all of ours begin and end, whatever the caller did to their streams.

    Args:
        work: returns the exit code.
        failed: the exit code where all went well, but what was said about it could not be written.

    Returns:
        The exit code.
    """
    _take_standard_streams()
    problem: OSError | None = None
    try:
        code = work()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        pass  # the reader of our output went away (a pager, head)
    except OSError as error:
        problem = error  # of the flush: no work of ours ends with one
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # what Python still holds must not raise again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if problem is not None:
        print(f"{os.path.basename(sys.argv[0])}: the output cannot be written: {problem.strerror}", file=sys.stderr)
    return failed


def _take_standard_streams() -> None:
    """Open /dev/null in place of what the caller has closed of stdin, stdout and stderr.

    Else Python has no stream to write to, and a daemon's lock or content objects would get these numbers: to be closed
    when it detaches, or written to by a message.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # the lowest that is free, and so this one; at boot there may be no /dev/null yet, nor need of one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def printable(text: str) -> str:
    """*text* as one line of valid UTF-8: control characters and bytes that are not UTF-8 as ``\\xNN``."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def fail(program: str, error: Exception, code: int) -> int:
    """Say on stderr what went wrong, as one line.

    Args:
        program: the name the line begins with.
        error: what happened; its text ends with the next step to take.
        code: the exit code for anything but a wrong request.

    Returns:
        The exit code: *code*, or ``USAGE`` if the request itself was wrong.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    print(f"{program}: {printable(text)}", file=sys.stderr)
    return USAGE if isinstance(error, UsageError) else code


def log_to_stderr(program: str, *, verbose: bool = False) -> None:
    """Send warnings (with *verbose*, everything) to stderr, one line each, beginning with *program*."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine(f"{program}: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[handler], force=True)


class _OneLine(logging.Formatter):
    """Formats a record as one printable line, but for a traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

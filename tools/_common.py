"""What every command shares: one line per error, exit codes, text that is safe to print.

The rule: a user never sees a traceback, and no file name breaks a message, whatever its bytes are.
This module does not import click, so that the mount(8) helpers start fast.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from ..engine.errors import UsageError
from ..fusefront.process.printable import printable as printable  # for the commands, too

# Exit codes of mount(8), used by every command.
USAGE = 1
SYSTEM = 2
MOUNT_FAILED = 32
INTERRUPTED = 130
BROKEN_PIPE = 141  # as of a program that SIGPIPE ends: 128 + 13, which shells and scripts know


def run_tool(work: Callable[[], int], failed: int, *, broken_pipe: int | None = None) -> int:
    """Run a program of minifo and return its exit code, even where its standard streams are closed or broken.

    Every program starts here: it gets usable standard streams first, and its output is flushed at the end.

    Args:
        work: does the program's work and returns the exit code.
        failed: the exit code if the work succeeded but its output could not be written.
        broken_pipe: the exit code if the reader of the output has ended; None for *failed*.
    """
    _take_standard_streams()
    problem: OSError | None = None
    try:
        code = work()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of the output has ended (a pager, head)
        failed = failed if broken_pipe is None else broken_pipe
    except OSError as error:
        problem = error  # raised by the flush: *work* handles its own errors
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # Python flushes the rest of its buffer at exit; that must not raise again
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if problem is not None:
        print(f"{os.path.basename(sys.argv[0])}: the output cannot be written: {problem.strerror}", file=sys.stderr)
    return failed


def _take_standard_streams() -> None:
    """Open /dev/null in place of each of stdin, stdout and stderr that the parent process has closed.

    Without that, the next file that the program opens (the daemon's lock, a content object) would get descriptor 0, 1
    or 2: the daemon would close it when it detaches, or write a message into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # open(2) returns the lowest free number: this one.  Only here, for early at boot /dev/null may not exist.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def fail(program: str, error: Exception, code: int) -> int:
    """Print an error as one line on stderr and return the exit code for it.

    Args:
        program: the name that the line begins with.
        error: the error; its text ends with the next step that the user can take.
        code: the exit code for every error except a wrong request.

    Returns:
        The exit code: *code*, or ``USAGE`` if the request itself was wrong.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename is not None else error.strerror
    print(f"{program}: {printable(text)}", file=sys.stderr)
    return USAGE if isinstance(error, UsageError) else code


def log_to_stderr(program: str, *, verbose: bool = False) -> None:
    """Send log records to stderr, one line each after the name *program*: warnings, or everything if *verbose*."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine(f"{program}: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[handler], force=True)


class _OneLine(logging.Formatter):
    """Formats a log record as one printable line; only a traceback adds more lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

"""The report of a daemon that a fatal signal or SIGKILL has ended.

The daemon's stderr is /dev/null, and a signal handler may do little more than write to a descriptor.  So python's fault
handler writes the stack trace of the failing thread to a file in memory (memfd_create(2)), which the helper process has
inherited.  When the daemon has ended, the helper process sends the content of that file to the system log
(helper_process.py).

A daemon in the foreground writes the trace to stderr, and the shell reports the signal.
"""

from __future__ import annotations

import faulthandler
import os
import textwrap
from typing import Final

_CRITICAL: Final = 2  # syslog(3)
_ERROR: Final = 3
_NOTHING_TO_REPORT: Final = b"\0"
_TRACE_MAX: Final = 16 << 10  # bytes of a trace that are reported
_LINE_MAX: Final = 700  # characters of one log line

_file: int | None = None


def enable(*, foreground: bool) -> None:
    """From now on write a stack trace when a fatal signal arrives.

    Args:
        foreground: write it to stderr, for a user sees that; otherwise to the file in memory.
    """
    global _file
    if foreground:
        faulthandler.enable()
        return
    _file = os.memfd_create("minifo-last-words")
    faulthandler.enable(_file, all_threads=False)


def descriptor() -> int | None:
    """Return the descriptor of the file in memory, which the helper process must keep open; None if there is none."""
    return _file


def mark_expected_end() -> None:
    """Record that the daemon ends regularly, or has logged why it ends: the helper process then reports nothing."""
    if _file is not None:
        os.pwrite(_file, _NOTHING_TO_REPORT, 0)


def take_report(mountpoint: str) -> list[tuple[int, str]]:
    """Return the log lines about a daemon that has ended unexpectedly, and mark them as reported.

    The helper process calls this after the daemon has ended.  A second call, by any thread, returns nothing.

    Returns:
        Pairs of a syslog(3) severity and a line; empty if the daemon has ended as expected.
    """
    if _file is None:
        return []
    text = os.pread(_file, _TRACE_MAX, 0)
    os.pwrite(_file, _NOTHING_TO_REPORT, 0)
    if text.startswith(_NOTHING_TO_REPORT):
        return []
    next_step = f"minifo umount {mountpoint} clears the mount, and the next mount shows all acknowledged changes"
    if not text:
        return [(_ERROR, f"the daemon of {mountpoint} was killed; {next_step}")]
    trace = " | ".join(line.strip() for line in text.decode("utf-8", "backslashreplace").splitlines() if line)
    # lines are long, for a system log drops lines of a sender that sends many at once and does not wait
    lines = textwrap.wrap(trace, _LINE_MAX, break_long_words=False, break_on_hyphens=False)
    return [(_CRITICAL, line) for line in (f"the daemon of {mountpoint} has crashed; {next_step}", *lines)]

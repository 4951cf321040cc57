"""What a daemon leaves behind that ends without a word: by a fatal signal, or killed.

Its stderr leads nowhere, and in a signal's handler nothing but a write to a descriptor is safe.  So python's fault
handler writes the trace of the thread that failed to a file in memory, which the helper process has too.  When the
daemon has ended the helper tells the system log what is in there (helper_process.py).

In the foreground the trace goes to stderr, and the shell says what ended the process.
"""

from __future__ import annotations

import faulthandler
import os
import textwrap
from typing import Final

_CRITICAL: Final = 2  # syslog(3)
_ERROR: Final = 3
_IN_PEACE: Final = b"\0"
_MOST: Final = 16 << 10  # bytes of a trace that are told
_LINE: Final = 700  # characters

_file: int | None = None


def prepare(*, foreground: bool) -> None:
    """Be ready for a fatal signal from now on.

    Args:
        foreground: there is a stderr that somebody sees.
    """
    global _file
    if foreground:
        faulthandler.enable()
        return
    _file = os.memfd_create("minifo-last-words")
    faulthandler.enable(_file, all_threads=False)


def descriptor() -> int | None:
    """The file's descriptor, which the helper process must keep open; None if there is none."""
    return _file


def end_in_peace() -> None:
    """The daemon ends as it should, or has said why: nothing is to be told."""
    if _file is not None:
        os.pwrite(_file, _IN_PEACE, 0)


def told_once(mountpoint: str) -> list[tuple[int, str]]:
    """In the helper process, when the daemon has ended: what is to be told of it, and only the first time.

    Returns:
        Severities of syslog(3), and lines.
    """
    if _file is None:
        return []
    text = os.pread(_file, _MOST, 0)
    os.pwrite(_file, _IN_PEACE, 0)
    if text.startswith(_IN_PEACE):
        return []
    next_step = f"minifo umount {mountpoint} clears the mount, and the next one shows all that was acknowledged"
    if not text:
        return [(_ERROR, f"the daemon of {mountpoint} was killed; {next_step}")]
    trace = " | ".join(line.strip() for line in text.decode("utf-8", "backslashreplace").splitlines() if line)
    # a system log takes few lines at a time from who does not wait, so they are long
    lines = textwrap.wrap(trace, _LINE, break_long_words=False, break_on_hyphens=False)
    return [(_CRITICAL, line) for line in (f"the daemon of {mountpoint} has failed; {next_step}", *lines)]

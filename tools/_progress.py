"""A progress bar for long work: on a terminal after a second, or lines to a descriptor as fsck(8) reads them."""

from __future__ import annotations

import os
import sys
import time

_PATIENCE = 1.0  # seconds of work before a bar appears
_PACE = 0.1  # seconds between two pictures
_WIDTH = 30


class Progress:
    """Shows how far work has come.

    Args:
        channel: the descriptor given with ``-C``; 0 is the terminal, at once; None is the terminal, for long work.
        what: the name of what is worked on.
        quiet: no bar on the terminal.
    """

    def __init__(self, channel: int | None, what: str, *, quiet: bool) -> None:
        self._channel = channel
        self._what = what
        self._bar = not quiet and sys.stderr.isatty() and not channel
        self._started = self._shown = time.monotonic()
        if channel == 0:
            self._started -= _PATIENCE
        self._drawn = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that *done* of *total* is done of this stage."""
        now = time.monotonic()
        if now - self._shown < _PACE and done < total:
            return
        self._shown = now
        if self._channel:
            try:
                os.write(self._channel, f"1 {done} {total} {self._what}\n".encode("utf-8", "surrogateescape"))
            except OSError:
                self._channel = None  # nobody reads it any more: no reason to stop the work
        elif self._bar and now - self._started >= _PATIENCE:
            filled = _WIDTH * done // max(total, 1)
            print(f"\r{stage:22} |{'=' * filled:{_WIDTH}}| {100 * done // max(total, 1):3} %", end="", file=sys.stderr)
            sys.stderr.flush()
            self._drawn = True

    def clear(self) -> None:
        """Take the bar away."""
        if self._drawn:
            print("\r" + " " * (_WIDTH + 32) + "\r", end="", file=sys.stderr)
            sys.stderr.flush()
            self._drawn = False

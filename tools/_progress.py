"""Progress of long work: a bar on a terminal after one second, or lines for fsck(8) on a file descriptor.

Of work that is one step, only the time is shown that it has taken so far.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

_DELAY = 1.0  # seconds of work before a bar appears
_INTERVAL = 0.1  # seconds between two updates
_WIDTH = 30  # characters of the bar


class Progress:
    """Shows which part of the work is done.

    Args:
        channel: the file descriptor given with ``-C``.  0: show the bar on the terminal at once; None: show it there
            after one second of work.
        what: the object that is worked on, as fsck(8) shows it.
        quiet: True to show no bar on the terminal.
    """

    def __init__(self, channel: int | None, what: str, *, quiet: bool) -> None:
        self._channel = channel
        self._what = what
        self._bar = not quiet and sys.stderr.isatty() and not channel
        self._started = self._shown = time.monotonic()
        if channel == 0:
            self._started -= _DELAY
        self._drawn = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that *done* of *total* units of the stage named *stage* are done."""
        now = time.monotonic()
        if now - self._shown < _INTERVAL and done < total:
            return
        self._shown = now
        if self._channel:
            try:
                os.write(self._channel, f"1 {done} {total} {self._what}\n".encode("utf-8", "surrogateescape"))
            except OSError:
                self._channel = None  # the reader has closed it; the work goes on
        elif self._bar and now - self._started >= _DELAY:
            filled = _WIDTH * done // max(total, 1)
            print(f"\r{stage:22} |{'=' * filled:{_WIDTH}}| {100 * done // max(total, 1):3} %", end="", file=sys.stderr)
            sys.stderr.flush()
            self._drawn = True

    def clear(self) -> None:
        """Erase the bar from the terminal."""
        if self._drawn:
            print("\r" + " " * (_WIDTH + 32) + "\r", end="", file=sys.stderr)
            sys.stderr.flush()
            self._drawn = False


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on a terminal how long the block has taken so far, after one second.

    Args:
        what: what is done, in a few words.
    """
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    ticker = threading.Thread(target=_tick, args=(what, ended), daemon=True)
    ticker.start()
    try:
        yield
    finally:
        ended.set()
        ticker.join()


def _tick(what: str, ended: threading.Event) -> None:
    drawn = ""
    seconds = 0
    while not ended.wait(_DELAY):
        seconds += 1
        drawn = f"{what}, {seconds} s so far"
        print(f"\r{drawn}", end="", file=sys.stderr, flush=True)
    if drawn:
        print(f"\r{' ' * len(drawn)}\r", end="", file=sys.stderr, flush=True)

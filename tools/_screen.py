"""A terminal that is drawn as a whole: its size, keys and signals, and its state before, which always comes back.

The escape sequences are those of ECMA-48, which every terminal of the last decades knows, and xterm's alternate screen.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
import unicodedata
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

from . import _colour

_ENTER = "\x1b[?1049h\x1b[?25l"  # alternate screen, no cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

Line = tuple[str, str]  # a style of _colour.STYLES, and the text


class Screen:
    """The terminal at standard output, taken over until ``close``.

    Ctrl-C raises KeyboardInterrupt, SIGTERM and SIGHUP end the program; Ctrl-Z gives the terminal back meanwhile.
    """

    def __init__(self) -> None:
        self._out = sys.stdout.fileno()
        self._coloured = not _colour.are_refused()
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before: list[Any] | None = None
        self._lines: list[Line] = []
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Screen:
        for number, handler in (
            (signal.SIGWINCH, self._note),
            (signal.SIGTSTP, self._suspend),
            (signal.SIGTERM, self._end),
            (signal.SIGHUP, self._end),
        ):
            self._handlers[number] = signal.signal(number, handler)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, termios.error):  # the terminal may be gone
            self._give_back()
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._woken)
        os.close(self._wake)

    def _take(self) -> None:
        if self._keys is not None:
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        self._write(_ENTER)

    def _give_back(self) -> None:
        self._write(_LEAVE)
        if self._keys is not None and self._before is not None:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Another size: ``wait`` sees it by the descriptor that the signal wakes."""

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()
        self._draw()

    def _end(self, number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(OSError, termios.error):  # the terminal may be gone
            self._give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    @property
    def size(self) -> os.terminal_size:
        """Columns and lines of the terminal."""
        with contextlib.suppress(OSError):
            found = os.get_terminal_size(self._out)
            if min(found) > 0:
                return found
        return shutil.get_terminal_size()  # a serial line does not say

    def show(self, lines: Iterable[Line]) -> None:
        """Draw lines from the top; what is too wide or too much for the terminal is cut off."""
        self._lines = list(lines)
        self._draw()

    def _draw(self) -> None:
        columns, rows = self.size
        shown = []
        for style, text in self._lines[:rows]:
            text = cut(text, columns)
            shown.append((_colour.painted(style, text) if self._coloured else text) + _REST_OF_LINE)
        self._write(_HOME + "\r\n".join(shown) + _REST_OF_SCREEN)

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding, "replace")
        while data:
            data = data[os.write(self._out, data) :]

    def wait(self, until: float) -> bool:
        """Wait until a time of time.monotonic(), or for the key ``q``; draw the lines anew at another size.

        Returns:
            Whether the user wants to quit.
        """
        watched = [self._woken] if self._keys is None else [self._woken, self._keys]
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select(watched, [], [], left)
            if self._woken in ready:
                if signal.SIGWINCH in os.read(self._woken, 512):
                    self._draw()
            elif self._keys in ready:
                keys = os.read(self._keys, 512)
                if not keys or b"q" in keys.lower():
                    return True
        return False


def cut(text: str, columns: int) -> str:
    """Return the beginning of *text* that takes at most so many columns of a terminal."""
    used = 0
    for at, char in enumerate(text):
        used += _columns(char)
        if used > columns:
            return text[:at]
    return text


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


@contextlib.contextmanager
def taken(*, wanted: bool) -> Iterator[Screen | None]:
    """Take the terminal over for the block if that is wanted; None if not."""
    if not wanted:
        yield None
        return
    with Screen() as screen:
        yield screen

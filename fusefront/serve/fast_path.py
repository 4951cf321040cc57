"""The short road from the kernel: requests that the session hook puts to Python by a plain call (fast_path.c).

A function here returns what is to be replied, or an errno; NotImplemented leaves the request to pyfuse3, whose handlers
may wait (operations.py).

Import this module after ``hook.load()``: it imports pyfuse3.
"""

from __future__ import annotations

import functools
import stat
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from ...engine import DirEntry, Overlay
from .handlers import Handlers, errno_for

Answer = Callable[..., Any]

_LOOKS = ("lookup", "forget", "getattr", "readlink", "getxattr")
_CHANGES = ("mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "setattr", "write")


class FastPath:
    """Answers what can be answered at once.

    Args:
        overlay: the open overlay.
        requests: serves it.
        synchronous: every change is durable before it is acknowledged (mount option ``sync``).
    """

    def __init__(self, overlay: Overlay, requests: Handlers, *, synchronous: bool) -> None:
        self._overlay = overlay
        self._durability = overlay.durability
        self._requests = requests
        self._synchronous = synchronous

    def serve(self, hook: ModuleType) -> None:
        """Let the extension ask here from now on."""
        functions = {name: self._looking(getattr(self._requests, name)) for name in _LOOKS}
        # a file without a name is not there after a power cut: to wait until it is durable would be for nothing
        functions["tmpfile"] = self._looking(self._requests.tmpfile)
        functions |= {"read": self._looking(self._requests.read_now), "readdir": self._readdir}
        if not self._synchronous:
            functions |= {name: self._changing(getattr(self._requests, name)) for name in _CHANGES}
            functions["rename"] = self._changing(self._rename)
        hook.serve(functions)

    @staticmethod
    def _looking(function: Answer) -> Answer:
        """Make every exception an errno."""

        @functools.wraps(function)
        def look(*args: Any) -> Any:
            try:
                return function(*args)
            except Exception as error:
                return errno_for(error, function.__name__)

        return look

    def _readdir(self, ino: int, after: int) -> Iterator[DirEntry | int]:
        """Entries, and an errno where they end before their time: what fails does so while they are read."""
        try:
            yield from self._requests.readdir(ino, after)
        except Exception as error:
            yield errno_for(error, "readdir")

    def _changing(self, function: Answer) -> Answer:
        """The same for changes: pyfuse3 gets those that are to be durable before they are acknowledged."""

        @functools.wraps(function)
        def change(*args: Any) -> Any:
            if self._is_volatile():
                return NotImplemented
            try:
                answer = function(*args)
                if self._is_volatile():
                    self._overlay.commit()  # the redo log has just failed: a moment that everybody waits
            except Exception as error:
                return errno_for(error, function.__name__)
            return answer

        return change

    def _is_volatile(self) -> bool:
        return self._durability.volatile

    def _rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> Any:
        source = self._requests.replacing(parent, name, new_parent, new_name, flags)
        if source is not None and stat.S_ISREG(source.mode):
            return NotImplemented  # to be written back first
        return self._requests.rename(parent, name, new_parent, new_name, flags)

"""The callbacks by which the session hook serves requests without a pyfuse3 task (fast_path.c).

A callback returns the reply, or an errno; NotImplemented passes the request on to pyfuse3, whose handlers may wait
(operations.py).

Import this module after ``extension.loader.load()``: it imports pyfuse3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from ...engine import DirEntry, Overlay
from . import trace
from .handlers import Handlers, errno_for

Callback = Callable[..., Any]

_READING = ("lookup", "forget", "getattr", "readlink", "getxattr")
_CHANGING = ("mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "setattr", "write")


class FastPath:
    """The callbacks for all requests that can be answered without waiting.

    Args:
        overlay: the open overlay.
        handlers: serve its requests.
        synchronous: changes are durable before they are acknowledged (mount option ``sync``), so they are left to
            pyfuse3.
    """

    def __init__(self, overlay: Overlay, handlers: Handlers, *, synchronous: bool) -> None:
        self._overlay = overlay
        self._durability = overlay.durability
        self._handlers = handlers
        self._synchronous = synchronous

    def install(self, hook: ModuleType) -> None:
        """Make the C extension call these callbacks from now on, instead of any that were installed before."""
        changing = self._changing
        if self._overlay.journal.limit:
            changing = functools.partial(self._noting, hook.caller)
        callbacks = {name: self._reading(getattr(self._handlers, name)) for name in _READING}
        # it changes the tree, but a file without a name does not survive a power cut, so there is nothing to wait for
        callbacks["tmpfile"] = self._reading(self._handlers.tmpfile)
        callbacks |= {"read": self._reading(self._handlers.read_now), "readdir": self._readdir}
        if not self._synchronous:
            callbacks |= {name: changing(getattr(self._handlers, name)) for name in _CHANGING}
            callbacks["rename"] = changing(self._rename)
        if trace.is_on():
            callbacks = {name: trace.traced(callback, name) for name, callback in callbacks.items()}
        hook.set_callbacks(callbacks)

    @staticmethod
    def _reading(handler: Callback) -> Callback:
        """Return a callback that calls *handler*, and returns an errno if that raises an exception."""

        @functools.wraps(handler)
        def callback(*args: Any) -> Any:
            try:
                return handler(*args)
            except Exception as error:
                return errno_for(error, handler.__name__)

        return callback

    def _readdir(self, ino: int, after: int) -> Iterator[DirEntry | int]:
        """Yield the entries of a directory after cookie *after*, and an errno at the end if reading fails."""
        try:
            yield from self._handlers.readdir(ino, after)
        except Exception as error:
            yield errno_for(error, "readdir")

    def _changing(self, handler: Callback) -> Callback:
        """Return a callback that changes the overlay by *handler*, and returns an errno if that raises an exception.

        The callback passes the request on to pyfuse3 while each change needs a commit of its own.
        """

        @functools.wraps(handler)
        def callback(*args: Any) -> Any:
            if self._is_volatile():
                return NotImplemented
            try:
                result = handler(*args)
                if self._is_volatile():
                    self._overlay.commit()  # the redo log failed in this call; all requests wait for this one commit
            except Exception as error:
                return errno_for(error, handler.__name__)
            return result

        return callback

    def _noting(self, caller: Callable[[], tuple[int, int]], handler: Callback) -> Callback:
        """Return the callback of ``_changing`` that also tells the journal whom to ask who has sent the request."""
        change = self._changing(handler)
        journal = self._overlay.journal

        @functools.wraps(handler)
        def callback(*args: Any) -> Any:
            journal.caller = caller
            return change(*args)

        return callback

    def _is_volatile(self) -> bool:
        """Return whether the redo log takes no more operations, so that each change needs a commit of its own."""
        return self._durability.volatile

    def _rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> Any:
        if self._handlers.to_write_back(parent, name, new_parent, new_name, flags) is not None:
            return NotImplemented  # pyfuse3's handler waits until the file is written back
        return self._handlers.rename(parent, name, new_parent, new_name, flags)

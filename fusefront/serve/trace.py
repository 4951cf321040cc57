"""Traces each request with the time it took, for ``-o debug``: one line a request, after its reply is known.

Requests that the C extension answers without Python are not seen here; ``minifo metrics`` counts them.
"""

from __future__ import annotations

import errno
import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

log = logging.getLogger(__name__)

_SHOWN = 80  # bytes of a name or of data that are shown


def is_on() -> bool:
    """Return whether requests are traced."""
    return log.isEnabledFor(logging.DEBUG)


def traced(callback: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """Return a callback of the C extension that logs what *callback* returns, and how long it took.

    Args:
        callback: returns the reply or an errno; NotImplemented passes the request on, and it is traced there.
        kind: of the request.
    """

    if kind == "readdir":
        return functools.partial(_traced_names, callback)

    @functools.wraps(callback)
    def wrapper(*args: Any) -> Any:
        began = time.monotonic_ns()
        result = callback(*args)
        if result is not NotImplemented:
            note(kind, args, began, result if isinstance(result, int) else 0)
        return result

    return wrapper


def _traced_names(callback: Callable[..., Iterator[Any]], *args: Any) -> Iterator[Any]:
    """Yield the entries of a listing, of which the kernel takes as many as fit into its buffer."""
    began = time.monotonic_ns()
    code = 0
    try:
        for entry in callback(*args):
            code = entry if isinstance(entry, int) else 0
            yield entry
    finally:
        note("readdir", args, began, code)


def note(kind: str, args: tuple[Any, ...], began: int, code: int) -> None:
    """Log a request.

    Args:
        kind: of the request.
        args: what it was called with.
        began: when, in ns of time.monotonic_ns().
        code: the errno of its reply, 0 for success.
    """
    took = (time.monotonic_ns() - began) / 1000
    shown = ", ".join(map(_shown, args))
    log.debug("%s(%s) = %s in %.1f µs", kind, shown, errno.errorcode.get(code, code), took)


def _shown(arg: Any) -> str:
    if isinstance(arg, bytes | bytearray | memoryview):
        data = bytes(arg[: _SHOWN + 1])
        return repr(data) if len(data) <= _SHOWN else f"{data[:_SHOWN]!r}... {len(arg)} bytes"
    if isinstance(arg, int | str | None):
        return repr(arg)
    return type(arg).__name__

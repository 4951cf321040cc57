"""Collects what C code writes to stderr, so that an error message of minifo can quote it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Collect what C code (libfuse, fusermount3) writes to stderr inside the block.

    Yields:
        A list, empty inside the block, that holds the lines after it.  If the block ends without an exception, the
        lines are also written to stderr; if it raises one, only the list has them, for the caller's error message.
    """
    lines: list[str] = []
    sys.stderr.flush()
    saved = os.dup(2)
    sink = os.memfd_create("stderr")
    failed = True
    try:
        os.dup2(sink, 2)
        yield lines
        failed = False
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        size = os.fstat(sink).st_size
        text = os.pread(sink, size, 0)
        os.close(sink)
        lines += text.decode("utf-8", "backslashreplace").splitlines()
        if text and not failed:
            os.write(2, text)

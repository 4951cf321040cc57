"""What C code writes to stderr, collected for an error message of ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Collect what C code (libfuse, fusermount3) writes to stderr inside the block.

    Yields:
        A list that holds the lines once the block has ended.  If it ends without an exception they are passed on to
        stderr; if it fails, they are the reason, for the caller to put into its message.
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

"""A writer that goes on until storage is full, and records each file once it is acknowledged.

Run as a program of its own, with the kind of files, a directory and the record's file.  Ends with 0 at ENOSPC.
"""

from __future__ import annotations

import errno
import os
import sys

_SIZES = {"big": 3_000_000, "small": 6_000, "empty": 0}
_REFUSALS = 5  # in a row, for a smaller file may still fit


def fill(kind: str, directory: str, record: int) -> None:
    """Write file after file."""
    refused = number = 0
    while refused < _REFUSALS:
        number += 1
        size, letter = _SIZES[kind] >> refused, "abcdefgh"[number % 8]
        path = os.path.join(directory, str(number))
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            try:
                if size and os.write(fd, letter.encode() * size) != size:
                    raise OSError(errno.ENOSPC, "short write")
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            refused += 1
        else:
            refused = 0
            os.write(record, f"{number} {size} {letter}\n".encode())


if __name__ == "__main__":
    fill(sys.argv[1], sys.argv[2], os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))

"""What the workloads write: bytes that can be told apart."""

from __future__ import annotations

from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


def fill(seed: int, size: int) -> bytes:
    """Bytes that are the same for a seed, differ in every block between seeds, and have no block of zeros."""
    return b"".join(b"%06d.%06d|" % (seed, block) for block in range(size // 14 + 1))[:size]

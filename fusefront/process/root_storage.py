"""The mark of a process that the system's own files come from, so that a shutdown does not kill it.

The mark is an ``@`` as the first character of the command line that /proc shows (systemd.io/ROOT_STORAGE_DAEMONS): the
signals that systemd sends to every process, when it leaves the initramfs and at shutdown, spare a process of root with
it.  Processes that it forks have the mark, too.
"""

from __future__ import annotations

import ctypes
import logging

log = logging.getLogger(__name__)

MARK = b"@"


def mark_process() -> None:
    """Mark this process; log it if this C library does not tell where the command line is."""
    try:
        # glibc and musl: argv[0] itself, in the memory that the kernel shows, so that this needs no /proc
        name = ctypes.POINTER(ctypes.c_char).in_dll(ctypes.CDLL(None), "program_invocation_name")
    except ValueError as error:
        log.warning("a shutdown may kill the daemon, for it cannot be marked: %s", error)
        return
    if name[0] != b"\0":
        name[0] = MARK

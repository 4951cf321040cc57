"""What /proc tells of the processes behind requests."""

from __future__ import annotations

import logging
import os

log = logging.getLogger(__name__)


def is_writing(pid: int, ino: int) -> bool:
    """True if a process has a file of that inode number open for writing, as far as can be seen.

    Read from fdinfo (proc(5): ``flags`` and ``ino``), never by looking at the file itself: it may be on our own mount,
    whose requests nobody would answer meanwhile.

    Args:
        pid: 0 for a process of another PID namespace; that is taken for the writer.
        ino: inode number; a file of the same number elsewhere counts too.
    """
    if pid == 0:
        return True
    directory = f"/proc/{pid}/fdinfo"
    try:
        for name in os.listdir(directory):
            with open(f"{directory}/{name}", encoding="ascii", errors="replace") as file:
                fields = dict(line.split(":", 1) for line in file if ":" in line)
            flags, number = int(fields.get("flags", "0"), 8), int(fields.get("ino", "0"))
            if number == ino and flags & os.O_ACCMODE != os.O_RDONLY:
                return True
    except (OSError, ValueError) as error:
        # the process ended, or closed a file, while we looked
        log.debug("%s: %s", directory, error)
    return False

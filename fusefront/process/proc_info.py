"""What /proc tells about processes that send requests."""

from __future__ import annotations

import logging
import os

log = logging.getLogger(__name__)


def is_writing(pid: int, ino: int) -> bool:
    """Return whether a process has a file with inode number *ino* open for writing.

    The answer comes from fdinfo (proc(5): ``flags`` and ``ino``).  The file itself is not opened or examined: it may be
    on the daemon's own mount, and the daemon does not serve requests while it waits for this function.

    Args:
        pid: the process; 0 stands for a process of another PID namespace, which counts as writing.
        ino: inode number; a file of another file system with the same number counts too.

    Returns:
        True if it has; False if not, or if /proc does not tell.
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
        # the process ended, or closed a file, during the loop
        log.debug("%s cannot be read: %s", directory, error)
    return False

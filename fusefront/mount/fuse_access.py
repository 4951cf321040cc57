"""Whether this user can reach FUSE: its device and, for users other than root, the program that mounts for them."""

from __future__ import annotations

import errno
import os
import shutil
import stat

from ...engine.errors import StateError

DEVICE = "/dev/fuse"
FUSERMOUNT = "fusermount3"
_NUMBER = os.makedev(10, 229)  # linux/miscdevice.h: MISC_MAJOR, FUSE_MINOR


def check_device() -> None:
    """Check that the device of FUSE is there, and that this user may open it.

    Raises:
        StateError: it is not, or it is something else.
    """
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as exc:
        hint = f"as root: chmod 666 {DEVICE}"
        if exc.errno == errno.EPERM or os.geteuid() == 0:  # not for its mode: device cgroups, a mount with nodev
            hint = f"let the container have it (--device {DEVICE}), or mount {os.path.dirname(DEVICE)} without nodev"
        raise StateError(f"{DEVICE} cannot be opened by this user", hint) from exc
    except OSError as exc:
        raise StateError(f"{DEVICE} is not available ({exc.strerror})", "load FUSE: modprobe fuse") from exc
    try:
        st = os.fstat(fd)
    finally:
        os.close(fd)
    if not stat.S_ISCHR(st.st_mode) or st.st_rdev != _NUMBER:
        raise StateError(f"{DEVICE} is not the device of FUSE", f"as root: rm {DEVICE}; mknod -m 666 {DEVICE} c 10 229")


def fusermount() -> str | None:
    """Return the path of the set-uid program by which users other than root mount; None if it is not installed."""
    return shutil.which(FUSERMOUNT)


def check_fusermount() -> None:
    """Check that a user other than root finds the program that mounts for users.

    Raises:
        StateError: it is not installed.
    """
    if os.geteuid() != 0 and fusermount() is None:
        raise StateError(f"{FUSERMOUNT} is not installed", "install the package fuse3")

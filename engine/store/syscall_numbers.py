"""Numbers of system calls and ioctls, which are not the same on every architecture.

What the C library offers by name needs none of these.  The rules are those of the kernel's headers, asm/unistd.h and
asm/ioctl.h of each architecture; tests/engine/test_abi.py compares them with the headers' own values.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import Final

#: What this python was built for, as compilers name it: ``x86_64-linux-gnu``, ``mips64el-linux-gnuabin32``.  A python
#: that does not say has the kernel's word for the machine.
HERE: Final = str(getattr(sys.implementation, "_multiarch", "")) or os.uname().machine

#: System calls since Linux 5.1 have one number everywhere, but for what some architectures count from.
NUMBERS: Final = {
    "open_tree": 428,
    "fsconfig": 431,
    "fspick": 433,
    "openat2": 437,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}

_SIZE_OF_LONG: Final = struct.calcsize("l")


def syscall_number(name: str, abi: str = HERE, word: int = _SIZE_OF_LONG) -> int:
    """The number of a system call.

    Args:
        name: one of NUMBERS.
        abi: the architecture.
        word: bytes of a ``long`` there, which tells two ABIs of MIPS apart.
    """
    return NUMBERS[name] + _first(abi, word)


def _first(abi: str, word: int) -> int:
    if abi.startswith("alpha"):
        return 110
    if abi.startswith("mips"):
        if "n32" in abi:
            return 6000
        return 5000 if word == 8 else 4000
    if abi.startswith("ia64"):
        return 1024
    return 0x4000_0000 if abi.endswith("x32") else 0


def ior(kind: int, number: int, size: int, abi: str = HERE) -> int:
    """An ioctl that reads *size* bytes from the kernel: ``_IOR`` of asm/ioctl.h."""
    return _ioc(_directions(abi)[0], kind, number, size)


def iow(kind: int, number: int, size: int, abi: str = HERE) -> int:
    """An ioctl that hands *size* bytes to the kernel: ``_IOW`` of asm/ioctl.h."""
    return _ioc(_directions(abi)[1], kind, number, size)


def _directions(abi: str) -> tuple[int, int]:
    """The highest bits of an ioctl that reads, and of one that writes."""
    if abi.startswith(("alpha", "mips", "powerpc", "ppc", "sparc")):
        return 2 << 29, 4 << 29
    if abi.startswith(("hppa", "parisc")):
        return 1 << 30, 2 << 30
    return 2 << 30, 1 << 30


def _ioc(direction: int, kind: int, number: int, size: int) -> int:
    return direction | size << 16 | kind << 8 | number

"""Numbers of system calls and ioctls, which are not the same on every architecture.

They are needed only for calls that the C library does not offer by name.  The rules are those of the kernel's headers,
asm/unistd.h and asm/ioctl.h of each architecture; tests/engine/store/test_syscall_numbers.py compares the results with
the headers.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import Final

#: The ABI this Python was built for, as compilers name it: ``x86_64-linux-gnu``, ``mips64el-linux-gnuabin32``.  Where
#: Python does not say, the kernel's name of the machine (uname(2)).
HERE: Final = str(getattr(sys.implementation, "_multiarch", "")) or os.uname().machine

#: System calls since Linux 5.1 have one number on all architectures; some add a fixed offset (``_first``).
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
    """Return the number of a system call.

    Args:
        name: a key of NUMBERS.
        abi: the ABI, in the form of HERE.
        word: size of a ``long`` in that ABI, in bytes; it tells the o32 and n64 ABIs of MIPS apart.
    """
    return NUMBERS[name] + _first(abi, word)


def _first(abi: str, word: int) -> int:
    """Return the number that an ABI counts its system calls from."""
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
    """Return the number of an ioctl in which the kernel writes *size* bytes for the caller: ``_IOR`` of asm/ioctl.h."""
    return _ioc(_directions(abi)[0], kind, number, size)


def iow(kind: int, number: int, size: int, abi: str = HERE) -> int:
    """Return the number of an ioctl in which the kernel reads *size* bytes of the caller: ``_IOW`` of asm/ioctl.h."""
    return _ioc(_directions(abi)[1], kind, number, size)


def _directions(abi: str) -> tuple[int, int]:
    """Return the direction bits, the highest ones, of ``_IOR`` and of ``_IOW``."""
    if abi.startswith(("alpha", "mips", "powerpc", "ppc", "sparc")):
        return 2 << 29, 4 << 29
    if abi.startswith(("hppa", "parisc")):
        return 1 << 30, 2 << 30
    return 2 << 30, 1 << 30


def _ioc(direction: int, kind: int, number: int, size: int) -> int:
    return direction | size << 16 | kind << 8 | number

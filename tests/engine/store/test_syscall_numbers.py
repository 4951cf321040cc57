"""The numbers of system calls and ioctls equal those in the kernel's headers, for all architectures."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from minifo.engine.store import syscall_numbers, syscalls
from minifo.engine.store.storage import FICLONE, FICLONERANGE

# From the headers of Linux 6.1 as Debian packages them for each (linux-libc-dev-*-cross), asked of the preprocessor:
# open_tree, fsconfig, fspick, openat2, mount_setattr; FICLONE, FICLONERANGE, FS_IOC_GETFLAGS.  Landlock's three calls
# came two numbers later everywhere.
# fmt: off
HEADERS = {
    "aarch64-linux-gnu": (428, 431, 433, 437, 442, 444, 445, 446, 0x40049409, 0x4020940D, 0x80086601),
    "alpha-linux-gnu": (538, 541, 543, 547, 552, 554, 555, 556, 0x80049409, 0x8020940D, 0x40086601),
    "arm-linux-gnueabihf": (428, 431, 433, 437, 442, 444, 445, 446, 0x40049409, 0x4020940D, 0x80046601),
    "hppa-linux-gnu": (428, 431, 433, 437, 442, 444, 445, 446, 0x80049409, 0x8020940D, 0x40046601),
    "i386-linux-gnu": (428, 431, 433, 437, 442, 444, 445, 446, 0x40049409, 0x4020940D, 0x80046601),
    "m68k-linux-gnu": (428, 431, 433, 437, 442, 444, 445, 446, 0x40049409, 0x4020940D, 0x80046601),
    "mips-linux-gnu": (4428, 4431, 4433, 4437, 4442, 4444, 4445, 4446, 0x80049409, 0x8020940D, 0x40046601),
    "mips64-linux-gnuabi64": (5428, 5431, 5433, 5437, 5442, 5444, 5445, 5446, 0x80049409, 0x8020940D, 0x40086601),
    "mips64el-linux-gnuabi64": (5428, 5431, 5433, 5437, 5442, 5444, 5445, 5446, 0x80049409, 0x8020940D, 0x40086601),
    "mips64el-linux-gnuabin32": (6428, 6431, 6433, 6437, 6442, 6444, 6445, 6446, 0x80049409, 0x8020940D, 0x40046601),
    "mipsel-linux-gnu": (4428, 4431, 4433, 4437, 4442, 4444, 4445, 4446, 0x80049409, 0x8020940D, 0x40046601),
    "powerpc-linux-gnu": (428, 431, 433, 437, 442, 444, 445, 446, 0x80049409, 0x8020940D, 0x40046601),
    "powerpc64-linux-gnu": (428, 431, 433, 437, 442, 444, 445, 446, 0x80049409, 0x8020940D, 0x40086601),
    "powerpc64le-linux-gnu": (428, 431, 433, 437, 442, 444, 445, 446, 0x80049409, 0x8020940D, 0x40086601),
    "riscv64-linux-gnu": (428, 431, 433, 437, 442, 444, 445, 446, 0x40049409, 0x4020940D, 0x80086601),
    "s390x-linux-gnu": (428, 431, 433, 437, 442, 444, 445, 446, 0x40049409, 0x4020940D, 0x80086601),
    "sparc64-linux-gnu": (428, 431, 433, 437, 442, 444, 445, 446, 0x80049409, 0x8020940D, 0x40086601),
    "x86_64-linux-gnu": (428, 431, 433, 437, 442, 444, 445, 446, 0x40049409, 0x4020940D, 0x80086601),
}
# fmt: on
_BITS_64 = re.compile("aarch64|alpha|abi64|powerpc64|riscv64|s390x|sparc64|x86_64")


@pytest.mark.parametrize("machine", HEADERS)
def test_other_machines(machine: str) -> None:
    """Each architecture has its own numbers for system calls, and its own bits for the direction of an ioctl."""
    word = 8 if _BITS_64.search(machine) else 4
    found = [syscall_numbers.syscall_number(name, machine, word) for name in syscall_numbers.NUMBERS]
    found += [
        syscall_numbers.iow(0x94, 9, 4, machine),
        syscall_numbers.iow(0x94, 13, 32, machine),
        syscall_numbers.ior(ord("f"), 1, word, machine),
    ]
    assert tuple(found) == HEADERS[machine]


def test_this_machine(tmp_path: Path) -> None:
    """The numbers for this machine equal those that a C program finds in its headers."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "a C compiler is needed, as for the extension"
    names = [f"SYS_{name}" for name in syscall_numbers.NUMBERS]
    names += ["FICLONE", "FICLONERANGE", "FS_IOC_GETFLAGS", "sizeof(((struct statfs *)0)->f_type)"]
    lines = "".join(f'printf("%lu\\n", (unsigned long)({name}));' for name in names)
    headers = "stdio.h", "sys/syscall.h", "sys/ioctl.h", "sys/vfs.h", "linux/fs.h"
    source = "".join(f"#include <{header}>\n" for header in headers) + f"int main(void) {{ {lines} return 0; }}\n"
    (tmp_path / "probe.c").write_text(source)
    subprocess.run([compiler, "-o", tmp_path / "probe", tmp_path / "probe.c"], check=True)
    said = subprocess.run([tmp_path / "probe"], capture_output=True, text=True, check=True).stdout
    ours = [syscall_numbers.syscall_number(name) for name in syscall_numbers.NUMBERS]
    ours += [FICLONE, FICLONERANGE, syscalls.FS_IOC_GETFLAGS, struct.calcsize(syscalls.F_TYPE)]
    assert [int(number) for number in said.split()] == ours

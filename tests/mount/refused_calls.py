"""System calls that fail, as on an old kernel or under a container engine's filter: a real one, of seccomp(2)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable

from minifo.engine.store.syscall_numbers import NUMBERS, syscall_number

_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000  # linux/seccomp.h

#: What older container engines do not know: all that came with and after Linux 5.1.
NEWER = tuple(NUMBERS)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def refuse(code: int, names: tuple[str, ...]) -> Callable[[], None]:
    """What makes calls fail, for this process and all it starts; to be called in a child, as root.

    Args:
        code: the errno they fail with.
        names: the calls, as store/syscall_numbers.py names them.
    """
    lines = [struct.pack("HBBI", _LOAD, 0, 0, 0)]
    for left, name in zip(range(len(names), 0, -1), names, strict=True):
        lines.append(struct.pack("HBBI", _IF_EQUAL, left, 0, syscall_number(name)))
    lines.append(struct.pack("HBBI", _RETURN, 0, 0, _ALLOW))
    lines.append(struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | code))
    code_bytes = ctypes.create_string_buffer(b"".join(lines))
    program = _Program(len(lines), ctypes.addressof(code_bytes))
    libc = ctypes.CDLL(None, use_errno=True)

    def install() -> None:
        if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), code_bytes.raw[:0])

    return install

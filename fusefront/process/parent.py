"""Binds the life of a process to that of its parent (PR_SET_PDEATHSIG, prctl(2))."""

from __future__ import annotations

import ctypes
import os
import signal

from ...engine.store.syscalls import checked

_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that forked it ends; kill it now if that has ended.

    Args:
        parent: process id of the parent, read before the fork; 0 in the first process of a PID namespace, which cannot
            see its parent.

    Raises:
        OSError: the kernel refuses it.
    """
    checked(_libc.prctl(_PR_SET_PDEATHSIG, *[ctypes.c_ulong(word) for word in (signal.SIGKILL, 0, 0, 0)]), "prctl")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)

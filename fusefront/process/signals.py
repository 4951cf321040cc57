"""How a process that serves a mount behaves among others: what ends it, and what must not.

A mount whose daemon has ended is dead: everybody who uses it gets ENOTCONN until somebody takes it away by hand.  So
only what asks for an end ends it, SIGTERM, SIGINT and SIGQUIT, which commit and unmount (session.py); in the foreground
also SIGHUP, the end of its terminal.  Whatever else would end or stop it is ignored: a log rotation's SIGHUP or
SIGUSR1, a timer it has inherited.  SIGPIPE and SIGXFSZ python ignores by itself.
"""

from __future__ import annotations

import logging
import os
import signal

log = logging.getLogger(__name__)

#: Signals that end a mount.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

# by name: not every architecture has all of them
_STRAY = tuple(
    getattr(signal, name)
    for name in ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGSTKFLT")
    if hasattr(signal, name)
)
_TERMINAL = (signal.SIGHUP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

_LAST_TO_GO = -900  # as others that everything hangs from; -1000 would spare even one that has gone mad


def stand_firm(*, foreground: bool) -> None:
    """Ignore stray signals, and be among the last whom the kernel ends when memory is short.

    Args:
        foreground: there is a terminal whose keys and whose end mean something.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whoever started us may have blocked what is to end us
    _ignore(_STRAY if foreground else _STRAY + _TERMINAL)
    _spare_from_oom()


def ignore_all() -> None:
    """Ignore everything that can be ignored and would end or stop a process: for one that ends with another."""
    _ignore(ENDING + _STRAY + _TERMINAL)


def ending() -> tuple[signal.Signals, ...]:
    """The signals that end this process's mount; SIGHUP is among them unless it is ignored (nohup(1))."""
    return (*ENDING, signal.SIGHUP) if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL else ENDING


def _ignore(numbers: tuple[signal.Signals, ...]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _spare_from_oom(path: str = "/proc/self/oom_score_adj") -> None:
    """Lower the score by which the kernel chooses whom to end (proc(5)); children inherit it.

    A value that is not 0 was chosen by somebody (OOMScoreAdjust= of a service) and stays.
    """
    if os.geteuid() != 0:
        return
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if int(os.pread(fd, 16, 0)) == 0:
                os.pwrite(fd, b"%d" % _LAST_TO_GO, 0)
        finally:
            os.close(fd)
    except OSError as error:
        log.debug("%s: %s", path, error)  # root of a container may not

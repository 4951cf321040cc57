"""Which signals end a process that serves a mount, and which ones it ignores.

A mount whose daemon has ended is dead: every use of it fails with ENOTCONN until a user unmounts it by hand.  So only
signals that ask a process to end do so: SIGTERM, SIGINT and SIGQUIT, after which session.py commits and unmounts; in
the foreground also SIGHUP, which reports the end of the terminal.  Other signals that would end or stop the process are
ignored: SIGHUP or SIGUSR1 from a log rotation, SIGALRM from an inherited timer.  python ignores SIGPIPE and SIGXFSZ by
itself.
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

_OOM_SCORE_ADJ = -900  # as for other vital daemons; -1000 would protect even a daemon that leaks memory


def protect_daemon(*, foreground: bool) -> None:
    """Ignore stray signals, and ask the kernel to end other processes first when memory is short.

    Args:
        foreground: leave the signals of the terminal (SIGHUP, SIGTSTP, SIGTTIN, SIGTTOU) as they are.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the parent may have blocked the signals that end a mount
    _ignore(_STRAY if foreground else _STRAY + _TERMINAL)
    _spare_from_oom()


def ignore_all() -> None:
    """Ignore every signal that would end or stop this process, for a process that ends together with another one."""
    _ignore(ENDING + _STRAY + _TERMINAL)


def ending_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that end the mount of this process; SIGHUP is one unless it is ignored (nohup(1))."""
    return (*ENDING, signal.SIGHUP) if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL else ENDING


def _ignore(numbers: tuple[signal.Signals, ...]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _spare_from_oom(path: str = "/proc/self/oom_score_adj") -> None:
    """Lower the score by which the kernel chooses the process to end when memory is short (proc(5)).

    Children inherit the score.  A value other than 0 was configured (OOMScoreAdjust= of a service) and stays.
    """
    if os.geteuid() != 0:
        return
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if int(os.pread(fd, 16, 0)) == 0:
                os.pwrite(fd, b"%d" % _OOM_SCORE_ADJ, 0)
        finally:
            os.close(fd)
    except OSError as error:
        log.debug("%s cannot be changed: %s", path, error)  # root of a container may not

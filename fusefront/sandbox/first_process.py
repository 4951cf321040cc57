"""The first process in the PID namespace of a sandbox: starts the command, and ends everything when that has ended.

It is killed if the keeper ends (keeper.py), and the kernel kills every other process of the namespace when it ends
(pid_namespaces(7)).  It tells the caller's process what becomes of the command, and sends the command the signals that
arrive there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from ...engine.errors import StateError
from ..process.parent import end_with_parent
from . import messages, namespaces, tree
from .layout import Part

CANNOT_RUN, NOT_FOUND = 126, 127  # exit codes of the shell
_GRACE = 2.0  # seconds that processes have which the command left running


class Command(NamedTuple):
    """What to run.

    Attributes:
        words: the program and its arguments.
        directory: the working directory.
        terminal: a descriptor of the terminal in whose foreground it is to run, or None.
        ignored: numbers of the signals that the caller ignores.
    """

    words: Sequence[str]
    directory: str
    terminal: int | None
    ignored: frozenset[int]


def run(
    command: Command, parts: Sequence[Part], overlays: Mapping[str, str], channel: socket.socket, keeper: int
) -> NoReturn:
    """Be the first process of the PID namespace.

    Args:
        command: what to run.
        parts, overlays: as for ``tree.build``.
        channel: to the caller's process.
        keeper: the reading end of a pipe that is open as long as the keeper runs.
    """
    try:
        end_with_parent(0)
        if select.select([keeper], [], [], 0)[0]:
            os._exit(1)
        namespaces.unshare(namespaces.CLONE_NEWNS)
        tree.build(parts, overlays)
        try:
            os.chdir(command.directory)
        except OSError as error:
            message = f"the current directory {command.directory} is not in the sandbox ({error.strerror})"
            raise StateError(message, "change to another") from error
        _serve(command, channel)
    except StateError as error:
        messages.send(channel, error=error.message, hint=error.hint)
    except OSError as error:
        messages.send(channel, error=str(error), hint="")
    finally:
        os._exit(0)


def _serve(command: Command, channel: socket.socket) -> None:
    """Run the command to its end, then end what it left running."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(writer)
    pid = os.fork()
    if pid == 0:
        _become(command, channel)
    sources: list[socket.socket | int] = [channel, reader]
    continued = 0
    while True:
        ready = select.select(sources, [], [])[0]
        if reader in ready:
            os.read(reader, 4096)
            if _reap(pid, channel, continued):
                break
        if channel in ready:
            received = messages.receive(channel)
            if received is None:
                return  # the caller's process was killed
            number = received[0]["signal"]
            continued += number == signal.SIGCONT
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)
    _end_others()


def _reap(command: int, channel: socket.socket, continued: int) -> bool:
    """Wait for every child that has ended; return whether the command has.

    Args:
        command: its process id.
        channel: to the caller's process, which is told of the end of the command, and of its stops.
        continued: how often the command was sent SIGCONT, so that the caller's process knows an old stop.
    """
    ended = False
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                break
            if pid == command and os.WIFSTOPPED(status):
                messages.send(channel, stopped=os.WSTOPSIG(status), continued=continued)
            elif pid == command:
                messages.send(channel, ended=os.waitstatus_to_exitcode(status))
                ended = True
    return ended


def _end_others() -> None:
    """Ask every process of the namespace to end, and give them a moment for it."""
    deadline = time.monotonic() + _GRACE
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGTERM)
        os.kill(-1, signal.SIGCONT)
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)


def _become(command: Command, channel: socket.socket) -> NoReturn:
    """Run the command in place of this process."""
    try:
        signal.set_wakeup_fd(-1)
        os.setpgid(0, 0)
        if command.terminal is not None:
            # until its process group is in the foreground, setting it is itself what a background process may not do
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
            with contextlib.suppress(OSError):  # the terminal was closed
                os.tcsetpgrp(command.terminal, os.getpid())
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN if number in command.ignored else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        messages.send(channel, started=True)
        os.execvp(command.words[0], list(command.words))
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        messages.send(channel, cannot=error.strerror, code=NOT_FOUND if missing else CANNOT_RUN)
    except ValueError as error:  # an empty name
        messages.send(channel, cannot=str(error), code=NOT_FOUND)
    finally:
        os._exit(NOT_FOUND)

"""The caller's side of a sandbox: starts the keeper, and stands for the command in the caller's terminal.

The command runs in a process group of its own, which gets the terminal as a shell gives it to a job.  What the shell
does to this process, happens to the command: a signal is passed on; after a stop of the command this process stops,
too, so that the shell takes the terminal; when it goes on (``fg``), it gives the terminal back.  A shell may put this
process in the foreground without SIGCONT, if it runs already: then the command gets the terminal when it wants it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from ...engine.errors import StateError, UsageError
from . import messages
from .first_process import Command
from .keeper import Keeper
from .layout import Part
from .place import Place

_ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
_PASSED_ON = _ENDING | {signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGTSTP, signal.SIGCONT}
_BETWEEN_STOPS = 0.1  # seconds; where nobody can stop this process, the command is continued at once


class Interrupted(Exception):
    """A signal has ended the sandbox before the command was started.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by signal {number}")
        self.number = number


class CannotRun(Exception):
    """The command cannot be run.

    Attributes:
        code: the exit code that a shell has for it, 126 or 127.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Session:
    """One command in a sandbox.

    Args:
        place: the directory of the sandbox.
        parts: its mounts, outer ones first.
        storages: the storage directory of each overlay, by its path.
        private: whether nothing of the overlays needs to outlive their daemons.
    """

    def __init__(self, place: Place, parts: Sequence[Part], storages: Mapping[str, str], *, private: bool) -> None:
        self._place = place
        self._keeper = Keeper(place, parts, storages, private=private)
        self._terminal = _controlling_terminal()
        self._has_terminal = False  # the command has
        self._command = 0
        self._continued = 0  # times that the first process was told to send SIGCONT
        self._code: int | None = None
        self._old: dict[int, int | Callable[[int, FrameType | None], object] | None] = {}
        self._pid = 0

    def run(self, words: Sequence[str]) -> int:
        """Run a command to its end.

        Args:
            words: the program and its arguments.

        Returns:
            Its exit code, or the negative number of the signal that killed it.

        Raises:
            StateError: there can be no sandbox, or it failed.
            CannotRun, Interrupted: as they say.
        """
        try:
            directory = os.getcwd()
        except OSError as error:
            raise UsageError(f"there is no current directory ({error.strerror})", "change to one") from error
        in_front = self._terminal is not None and os.tcgetpgrp(self._terminal) == os.getpgrp()
        ignored = frozenset(
            number
            for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}  # Python ignores these
            if signal.getsignal(number) is signal.SIG_IGN
        )
        command = Command(words, directory, self._terminal if in_front else None, ignored)
        control, their_control = messages.pair()
        channel, their_channel = messages.pair()
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in _PASSED_ON - ignored:
            self._old[number] = signal.signal(number, lambda number, frame: None)
        wakeup = signal.set_wakeup_fd(writer)
        self._pid = os.fork()
        if self._pid == 0:
            control.close()
            channel.close()
            self._keeper.run(command, their_control, their_channel)
        their_control.close()
        their_channel.close()
        self._control = control
        self._has_terminal = in_front
        try:
            self._serve(control, channel, reader)
        finally:
            self._take_terminal()
            signal.set_wakeup_fd(wakeup)
            for passed, handler in self._old.items():
                signal.signal(passed, handler)
            for fd in (reader, writer):
                os.close(fd)
            channel.close()
        return -signal.SIGKILL if self._code is None else self._code

    def close(self, *, remove: bool = True) -> None:
        """End the keeper.

        Args:
            remove: remove the directory of the sandbox.
        """
        if not self._pid:
            self._place.remove()
            return
        messages.send(self._control, remove=remove)
        self._control.close()
        os.waitpid(self._pid, 0)
        if remove:
            self._place.remove()  # the keeper has, unless it was killed

    def _serve(self, control: socket.socket, channel: socket.socket, signals: int) -> None:
        """Handle messages and signals until the sandbox is unmounted."""
        sources: list[socket.socket | int] = [control, channel, signals]
        while True:
            ready = select.select(sources, [], [])[0]
            if signals in ready:
                for number in os.read(signals, 512):
                    self._signal(number, channel)
            if channel in ready:
                received = messages.receive(channel)
                if received is None:
                    sources.remove(channel)
                else:
                    self._hear(*received, channel)
            elif control in ready:
                received = messages.receive(control)
                if received is None:
                    raise StateError("the sandbox was killed", "its changes are dropped")
                message = received[0]
                if "error" in message:
                    raise StateError(message["error"], message["hint"])
                if message["failure"]:
                    raise StateError(f"the sandbox failed: {message['failure']}", "see the system log")
                return

    def _hear(self, message: dict[str, object], sender: int, channel: socket.socket) -> None:
        """Handle a message of the first process, or of the command before it runs."""
        if "started" in message:
            self._command = sender
        elif "ended" in message:
            self._code = int(str(message["ended"]))
        elif "stopped" in message:
            self._hear_stop(int(str(message["stopped"])), int(str(message["continued"])), channel)
        elif "cannot" in message:
            raise CannotRun(str(message["cannot"]), int(str(message["code"])))
        elif "error" in message:
            raise StateError(str(message["error"]), str(message["hint"]))

    def _signal(self, number: int, channel: socket.socket) -> None:
        """Pass a signal on to the command."""
        if not self._command:
            if number in _ENDING:
                raise Interrupted(number)
            return
        if number == signal.SIGCONT:
            self._continue(self._command, channel)
        else:
            messages.send(channel, signal=number)

    # -- job control

    def _hear_stop(self, number: int, continued: int, channel: socket.socket) -> None:
        """Stop with the command, unless it goes on.

        Args:
            number: of the signal that has stopped it.
            continued: how often it had been sent SIGCONT before.
            channel: to the first process.
        """
        if continued < self._continued:
            return  # a SIGCONT is on its way, or has arrived
        if number in (signal.SIGTTIN, signal.SIGTTOU) and self._foreground_is_ours():
            self._continue(self._command, channel)
        else:
            self._stop(channel)

    def _continue(self, group: int, channel: socket.socket) -> None:
        """Let the command go on, and give the terminal to a process group of it if this process has it."""
        self._give_terminal(group)
        self._continued += 1
        messages.send(channel, signal=signal.SIGCONT)

    def _stop(self, channel: socket.socket) -> None:
        """Stop this process, for the command was stopped; go on with it."""
        group = self._foreground()
        self._take_terminal()
        # SIGCONT too: passed on again, it would undo the next stop of the command
        old = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTSTP, signal.SIGCONT)}
        os.kill(os.getpid(), signal.SIGTSTP)
        # here after SIGCONT, or at once where no shell could continue this process
        for number, handler in old.items():
            signal.signal(number, handler)
        time.sleep(_BETWEEN_STOPS)
        self._continue(group or self._command, channel)

    def _foreground(self) -> int:
        """Return the process group that the command's side of the terminal had in the foreground, or 0."""
        if self._terminal is None or not self._has_terminal:
            return 0
        with contextlib.suppress(OSError):
            return os.tcgetpgrp(self._terminal)
        return 0

    def _give_terminal(self, group: int) -> None:
        """Put the command in the foreground, if this process is."""
        if self._terminal is not None and self._foreground_is_ours():
            self._has_terminal = True
            self._set_foreground(group)

    def _take_terminal(self) -> None:
        """Put this process in the foreground, if it was there before the command."""
        if self._has_terminal:
            self._has_terminal = False
            self._set_foreground(os.getpgrp())

    def _foreground_is_ours(self) -> bool:
        try:
            return self._terminal is not None and os.tcgetpgrp(self._terminal) == os.getpgrp()
        except OSError:
            return False

    def _set_foreground(self, group: int) -> None:
        assert self._terminal is not None
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        with contextlib.suppress(OSError):  # the terminal was closed, or the group has ended
            os.tcsetpgrp(self._terminal, group)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _controlling_terminal() -> int | None:
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None

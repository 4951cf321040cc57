"""One helper process: the daemon's side, which forks it and sends it calls, and the child's side, which makes them.

The daemon sends each call as one packet, with the writing end of a pipe for the answer.  So calls do not wait for each
other: the child has one thread for each call that it makes, and one more that waits for the next packet.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import threading
from collections.abc import Mapping
from typing import NoReturn

from ..process import last_words, privileges, signals
from ..process.log_senders import Entry, senders_for
from ..process.system_log import EVENTS, LogSender
from .mount_calls import answer

PACKET = 128 << 10  # bytes; a packet is a word and a few numbers, or an entry of a log

LOG = "log"  # the first word of a packet with an entry for the log, which has no answer


class HelperChild:
    """A child process; creating this object forks it.

    Args:
        mountpoint: where the mount is, or will be.
        log_target: where it sends log entries to (``log=``).

    Attributes:
        pid: its process id.
        has_answered: it has answered a call.
        was_stopped: the daemon has killed it, because it was stopped (SIGSTOP).
    """

    def __init__(self, mountpoint: str, log_target: str) -> None:
        self.has_answered = False
        self.was_stopped = False
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        daemon = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _run(theirs.fileno(), mountpoint, daemon, log_target)
        theirs.close()

    def send(self, pipe: int | None, word: str, *arguments: int | str | Mapping[str, str], wait: bool) -> bool:
        """Send a packet.

        Args:
            pipe: descriptor to which the child writes the answer; it is closed here.
            word, arguments: the name of a call and its arguments, or ``LOG`` and the parts of an Entry.
            wait: whether to wait until the socket has room for the packet.

        Returns:
            False if it could not be sent: the child has ended, or is stopped and its socket full.
        """
        packet = json.dumps([word, *arguments]).encode()
        try:
            flags = 0 if wait else socket.MSG_DONTWAIT
            socket.send_fds(self._socket, [packet], [] if pipe is None else [pipe], flags)
        except OSError:
            return False  # the caller finds the pipe closed without an answer
        finally:
            if pipe is not None:
                os.close(pipe)
        return True

    def ask(self, word: str, *arguments: int | str) -> bytes:
        """Return the answer to a call; empty if the child has ended without one."""
        reader, writer = os.pipe()
        with open(reader, "rb") as pipe:
            self.send(writer, word, *arguments, wait=True)
            text = pipe.read()
        self.has_answered = self.has_answered or bool(text)
        return text

    def state(self) -> int | None:
        """Return a change of the child's state since the last call of this method.

        Returns:
            CLD_STOPPED; another code of waitid(2) if it has ended; None if nothing has changed.
        """
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:
            return os.CLD_EXITED  # an earlier call returned its end
        return None if found is None else found.si_code

    def kill(self) -> None:
        """End it, even if it is stopped."""
        # waitid(2) has not reported its end, so no other process can have its number
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close the socket; the child then ends by itself."""
        self._socket.close()


# -- in the child


def _run(channel: int, mountpoint: str, daemon: int, log_target: str) -> NoReturn:
    """Serve calls until the daemon has ended.

    Args:
        channel: descriptor of the child's end of the socket.
        mountpoint: where the mount is, or will be.
        daemon: the daemon's process id.
        log_target: where log entries go to.
    """
    try:
        # the child ends with the daemon and never before: a terminal or a service manager signals a whole group
        signals.ignore_all()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.chdir("/")
        # an inherited pipe that stays open would look to the caller of the command as if that were still running
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1) if log_target == "stderr" else (0, 1, 2):
            os.dup2(null, fd)
        faulthandler.disable()  # its file is for a crash of the daemon
        begin = 3
        for kept in sorted({channel, last_words.descriptor() or channel}):
            os.closerange(begin, kept)
            begin = kept + 1
        os.closerange(begin, os.sysconf("SC_OPEN_MAX"))
        with socket.socket(fileno=channel) as calls:
            log_sender = LogSender(senders_for(log_target, daemon))
            privileges.drop_in_helper()
            threads = _CallThreads(mountpoint, calls, log_sender)
            threads.add()
            threads.serve()
    finally:
        os._exit(0)


class _CallThreads:
    """Threads that wait for a call, make it, and wait again; another thread is added when none of them waits.

    Args:
        mountpoint: where the mount is.
        calls: the socket that calls come from.
        log_sender: sends entries to the log.
    """

    def __init__(self, mountpoint: str, calls: socket.socket, log_sender: LogSender) -> None:
        self._mountpoint = mountpoint
        self._calls = calls
        self._log_sender = log_sender
        self._lock = threading.Lock()
        self._idle = 1

    def add(self) -> None:
        """Start one more thread."""
        self._idle += 1
        threading.Thread(target=self._serve_and_exit, daemon=True).start()

    def _serve_and_exit(self) -> None:
        try:
            self.serve()
        finally:
            os._exit(0)

    def serve(self) -> None:
        """Serve until the daemon has ended."""
        while True:
            packet, fds, _, _ = socket.recv_fds(self._calls, PACKET, 1)
            if not packet:
                with self._lock:
                    fields = {"MINIFO_MOUNT": self._mountpoint, "MESSAGE_ID": EVENTS["daemon-ended"]}
                    for severity, line in last_words.take_report(self._mountpoint):
                        self._log_sender.send(Entry(severity, line, fields))
                return
            word, *arguments = json.loads(packet)
            with self._lock:
                if word == LOG:
                    self._log_sender.send(Entry(*arguments))
                    continue
                self._idle -= 1
                if self._idle == 0:
                    self.add()
            with contextlib.ExitStack() as sent:
                message = answer(self._mountpoint, word, *arguments, sent=sent)
                # the daemon may have been killed meanwhile
                with contextlib.suppress(BrokenPipeError), open(fds[0], "wb") as pipe:
                    pipe.write(json.dumps(message).encode())
            with self._lock:
                self._idle += 1

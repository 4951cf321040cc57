"""What the daemon logs, and how it gets to the logs: as it is, or through the helper process.

At boot a mount is made before a system log runs, and a system log may restart at any time.  So an entry that one log
does not take goes to the next one; the last is the kernel's, which most system logs read when they start.

Two rules.  Nothing here waits (log_senders.py).  And once the mount is there, the daemon does not resolve the path of a
log itself, for that path may lead through the mount (after pivot_root it does): its helper process does
(helper_process.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from .log_senders import Entry, Sender

_SEVERITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7
_TEXT_MAX = 8000  # characters of an entry; a packet to the helper must hold it
_VALUE_MAX = 4096  # characters of a field

_OFTEN = 10  # records of one kind that are sent ...
_WINDOW = 30.0  # ... in so many seconds; more are counted

#: The events that a program may wait for in the journal: MESSAGE_ID by the attribute ``event`` of a record.
EVENTS = {
    "daemon-ended": "7f4259067ad2428b94760d960e50e61b",
    "commit-failed": "2c6ba77d7f6d40a3a9cbf2420cd511a5",
    "operations-replayed": "7ab308bc4c7a4592975f8c6044301525",
    "storage-full": "713467be95734775995b353349113e7d",
    "trial-failed": "c0952d154d81438bab0e141688b8d903",
    "txn-taken-back": "e20e978deac84f55abae1b9cfd007472",
    "base-replaced": "8d26c5ef9b9a4a9da4be61fcb7f5b46c",
}

Relay = Callable[[Entry], bool]


class LogSender:
    """Sends entries to the first log that takes them.

    Args:
        senders: the logs, the best one first.
    """

    def __init__(self, senders: Sequence[Sender]) -> None:
        self._senders = senders

    @property
    def resolves_paths(self) -> bool:
        """Whether the path of a log is resolved at each new connection."""
        return any(sender.resolves_path for sender in self._senders)

    def send(self, entry: Entry) -> None:
        """Send an entry; if no log takes it, there is none in which that could be recorded."""
        any(sender.send(entry) for sender in self._senders)

    def send_without_paths(self, entry: Entry) -> None:
        """Send an entry to a log that is open already, the kernel's for example."""
        any(sender.send(entry) for sender in self._senders if not sender.resolves_path)

    def close(self) -> None:
        """Close the descriptors of all logs."""
        for sender in self._senders:
            sender.close()


class SystemLog(logging.Handler):
    """A logging handler that sends each record as one entry, and counts those that come too often.

    A record may have (``extra=`` of a call of the logger) an ``event`` of EVENTS, a ``path`` and the ``error`` that it
    tells of; an OSError among its arguments, or the cause of one, is found without.

    Args:
        sender: sends them.
        fields: of each entry, for example ``MINIFO_MOUNT``.
    """

    def __init__(self, sender: LogSender, fields: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._sender = sender
        self._fields = fields or {}
        self._relay: Relay | None = None
        self._rate = RateLimit(_OFTEN, _WINDOW)

    def set_relay(self, relay: Relay | None) -> None:
        """From now on pass entries to *relay*.

        Args:
            relay: takes an entry, and returns False if it cannot pass it on.  It must neither wait nor log.  None: this
                process sends them itself.
        """
        self._relay = relay

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record to the log, unless records of its kind come too often."""
        try:
            suppressed = self._suppressed(record)
            if suppressed is None:
                return
            entry = self._entry(record)
            if suppressed:
                self._send(entry._replace(text=f"{_times(suppressed)} like the next one suppressed"))
            self._send(entry)
        except Exception:
            self.handleError(record)

    def _suppressed(self, record: logging.LogRecord) -> int | None:
        """Return how many records of this kind were suppressed; None if this one is, too."""
        if record.levelno < logging.WARNING:
            return 0  # only who asks for these gets them
        return self._rate.admit(f"{record.pathname}:{record.lineno}", time.monotonic())

    def _entry(self, record: logging.LogRecord) -> Entry:
        severity = next((number for level, number in _SEVERITIES if record.levelno >= level), _DEBUG)
        fields = {
            **self._fields,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
        }
        if (event := getattr(record, "event", None)) is not None:
            fields["MESSAGE_ID"] = EVENTS[event]
        error = _os_error(record)
        if error is not None and error.errno is not None:
            fields["ERRNO"] = str(error.errno)
        path = getattr(record, "path", error.filename if error is not None else None)
        if isinstance(path, str):
            fields["MINIFO_PATH"] = path
        text = self.format(record)[:_TEXT_MAX]
        return Entry(severity, text, {name: value[:_VALUE_MAX] for name, value in fields.items()})

    def _send(self, entry: Entry) -> None:
        if self._relay is None:
            self._sender.send(entry)
        elif not (self._sender.resolves_paths and self._relay(entry)):
            self._sender.send_without_paths(entry)

    def close(self) -> None:
        """Say how many records were suppressed and not told yet."""
        if rest := self._rate.take_rest():
            self._send(Entry(_SEVERITIES[2][1], f"{_times(rest)} suppressed", self._fields))
        super().close()


class RateLimit:
    """Admits at most so many events of a kind within a window of time.

    Args:
        often: how many.
        window: seconds; it begins with the first one.
    """

    def __init__(self, often: int, window: float) -> None:
        self._often = often
        self._window = window
        self._kinds: dict[str, tuple[float, int]] = {}  # when the window began, and the events in it

    def admit(self, kind: str, now: float) -> int | None:
        """Count an event.

        Args:
            kind: its kind; there are a few of them.
            now: the time in seconds.

        Returns:
            None if there were too many; else how many were refused since the last one that was admitted.
        """
        began, count = self._kinds.get(kind, (now, 0))
        refused = 0
        if now - began >= self._window:
            refused = max(0, count - self._often)
            began, count = now, 0
        self._kinds[kind] = began, count + 1
        return refused if count < self._often else None

    def take_rest(self) -> int:
        """Return how many events were refused and not told by ``admit`` yet, and forget all."""
        rest = sum(max(0, count - self._often) for _, count in self._kinds.values())
        self._kinds.clear()
        return rest


def _times(number: int) -> str:
    return "1 message" if number == 1 else f"{number} messages"


def _os_error(record: logging.LogRecord) -> OSError | None:
    """Return the OSError that a record tells of, or the one that caused what it tells of."""
    args = record.args if isinstance(record.args, tuple) else ()
    found = [arg for arg in (getattr(record, "error", None), *args) if isinstance(arg, BaseException)]
    found += [record.exc_info[1]] if record.exc_info and record.exc_info[1] is not None else []
    for error in found:
        cause: BaseException | None = error
        for _ in range(5):
            if cause is None or isinstance(cause, OSError):
                break
            cause = cause.__cause__
        if isinstance(cause, OSError):
            return cause
    return None


def set_relay(relay: Relay | None) -> None:
    """Call ``set_relay`` of every SystemLog handler of this process's root logger."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, SystemLog):
            handler.set_relay(relay)

"""Threads that keep the privileges which the thread that serves the mount has dropped (privileges.py).

Landlock, capabilities and seccomp restrict a thread, and a new thread inherits the restrictions of the thread that
starts it.  So one thread is started before any privilege is dropped; it starts a new thread for each call that needs
those privileges.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

import outcome

T = TypeVar("T")


class PrivilegedThreads:
    """Calls functions in threads that have the privileges of the thread which creates this object."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._start_threads, daemon=True).start()

    def _start_threads(self) -> None:
        while True:
            # a thread for each call, since some calls wait long
            threading.Thread(target=self._calls.get(), daemon=True).start()

    def call(self, function: Callable[[], T]) -> T:
        """Return what *function* returns, or raise what it raises; any thread may call this."""
        answers: queue.SimpleQueue[outcome.Outcome[T]] = queue.SimpleQueue()
        self._calls.put(lambda: answers.put(outcome.capture(function)))
        return answers.get().unwrap()

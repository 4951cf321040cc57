"""Asks a child process: what it looks at may crash, hang, or load libraries that this process is to do without."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from ...engine.errors import StateError

_SAID_MAX = 300  # characters of stderr that an error quotes


class NoAnswer(StateError):
    """The child ended without an answer, or its work failed; the message says how, and what it wrote to stderr."""


def answer_of(work: Callable[[], Any], seconds: int = 10) -> Any:
    """Return what a function returns in a forked child.

    Args:
        work: the function; its result can be written as JSON.
        seconds: how long it may take; then the child is killed.

    Raises:
        NoAnswer: it raised an error, crashed, or took too long.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    said = os.memfd_create("stderr")
    child = os.fork()
    if child == 0:
        _run(work, seconds, writer, said)
    os.close(writer)
    try:
        with open(reader, "rb") as pipe:
            text = pipe.read()
    finally:
        _, status = os.waitpid(child, 0)
        words = os.pread(said, _SAID_MAX, 0).decode("utf-8", "backslashreplace").split()
        os.close(said)
    quoted = f": {' '.join(words)}" if words else ""
    if not text:
        raise NoAnswer(_end_of(os.waitstatus_to_exitcode(status), seconds) + quoted)
    answer = json.loads(text)
    if "error" in answer:
        raise NoAnswer(answer["error"] + quoted)
    return answer["answer"]


def _run(work: Callable[[], Any], seconds: int, writer: int, said: int) -> None:
    """Be the child: never return."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        signal.alarm(seconds)
        os.dup2(said, 2)
        try:
            answer = {"answer": work()}
        except BaseException as error:
            text = str(error)
            answer = {"error": text if isinstance(error, StateError) else f"{type(error).__name__}: {text}"}
        sys.stderr.flush()
        with open(writer, "wb") as pipe:
            pipe.write(json.dumps(answer).encode())
    finally:
        os._exit(0)


def _end_of(code: int, seconds: int) -> str:
    if code == -signal.SIGALRM:
        return f"no answer within {seconds} s"
    if code < 0:
        return f"the process was ended by signal {-code} ({signal.strsignal(-code)})"
    return f"the process ended with status {code}"

"""How long work that is one step has taken so far, on a terminal and elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import sys
import time

import pytest

from minifo.tools import _progress


def test_waiting_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second one on, and it is erased at the end; also if the work fails."""
    reader, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(_progress, "_DELAY", 0.01)
        with contextlib.suppress(ValueError), _progress.waiting("trying"):
            said = b""
            while b"trying, 2 s so far" not in said:
                said += os.read(reader, 4096)
            raise ValueError
        last = os.read(reader, 4096)
    os.close(reader)
    assert said.startswith(b"\rtrying, 1 s so far\rtrying, 2 s so far")
    assert last.endswith(b" \r")


def test_waiting_says_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe or a log."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(_progress, "_DELAY", 0.001)
    with _progress.waiting("trying"):
        time.sleep(0.05)
    assert stream.getvalue() == ""

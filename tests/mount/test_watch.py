"""minifo watch beside real mounts: on a pseudo-terminal, in a pipe, and when the daemon goes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo, minifo_program
from tests.shared.waiting import wait_until

_TAKEN, _GIVEN_BACK = b"\x1b[?1049h", b"\x1b[?25h\x1b[?1049l"
_SEQUENCE = re.compile(rb"\x1b\[[?0-9;]*[a-zA-Z]")
_COLOUR = re.compile(rb"\x1b\[[0-9;]*m")


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay."""
    found = sandbox.overlay()
    found.mount()
    return found


class Terminal:
    """A pseudo-terminal with ``minifo watch`` in it.

    Args:
        arguments: of the command.
        size: columns and lines.
        variables: of its environment.
    """

    def __init__(self, *arguments: object, size: tuple[int, int] = (80, 24), **variables: str) -> None:
        self.ours, theirs = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(theirs)
        environment = {**os.environ, "TERM": "xterm", **variables}
        if not variables.get("NO_COLOR"):
            environment.pop("NO_COLOR", None)
        words = [minifo_program(), "watch", *map(str, arguments)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SESSION, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        self.theirs = theirs  # kept open, so that what was drawn and the state can be read at the end
        self.seen = b""

    def resize(self, columns: int, lines: int) -> None:
        """Give it another size, as a terminal emulator does."""
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> bytes:
        """What was drawn since the last call."""
        data = b""
        while select.select([self.ours], [], [], 0)[0]:
            data += os.read(self.ours, 65536)
        self.seen += data
        return data

    def await_text(self, *words: bytes) -> None:
        """Wait until each of some words was drawn since this call."""
        drawn = bytearray()

        def is_there() -> bool:
            drawn.extend(self.read())
            return all(word in drawn for word in words)

        wait_until(is_there, f"the screen shows {words}", 20)

    def press(self, keys: bytes) -> None:
        """Type something."""
        os.write(self.ours, keys)

    def end(self) -> int:
        """Wait for its end, check that the terminal is as before, and return the exit code."""
        code = self.process.wait(20)
        self.read()
        assert termios.tcgetattr(self.theirs) == self.before
        assert self.seen.count(_TAKEN) == self.seen.count(_GIVEN_BACK) > 0
        assert self.seen.rindex(_TAKEN) < self.seen.rindex(_GIVEN_BACK)
        return code

    def close(self) -> None:
        """Leave nothing."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


# the terminal becomes that of the program, as a shell of its own would have it: keys then send signals
_SESSION = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@contextlib.contextmanager
def terminal(*arguments: object, **options: Any) -> Iterator[Terminal]:
    """A pseudo-terminal that is closed afterwards."""
    found = Terminal(*arguments, **options)
    try:
        yield found
    finally:
        found.close()


def screens(drawn: bytes) -> list[list[str]]:
    """The lines of each whole screen, without colours and positions."""
    found = drawn.replace(_GIVEN_BACK, b"").split(b"\x1b[H")[1:]
    return [_SEQUENCE.sub(b"", screen).decode().split("\r\n") for screen in found]


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_screen(overlay: OverlayMount, key: bytes) -> None:
    """It fits into 80 columns and 24 lines, shows what is done, and a key or Ctrl-C ends it."""
    with terminal("--interval", "0.2", overlay.mnt) as found:
        found.await_text(str(overlay.mnt).encode()[:40], b"requests", b"busy")
        for number in range(50):
            (overlay.mnt / f"d{number}").mkdir()
        found.await_text(b"mkdir ")
        found.press(key)
        assert found.end() == 0
        for screen in screens(found.seen):
            assert len(screen) <= 24
            assert all(len(line) <= 80 for line in screen)
        assert _COLOUR.search(found.seen)


@pytest.mark.parametrize("size", [(30, 6), (200, 60), (1, 1)])
def test_resize(overlay: OverlayMount, size: tuple[int, int]) -> None:
    """It is drawn anew at once in another size, and nothing is wider or longer than that."""
    with terminal("--interval", "600", overlay.mnt) as found:
        found.await_text(b"minifo watch", b"\x1b[J")
        found.resize(*size)
        found.await_text(b"\x1b[H")
        found.press(b"q")
        assert found.end() == 0
        *_, last = screens(found.seen)
        assert len(last) <= size[1]
        assert all(len(line) <= size[0] for line in last)


def test_without_colours(overlay: OverlayMount) -> None:
    """NO_COLOR leaves no sequence that sets one; the screen is still drawn."""
    with terminal("-n", "2", "--interval", "0.1", overlay.mnt, NO_COLOR="1") as found:
        assert found.end() == 0
        assert len(screens(found.seen)) == 3
        assert not _COLOUR.search(found.seen)


def test_dumb_terminal(overlay: OverlayMount) -> None:
    """A terminal that cannot be drawn on gets lines."""
    with terminal("-n", "2", "--interval", "0.1", overlay.mnt, TERM="dumb") as found:
        assert found.process.wait(20) == 0
        assert b"\x1b" not in found.read()
        assert found.seen.count(b"requests ") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_give_the_terminal_back(overlay: OverlayMount, number: signal.Signals) -> None:
    """The program then ends by that signal."""
    with terminal(overlay.mnt) as found:
        found.await_text(b"minifo watch", b"\x1b[J")
        found.process.send_signal(number)
        assert found.end() == -number


def test_pause(overlay: OverlayMount) -> None:
    """While it is stopped the terminal is as before; afterwards it is drawn on again."""
    with terminal("--interval", "0.2", overlay.mnt) as found:
        found.await_text(b"busy")
        found.process.send_signal(signal.SIGTSTP)
        os.waitid(os.P_PID, found.process.pid, os.WSTOPPED | os.WNOWAIT)
        found.await_text(_GIVEN_BACK)
        assert termios.tcgetattr(found.theirs) == found.before
        found.process.send_signal(signal.SIGCONT)
        found.await_text(_TAKEN, b"busy")
        found.press(b"q")
        assert found.end() == 0


@pytest.mark.parametrize("how", ["umount", "kill"])
def test_daemon_goes(overlay: OverlayMount, how: str) -> None:
    """It says so below the screen that it gives back; the exit code is 1."""
    with terminal("--interval", "0.2", overlay.mnt) as found:
        found.await_text(b"busy")
        if how == "kill":
            overlay.kill()
        else:
            overlay.umount()
        assert found.end() == 1
        last = found.seen.rpartition(_GIVEN_BACK)[2].decode()
        assert last.count("\n") == 1
        assert f"minifo: the daemon of storage {overlay.sto} gave no answer" in last


def test_lines_in_a_pipe(overlay: OverlayMount) -> None:
    """Each is there when its interval is over, before the program ends."""
    words = [minifo_program(), "watch", "--interval", "0.1", str(overlay.mnt)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(3):
            assert re.match(r"\d\d:\d\d:\d\d  requests \S+/s  cached ", process.stdout.readline())
        overlay.umount()
        assert process.wait(20) == 1
        assert process.stderr.read().count("\n") == 1


def test_json(overlay: OverlayMount) -> None:
    """The rates of two intervals add up to what was done in them."""
    words = [minifo_program(), "watch", "--json", "-n", "2", "--interval", "2", str(overlay.mnt)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        made = 0
        found = []
        while process.poll() is None and not select.select([process.stdout], [], [], 0)[0]:
            (overlay.mnt / f"d{made}").mkdir()
            made += 1
            with pytest.raises(FileExistsError):
                (overlay.mnt / f"d{made - 1}").mkdir()
            time.sleep(0.01)
        found = [json.loads(line) for line in process.stdout]
    assert process.returncode == 0
    assert len(found) == 2
    assert {(line["mountpoint"], line["failed"]) for line in found} == {(str(overlay.mnt), False)}
    count = 0.0
    for line in found:
        assert line["requests_per_s"] == pytest.approx(
            sum(kind["served_per_s"] + kind["cached_per_s"] for kind in line["requests"]), abs=0.1
        )
        for kind in line["requests"]:
            if kind["times"] is not None:
                assert 0 < kind["times"]["median_ns"] <= kind["times"]["p99_ns"]
            if kind["request"] == "mkdir":
                count += kind["served_per_s"] * line["seconds"]
    assert 0 < round(count) <= made
    assert found[0]["changes_per_s"] > 0


@pytest.mark.parametrize("option", ["commit=600", "journal=10"])
def test_paths(sandbox: MountSandbox, option: str) -> None:
    """What was changed most, by path, also a file that was open before; names of any bytes."""
    overlay = sandbox.overlay(option)
    (overlay.base / "deep" / "er").mkdir(parents=True)
    (overlay.base / "deep" / "er" / "log").write_bytes(b"old\n")
    overlay.mount()
    odd = os.fsencode(overlay.mnt) + b"/\xff"
    with open(overlay.mnt / "deep" / "er" / "log", "ab", buffering=0) as file:
        words = [minifo_program(), "watch", "--json", "-n", "1", "--interval", "2", str(overlay.mnt)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            os.mkdir(odd)
            made = 0
            while process.poll() is None:
                file.write(b"x" * 1000)
                os.fsync(file.fileno())
                os.mkdir(odd + b"/%d" % made)
                os.rmdir(odd + b"/%d" % made)
                made += 1
            (line,) = map(json.loads, process.stdout)
    found = {path["path"]: path for path in line["paths"]}
    assert found["/deep/er/log"]["directory"] is False
    assert 0 < found["/deep/er/log"]["written_per_s"] * line["seconds"] <= made * 5000
    directory = found["/\ufffd"]
    assert (directory["directory"], directory["path_b64"], directory["written_per_s"]) == (True, "L/8=", 0)
    assert 0 < directory["changes_per_s"] * line["seconds"] <= made * 2
    assert line["paths"] == sorted(line["paths"], key=lambda path: -path["changes_per_s"])
    assert line["other_paths"] == 0


def test_paths_on_the_screen(overlay: OverlayMount) -> None:
    """They have their part of 24 lines, and it is told how many are not shown."""
    for number in range(30):
        (overlay.mnt / f"d{number}").mkdir()
    with terminal("--interval", "0.5", overlay.mnt) as found:
        found.await_text(b"changes/s")
        for number in range(30):
            (overlay.mnt / f"d{number}" / "sub").mkdir()
        found.await_text(b"more)", b"  /d")
        found.press(b"q")
        assert found.end() == 0
        assert all(len(screen) <= 24 for screen in screens(found.seen))


def test_wrong_targets(overlay: OverlayMount) -> None:
    """What is not mounted has nothing to watch."""
    overlay.umount()
    done = minifo("watch", overlay.sto, check=False)
    assert done.returncode == 2
    assert f"the daemon of storage {overlay.sto} cannot be asked" in done.stderr
    done = minifo("watch", "--interval", "0", overlay.sto, check=False)
    assert done.returncode == 1

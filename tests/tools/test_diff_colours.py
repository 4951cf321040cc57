"""Colours: on a terminal, not in a pipe nor where the user wants none; a patch that cannot control the terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.tools._colour import shown_patch
from tests.shared.overlay_sandbox import OverlaySandbox

_COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
_PROGRAM = "import sys; from minifo.tools.cli import main; sys.exit(main(sys.argv[1:]))"


def on_terminal(*words: object, **variables: str) -> bytes:
    """What a command prints on a terminal."""
    ours, theirs = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"} | variables
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, *map(str, words)], stdout=theirs, env=env) as process:
        os.close(theirs)
        found = b""
        try:
            while data := os.read(ours, 65536):
                found += data
        except OSError:
            pass  # EIO: the other end is closed
    os.close(ours)
    assert process.returncode == 0
    return found.replace(b"\r\n", b"\n")


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """An overlay with changes of some kinds."""
    made = OverlaySandbox(tmp_path)
    for name in ("gone", "written", "moved", "d/1", "d/2"):
        made.put(name, b"one\ntwo\n")
    made.unlink("gone")
    made.write("written", b"else")
    made.rename("moved", "MOVED")
    made.write("MOVED", b"else")
    made.mkdir("new")
    made.create("new/file", b"\x1b[31mred\r\n")
    made.close()
    yield made
    made.close()


@pytest.mark.parametrize("words", [(), ("--stat",), ("-u",)])
def test_diff(sandbox: OverlaySandbox, words: tuple[str, ...]) -> None:
    """The text is the same without colours; a pipe, a dumb terminal and NO_COLOR get none."""
    command = ("diff", *words, sandbox.sto)
    coloured = on_terminal(*command)
    plain = on_terminal(*command, NO_COLOR="1")
    assert len(_COLOUR.findall(coloured)) > 6
    piped = subprocess.run([sys.executable, "-c", _PROGRAM, *map(str, command)], capture_output=True, check=True).stdout
    assert on_terminal(*command, TERM="dumb") == plain == _COLOUR.sub(b"", coloured)
    if words == ("-u",):
        assert b"+\\x1b[31mred\\r\n" in plain
        assert piped == plain.replace(rb"\x1b[31mred\r", b"\x1b[31mred\r")
    else:
        assert piped == plain


def test_letters(sandbox: OverlaySandbox) -> None:
    """Both letters of what is renamed and modified, and nothing of the path."""
    lines = on_terminal("diff", sandbox.sto).splitlines()
    assert b"\x1b[35mRM\x1b[0m /moved -> /MOVED" in lines
    assert b"\x1b[32mA\x1b[0m  /new/" in lines


def test_counts(sandbox: OverlaySandbox) -> None:
    """Aligned, and it says what a directory counts for."""
    assert on_terminal("diff", "--stat", sandbox.sto, NO_COLOR="1").decode().splitlines() == [
        "A  1  added",
        "M  1  modified",
        "D  1  deleted",
        "R  1  renamed",
        "   4  in all",
        "1 of them is a directory, new or gone as a whole; -r counts what is in it.",
    ]
    assert b"directory" not in on_terminal("diff", "--stat", "-r", sandbox.sto)


def test_a_patch_does_not_control_the_terminal() -> None:
    """Control characters of any kind, and bytes that are no text, are shown as such; tabs and lines stay."""
    patch = b"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-\ttab\x07\x9b\xc2\x9b\r\n+--- \xe2\x80\xae\n context\n\\ No newline\n"
    assert shown_patch(patch, coloured=True).decode().split("\n") == [
        "\x1b[1m--- a/x\x1b[0m",
        "\x1b[1m+++ b/x\x1b[0m",
        "\x1b[36m@@ -1 +1 @@\x1b[0m",
        "\x1b[31m-\ttab\\x07\\x9b\\x9b\\r\x1b[0m",
        "\x1b[32m+--- \\u202e\x1b[0m",
        " context",
        "\\ No newline",
        "",
    ]

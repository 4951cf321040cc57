"""Launching: what went wrong in the daemon arrives in the parent as the same error, whatever became of the daemon.

The session, which mounts and serves, is replaced by a few lines; fork, pipe and daemon are the real ones.  Each launch
runs in a process of its own, because a daemon keeps what its parent was.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.shared.waiting import wait_until

PROLOGUE = """
import logging, os, sys, types
import minifo.fusefront
from minifo.engine.errors import *
from minifo.fusefront import launch as module
from minifo.fusefront.launch import launch
from minifo.fusefront.mount.options import parse

def run(options, mountpoint, helper, *, ready, **others):
    {body}

minifo.fusefront.session = sys.modules["minifo.fusefront.session"] = types.SimpleNamespace(run=run)
module.fuse_access.check_device = module.fuse_access.check_fusermount = lambda: None
try:
    launch(parse([], base="base", storage="sto"), "mnt", foreground={foreground})
    print("mounted")
except StateError as exc:
    print(type(exc).__name__, exc.message, exc.hint, getattr(exc, "pid", None), sep="|")
"""


def launched(directory: Path, body: str, *, foreground: bool = False) -> subprocess.CompletedProcess[str]:
    """The outcome of a launch in *directory* whose session does *body*."""
    for name in ("base", "sto", "mnt"):
        (directory / name).mkdir()
    script = PROLOGUE.format(body=textwrap.indent(textwrap.dedent(body), "    ").strip(), foreground=foreground)
    return subprocess.run(
        [sys.executable, "-c", script], cwd=directory, capture_output=True, text=True, timeout=60, check=True
    )


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("raise StateError('no\\nway', 'go home')", "StateError|no\nway|go home|None"),
        ("raise Corrupt('torn', 'run minifo-fsck')", "Corrupt|torn|run minifo-fsck|None"),
        ("raise UsageError('wrong')", "UsageError|wrong||None"),
        ("raise StorageBusy('held', 'unmount it', 4711)", "StorageBusy|held|unmount it|4711"),
        ("raise PermissionError(13, 'Permission denied', '/x')", "StateError|Permission denied (/x)||None"),
        (
            "raise ValueError('oops')",
            "StateError|the daemon failed before the mount responded (ValueError: oops)|"
            "to see why: minifo mount -f -v|None",
        ),
        (
            "os._exit(7)",
            "StateError|the daemon ended with status 7 before the mount responded|to see why: minifo mount -f -v|None",
        ),
        (
            "os.kill(os.getpid(), 9)",
            "StateError|the daemon was ended by signal 9 (Killed) before the mount responded|"
            "to see why: minifo mount -f -v|None",
        ),
        (
            "return",
            "StateError|the daemon ended with status 0 before the mount responded|to see why: minifo mount -f -v|None",
        ),
    ],
)
def test_error_in_the_daemon_arrives_in_the_parent(body: str, outcome: str, tmp_path: Path) -> None:
    """Class, message, hint and holder survive; a silent death is told with its status."""
    done = launched(tmp_path, body)
    assert done.stdout == outcome + "\n"
    assert done.stderr == ""


def test_parent_returns_when_ready_and_the_daemon_lets_go(tmp_path: Path) -> None:
    """After ready the daemon has no terminal, no working directory of ours, and a session of its own."""
    body = """
        assert os.getsid(0) == os.getpid()
        assert (options.base, options.storage) == (os.path.realpath("base"), os.path.realpath("sto"))
        out = os.path.join(options.storage, "out")
        logging.getLogger("x").warning("before")
        ready()
        logging.getLogger("x").warning("after")
        with open(out + ".tmp", "w") as file:
            links = {os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)}
            print(os.getcwd(), links, oct(os.umask(0)), file=file)
        os.rename(out + ".tmp", out)
    """
    done = launched(tmp_path, body)
    assert (done.stdout, done.stderr) == ("mounted\n", "minifo: before\n")
    out = tmp_path / "sto" / "out"
    wait_until(out.exists, "the daemon has written its file")
    assert out.read_text() == "/ {'/dev/null'} 0o77\n"


def test_foreground_serves_in_the_same_process(tmp_path: Path) -> None:
    """Errors are raised as they are, and ready says one line."""
    done = launched(tmp_path, "ready(); raise StateError('the end')", foreground=True)
    assert done.stdout == "StateError|the end||None\n"
    assert done.stderr.startswith(f"minifo: {tmp_path}/mnt is mounted (base {tmp_path}/base, storage {tmp_path}/sto)")
    assert done.stderr.count("\n") == 1


def test_captured_stderr_is_kept_on_failure_and_passed_on_otherwise(tmp_path: Path) -> None:
    """What C code writes to descriptor 2 becomes part of the message, or reaches the user after all."""
    body = """
        from minifo.fusefront.process.stderr_capture import captured_stderr
        with captured_stderr() as said:
            os.write(2, b"all is well\\n")
        try:
            with captured_stderr() as said:
                os.write(2, b"fuse: no\\nfuse: \\xff\\n")
                raise OSError
        except OSError:
            raise StateError("; ".join(said))
    """
    done = launched(tmp_path, body)
    assert done.stdout == "StateError|fuse: no; fuse: \\xff||None\n"
    assert done.stderr == "all is well\n"

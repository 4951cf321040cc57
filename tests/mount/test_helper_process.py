"""What a mount outlives: a helper process that is killed or stopped, stray signals, odd surroundings at its start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import (
    MountSandbox,
    OverlayMount,
    await_end,
    daemon_of,
    is_alive,
    is_mounted,
    minifo_program,
    run,
)
from tests.shared.waiting import wait_until

_STRAY = ("HUP", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "PIPE", "TSTP", "TTIN", "TTOU", "CHLD")


def helper_of(pid: int) -> int:
    """The process that waits for the mount on a daemon's behalf."""
    living = living_children(pid)
    assert len(living) == 1, living
    return living[0]


def living_children(pid: int) -> list[int]:
    """The children of a process that run, whichever of its threads has forked them.

    Each process is asked for its parent: the threads' lists of children miss one whose thread ends meanwhile.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and is_alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def use_everything_that_waits(overlay: OverlayMount) -> None:
    """What is done with the helper's help, in a process of its own that can be given up."""
    script = """if True:
        import os, sys
        top = sys.argv[1]
        for number in range(3):
            open(f"{top}/fresh", "w").write(f"new {number}")
            held = open(f"{top}/fresh", "r+")
            held.write("N")
            held.flush()
            os.rename(f"{top}/fresh", f"{top}/replaced")
            os.fsync(held.fileno())
            os.sync()
    """
    subprocess.run([sys.executable, "-c", script, overlay.mnt], check=True, timeout=20)
    assert (overlay.mnt / "replaced").read_text() == "New 2"


@pytest.mark.parametrize("options", [(), ("plain",)])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_helper_gone(sandbox: MountSandbox, number: signal.Signals, options: tuple[str, ...]) -> None:
    """A helper process that is killed or stopped is replaced: renames, commits and fsync go on, again and again."""
    overlay = sandbox.overlay(*options, "commit=0.1")
    overlay.mount()
    for _ in range(3):
        helper = helper_of(overlay.pid)
        os.kill(helper, number)
        use_everything_that_waits(overlay)
        await_end(helper)
        await_commit(overlay)
    assert is_alive(helper_of(overlay.pid))
    os.kill(helper_of(overlay.pid), number)
    overlay.umount()
    overlay.mount()
    assert (overlay.mnt / "replaced").read_text() == "New 2"


def test_helper_gone_at_once(sandbox: MountSandbox) -> None:
    """A helper that is killed before it has done anything is not replaced for ever, and is not needed either."""
    overlay = sandbox.overlay("commit=0.1")
    overlay.mount()
    killed = set()
    limit = time.monotonic() + 3
    while len(killed) < 5 and time.monotonic() < limit:
        for child in Path(f"/proc/{overlay.pid}/task/{overlay.pid}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
                killed.add(child)
    assert 1 < len(killed) < 5
    use_everything_that_waits(overlay)
    os.kill(overlay.pid, signal.SIGTERM)
    await_end(overlay.pid)
    assert not is_mounted(overlay.mnt)


def await_commit(overlay: OverlayMount) -> None:
    """Wait until a change is committed by the clock."""
    (overlay.mnt / "late").write_text("late")
    log = Path(f"{overlay.sto}/minifo.db-wal")
    before = log.stat().st_mtime_ns
    (overlay.mnt / "later").write_text("later")
    wait_until(lambda: log.stat().st_mtime_ns != before, "the change is committed")


def test_stray_signals(sandbox: MountSandbox) -> None:
    """Signals that ask for nothing neither end nor stop the daemon or its helper."""
    overlay = sandbox.overlay()
    overlay.mount()
    helper = helper_of(overlay.pid)
    for name in _STRAY:
        for pid in (overlay.pid, helper):
            os.kill(pid, getattr(signal, f"SIG{name}"))
        (overlay.mnt / name).write_text(name)
        use_everything_that_waits(overlay)
    assert helper_of(overlay.pid) == helper
    os.kill(overlay.pid, signal.SIGQUIT)
    await_end(overlay.pid)
    assert not is_mounted(overlay.mnt)
    overlay.mount()
    assert set(os.listdir(overlay.mnt)) == {*_STRAY, "replaced"}


@pytest.mark.parametrize("ignored", [False, True])
def test_hang_up_in_the_foreground(sandbox: MountSandbox, ignored: bool) -> None:
    """The end of its terminal ends a mount in the foreground, as SIGTERM does, unless nohup(1) has started it."""
    overlay = sandbox.overlay()
    words = [minifo_program(), "mount", "-f", "--base", overlay.base, "--sto", overlay.sto, overlay.mnt]
    start = ["nohup"] if ignored else ["env", "--default-signal=HUP"]  # the caller of the tests may ignore it
    with subprocess.Popen([*start, *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "is mounted" not in process.stderr.readline():
            assert process.poll() is None
        (overlay.mnt / "file").write_text("written")
        process.send_signal(signal.SIGHUP)
        if ignored:
            use_everything_that_waits(overlay)
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not is_mounted(overlay.mnt)
    overlay.mount()
    assert (overlay.mnt / "file").read_text() == "written"


@pytest.mark.parametrize("busy", [False, True])
def test_bare_surroundings(sandbox: MountSandbox, busy: bool) -> None:
    """As at boot: no stream, no environment, a directory that is gone, signals blocked; SIGTERM still ends it."""
    overlay = sandbox.overlay()
    gone = sandbox.directory()
    script = (
        f"import os, signal, sys; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); os.closerange(0, 3); "
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); os.execve(sys.argv[1], sys.argv[1:], {})"
    )
    words = ["mount", "--base", overlay.base, "--sto", overlay.sto, overlay.mnt]
    run(sys.executable, "-c", script, minifo_program(), *words)
    overlay.pid = daemon_of(overlay.sto)
    use_everything_that_waits(overlay)
    held = open(overlay.mnt / "replaced") if busy else None  # noqa: SIM115
    os.kill(overlay.pid, signal.SIGTERM)
    await_end(overlay.pid)
    if held is not None:
        held.close()
    assert not is_mounted(overlay.mnt)
    overlay.mount()
    assert (overlay.mnt / "replaced").read_text() == "New 2"


@contextmanager
def system_log() -> Iterator[socket.socket]:
    """A system log where there is none, in the place of the one there is else."""
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.settimeout(20)
    place = Path("/dev/log")
    kept = place.with_name("log.kept")
    if os.path.lexists(place):
        place.rename(kept)
    try:
        ours.bind(str(place))
        try:
            yield ours
        finally:
            place.unlink()
    finally:
        ours.close()
        if os.path.lexists(kept):
            kept.rename(place)


def test_warnings_find_a_system_log_that_starts_later(sandbox: MountSandbox) -> None:
    """A mount made before there is a system log is heard by it as soon as it runs, and when it was started anew."""
    overlay = sandbox.overlay()
    overlay.mount()
    for _ in range(2):
        with system_log() as log:
            helper = helper_of(overlay.pid)
            os.kill(helper, signal.SIGSTOP)
            use_everything_that_waits(overlay)
            line = heard(log, overlay.pid, 20)[0]
            assert line.startswith(f"<28>minifo[{overlay.pid}]: {overlay.mnt}: the helper process {helper} was stopped")


def heard(log: socket.socket, pid: int, first: float) -> list[str]:
    """The lines of one daemon, until there is none for a while; the first one may take *first* seconds."""
    lines = []
    limit = time.monotonic() + first
    while (left := limit - time.monotonic()) > 0:
        log.settimeout(left)
        with contextlib.suppress(TimeoutError):
            line = log.recv(2000).decode()
            if f"minifo[{pid}]: " in line:  # other daemons may have much to say
                lines.append(line)
                limit = time.monotonic() + 2
    return lines


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_last_words(sandbox: MountSandbox, number: signal.Signals) -> None:
    """A daemon that fails leaves a trace in the system log, a killed one a line, any other nothing."""
    overlay = sandbox.overlay()
    with system_log() as log:
        overlay.mount()
        os.kill(overlay.pid, number)
        await_end(overlay.pid)
        line, *trace = heard(log, overlay.pid, 20)
        severity, how = (27, "was killed") if number == signal.SIGKILL else (26, "has crashed")
        assert line.startswith(f"<{severity}>minifo[{overlay.pid}]: the daemon of {overlay.mnt} {how}; minifo umount ")
        if number == signal.SIGKILL:
            assert trace == []
        else:
            assert "Fatal Python error: " in trace[0]
            assert 'fusefront/session.py", line ' in " ".join(trace)
        overlay.umount()
        overlay.mount()
        overlay.umount()
        assert heard(log, overlay.pid, 2) == []


def test_no_last_words_of_a_refused_mount(sandbox: MountSandbox) -> None:
    """A mount that is refused says why, and no log says that a daemon was killed."""
    overlay = sandbox.overlay()
    (overlay.sto / "letter").write_text("of somebody else\n")
    words = [minifo_program(), "mount", "-o", "log=stderr", "--base", overlay.base, "--sto", overlay.sto, overlay.mnt]
    done = run(*words, check=False)  # returns when the helper process has closed its stderr, too
    assert done.returncode != 0
    assert "holds foreign files" in done.stderr
    assert "was killed" not in done.stderr


def test_last_words_in_the_foreground(sandbox: MountSandbox) -> None:
    """In the foreground they go to the terminal."""
    overlay = sandbox.overlay()
    words = [minifo_program(), "mount", "-f", "--base", overlay.base, "--sto", overlay.sto, overlay.mnt]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "is mounted" in process.stderr.readline()
        overlay.pid = process.pid
        process.send_signal(signal.SIGSEGV)
        assert "Fatal Python error: Segmentation fault" in process.stderr.read()
    assert process.returncode == -signal.SIGSEGV

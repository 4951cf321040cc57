"""What the daemons of real mounts log: with fields to a journal, as lines to standard error, and each request."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.fusefront.process.log_senders import JOURNAL
from minifo.fusefront.process.system_log import EVENTS
from tests.fusefront.process.test_log_senders import parsed
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, await_end, minifo_program
from tests.shared.waiting import wait_until

_LONG = "x" * 70


@pytest.fixture
def journal(sandbox: MountSandbox) -> Iterator[socket.socket]:
    """A journal where systemd's listens."""
    place = Path(JOURNAL).parent
    place.mkdir(parents=True, exist_ok=True)
    sandbox.mount("-t", "tmpfs", "none", place)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(JOURNAL)
        found.settimeout(20)
        yield found


def next_of(journal: socket.socket, overlay: OverlayMount) -> dict[str, bytes]:
    """The next entry about an overlay."""
    while True:
        entry = parsed(journal.recv(1 << 20))
        if entry["MINIFO_MOUNT"] == os.fsencode(overlay.mnt):
            return entry


def test_journal(sandbox: MountSandbox, journal: socket.socket) -> None:
    """The daemon, its helper, and the helper that took its place all send entries with fields."""
    place = sandbox.directory() / "missing.d" / "a.prom"
    overlay = sandbox.overlay("log=journal")
    overlay.mount(f"metrics={place}")
    early = next_of(journal, overlay)
    assert early["MESSAGE"].startswith(b"metrics=")
    assert early.items() >= {"PRIORITY": b"4", "ERRNO": b"2", "MINIFO_PATH": os.fsencode(place)}.items()
    assert early["MINIFO_STORAGE"] == os.fsencode(overlay.sto)
    assert early["SYSLOG_PID"] == str(overlay.pid).encode()
    (helper,) = Path(f"/proc/{overlay.pid}/task/{overlay.pid}/children").read_text().split()
    os.kill(int(helper), signal.SIGKILL)
    replaced = next_of(journal, overlay)
    assert f"the helper process {helper} was killed".encode() in replaced["MESSAGE"]
    overlay.kill()
    last = next_of(journal, overlay)
    assert last["MESSAGE_ID"] == EVENTS["daemon-ended"].encode()
    assert last["PRIORITY"] == b"3"
    overlay.clear()


def test_the_reason_of_a_lost_write_is_told(sandbox: MountSandbox, journal: socket.socket) -> None:
    """The kernel has written back too late to tell the program more than that some of its bytes are lost."""
    overlay = sandbox.overlay("log=journal")
    (overlay.base / "file").write_bytes(b"base" * 5000)
    overlay.mount()
    before = resource.prlimit(overlay.pid, resource.RLIMIT_NOFILE)
    with open(overlay.mnt / "file", "r+b", buffering=0) as file:
        file.write(b"changed")
        resource.prlimit(overlay.pid, resource.RLIMIT_NOFILE, (0, before[1]))
        with pytest.raises(OSError, match="Too many open files"):
            os.fsync(file.fileno())
        resource.prlimit(overlay.pid, resource.RLIMIT_NOFILE, before)
        ino = os.fstat(file.fileno()).st_ino
    entry = next_of(journal, overlay)
    assert re.fullmatch(rb"\d+ bytes written to inode %d are lost: .*Too many open files.*" % ino, entry["MESSAGE"])
    assert entry["ERRNO"] == str(errno.EMFILE).encode()


def test_replayed_operations_are_an_event(sandbox: MountSandbox, journal: socket.socket) -> None:
    """A program can wait for it by its number."""
    overlay = sandbox.overlay("log=journal", "commit=600")
    overlay.mount()
    (overlay.mnt / "new").mkdir()
    overlay.kill()
    overlay.clear()
    assert next_of(journal, overlay)["MESSAGE_ID"] == EVENTS["daemon-ended"].encode()
    overlay.mount()
    assert next_of(journal, overlay)["MESSAGE_ID"] == EVENTS["operations-replayed"].encode()


def test_no_journal(sandbox: MountSandbox) -> None:
    """Where none listens the mount works."""
    Path(JOURNAL).parent.mkdir(parents=True, exist_ok=True)
    sandbox.mount("-t", "tmpfs", "none", Path(JOURNAL).parent)
    overlay = sandbox.overlay("log=journal")
    overlay.mount("metrics=/nowhere/at/all")
    (overlay.mnt / "new").mkdir()
    overlay.umount()


def logged(overlay: OverlayMount, stderr: int, *options: str) -> None:
    """Mount with a descriptor as standard error."""
    words = [word for option in (*overlay.options, *options) for word in ("-o", option)]
    command = [minifo_program(), "mount", *words, "--base", overlay.base, "--sto", overlay.sto, overlay.mnt]
    subprocess.run(command, stdin=subprocess.DEVNULL, stderr=stderr, check=True, timeout=60)
    overlay.pid = int((overlay.sto / "lock").read_text())


@pytest.fixture
def log(sandbox: MountSandbox) -> Iterator[tuple[Path, int]]:
    """A file to log into: its path, and a descriptor."""
    path = sandbox.directory() / "log"
    with open(path, "wb") as file:
        yield path, file.fileno()


def test_standard_error(sandbox: MountSandbox, log: tuple[Path, int]) -> None:
    """It is the log of the daemon and of its helper for as long as they live; each line is there once."""
    path, fd = log
    overlay = sandbox.overlay("log=stderr")
    logged(overlay, fd, "metrics=/nowhere/at/all")
    (helper,) = Path(f"/proc/{overlay.pid}/task/{overlay.pid}/children").read_text().split()
    os.kill(int(helper), signal.SIGKILL)
    wait_until(lambda: "takes its place" in path.read_text(), "the daemon has logged", 20)
    overlay.kill()
    wait_until(lambda: "was killed; minifo umount" in path.read_text(), "the helper has logged", 20)
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("minifo: ") for line in lines)


def test_pipe_that_nobody_reads(sandbox: MountSandbox) -> None:
    """A full pipe and one without a reader hold up nothing; what was written before is whole lines."""
    overlay = sandbox.overlay("log=stderr", "debug")
    reader, writer = os.pipe()
    logged(overlay, writer)
    os.close(writer)
    for number in range(500):
        (overlay.mnt / f"{number}{_LONG}").mkdir()
    data = os.read(reader, 1 << 20)
    assert len(data) > 50_000
    lines = data.splitlines(keepends=True)
    assert all(line.startswith(b"minifo: ") and line.endswith(b"\n") for line in lines)
    os.close(reader)
    for number in range(500):
        (overlay.mnt / f"{number}{_LONG}").rmdir()
    overlay.umount()


@pytest.mark.parametrize("mode", ["hooked", "plain"])
def test_requests_are_traced(sandbox: MountSandbox, log: tuple[Path, int], mode: str) -> None:
    """A line each, with the errno and the time; a name cannot end a line."""
    path, fd = log
    overlay = sandbox.overlay("log=stderr", "debug", *(["plain"] if mode == "plain" else []))
    logged(overlay, fd)
    (overlay.mnt / "a\nb").mkdir()
    with pytest.raises(FileNotFoundError):
        (overlay.mnt / "missing" / "c").mkdir()
    assert os.listdir(overlay.mnt) == ["a\nb"]
    (overlay.mnt / "file").write_bytes(b"x" * 1000)
    pid = overlay.pid
    overlay.umount()
    await_end(pid)
    text = path.read_text()
    assert re.search(r"^minifo: minifo\S*trace: mkdir\(1, b'a\\nb', .*\) = 0 in \d+\.\d µs$", text, re.MULTILINE)
    assert re.search(r"trace: lookup\(1, b'missing'.*\) = (0|ENOENT) in \d+\.\d µs$", text, re.MULTILINE)
    assert re.search(r"trace: readdir\(1, 0.*\) = 0 in \d+\.\d µs$", text, re.MULTILINE)
    assert re.search(r"trace: write\(.*b'x{80}'\.\.\. 1000 bytes\) = 0 in ", text, re.MULTILINE)

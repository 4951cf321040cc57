"""Names of processes: also after an exec(2), of threads, and of processes that have ended."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

from minifo.fusefront.process.command_names import CommandNames
from tests.shared.waiting import wait_until


def test_names_follow_an_exec() -> None:
    """The one process is a shell first, and cat afterwards."""
    names = CommandNames()
    process = subprocess.Popen(
        ["sh", "-c", "read line; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    wait_until(lambda: names.of(process.pid) == b"sh", "the shell")
    process.stdin.write("\n")
    process.stdin.flush()
    wait_until(lambda: names.of(process.pid) == b"cat", "cat")
    process.communicate(timeout=30)
    wait_until(lambda: names.of(process.pid) is None, "the end")


def test_many_processes_and_a_number_that_is_used_again() -> None:
    """Few descriptors stay open, and one of a process that has ended is not taken for another process."""
    names = CommandNames()
    before = len(os.listdir("/proc/self/fd"))
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(30)]
    for process in processes:
        wait_until(lambda process=process: names.of(process.pid) == b"sleep", "sleep")  # type: ignore[misc]
    assert len(os.listdir("/proc/self/fd")) <= before + 17
    for process in processes:
        process.kill()
        process.wait(30)
        time.sleep(0.001)  # longer than a name counts without a look
        assert names.of(process.pid) is None
    # a number stands for another process now
    own = Path("/proc/self/comm").read_bytes().rstrip(b"\n")
    stale = CommandNames()
    ended = subprocess.Popen(["true"])
    fd = os.open(f"/proc/{ended.pid}/comm", os.O_RDONLY)
    ended.wait(30)
    stale._descriptors[os.getpid()] = fd
    assert stale.of(os.getpid()) == own


def test_threads_have_names_of_their_own() -> None:
    """The kernel names a thread by its id, which no listing of /proc shows."""
    names = CommandNames()
    found: list[bytes | None] = []

    def work() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("a\x1bthread")
        found.append(names.of(threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert found == [b"a\x1bthread"]
    assert names.of(os.getpid()) == Path("/proc/self/comm").read_bytes().rstrip(b"\n")
    assert names.of(0) is None
    assert names.of(1 << 31) is None

"""The end of a mount: who waits for the last commit returns when it is done, and hears what has gone wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from minifo.engine.store.memory_directory import memory_directory
from minifo.fusefront.mount.unmount import MountBusy, detach_between_commits
from tests.mount.mount_sandbox import (
    USER,
    MountSandbox,
    OverlayMount,
    await_end,
    daemon_of,
    is_alive,
    is_mounted,
    minifo,
    run,
)
from tests.mount.unprivileged import as_user
from tests.shared.waiting import wait_until

_ROUNDS = 5


def reports() -> list[dict[str, object]]:
    """What the daemons that serve, or served, say of themselves."""
    directory = memory_directory()
    assert directory is not None
    return [json.loads(path.read_text()) for path in Path(directory).glob("*.mount")]


def of(overlay: OverlayMount) -> list[dict[str, object]]:
    """Those of one overlay."""
    return [report for report in reports() if str(overlay.sto) in str(report["source"])]


def is_noted(mountpoint: Path) -> bool:
    """Whether the notes of mount(8), which umount(8) reads, name a mountpoint."""
    return os.fsencode(mountpoint) in Path("/run/mount/utab").read_bytes()


@pytest.mark.parametrize("how", ["absolute", "relative", "uncanonical", "minifo"])
def test_storage_is_free_after_umount(sandbox: MountSandbox, helpers: None, how: str) -> None:
    """``umount MNT && umount DISK`` works however MNT is written: umount(8) finds the helper, which waits."""
    disk = sandbox.file_system("ext4", 100)
    overlay = sandbox.overlay(sto=disk / "sto")
    for number in range(_ROUNDS):
        overlay.mount()
        for name in range(200):
            (overlay.mnt / f"{number}.{name}").write_bytes(os.urandom(10_000))
        if how == "minifo":
            minifo("umount", overlay.mnt)
        elif how == "relative":
            run("umount", overlay.mnt.name, cwd=overlay.mnt.parent)
        else:
            run("umount", *(["-c"] if how == "uncanonical" else []), overlay.mnt)
        assert daemon_of(overlay.sto) == 0
        run("umount", disk)
        run("mount", "-o", "loop,noatime", disk.with_suffix(".img"), disk)
    assert of(overlay) == []
    assert not is_noted(overlay.mnt)


def test_note_of_a_killed_daemon(sandbox: MountSandbox, helpers: None) -> None:
    """What a killed daemon has left, notes and reports, is gone after the next round, and disturbs nobody."""
    overlay = sandbox.overlay()
    overlay.mount()
    assert is_noted(overlay.mnt)
    overlay.kill()
    assert [report["phase"] for report in of(overlay)] == ["serving"]
    run("umount", "-l", "-i", overlay.mnt)
    sandbox.mount("-t", "tmpfs", "none", overlay.mnt)
    run("umount", overlay.mnt)
    overlay.mount()
    assert [report["pid"] for report in of(overlay)] == [overlay.pid]
    run("umount", overlay.mnt)
    assert of(overlay) == []
    assert not is_noted(overlay.mnt)


@pytest.mark.parametrize("helper", [False, True])
def test_daemon_killed_before_its_last_commit(sandbox: MountSandbox, helper: bool) -> None:
    """Who waits for the last commit of a daemon that is killed hears so, with what to do; nothing is lost then."""
    disk = sandbox.file_system("ext4", 100)
    overlay = sandbox.overlay("commit=60", sto=disk / "sto")
    overlay.mount()
    (overlay.mnt / "name").mkdir()
    run("fsfreeze", "-f", disk)  # nothing can be written until it thaws
    with ExitStack() as stack:
        try:
            process = started(stack, helper, overlay)
            limit = time.monotonic() + 20
            while is_mounted(overlay.mnt):
                assert time.monotonic() < limit
                if process.poll() is not None:
                    process = started(stack, helper, overlay)  # it met us in the mount, which was busy
                with suppress(FileNotFoundError):
                    os.utime(overlay.mnt / "name")  # the daemon commits before its time when nothing happens
                time.sleep(0.1)
            time.sleep(0.3)
            waits = process.poll() is None
            os.kill(overlay.pid, signal.SIGKILL)
        finally:
            run("fsfreeze", "-u", disk)
        said = process.communicate(timeout=20)[1]
    assert waits
    assert process.returncode == 32
    assert "was killed before its last commit" in said
    assert f"mount {overlay.sto} again" in said
    assert said.count("\n") == 1
    overlay.mount()
    assert os.listdir(overlay.mnt) == ["name"]


@pytest.mark.parametrize("deep", [False, True])
def test_daemon_that_uses_its_mount(sandbox: MountSandbox, deep: bool) -> None:
    """A daemon, or a child of it, that has its mount open for a moment is waited for; any other process is not."""
    where = sandbox.file_system("tmpfs")
    shell = f"exec 3<{where}; echo ready; read word; exec 3<&-; read word"
    words = ["sh", "-c", f"({shell}); true" if deep else shell]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdin is not None
        assert user.stdout is not None
        user.stdout.readline()
        with pytest.raises(MountBusy):
            detach_between_commits(str(where), os.getppid(), None)
        with pytest.raises(MountBusy):
            detach_between_commits(str(where), user.pid, 0.1)
        unmounting = Thread(target=detach_between_commits, args=(str(where), user.pid, None))
        unmounting.start()
        wait_until(lambda: sleeps(unmounting), "it tries again")
        user.stdin.write("close\n")
        user.stdin.flush()
        unmounting.join(60)
        assert not is_mounted(where)


def sleeps(thread: Thread) -> bool:
    """Whether a thread sleeps for a time (it does not wait for anything else)."""
    return "nanosleep" in Path(f"/proc/self/task/{thread.native_id}/wchan").read_text()


def started(stack: ExitStack, helper: bool, overlay: OverlayMount) -> subprocess.Popen[str]:
    """Start the command that unmounts; the stack waits for its end."""
    return stack.enter_context(subprocess.Popen(umounting(helper, overlay), stderr=subprocess.PIPE, text=True))


def umounting(helper: bool, overlay: OverlayMount) -> list[str]:
    """The command that unmounts: ``minifo umount``, or the helper that umount(8) calls."""
    programs = Path(sys.executable).parent
    words = [programs / "umount.fuse.minifo"] if helper else [programs / "minifo", "umount"]
    return [*map(str, words), str(overlay.mnt)]


@contextmanager
def in_a_namespace(script: str, *arguments: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in a mount namespace of its own, which has every mount there is now."""
    script = f"import os, sys, time; {script}; print('ready', flush=True); time.sleep(1000)"
    words = ["unshare", "-m", "--propagation", "private", sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("helper", [False, True])
@pytest.mark.parametrize("chrooted", [False, True])
def test_held_in_another_namespace(sandbox: MountSandbox, chrooted: bool, helper: bool) -> None:
    """A mount that lives on elsewhere is not waited for: the processes are named, also those in a chroot."""
    overlay = sandbox.overlay()
    overlay.mount()
    (overlay.mnt / "file").write_text("written")
    script = "os.chroot(sys.argv[1]); os.chdir('/')" if chrooted else "pass"
    with in_a_namespace(script, sandbox.directory()) as process:
        done = run(*umounting(helper, overlay), check=False, timeout=30)
        assert done.returncode == 32
        assert f"process {process.pid} has" in done.stderr
        hint = f"nsenter -t {process.pid} -m umount {overlay.mnt}"
        assert hint in done.stderr
        assert is_alive(overlay.pid)
        run(*hint.split())
        await_end(overlay.pid)
    overlay.mount()
    assert (overlay.mnt / "file").read_text() == "written"


def test_held_by_a_root_directory(sandbox: MountSandbox) -> None:
    """A process whose root lies in a mount that is mounted nowhere any more is named, too."""
    overlay = sandbox.overlay()
    overlay.mount()
    script = "os.chroot(sys.argv[1]); os.chdir('/')"
    with in_a_namespace(script, overlay.mnt) as process:
        run("nsenter", "-t", str(process.pid), "-m", "umount", "-l", overlay.mnt)
        done = minifo("umount", overlay.mnt, check=False, timeout=30)
        assert done.returncode == 32
        assert f"process {process.pid} has a root or working directory inside" in done.stderr
        assert f"kill {process.pid}" in done.stderr
    await_end(overlay.pid)


def test_held_by_nobody_to_be_seen(sandbox: MountSandbox) -> None:
    """A namespace without a process in it keeps the mount alive: the wait has an end, which can be given."""
    overlay = sandbox.overlay()
    overlay.mount()
    with in_a_namespace("pass") as process:
        namespace = os.open(f"/proc/{process.pid}/ns/mnt", os.O_RDONLY)
    try:
        begin = time.monotonic()
        done = minifo("umount", "--timeout", "1", overlay.mnt, check=False)
        assert (done.returncode, "still holds" in done.stderr) == (32, True)
        assert time.monotonic() - begin < 10
    finally:
        os.close(namespace)
    await_end(overlay.pid)


def test_root_is_not_to_be_unmounted(sandbox: MountSandbox) -> None:
    """``minifo umount /`` advises nothing that would harm, whether / is ours or not."""
    done = minifo("umount", "/", check=False)
    assert done.returncode == 32
    assert "; umount /" not in done.stderr
    overlay = sandbox.overlay(base=Path("/"))
    overlay.mount()
    # in there / is the mount, as after pivot_root
    for place in ("proc", "dev"):
        sandbox.mount("--bind", f"/{place}", overlay.mnt / place)
    done = run("chroot", overlay.mnt, *umounting(False, overlay)[:-1], "/", check=False)
    for place in ("proc", "dev"):
        run("umount", overlay.mnt / place)
    assert done.returncode == 32
    assert "minifo sync /" in done.stderr
    (overlay.mnt / "still-writable").touch()
    overlay.umount()


@pytest.mark.parametrize("kind", ["fifo", "link", "foreign"])
def test_forged_source(sandbox: MountSandbox, kind: str, fuse_for_all: None) -> None:
    """Root's umount of a user's mount believes nothing of its source: no FIFO holds it up, no link is followed."""
    overlay = sandbox.overlay()
    for path in (overlay.base, overlay.sto, overlay.mnt):
        os.chown(path, USER, USER)
    words = ("--base", overlay.base, "--sto", overlay.sto, overlay.mnt)
    assert as_user("mount", *words, environment={"XDG_RUNTIME_DIR": "/nonexistent"}) == 0
    overlay.pid = daemon_of(overlay.sto)
    # as if the user had given another source: its report is not to be seen, and its lock is none
    for path in Path(f"/dev/shm/minifo-{USER}").glob("*.mount"):
        path.unlink()
    lock, secret = overlay.sto / "lock", sandbox.directory() / "secret"
    lock.unlink()
    secret.write_text("4711")
    if kind == "fifo":
        os.mkfifo(lock)
    elif kind == "link":
        lock.symlink_to(secret)
    else:
        lock.write_text("4711")  # root's, not the user's
    os.utime(secret, ns=(1, 1))
    done = run(*umounting(True, overlay), check=False, timeout=20)
    assert done.returncode == 32
    assert "cannot be read" in done.stderr
    assert "4711" not in done.stderr
    assert secret.stat().st_atime_ns == 1
    lock.unlink()
    await_end(overlay.pid)

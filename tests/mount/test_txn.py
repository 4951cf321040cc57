"""minifo txn: a command's changes together or none, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, daemon_of, is_mounted, minifo, minifo_program
from tests.mount.test_checkpoints import tree
from tests.shared.waiting import wait_until

TAKEN_BACK = "a transaction that was not committed was taken back"
_WORK = "echo new > new; rm -r dir; echo more >> kept; mv moved elsewhere"


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay over a few base files, with a change."""
    found = sandbox.overlay("commit=0.2")
    (found.base / "dir").mkdir()
    for name in ("kept", "moved", "dir/file"):
        (found.base / name).write_text(name)
    found.mount()
    (found.mnt / "before").write_text("before")
    return found


def txn(target: Path, work: str, *words: str) -> subprocess.CompletedProcess[str]:
    """minifo txn with a shell command."""
    return minifo("txn", *words, target, "--", "sh", "-c", work, check=False)


def start(target: Path, work: str) -> subprocess.Popen[bytes]:
    """The same, running."""
    words = ["env", "--default-signal=INT", minifo_program(), "txn", target, "--", "sh", "-c", work]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def names(target: Path) -> list[str]:
    """The checkpoints of an overlay."""
    lines = minifo("checkpoint", "list", "--json", target).stdout.splitlines()
    return [json.loads(line)["name"] for line in lines]


def test_success_stays(overlay: OverlayMount) -> None:
    """It is told, it is there after a kill, and undo takes it back."""
    mnt = overlay.mnt
    before = tree(mnt)
    done = txn(mnt, f"[ $PWD = {mnt} ] && [ $MINIFO_MOUNT = $PWD ] && {_WORK}")
    assert done.returncode == 0, done.stderr
    assert "minifo: 4 changes: " in done.stderr
    after = tree(mnt)
    assert after != before
    os.kill(daemon_of(overlay.sto), signal.SIGKILL)
    overlay.umount()
    overlay.mount()
    assert tree(mnt) == after
    minifo("undo", mnt)
    assert tree(mnt) == before
    assert txn(mnt, "true").stderr == "minifo: nothing changed\n"
    assert names(mnt) == ["before-txn", "before-undo"]


@pytest.mark.parametrize("how", ["exit 3", "kill -9 $$", "nothing-like-this"])
def test_failure_leaves_nothing(overlay: OverlayMount, how: str) -> None:
    """The exit code is the command's; undo brings back what it did."""
    before = tree(overlay.mnt)
    done = txn(overlay.mnt, f"{_WORK}; {how}")
    assert done.returncode == {"exit 3": 3, "kill -9 $$": 137}.get(how, 127)
    assert "the overlay is as before" in done.stderr
    assert tree(overlay.mnt) == before
    minifo("undo", overlay.mnt)
    assert (overlay.mnt / "new").read_text() == "new\n"


def test_what_cannot_be_run(overlay: OverlayMount) -> None:
    """As the shell says it; and without a command it is a wrong request."""
    assert minifo("txn", overlay.mnt, "--", "/nothing/like/this", check=False).returncode == 127
    assert minifo("txn", overlay.mnt, "--", "/etc", check=False).returncode == 126
    assert minifo("txn", overlay.mnt, check=False).returncode == 125
    assert names(overlay.mnt) == []


def test_in_a_directory_and_as_json(overlay: OverlayMount) -> None:
    """TARGET is where it runs; the summary is one line."""
    told: dict[str, Any] = json.loads(txn(overlay.mnt / "dir", "echo x > made", "--json").stdout)
    assert told["changes"] == {"A": 1}
    assert (told["outcome"], told["checkpoint"]) == ("committed", "before-txn")
    assert (overlay.mnt / "dir/made").exists()
    told = json.loads(txn(overlay.mnt, "echo x > lost; exit 1", "--json").stdout)
    assert (told["outcome"], told["command"]["exit_code"]) == ("taken back", 1)


def test_minifo_is_killed(overlay: OverlayMount) -> None:
    """The daemon takes it back at once."""
    before = tree(overlay.mnt)
    running = start(overlay.mnt, f"{_WORK}; sleep 60")
    wait_until(lambda: (overlay.mnt / "elsewhere").exists(), "the command's changes")
    running.kill()
    running.wait()
    wait_until(lambda: "before-abandon" in names(overlay.mnt), "the end of the transaction")
    os.killpg(running.pid, signal.SIGKILL)
    assert tree(overlay.mnt) == before


@pytest.mark.logs(TAKEN_BACK, always=False)
@pytest.mark.parametrize("how", ["kill", "umount"])
def test_the_daemon_ends(overlay: OverlayMount, how: str) -> None:
    """The next mount takes it back, before it shows anything; also what was committed by its daemon."""
    before = tree(overlay.mnt)
    running = start(overlay.mnt, f"{_WORK}; cd /; sleep 1")
    wait_until(lambda: (overlay.mnt / "elsewhere").exists(), "the command's changes")
    minifo("sync", overlay.mnt)
    if how == "kill":
        os.kill(daemon_of(overlay.sto), signal.SIGKILL)
    else:
        overlay.umount()
    assert running.wait(30) == 125
    if how == "kill":
        overlay.umount()
    assert minifo("trial", "status", overlay.sto).stdout.startswith("indeterminate")
    overlay.mount()
    assert tree(overlay.mnt) == before
    assert txn(overlay.mnt, _WORK).returncode == 0


def test_ctrl_c(overlay: OverlayMount) -> None:
    """The whole process group gets it; the overlay is as before when minifo has ended."""
    before = tree(overlay.mnt)
    running = start(overlay.mnt, f"{_WORK}; exec sleep 60")

    def is_asleep() -> bool:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        return [Path(f"/proc/{child}/comm").read_text() for child in children] == ["sleep\n"]

    # a shell goes on after a SIGINT if what it waits for has ended otherwise meanwhile
    wait_until(is_asleep, "the command's changes are done")
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(30) == 130
    assert tree(overlay.mnt) == before
    running = start(overlay.mnt, f"trap 'exit 0' INT; {_WORK}; sleep 60 & wait")
    wait_until(lambda: (overlay.mnt / "elsewhere").exists(), "the command's changes")
    time.sleep(0.2)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(30) == 0  # the command has handled it
    assert (overlay.mnt / "elsewhere").exists()


def test_one_at_a_time(overlay: OverlayMount) -> None:
    """Another one, in it or beside it, is refused, and so is one during a trial; none of that changes anything."""
    inner = f"{minifo_program()} txn $MINIFO_MOUNT -- touch inner; echo $? > code; {minifo_program()} confirm . || :"
    assert txn(overlay.mnt, inner).returncode == 0
    assert (overlay.mnt / "code").read_text() == "125\n"
    assert not (overlay.mnt / "inner").exists()
    minifo("trial", "start", overlay.mnt)
    for target in (overlay.mnt, overlay.sto):
        refused = txn(target, "touch during")
        assert refused.returncode == 125
        assert "a trial is running" in refused.stderr
        if target == overlay.mnt:
            overlay.umount()
    minifo("trial", "abandon", overlay.sto, check=False)


@pytest.mark.logs(TAKEN_BACK, always=False)
def test_not_mounted(overlay: OverlayMount) -> None:
    """It is mounted for the time of the command, where nobody else sees it."""
    before = tree(overlay.mnt)
    overlay.umount()
    done = txn(overlay.sto, f"{_WORK}; grep -c minifo /proc/self/mountinfo")
    assert done.returncode == 0, done.stderr
    assert not is_mounted(overlay.mnt)
    assert txn(overlay.sto, "echo lost > lost; exit 4").returncode == 4
    running = start(overlay.sto, "echo lost > lost; echo $PWD > /dev/null; sleep 60")
    wait_until(
        lambda: daemon_of(overlay.sto) and "indeterminate" in minifo("trial", "status", overlay.sto).stdout, "it"
    )
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    wait_until(lambda: not daemon_of(overlay.sto), "the end of the daemon")
    overlay.mount()
    assert not (overlay.mnt / "lost").exists()
    assert (overlay.mnt / "elsewhere").exists()
    minifo("rollback", overlay.mnt, "before-txn")
    assert tree(overlay.mnt) == before


def test_others_take_part(overlay: OverlayMount) -> None:
    """What another program does meanwhile is kept with it, or goes with it; open files see it."""
    for code in (0, 1):
        running = start(overlay.mnt, f"touch begun; while [ ! -e theirs ]; do sleep 0.05; done; rm begun; exit {code}")
        wait_until(lambda: (overlay.mnt / "begun").exists(), "the command")
        (overlay.mnt / "theirs").write_text(str(code))
        assert running.wait(30) == code
        assert (overlay.mnt / "theirs").exists() == (code == 0)
        if code == 0:
            (overlay.mnt / "theirs").unlink()

"""The journal of real mounts: who made each change, what is in it before a commit and after a kill, and how it is read.

Pages are written by the kernel; the tests have them written (minifo sync) where their entries matter.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from minifo.fusefront.control.client import ControlClient, Refused
from tests.mount.mount_sandbox import USER, MountSandbox, OverlayMount, minifo, minifo_program, run
from tests.shared.waiting import wait_until


def log(target: Path, *words: str) -> list[dict[str, Any]]:
    """The entries that the command prints."""
    return [json.loads(line) for line in minifo("log", "--json", *words, target).stdout.splitlines()]


def told(target: Path, *words: str) -> list[str]:
    """The same as operation and paths."""
    entries = log(target, *words)
    return [" ".join([entry["op"], entry["path"], *filter(None, [entry.get("other_path")])]) for entry in entries]


def mounted(sandbox: MountSandbox, *options: str) -> OverlayMount:
    """A mounted overlay with a journal, whose changes are committed late."""
    overlay = sandbox.overlay("commit=600", *options)
    (overlay.base / "d").mkdir()
    for name in ("d/file", "top", "other"):
        (overlay.base / name).write_text(name)
    (overlay.base / "d").chmod(0o777)
    overlay.mount()
    return overlay


@pytest.mark.parametrize("mode", ["hook", "plain"])
def test_who_changed_what(sandbox: MountSandbox, mode: str) -> None:
    """Each kind of change by a program of its own: user, process and command are those of the program."""
    overlay = mounted(sandbox, "journal=100", *(["plain"] if mode == "plain" else []))
    script = (
        "mkdir new; mv d/file new/file; ln new/file d/link; ln -s to d/sym; mkfifo d/pipe; chmod 600 top; rm other;"
        " setfattr -n user.a -v 1 top; chown 7 top; touch -d 2020-01-01 top; truncate -s 1 top; rmdir none; mv d e"
    )
    run("sh", "-c", script, cwd=overlay.mnt, check=False)
    process = subprocess.Popen(["sh", "-c", "echo $$; exec sh -c 'echo x > e/made'"], cwd=overlay.mnt, user=USER,
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    pid = int(process.communicate(timeout=30)[0])
    minifo("sync", overlay.mnt)
    entries = log(overlay.mnt)
    assert told(overlay.mnt) == [
        *("mkdir /new", "rename /new/file /d/file", "link /d/link /new/file", "symlink /d/sym", "mknod /d/pipe"),
        *("chmod /top", "unlink /other", "setxattr /top", "chown /top", "times /top", "truncate /top"),
        *("rename /e /d", "create /e/made", "write /e/made"),
    ]
    commands = ["mkdir", "mv", "ln", "ln", "mkfifo", "chmod", "rm", "setfattr", "chown", "touch", "truncate", "mv"]
    assert [entry["command"] for entry in entries] == [*commands, "sh", "sh"]
    assert [(entry["uid"], entry["pid"]) for entry in entries[-2:]] == [(USER, pid)] * 2
    assert {entry["uid"] for entry in entries[:-2]} == {0}
    assert len({entry["pid"] for entry in entries[:-2]}) == len(commands)
    times = [entry["time"] for entry in entries]
    assert times == sorted(times)
    overlay.umount()
    assert log(overlay.sto) == entries


def test_a_program_that_becomes_another_one(sandbox: MountSandbox) -> None:
    """The name is that at the time of the change, also right after an exec(2)."""
    overlay = mounted(sandbox, "journal=100")
    run("sh", "-c", "mkdir one; exec mkdir two", cwd=overlay.mnt)
    first, second = log(overlay.mnt)
    assert first["pid"] + 1 == second["pid"] or first["pid"] != second["pid"]
    run("python3", "-c", "import os; os.mkdir('three'); os.execvp('mkdir', ['mkdir', 'four'])", cwd=overlay.mnt)
    third, fourth = log(overlay.mnt)[2:]
    assert (third["command"], fourth["command"]) == ("python3", "mkdir")
    assert third["pid"] == fourth["pid"]


def test_what_is_not_committed_is_in_the_answer(sandbox: MountSandbox) -> None:
    """From whichever path in the mount, or the storage, it is asked for."""
    overlay = mounted(sandbox, "journal=3")
    for name in ("a", "b", "c", "d2", "e"):
        (overlay.mnt / name).mkdir()
    assert told(overlay.mnt / "a") == ["mkdir /c", "mkdir /d2", "mkdir /e"]
    assert told(overlay.sto, "-n", "1") == ["mkdir /e"]
    assert told(overlay.mnt, "--since", "1h", "--op", "mkdir") == ["mkdir /c", "mkdir /d2", "mkdir /e"]
    overlay.umount()
    assert [row[3] for row in overlay.rows("journal")] == [b"/c", b"/d2", b"/e"]


def test_without_the_option(sandbox: MountSandbox) -> None:
    """Nothing is noted, and the command says what to do; entries of an earlier mount stay."""
    overlay = mounted(sandbox)
    (overlay.mnt / "a").mkdir()
    done = minifo("log", overlay.mnt, check=False)
    assert (done.returncode, "has no journal; mount it with -o journal=" in done.stderr) == (2, True)
    done = minifo("log", "--follow", overlay.mnt, check=False)
    assert (done.returncode, "keeps no journal" in done.stderr) == (2, True)
    overlay.umount()
    overlay.mount("journal=10")
    assert told(overlay.mnt) == []
    (overlay.mnt / "b").mkdir()
    overlay.umount()
    overlay.mount()
    (overlay.mnt / "c").mkdir()
    done = minifo("log", overlay.mnt)
    assert done.stdout.endswith(" /b\n")
    assert done.stdout.count("\n") == 1
    assert "this mount is without -o journal=N" in done.stderr
    overlay.umount()
    overlay.mount("ro,journal=10")
    assert told(overlay.mnt) == ["mkdir /b"]


@pytest.mark.parametrize("value", ["", "0", "-1", "many", "1000001", "1" * 5000, "\uff11"])
def test_impossible_numbers(sandbox: MountSandbox, value: str) -> None:
    """The option is refused by name."""
    overlay = sandbox.overlay()
    done = overlay.mount(f"journal={value}", check=False)
    assert (done.returncode, "is not a number of entries; give 1 to 1000000" in done.stderr) == (1, True)


def test_control_socket(sandbox: MountSandbox) -> None:
    """Any range may be asked, in either direction; a wrong parameter is refused."""
    overlay = mounted(sandbox, "journal=50")
    for number in range(60):
        (overlay.mnt / f"{number}").mkdir()
    with ControlClient(str(overlay.sto)) as client:
        said = client.call("Journal")
        assert (said["limit"], said["first"], said["end"], said["next"]) == (50, 11, 61, 61)
        assert [entry["id"] for entry in said["entries"]] == list(range(11, 61))
        said = client.call("Journal", first=5, end=14, backward=True)
        assert ([entry["id"] for entry in said["entries"]], said["next"]) == ([13, 12, 11], 11)
        for first, end in ((61, -5), (1 << 70, 1 << 71), (-(1 << 70), 11), (1 << 70, None)):
            assert client.call("Journal", first=first, end=end)["entries"] == []
        assert len(client.call("Journal", first=-(1 << 70), end=1 << 70)["entries"]) == 50
        for wrong in ({"first": "1"}, {"end": 2.5}, {"backward": 1}, {"first": True}):
            with pytest.raises(Refused, match="cannot do that"):
                client.call("Journal", **wrong)
        assert client.call("Journal", first=60)["entries"][0]["path"] == "/59"


def test_follow(sandbox: MountSandbox) -> None:
    """Begins with the last entries, shows new ones as they come, and ends with the mount."""
    overlay = mounted(sandbox, "journal=100")
    for number in range(12):
        (overlay.mnt / f"{number}").mkdir()
    words = [minifo_program(), "log", "--follow", "--json", "--op", "mkdir", str(overlay.mnt)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.extend(json.loads(line)["path"] for line in process.stdout or ()))
    reader.start()
    wait_until(lambda: len(seen) == 10, "the last ten entries")
    (overlay.mnt / "top").chmod(0o600)
    (overlay.mnt / "late").mkdir()
    wait_until(lambda: len(seen) == 11, "a new entry")
    (overlay.mnt / "later").mkdir()
    wait_until(lambda: len(seen) == 12, "another one")
    overlay.umount()
    assert process.wait(30) == 0
    reader.join(30)
    assert process.stdout is not None
    process.stdout.close()
    assert seen == [*(f"/{number}" for number in range(2, 12)), "/late", "/later"]


def test_follow_is_interrupted(sandbox: MountSandbox) -> None:
    """Ctrl-C is how it usually ends."""
    overlay = mounted(sandbox, "journal=100")
    (overlay.mnt / "a").mkdir()
    words = [minifo_program(), "log", "--follow", str(overlay.mnt)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().endswith(" /a\n")
    (overlay.mnt / "b").mkdir()
    assert process.stdout.readline().endswith(" /b\n")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("", "", 0)


@pytest.mark.logs("operations of a killed daemon were replayed", always=False)
def test_kill(sandbox: MountSandbox) -> None:
    """After kill -9 in the middle of work each object that is there has its entry, and each entry its object."""
    overlay = mounted(sandbox, "journal=100000")
    overlay.umount()
    overlay.options = ["commit=0.05", "journal=100000"]
    overlay.mount()
    for _ in range(4):
        worker = subprocess.Popen(
            ["python3", "-c", "import os, itertools\nfor n in itertools.count(): os.mkdir(f'{os.getpid()}.{n}')"],
            cwd=overlay.mnt,
            stderr=subprocess.DEVNULL,
        )
        count = len(os.listdir(overlay.mnt))
        wait_until(lambda count=count: len(os.listdir(overlay.mnt)) > count + 200, "some work")
        overlay.kill()
        worker.wait(30)
        run("umount", "-l", overlay.mnt)
        overlay.mount()
        noted = [entry["path"] for entry in log(overlay.mnt)]
        assert len(noted) == len(set(noted))
        assert {path[1:] for path in noted} == {*os.listdir(overlay.mnt)} - {"d", "top", "other"}
        ids = [entry["id"] for entry in log(overlay.mnt)]
        assert ids == list(range(1, len(ids) + 1))
    overlay.umount()
    assert overlay.violations() == []


def test_hostile_names(sandbox: MountSandbox) -> None:
    """Of files and of commands: no byte of theirs reaches a terminal as it is."""
    overlay = mounted(sandbox, "journal=100")
    name = b"a\n\x1b]0;title\x07\xff"
    program = os.fsencode(overlay.base.parent) + b"/\x1b[2J\n" + b"x" * 20
    Path(os.fsdecode(program)).symlink_to("/bin/mkdir")
    run(program, name, cwd=overlay.mnt)
    line = minifo("log", overlay.mnt).stdout
    assert line.endswith(r"\x1b[2J\nxxxxxxxxxx /a\n\x1b]0;title\x07\xff" + "\n")
    assert line.count("\n") == 1
    done = subprocess.run(
        [minifo_program(), "log", "-z", str(overlay.mnt)], capture_output=True, timeout=30, check=True
    )
    assert done.stdout.split(b"\0")[4:7] == [b"\x1b[2J\nxxxxxxxxxx", b"", b"/" + name]


def test_many_processes_at_once(sandbox: MountSandbox) -> None:
    """Each change is that of its own process, whoever else works."""
    overlay = mounted(sandbox, "journal=10000")
    code = (
        "import os\nfor n in range(100):\n name = f'{os.getpid()}.{n}'\n os.mkdir(name)\n os.rename(name, f'r{name}')"
    )
    workers = [subprocess.Popen(["python3", "-c", code], cwd=overlay.mnt) for _ in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    entries = log(overlay.mnt)
    assert len(entries) == 800
    assert all(str(entry["pid"]) in entry["path"] for entry in entries)


def test_rename_that_waits_for_pages(sandbox: MountSandbox) -> None:
    """While the kernel writes back a file that replaces another one, others are served; the rename is still its own."""
    overlay = mounted(sandbox, "journal=1000")
    code = (
        "import os\nfor n in range(30):\n with open(f'n{os.getpid()}', 'w') as f: f.write('x' * 5000)\n"
        " os.rename(f'n{os.getpid()}', f't{os.getpid()}')"
    )
    workers = [subprocess.Popen(["python3", "-c", code], cwd=overlay.mnt) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0] * 3
    entries = log(overlay.mnt)
    renames = [entry for entry in entries if entry["op"] == "rename"]
    assert len(renames) == 90
    assert all(str(entry["pid"]) in entry["path"] for entry in entries)


def test_the_clock(sandbox: MountSandbox) -> None:
    """Entries have the time of their change, which is the ctime of what was made."""
    overlay = mounted(sandbox, "journal=10")
    before = time.time_ns()
    (overlay.mnt / "a").mkdir()
    (entry,) = log(overlay.mnt)
    assert entry["time"] == (overlay.mnt / "a").stat().st_ctime_ns
    assert before - 10**9 < entry["time"] <= time.time_ns()

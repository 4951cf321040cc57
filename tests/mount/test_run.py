"""minifo run: a command in a throw-away overlay of the whole machine."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import (
    STEP,
    MountSandbox,
    fingerprint,
    is_alive,
    minifo,
    minifo_program,
    mount_lines,
    run,
)
from tests.mount.unprivileged import as_user
from tests.shared.waiting import wait_until

SOMEBODY = 12345  # a user without a name


class Machine:
    """A part of the machine that commands may try to change, and the place where sandboxes lie.

    Attributes:
        tree: a directory on disk with things to change.
        place: TMPDIR of the sandboxes.
        access: whether access times count.
    """

    def __init__(self, sandbox: MountSandbox) -> None:
        self.tree = sandbox.directory_on_disk()
        self.place = sandbox.directory_on_disk()
        for number in range(20):
            path = self.tree / f"d{number % 3}" / f"file{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"number {number}\n" * number)
        os.link(self.tree / "d0/file0", self.tree / "link")
        (self.tree / "symlink").symlink_to("d0/file0")
        os.setxattr(self.tree / "d1", "user.key", b"value")
        self.mounts = mount_lines()
        self.access = True
        self.before = fingerprint(self.tree)

    def run(self, *words: str | Path, check: bool = False, **keywords: object) -> subprocess.CompletedProcess[str]:
        """Call ``minifo run``."""
        environment = {**os.environ, "TMPDIR": str(self.place)}
        return minifo("run", *words, check=check, env=environment, **keywords)

    def start(self, *words: str | Path, **keywords: object) -> subprocess.Popen[bytes]:
        """Start ``minifo run``, and return when its command has written a line."""
        started = subprocess.Popen(
            [minifo_program(), "run", *map(str, words)],
            env={**os.environ, "TMPDIR": str(self.place)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            **keywords,  # type: ignore[call-overload]
        )
        assert started.stdout is not None
        assert started.stdout.readline()
        return started

    def assert_unchanged(self) -> None:
        """Nothing that a command did happened to the machine, and nothing of a sandbox is left."""
        assert fingerprint(self.tree, access=self.access) == self.before
        assert mount_lines() == self.mounts
        assert os.listdir(self.place) == []


@pytest.fixture
def machine(sandbox: MountSandbox) -> Iterator[Machine]:
    """A machine that must be as before at the end of the test."""
    made = Machine(sandbox)
    yield made
    made.assert_unchanged()


def children(pid: int) -> list[int]:
    """The children of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_stopped(pid: int) -> bool:
    """Whether job control has stopped a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


# -- exit codes


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["true"], 0, "nothing changed"),
        (["sh", "-c", "exit 7"], 7, ""),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM, ""),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL, ""),
        (["/no/such/program"], 127, "/no/such/program: No such file"),
        (["no-such-program\x1b[31m"], 127, r"no-such-program\x1b[31m: No such"),
        (["/etc/passwd"], 126, "/etc/passwd: Permission denied"),
        (["/etc"], 126, "/etc: "),
        (["--no-such-option"], 125, "No such option"),
        (["--ask", "--", "true"], 125, "needs a terminal"),
        (["--base", "/no/such/directory", "--", "true"], 125, "/no/such/directory"),
        (["--keep", "a", "--discard", "--", "true"], 125, "exclude each other"),
    ],
)
def test_exit_code(machine: Machine, words: list[str], code: int, said: str) -> None:
    """The exit code is the command's, or one that tells that it did not run."""
    done = machine.run(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_streams_arguments_and_environment_are_the_command_s(machine: Machine) -> None:
    """The command reads stdin, writes stdout and stderr, and has directory, environment and umask of the caller."""
    script = 'cat; pwd; umask; echo "$1" "$WORD"; echo error >&2'
    done = machine.run(
        "--", "sh", "-c", script, "sh", "a  b", input="input\n", stdin=None, cwd=machine.tree, umask=0o027
    )
    assert done.stdout.splitlines()[:4] == ["input", str(machine.tree), "0027", "a  b "]
    assert "error\n" in done.stderr


# -- the machine is unchanged


def test_what_a_command_destroys_is_there_afterwards(machine: Machine) -> None:
    """A directory is deleted with all that is in it, files are overwritten, and nothing of it happens."""
    script = f"""
        cd {machine.tree} && rm -rf d0 && echo new > d1/file1 && mv d2 d3 && chmod 700 . && rm -f link symlink
        test ! -e d0 && test "$(cat d1/file1)" = new && test -e d3/file2
    """
    done = machine.run("--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    machine.assert_unchanged()
    lines = done.stderr.splitlines()
    tree = str(machine.tree)
    assert lines[0].startswith("minifo: 6 changes: 1 M, 3 D, 1 R")
    assert f"  D  {tree}/d0/" in lines
    assert f"  M  {tree}/d1/file1" in lines
    assert f"  R  {tree}/d2/ -> {tree}/d3/" in lines
    assert lines[-1] == "minifo: the changes are discarded"


def test_mounts_below_are_protected_as_well(machine: Machine, sandbox: MountSandbox) -> None:
    """A file system on a disk, one in memory, a file and a read-only one: each can be used, none is changed."""
    places = {name: machine.tree.parent / f"{machine.tree.name}-{name}" for name in ("disk", "memory", "ro")}
    for path in places.values():
        path.mkdir()
        sandbox.undo(path.rmdir)
    sandbox.mount("--bind", sandbox.file_system("ext4", 20), places["disk"])
    sandbox.mount("-t", "tmpfs", "none", places["memory"])
    sandbox.mount("-t", "tmpfs", "none", places["ro"])
    for path in places.values():
        (path / "file").write_text("old")
    run("mount", "-o", "remount,ro", places["ro"])
    machine.mounts = mount_lines()
    before = [fingerprint(path) for path in places.values()]
    script = "for d in {disk} {memory}; do echo new > $d/new; rm $d/file; test ! -e $d/file || exit 3; done; \
              rm {ro}/file 2>/dev/null && exit 4; cat {ro}/file".format(**places)
    done = machine.run("--json", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert [fingerprint(path) for path in places.values()] == before
    summary = json.loads(done.stdout.removeprefix("old"))
    assert summary["changes"] == {"A": 1, "D": 1}  # what is in memory does not last and is not counted


def test_kernel_and_other_processes_are_out_of_reach(machine: Machine) -> None:
    """No device node can be deleted, no setting of the kernel changed, and no process outside is seen."""
    script = """
        rm /dev/null 2>/dev/null && exit 3
        echo x > /dev/null || exit 4
        (echo 1 > /proc/sys/kernel/panic) 2>/dev/null && exit 5
        kill -0 $1 2>/dev/null && exit 6
        echo x > /dev/shm/x || exit 7
        exec 3<>/dev/ptmx || exit 8
        ps -o pid= -e | wc -l
    """
    done = machine.run("--", "sh", "-c", script, "sh", str(os.getpid()))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 10
    assert not os.path.exists("/dev/shm/x")


def test_only_the_given_directory_is_protected(machine: Machine, sandbox: MountSandbox) -> None:
    """With --base the rest of the machine is as it is."""
    other = sandbox.directory_on_disk()
    done = machine.run("--base", machine.tree, "--", "sh", "-c", f"rm -r {machine.tree}/d0; echo x > {other}/file")
    assert done.returncode == 0, done.stderr
    assert (other / "file").read_text() == "x\n"
    assert f"D  {machine.tree}/d0/" in done.stderr


def test_shared_path_is_changed(machine: Machine, sandbox: MountSandbox) -> None:
    """What is written to a path of --share is there afterwards."""
    other = sandbox.directory_on_disk()
    done = machine.run("--share", other, "--", "sh", "-c", f"rm -r {machine.tree}/d0; echo x > {other}/file")
    assert done.returncode == 0, done.stderr
    assert (other / "file").read_text() == "x\n"


# -- what becomes of the changes


def test_json_summary(machine: Machine) -> None:
    """One line at the end of stdout, or in a file, says what happened, also of names that are not UTF-8."""
    script = f"cd {machine.tree}; rm -r d0; printf x > $(printf 'odd\\377'); mkdir a; echo out; exit 5"
    done = machine.run("--json", "--", "sh", "-c", script)
    assert done.returncode == 5
    assert done.stdout.startswith("out\n")
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["command"] == {"exit_code": 5, "signal": None}
    assert (found["total"], found["changes"]) == (3, {"A": 2, "D": 1})
    assert (found["outcome"], found["storages"]) == ("discarded", [])


def test_hostile_names_in_the_summary(machine: Machine) -> None:
    """Newlines and control characters of names do not reach the terminal."""
    done = machine.run("--", "sh", "-c", f"cd {machine.tree}; touch \"$(printf 'a\\nb\\033[31m')\"; touch -- -rf")
    assert done.returncode == 0
    assert f"  A  {machine.tree}/a\\nb\\x1b[31m" in done.stderr.splitlines()


def test_kept_storage_can_be_read_and_gone_on_with(machine: Machine, sandbox: MountSandbox) -> None:
    """--keep leaves a storage that minifo diff reads, and with which another command goes on."""
    storage = sandbox.directory_on_disk() / "sto"
    first = machine.run("--keep", storage, "--", "sh", "-c", f"rm -r {machine.tree}/d0; echo x > {machine.tree}/new")
    assert first.returncode == 0, first.stderr
    assert f"minifo diff {storage}" in first.stderr
    machine.assert_unchanged()
    listed = minifo("diff", storage).stdout.splitlines()
    assert f"D  {machine.tree}/d0/" in listed
    assert f"A  {machine.tree}/new" in listed
    second = machine.run("--keep", storage, "--", "sh", "-c", f"cat {machine.tree}/new; ls {machine.tree}")
    assert second.stdout.split() == ["x", "d1", "d2", "link", "new", "symlink"]


def test_reader_of_the_output_goes_away(machine: Machine) -> None:
    """The command gets SIGPIPE as outside, and a summary that nobody reads does not change the exit code."""
    script = f"{minifo_program()} run -- yes | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = run("bash", "-c", script, env={**os.environ, "TMPDIR": str(machine.place)})
    assert done.stdout.split() == ["y", str(128 + signal.SIGPIPE)]
    reader, writer = os.pipe()
    os.close(reader)
    command = [minifo_program(), "run", "--json", "--", "sh", "-c", "exit 3"]
    environment = {**os.environ, "TMPDIR": str(machine.place)}
    assert subprocess.run(command, stdout=writer, stderr=writer, env=environment, timeout=STEP).returncode == 3
    os.close(writer)


# -- processes and signals


def test_signals_reach_the_command(machine: Machine) -> None:
    """A signal that is sent to minifo arrives at the command, which decides what becomes of it."""
    script = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    started = machine.start("--", "sh", "-c", script, stderr=subprocess.DEVNULL)
    started.send_signal(signal.SIGTERM)
    assert started.communicate(timeout=STEP)[0] == b"got\n"
    assert started.returncode == 9


def test_what_the_command_leaves_running_ends(machine: Machine) -> None:
    """The sandbox ends with the command, and with it every process in it, also one that does not want to."""
    script = "(trap '' TERM HUP; setsid sleep 1000) & echo ready; exit 4"
    started = machine.start("--", "sh", "-c", script, stderr=subprocess.DEVNULL)
    started.communicate(timeout=STEP)
    assert started.returncode == 4


@pytest.mark.parametrize("which", ["caller", "keeper", "first", "daemon", "all"])
def test_killed_process_leaves_nothing(machine: Machine, which: str) -> None:
    """Whatever process of a sandbox is killed: every process ends, and neither mount nor storage is left."""
    started = machine.start("--", "sh", "-c", "echo ready; sleep 1000", stderr=subprocess.PIPE)
    (keeper,) = children(started.pid)
    daemon, first = children(keeper)
    family = [keeper, daemon, first, *children(first), *children(daemon)]
    chosen = {"caller": [started.pid], "keeper": [keeper], "first": [first], "daemon": [daemon]}
    for pid in chosen.get(which, [started.pid, keeper]):
        os.kill(pid, signal.SIGKILL)
    _, said = started.communicate(timeout=STEP)
    code = started.returncode
    if which in ("keeper", "daemon"):
        assert (code, said.count(b"\n")) == (125, 1)
    else:
        assert code == (128 + signal.SIGKILL if which == "first" else -signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, family)), "every process has ended")
    if which == "all":
        assert len(os.listdir(machine.place)) == 1
        machine.run("--", "true", check=True)  # removes what others left
    wait_until(lambda: not os.listdir(machine.place), "the directory of the sandbox is removed")


def test_command_in_a_sandbox_in_a_sandbox(machine: Machine) -> None:
    """A sandbox within a sandbox sees the changes of the outer one, and leaves them alone."""
    inner = f"cat {machine.tree}/new; rm -r {machine.tree}/new {machine.tree}/d0"
    script = f"echo outer > {machine.tree}/new; {minifo_program()} run -- sh -c '{inner}'; cat {machine.tree}/new"
    done = machine.run("--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "outer\nouter\n"), done.stderr
    assert f"D  {machine.tree}/new" in done.stderr
    assert f"A  {machine.tree}/new" in done.stderr


# -- an ordinary user


def test_ordinary_user(machine: Machine, sandbox: MountSandbox, fuse_for_all: None) -> None:
    """A user without privileges changes what is the user's and what all may write to, and nothing else.

    A disk that is closed to the user, as those of containers are, is no hindrance.
    """
    disk = sandbox.file_system("ext4", 8)
    disk.chmod(0o700)
    sandbox.mount("--bind", disk, sandbox.directory_on_disk())
    machine.mounts = mount_lines()
    machine.place.chmod(0o777)
    tree = machine.tree
    for path in (tree / "d0", *(tree / "d0").iterdir()):
        os.chown(path, SOMEBODY, SOMEBODY)
    (tree / "d1").chmod(0o1777)
    machine.access = False  # a user's reading sets them, as outside: open(2), O_NOATIME
    machine.before = fingerprint(tree, access=False)
    report = machine.place / "report"
    script = f"""
        cd {tree}; test "$(id -u)" = {SOMEBODY} || exit 3
        rm -rf d0/* || exit 4
        echo new > d1/new || exit 5
        rm -rf d2 2>/dev/null && exit 6
        (echo x > d2/file2) 2>/dev/null && exit 7
        cat /etc/shadow 2>/dev/null && exit 8
        kill -0 {os.getppid()} 2>/dev/null && exit 9
        exit 77
    """
    words = ("run", "--json", "--output", report, "--", "sh", "-c", script)
    assert as_user(*words, environment={"TMPDIR": str(machine.place)}, uid=SOMEBODY) == 77
    found = json.loads(report.read_text())
    report.unlink()
    assert found["changes"]["A"] == 1
    assert found["changes"]["D"] == 7
    assert found["outcome"] == "discarded"


def test_no_user_namespace(
    machine: Machine, sandbox: MountSandbox, fuse_for_all: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where users may make no user namespace, the user is told so in one line."""
    machine.place.chmod(0o777)
    root = sandbox.directory()
    sandbox.mount("--rbind", "/", root)
    machine.mounts = mount_lines()
    # user_namespaces(7): not in a chroot
    words = ("run", "--", "true")
    code = as_user(*words, environment={"TMPDIR": str(machine.place)}, uid=SOMEBODY, before=lambda: os.chroot(root))
    assert code == 125
    assert "may make no user namespace" in capfd.readouterr().err


# -- at a terminal


class Terminal:
    """A terminal with a program in it.

    Args:
        words: the program and its arguments.
        place: its TMPDIR.
    """

    def __init__(self, words: list[str], place: Path) -> None:
        self.text = ""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TMPDIR=str(place), PS1="prompt> ", TERM="dumb", HISTFILE="/dev/null")
            os.execvp(words[0], words)

    def type(self, text: str) -> None:
        """Type a text."""
        os.write(self._fd, text.encode())

    def foreground(self) -> int:
        """The process group that has the terminal."""
        return os.tcgetpgrp(self._fd)

    def expect(self, text: str) -> None:
        """Read until the terminal shows a text; what came before is not looked at again."""
        limit = time.monotonic() + STEP
        while text not in self.text:
            assert select.select([self._fd], [], [], max(0, limit - time.monotonic()))[0], f"no {text!r}: {self.text!r}"
            try:
                self.text += os.read(self._fd, 4096).decode(errors="replace")
            except OSError:  # the last process at the terminal has ended
                raise AssertionError(f"no {text!r}: {self.text!r}") from None
        self.text = self.text.partition(text)[2]

    def end(self) -> int:
        """Wait for the program, and return its exit code."""
        with contextlib.suppress(OSError):
            while os.read(self._fd, 4096):
                pass
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._fd)
        return code


def test_ctrl_c_reaches_the_command(machine: Machine) -> None:
    """Ctrl-C kills the command, or it is handled there; either way minifo tidies up and says what was changed."""
    # exec: dash loses a Ctrl-C that comes while it starts a command that it waits for
    script = f"rm -r {machine.tree}/d0; echo ready; exec sleep 1000"
    terminal = Terminal([minifo_program(), "run", "--discard", "--", "sh", "-c", script], machine.place)
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.expect("1 change: 1 D")
    assert terminal.end() == 128 + signal.SIGINT


def test_ctrl_c_before_the_command_runs(machine: Machine) -> None:
    """Whenever Ctrl-C comes, nothing is left."""
    for delay in range(12):
        terminal = Terminal([minifo_program(), "run", "--discard", "--", "sleep", "1000"], machine.place)
        wait_until(lambda: os.listdir(machine.place), "the sandbox is being made")
        time.sleep(delay * 0.05)  # any moment of the start
        terminal.type("\x03")
        assert terminal.end() == 128 + signal.SIGINT
        machine.assert_unchanged()


def shell_at_work(machine: Machine, *words: str | Path) -> Terminal:
    """A shell that tells at once when a job stops, and in which ``minifo run --discard WORDS`` is typed."""
    terminal = Terminal(["bash", "--norc", "--noprofile", "-i"], machine.place)
    terminal.expect("prompt> ")
    terminal.type("set -b\n")
    terminal.expect("prompt> ")
    terminal.type(f"{minifo_program()} run --discard {' '.join(map(str, words))}\n")
    return terminal


def answer(terminal: Terminal, word: str) -> None:
    """Type a word, and see that ``ANSWERING`` answers."""
    terminal.type(f"{word}\n")
    terminal.expect(f"got {word}\r\n")


#: A command of one process: a child of it might take what is typed for the shell, as it may stop a moment later.
ANSWERING = "sed -u -e '/^end/q6' -e 's/^/got /'"


def test_job_control_of_a_shell(machine: Machine) -> None:
    """A stopped command is a stopped job of the shell; fg and bg go on with it."""
    terminal = shell_at_work(machine, "--", ANSWERING)
    answer(terminal, "first")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.expect("prompt> ")
    terminal.type("bg\n")
    terminal.expect("&\r\n")
    terminal.expect("Stopped")  # it has read the terminal in the background
    (job,) = children(terminal.pid)
    assert is_stopped(job)
    terminal.type("fg\n")
    answer(terminal, "second")
    terminal.type("end\n")
    terminal.expect("nothing changed")
    terminal.expect("prompt> ")
    terminal.type("echo code $?\n")
    terminal.expect("\ncode 6")
    terminal.type("exit\n")
    assert terminal.end() == 0


@pytest.mark.parametrize("asleep", [False, True])
def test_fg_of_a_job_that_runs(machine: Machine, sandbox: MountSandbox, asleep: bool) -> None:
    """A shell sends no SIGCONT to a job that runs; its command gets the terminal nevertheless, when it reads it.

    If minifo sleeps, it wakes up with the terminal, and hears then that the command has stopped for the want of it.
    """
    door = sandbox.directory_on_disk() / "door"
    os.mkfifo(door)
    terminal = shell_at_work(
        machine, "--share", door.parent, "--", f"sh -c 'read word <{door}; exec \"$@\"' sh", ANSWERING, "&"
    )
    terminal.expect("prompt> ")
    (job,) = children(terminal.pid)
    opened = os.open(door, os.O_WRONLY)  # when the command opens it to read
    (keeper,) = children(job)
    (command,) = children(children(keeper)[-1])
    if asleep:
        os.kill(job, signal.SIGSTOP)
        terminal.expect("Stopped")
        os.write(opened, b"go\n")
        wait_until(lambda: is_stopped(command), "the command has read the terminal in the background")
    terminal.type("fg\n")
    wait_until(lambda: terminal.foreground() != terminal.pid, "the job is in the foreground")
    if not asleep:
        os.write(opened, b"go\n")
    os.close(opened)
    answer(terminal, "first")
    terminal.type("end\n")
    terminal.expect("nothing changed")
    terminal.expect("prompt> ")
    terminal.type("exit\n")
    terminal.end()


def test_shell_in_a_sandbox_has_job_control(machine: Machine) -> None:
    """An interactive shell stops and continues its own jobs, and the terminal is the caller's again at the end."""
    words = ["bash", "--norc", "--noprofile", "-i"]
    terminal = Terminal(words, machine.place)
    terminal.expect("prompt> ")
    terminal.type(f"{minifo_program()} run --discard -- {' '.join(words)}\n")
    terminal.expect("prompt> ")
    terminal.type("echo in $$\n")
    terminal.expect("\nin 2")
    terminal.expect("prompt> ")
    shell = terminal.foreground()
    terminal.type(f"{ANSWERING}\n")
    wait_until(lambda: terminal.foreground() != shell, "the job is in the foreground")
    answer(terminal, "first")  # the job is the command now: until then it ignores signals, as the shell does
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.expect("prompt> ")
    terminal.type("fg\n")
    wait_until(lambda: terminal.foreground() != shell, "the job is in the foreground")
    terminal.type("\x03")
    wait_until(lambda: terminal.foreground() == shell, "the job has ended")
    terminal.expect("prompt> ")
    terminal.type("exit 5\n")
    terminal.expect("nothing changed")
    terminal.type("echo code $?\n")
    terminal.expect("\ncode 5")
    terminal.type("exit\n")
    assert terminal.end() == 0


def ask(machine: Machine, *words: str | Path) -> Terminal:
    """Run a command that makes and deletes a file, up to the question."""
    script = f"echo new > {machine.tree}/new; rm {machine.tree}/d1/file1"
    terminal = Terminal([minifo_program(), "run", *map(str, words), "--", "sh", "-c", script], machine.place)
    terminal.expect("2 changes: 1 A, 1 D")
    terminal.expect("iscard? ")
    return terminal


def test_answer_discard(machine: Machine) -> None:
    """The changes are listed, and dropped."""
    terminal = ask(machine, "--ask")
    terminal.type("what\n")
    terminal.expect("iscard? ")
    terminal.type("l\n")
    terminal.expect(f"D  {machine.tree}/d1/file1")
    terminal.expect("iscard? ")
    terminal.type("\n")
    terminal.expect("discarded")
    assert terminal.end() == 0


def test_interrupted_question_discards(machine: Machine) -> None:
    """Ctrl-C instead of an answer leaves nothing."""
    terminal = ask(machine)
    terminal.type("\x03")
    assert terminal.end() == 128 + signal.SIGINT


def test_answer_keep(machine: Machine) -> None:
    """The changes are kept where the sandbox was, and can be read."""
    terminal = ask(machine)
    terminal.type("k\n")
    terminal.expect("kept in ")
    terminal.expect(":")
    assert terminal.end() == 0
    (kept,) = machine.place.iterdir()
    assert f"A  {machine.tree}/new" in minifo("diff", kept).stdout
    run("rm", "-r", kept)


def test_answer_merge(machine: Machine) -> None:
    """The plan is shown, and carried out after a second question; the storage is gone then."""
    terminal = ask(machine, "--base", machine.tree)
    terminal.type("m\n")
    terminal.expect("D /d1/file1")
    terminal.expect("[y/N] ")
    terminal.type("n\n")
    terminal.expect("iscard? ")
    machine.before = fingerprint(machine.tree)
    terminal.type("m\n")
    terminal.expect("[y/N] ")
    terminal.type("y\n")
    terminal.expect("merged")
    assert terminal.end() == 0
    assert (machine.tree / "new").read_text() == "new\n"
    assert not (machine.tree / "d1/file1").exists()
    machine.before = fingerprint(machine.tree)

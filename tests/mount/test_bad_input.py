"""Every verb that asks an overlay, and all that may be in its way: one line, the next step, no traceback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import USER, MountSandbox, OverlayMount, minifo, minifo_program, run

HOSTILE = b"e\x1b[31m\n\xe2\x80\xaex\xff"
# Words before the storage, and behind it; each asks all or one path.
VERBS = {
    "status": (["status"], []),
    "diff": (["diff"], []),
    "diff --json": (["diff", "--json"], []),
    "du": (["du"], []),
    "report": (["report", "-o", "-"], []),
    "state": (["state", "--sto"], ["written"]),
    "which": (["which", "--sto"], ["written"]),
    "cat": (["cat", "--base", "--sto"], ["written"]),
}
each_verb = pytest.mark.parametrize("verb", VERBS)


def words(verb: str, storage: Path) -> list[str | Path]:
    """A verb that asks the overlay of a storage directory."""
    before, behind = VERBS[verb]
    return [*before, storage, *behind]


def one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """What a verb says that cannot answer."""
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay with changes, hostile names and many deleted files among them."""
    found = sandbox.overlay()
    (found.base / "written").write_text("base")
    for number in range(3000):
        (found.base / f"a rather long name of a file to be deleted {number}").touch()
    found.mount()
    run("sh", "-c", "rm *deleted*", cwd=found.mnt)
    (found.mnt / "written").write_text("else")
    (found.mnt / os.fsdecode(HOSTILE)).write_text("hostile")
    return found


def test_a_daemon_that_does_not_answer(overlay: OverlayMount) -> None:
    """All give up in time, and say where to look."""
    os.kill(overlay.pid, signal.SIGSTOP)
    try:
        running = [
            subprocess.Popen(
                [minifo_program(), *map(str, words(verb, overlay.sto))],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for verb in VERBS
        ]  # fmt: skip
        said = [process.communicate(timeout=100) for process in running]
    finally:
        os.kill(overlay.pid, signal.SIGCONT)
    for process, (out, err) in zip(running, said, strict=True):
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        one_line(done, "has not answered for 30 s", "see the system log")


def test_somebody_elses_mount(overlay: OverlayMount) -> None:
    """Another user learns who may ask."""
    others = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", minifo_program()]
    for verb in VERBS:
        one_line(run(*others, *words(verb, overlay.sto), check=False), "ask as root or as the owner of the mount")


@each_verb
def test_a_daemon_of_another_version(tmp_path: Path, verb: str) -> None:
    """One that does not know the method is told apart from one that fails."""

    def serve() -> None:
        connection, _ = listener.accept()
        connection.close()  # the first one only looks whether somebody listens
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            error = {"error": "org.varlink.service.MethodNotFound", "parameters": {"method": "Status"}}
            connection.sendall(json.dumps(error).encode() + b"\0")
            connection.recv(65536)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen()
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        one_line(minifo(*words(verb, tmp_path), check=False), "MethodNotFound", "another version")
        server.join(10)


def test_damaged_storage(overlay: OverlayMount) -> None:
    """The checker is what helps."""
    overlay.umount()
    database = overlay.sto / "minifo.db"
    data = bytearray(database.read_bytes())
    data[3 * 4096 :] = bytes(byte ^ 0x5A for byte in data[3 * 4096 :])
    database.write_bytes(data)
    for verb in VERBS:
        one_line(minifo(*words(verb, overlay.sto), check=False), "is damaged", f"run: minifo-fsck {overlay.sto}")
    database.write_bytes(b"no database" * 100)
    for verb in VERBS:
        one_line(minifo(*words(verb, overlay.sto), check=False), "is not an SQLite database", "minifo-fsck")


@each_verb
def test_no_overlay(tmp_path: Path, verb: str) -> None:
    """A directory that is none, and one that is not there."""
    hint = "name a storage directory, or a path in a mounted overlay"
    one_line(minifo(*words(verb, tmp_path), check=False), "holds no overlay", hint)
    one_line(minifo(*words(verb, tmp_path / "none"), check=False), "cannot be reached", hint)


def test_the_reader_ends(overlay: OverlayMount) -> None:
    """Quiet, with the exit code of a program that SIGPIPE ends."""
    for verb in VERBS:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                [minifo_program(), *map(str, words(verb, overlay.sto))],
                stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            )  # fmt: skip
        finally:
            os.close(writer)
        assert (done.returncode, done.stderr) == (141, ""), verb


def test_hostile_names(overlay: OverlayMount) -> None:
    """A name is one printable line in every output for people, and exact for scripts."""
    name = overlay.mnt / os.fsdecode(HOSTILE)
    for verb in (["diff"], ["du"], ["status"], ["report", "-o", "-"]):
        shown = minifo(*verb, overlay.mnt).stdout
        assert all(char.isprintable() or char == "\n" for char in shown), verb
    for verb in (["state"], ["which"]):
        shown = minifo(*verb, name).stdout
        assert r"/e\x1b[31m\n\u202ex\xff" in shown
        assert all(char.isprintable() or char == "\n" for char in shown), verb
    one_line(minifo("cat", "--base", name, check=False), r"/e\x1b[31m\n\u202ex\xff")
    assert os.fsencode(minifo("diff", "-z", overlay.mnt, "e*").stdout) == b"A\0/" + HOSTILE + b"\0"


def test_a_mount_whose_daemon_is_gone(overlay: OverlayMount) -> None:
    """Its storage answers, though the socket is left; so it does by a path in the dead mount."""
    minifo("sync", overlay.mnt)
    overlay.kill()
    assert (overlay.sto / "control").is_socket()
    for target in (overlay.sto, overlay.mnt):
        assert "M  /written\n" in minifo("diff", target).stdout
        assert json.loads(minifo("status", "--json", target).stdout)["mounted"] is False
    assert minifo("state", "--sto", overlay.sto, "written").stdout == "MODIFIED       /written\n"

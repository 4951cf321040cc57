"""The control socket of real mounts: what it answers, to whom, and what becomes of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from minifo.engine import StateError
from minifo.fusefront.control.client import ControlClient, Refused
from tests.mount.mount_sandbox import USER, MountSandbox, OverlayMount, minifo, run


def call(storage: Path, *messages: bytes) -> list[dict[str, Any]]:
    """The answers to messages as they are, without the NUL at their ends."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(storage / "control"))
        connection.sendall(b"".join(message + b"\0" for message in messages))
        connection.shutdown(socket.SHUT_WR)
        data = b""
        while got := connection.recv(65536):
            data += got
    return [json.loads(answer) for answer in data.split(b"\0")[:-1]]


def asked(method: str, **parameters: Any) -> bytes:
    """A call as it is sent."""
    return json.dumps({"method": method, "parameters": parameters}).encode()


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay whose changes are committed late."""
    found = sandbox.overlay("commit=600")
    for name in ("kept", "gone", "old"):
        (found.base / name).write_text(name)
    found.mount()
    return found


def test_varlink(overlay: OverlayMount) -> None:
    """The service describes itself; wrong calls have the errors of the protocol, and others on the line go on."""
    info, description, unknown, foreign, status = call(
        overlay.sto,
        asked("org.varlink.service.GetInfo"),
        asked("org.varlink.service.GetInterfaceDescription", interface="org.minifo.Overlay"),
        asked("org.minifo.Overlay.Nothing"),
        asked("org.example.Other.Method"),
        asked("org.minifo.Overlay.Status"),
    )
    assert info["parameters"]["interfaces"] == ["org.varlink.service", "org.minifo.Overlay"]
    text = description["parameters"]["description"]
    assert "interface org.minifo.Overlay\n" in text
    assert unknown["error"] == "org.varlink.service.MethodNotFound"
    assert foreign["error"] == "org.varlink.service.InterfaceNotFound"
    members = set(status["parameters"])
    method = text[text.index("method Status()") :]
    assert members == {line.strip().split(":")[0] for line in method[: method.index("\n)")].splitlines()[1:]}


def test_what_is_changed_most(overlay: OverlayMount) -> None:
    """A connection has what was changed since it asked last; a wrong number is refused."""
    with ControlClient(str(overlay.sto)) as client, ControlClient(str(overlay.sto)) as other:
        assert client.call("Busiest") == {"paths": [], "others": 0}
        (overlay.mnt / "made").mkdir()
        (overlay.mnt / "made" / "below").mkdir()
        assert other.call("Busiest") == {"paths": [], "others": 0}
        assert client.call("Busiest", most=1)["others"] == 1
        (overlay.mnt / "made" / "more").mkdir()
        expected = {"paths": [{"path": "/made", "directory": True, "changes": 1, "written": 0}], "others": 0}
        assert client.call("Busiest", most=9) == other.call("Busiest", most=None) == expected
        with pytest.raises(Refused):
            client.call("Busiest", most="9")


def test_identity_is_a_part_of_status(overlay: OverlayMount) -> None:
    """It says the same, and what the interface says that it does."""
    identity, status, description = call(
        overlay.sto,
        asked("org.minifo.Overlay.Identity"),
        asked("org.minifo.Overlay.Status"),
        asked("org.varlink.service.GetInterfaceDescription", interface="org.minifo.Overlay"),
    )
    assert identity["parameters"].items() <= status["parameters"].items()
    text = description["parameters"]["description"]
    method = text[text.index("method Identity()") :]
    told = {line.strip().split(":")[0] for line in method[: method.index("\n)")].splitlines()[1:]}
    assert told == set(identity["parameters"])


@pytest.mark.parametrize("message", [b"", b"{", b"[]", b'{"method": 3}', b"\xff", b"[" * 100_000, b"x" * (2 << 20)])
def test_what_is_no_call_ends_its_connection_only(overlay: OverlayMount, message: bytes) -> None:
    """The daemon lives on and answers the next one."""
    with contextlib.suppress(ConnectionError):  # it may be closed while we are still sending
        assert call(overlay.sto, message) == []
    with ControlClient(str(overlay.sto)) as client:
        assert client.call("Status")["pid"] == overlay.pid


def test_status_of_a_mount(overlay: OverlayMount) -> None:
    """Counts, bytes and commits, also of what is not committed yet; text for people and JSON for scripts."""
    (overlay.mnt / "new").write_bytes(b"x" * 100_000)
    (overlay.mnt / "gone").unlink()
    (overlay.mnt / "old").rename(overlay.mnt / "other")
    (overlay.mnt / "kept").chmod(0o600)
    found = json.loads(minifo("status", "--json", overlay.mnt).stdout)
    assert found["lists"] == {"created": 1, "deleted": 2, "modified": 1, "renamed": 1}
    assert (found["pid"], found["mounted"], found["attention"]) == (overlay.pid, True, [])
    assert (found["base"], found["mountpoint"]) == (str(overlay.base), str(overlay.mnt))
    minifo("sync", overlay.mnt)
    found = json.loads(minifo("status", "--json", overlay.sto).stdout)
    assert found["commits"]["pending"] is False
    assert found["commits"]["count"] >= 1
    assert found["usage"]["content"] >= 100_000
    text = minifo("status", overlay.mnt).stdout
    assert re.search(r"^changes: +1 created, 1 modified, 2 deleted, 1 renamed$", text, re.MULTILINE)
    overlay.umount()
    found = json.loads(minifo("status", "--json", overlay.sto).stdout)
    assert found["mounted"] is False
    assert found["lists"] == {"created": 1, "deleted": 2, "modified": 1, "renamed": 1}


def test_drift_of_a_mount_has_what_is_not_committed(overlay: OverlayMount) -> None:
    """The base is compared as it is now, and what was created where it has nothing is left out."""
    (overlay.mnt / "gone").unlink()
    (overlay.mnt / "kept").chmod(0o600)
    (overlay.mnt / "new").write_text("new")
    found = json.loads(minifo("status", "--drift", "--json", overlay.mnt).stdout)["drift"]
    assert found["counts"] == dict.fromkeys(found["counts"], 0) | {"unchanged": 2}
    assert sorted(entry["held"] for entry in found["entries"]["unchanged"]) == ["attributes", "whiteout"]
    (overlay.base / "kept").write_text("changed behind the mount")
    text = minifo("status", "--drift", overlay.mnt).stdout
    assert "        1  base-changed      the base has another version\n" in text


def test_diff_of_a_mount_has_what_is_not_committed(overlay: OverlayMount) -> None:
    """The daemon commits when it is asked; afterwards the storage says the same."""
    (overlay.mnt / "directory").mkdir()
    (overlay.mnt / "directory" / "new").write_text("new")
    (overlay.mnt / "gone").unlink()
    (overlay.mnt / "old").rename(overlay.mnt / "other")
    (overlay.mnt / "kept").write_text("else")
    expected = "A  /directory/\nD  /gone\nM  /kept\nR  /old -> /other\n"
    assert minifo("diff", overlay.mnt).stdout == expected
    assert minifo("diff", overlay.mnt / "directory").stdout == expected
    (overlay.mnt / "kept").write_text("kept")
    os.utime(overlay.mnt / "kept", ns=(0, (overlay.base / "kept").stat().st_mtime_ns))
    assert minifo("diff", "--ignore-identical", overlay.mnt).stdout == expected.replace("M  /kept\n", "")
    overlay.umount()
    assert minifo("diff", overlay.sto).stdout == expected
    listed = minifo("diff", "-r", "--name-only", "-z", overlay.sto, "directory").stdout
    assert listed == "/directory\0/directory/new\0"
    assert minifo("diff", "--exit-code", overlay.sto, check=False).returncode == 1


def test_mount_that_covers_its_base(sandbox: MountSandbox) -> None:
    """The base is reached through the daemon, for its path leads to the mount."""
    directory = sandbox.directory()
    (directory / "file").write_text("base")
    overlay = sandbox.overlay(base=directory, mnt=directory)
    overlay.mount()
    (directory / "file").write_text("else")
    (directory / "new").touch()
    assert minifo("diff", "--ignore-identical", directory).stdout == "M  /file\nA  /new\n"


def test_only_root_and_the_owner_may_ask(overlay: OverlayMount) -> None:
    """Even where the socket's own permissions would let others in."""
    socket_path = overlay.sto / "control"
    st = socket_path.stat()
    assert (stat.S_IMODE(st.st_mode), st.st_uid) == (0o600, 0)
    socket_path.chmod(0o666)
    program = (
        "import socket, sys; c = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1]);"
        f"c.sendall({asked('org.minifo.Overlay.Status')!r} + b'\\0'); print(c.recv(100))"
    )
    for directory in (overlay.sto, *overlay.sto.parents):
        if directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    words = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "python3", "-c", program]
    done = run(*words, socket_path, check=False)
    assert (done.stdout, done.returncode) in (("b''\n", 0), ("", 1))  # closed before or after the call was written
    minifo("status", overlay.mnt)


def test_the_socket_goes_and_comes_back(overlay: OverlayMount) -> None:
    """It goes with an orderly end; that of a killed daemon is replaced; another object in its place is left alone."""
    path = overlay.sto / "control"
    overlay.umount()
    assert not path.exists()
    overlay.mount()
    overlay.kill()
    run("umount", "-l", "-i", overlay.mnt)
    with pytest.raises(StateError, match="cannot be asked"):
        ControlClient(str(overlay.sto))
    overlay.mount()
    assert "created" in minifo("status", overlay.mnt).stdout
    overlay.umount()
    path.write_text("not ours")
    overlay.mount()
    refused = minifo("status", overlay.mnt, check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    overlay.umount()
    assert path.read_text() == "not ours"


def test_a_daemon_that_does_not_answer(overlay: OverlayMount) -> None:
    """The caller is told after its time, not kept waiting."""
    os.kill(overlay.pid, 19)
    try:
        began = time.monotonic()
        with ControlClient(str(overlay.sto), timeout=0.5) as client, pytest.raises(StateError, match="not answered"):
            client.call("Status")
        assert time.monotonic() - began < 5
    finally:
        os.kill(overlay.pid, 18)


def test_many_connections_do_not_hold_up_the_mount(overlay: OverlayMount) -> None:
    """Connections that say nothing are held to a number; the mount works, and they are served when others have gone."""
    idle = []
    for _ in range(40):
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        try:
            connection.connect(str(overlay.sto / "control"))
        except BlockingIOError:
            connection.close()  # the queue is full
            continue
        idle.append(connection)
    (overlay.mnt / "file").write_text("works")
    for connection in idle:
        connection.close()
    assert "created" in minifo("status", overlay.mnt).stdout


def test_bad_targets(sandbox: MountSandbox, overlay: OverlayMount) -> None:
    """One line with the next step, and exit code 2."""
    overlay.umount()
    empty = sandbox.directory()
    for target in (empty, empty / "missing", "/proc"):
        for verb in ("status", "diff"):
            done = minifo(verb, target, check=False)
            assert (done.returncode, done.stdout) == (2, "")
            assert len(done.stderr.splitlines()) == 1
            assert "name a storage directory, or a path in a mounted overlay" in done.stderr
    shutil.rmtree(overlay.base)
    done = minifo("diff", overlay.sto, check=False)
    assert "--base DIR" in done.stderr


def test_names_of_any_bytes(overlay: OverlayMount) -> None:
    """A name cannot command a terminal; scripts get it whole."""
    name = b"evil\x1b[31m\n\xff"
    (Path(os.fsdecode(os.fsencode(overlay.mnt) + b"/" + name))).touch()
    assert minifo("diff", overlay.mnt).stdout == "A  /evil\\x1b[31m\\n\\xff\n"
    told = json.loads(minifo("diff", "--json", overlay.mnt).stdout)
    assert told["path_b64"] == "L2V2aWwbWzMxbQr/"
    raw = subprocess.run(
        [shutil.which("minifo") or "minifo", "diff", "-z", overlay.mnt], capture_output=True, check=True
    )
    assert raw.stdout == b"A\0/" + name + b"\0"


@pytest.mark.parametrize("option", ["ro", "untrusted_sto"])
def test_a_read_only_mount_makes_no_socket(overlay: OverlayMount, option: str) -> None:
    """It has no socket; its rows are read as those of an overlay at rest."""
    (overlay.mnt / "new").touch()
    overlay.umount()
    overlay.mount(option)
    assert "control" not in os.listdir(overlay.sto)
    assert minifo("diff", overlay.mnt).stdout == "A  /new\n"
    assert "1 created" in minifo("status", overlay.mnt).stdout

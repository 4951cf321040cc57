"""``minifo doctor`` and real mounts: the throw-away overlay of --try, live storages, daemons that were killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minifo.fusefront.sandbox.namespaces import CLONE_NEWNS, make_private, unshare
from minifo.tools.checkup import attempt
from tests.mount.mount_sandbox import (
    MountSandbox,
    OverlayMount,
    await_end,
    daemon_of,
    is_mounted,
    minifo,
    minifo_program,
    mount_lines,
    run,
)
from tests.mount.unprivileged import as_user


def examined(*words: str | Path, **options: Any) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code of doctor, and its findings by the names of the checks."""
    done = minifo("doctor", "--json", *words, check=False, **options)
    return done.returncode, {found["check"]: found for found in json.loads(done.stdout)["findings"]}


@pytest.fixture
def room() -> Iterator[Path]:
    """A directory for temporary files that every user may write to; it is empty afterwards."""
    with tempfile.TemporaryDirectory(prefix="minifo-doctor-test-") as name:
        path = Path(name)
        path.chmod(0o777)
        yield path
        assert not any(str(path) in where for _, where, _ in mount_lines())


def test_try_leaves_nothing(fuse_required: None, room: Path) -> None:
    """An overlay is mounted twice, and goes away."""
    _, found = examined("--try", env={**os.environ, "TMPDIR": str(room)})
    assert found["overlay"]["verdict"] == "ok", found["overlay"]
    assert "all was there" in found["overlay"]["fact"]
    assert list(room.iterdir()) == []


def test_try_where_there_is_no_room(sandbox: MountSandbox) -> None:
    """The temporary directory is full, or read-only: that is said, and nothing is left."""
    small = sandbox.directory()
    sandbox.mount("-t", "tmpfs", "-o", "size=128k,mode=700", "none", small)
    env = {**os.environ, "TMPDIR": str(small)}
    code, found = examined("--try", env=env)
    assert code == 1
    assert found["overlay"]["verdict"] == "problem"
    assert "No space left on device" in found["overlay"]["fact"]
    assert list(small.iterdir()) == []


def test_try_with_a_broken_extension(fuse_required: None, room: Path) -> None:
    """The mount works, slower, and the finding says why."""
    spec = importlib.util.find_spec("minifo.fusefront.extension._hook")
    assert spec is not None
    script = f'mount --bind /dev/null {spec.origin}; exec "$@"'
    words = ["unshare", "-m", "--propagation", "private", "sh", "-ec", script, "sh", minifo_program()]
    done = run(*words, "doctor", "--try", check=False, env={**os.environ, "TMPDIR": str(room)})
    assert done.returncode == 1
    assert "all was there; but the C extension is not installed" in " ".join(done.stdout.split())
    assert list(room.iterdir()) == []


def as_ordinary_user(room: Path, *words: str, before: str = "true") -> dict[str, dict[str, Any]]:
    """What doctor finds for an ordinary user, on a machine that a command of the shell changes."""
    told = room / "told"
    # in a new process: in this one pyfuse3 may be loaded already, so the extension cannot be
    script = "import sys; from tests.mount.test_doctor import examine; examine(*sys.argv[1:])"
    root = Path(__file__).resolve().parents[2]
    run(sys.executable, "-c", script, room, told, before, *words, env={**os.environ, "PYTHONPATH": str(root)})
    text = told.read_text()
    told.unlink()
    return {found["check"]: found for found in json.loads(text)["findings"]}


def examine(room: str, told: str, before: str, *words: str) -> None:
    """Run doctor as an ordinary user, and write what it says to a file."""

    def prepare() -> None:
        unshare(CLONE_NEWNS)
        make_private()
        run("sh", "-ec", before)
        os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT, 0o600), 1)
        tempfile.tempdir = room

    as_user("doctor", "--json", *words, before=prepare)


def test_try_as_an_ordinary_user(fuse_for_all: None, room: Path) -> None:
    """Through fusermount3."""
    found = as_ordinary_user(room, "--try")
    assert found["user"]["verdict"] == "ok"
    assert found["fusermount3"]["fact"].endswith("set-uid root")
    assert found["overlay"]["verdict"] == "ok", found["overlay"]
    assert list(room.iterdir()) == []


def test_ordinary_user_who_cannot_mount(fuse_for_all: None, room: Path) -> None:
    """fusermount3 has lost its set-uid bit, and the device is for root alone: both are said, and nothing is left."""
    helper = room / "fusermount3"
    before = f"cp $(which fusermount3) {helper}; chmod 755 {helper}; mount --bind {helper} $(which fusermount3)"
    found = as_ordinary_user(
        room, "--try", before=f"{before}; mknod -m 600 {room}/f c 10 229; mount --bind {room}/f /dev/fuse"
    )
    assert "is not set-uid root" in found["fusermount3"]["fact"]
    assert found["/dev/fuse"]["fact"] == "/dev/fuse cannot be opened by this user"
    assert found["/dev/fuse"]["remedy"] == "as root: chmod 666 /dev/fuse"
    assert found["overlay"]["verdict"] == "problem"
    assert "cannot be opened by this user" in found["overlay"]["fact"]
    assert sorted(path.name for path in room.iterdir()) == ["f", "fusermount3"]


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.logs("is killed: ", always=False)
def test_overlay_of_a_step_that_failed_is_removed(
    sandbox: MountSandbox, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """Its daemon is ended, also one that answers nothing any more, and its directory goes."""
    top = sandbox.directory()
    overlay = OverlayMount(top)
    sandbox.overlays.append(overlay)
    overlay.mount()
    (overlay.mnt / "new").touch()
    if hangs:
        os.kill(overlay.pid, signal.SIGSTOP)
        monkeypatch.setattr(attempt, "_END", 0)  # one second is enough to see that it does not answer
    attempt._remove(str(top))
    await_end(overlay.pid)
    assert not is_mounted(overlay.mnt)
    assert not top.exists()


def test_a_storage_in_use(sandbox: MountSandbox) -> None:
    """By its path, or by one in the mount; the daemon goes on."""
    overlay = sandbox.overlay()
    overlay.mount()
    (overlay.mnt / "new").write_text("x")
    for target in (overlay.sto, overlay.mnt / "new"):
        _, found = examined(target)
        assert found["use"]["fact"] == f"a daemon works on it, mounted at {overlay.mnt}"
        assert found["fsck"]["fact"] == "clean"
        assert found["base"]["fact"] == str(overlay.base)
    assert (overlay.mnt / "new").read_text() == "x"
    overlay.umount()


def test_a_killed_daemon(sandbox: MountSandbox) -> None:
    """Its mount is a problem of the machine; what is in memory alone is a note of the storage, and stays there."""
    overlay = sandbox.overlay("commit=1000")
    overlay.mount()
    (overlay.mnt / "new").mkdir()
    overlay.kill()
    code, found = examined(overlay.sto)
    assert code == 1
    assert str(overlay.mnt) in found["mounts"]["fact"]
    assert f"umount -l {overlay.mnt}" in found["mounts"]["remedy"]
    assert found["use"]["fact"] == f"no daemon changes it, mounted at {overlay.mnt}"
    assert found["fsck"]["verdict"] == "note"
    assert "1 operations of a killed daemon" in found["fsck"]["fact"]
    overlay.clear()
    overlay.mount()
    assert (overlay.mnt / "new").is_dir()
    assert daemon_of(overlay.sto)
    overlay.umount()

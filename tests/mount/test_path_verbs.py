"""minifo state, which, cat, du, list and report, on a real mount and on the storage at rest."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo, run

STATES = {
    ".": "UNMODIFIED",
    "written": "MODIFIED",
    "chmodded": "MODIFIED",
    "moved": "DELETED",
    "MOVED": "CREATED",
    "gone": "DELETED",
    "replaced": "DEL_REWRITTEN",
    "x": "DELETED",
    "x/1": "DELETED",
    "d": "DELETED",
    "D": "CREATED",
    "D/2": "UNMODIFIED",
    "D/1": "DELETED",
    "new": "CREATED",
    "nd/1": "CREATED",
    "none": "NON_EXISTANT",
    "none/x": "NON_EXISTANT",
}


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay with a change of each kind."""
    found = sandbox.overlay("commit=600")
    for name in ("written", "chmodded", "moved", "gone", "replaced", "d/1", "d/2", "x/1"):
        (found.base / name).parent.mkdir(exist_ok=True)
        (found.base / name).write_text(f"base {name}")
    (found.base / "big").write_bytes(bytes(range(256)) * 4096)
    found.mount()
    mnt = found.mnt
    (mnt / "written").write_text("else")
    (mnt / "chmodded").chmod(0o600)
    (mnt / "moved").rename(mnt / "MOVED")
    (mnt / "gone").unlink()
    (mnt / "replaced").unlink()
    (mnt / "replaced").symlink_to("new")
    run("rm", "-r", mnt / "x")
    (mnt / "d").rename(mnt / "D")
    (mnt / "D/1").unlink()
    (mnt / "new").touch()
    (mnt / "nd").mkdir()
    (mnt / "nd/1").write_bytes(os.urandom(5000))
    with open(mnt / "big", "r+b") as file:
        file.seek(400_000)
        file.write(b"four")
    return found


def test_state(overlay: OverlayMount) -> None:
    """Each path has mini_fo's word, mounted and at rest."""
    lines = minifo("state", *(overlay.mnt / path for path in STATES)).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(STATES.values())
    overlay.umount()
    lines = minifo("state", "--sto", overlay.sto, *STATES).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(STATES.values())


def test_which(overlay: OverlayMount) -> None:
    """Bytes of the base, of a row, of an object, and of both base and object."""

    def found(path: str) -> dict[str, object]:
        told = json.loads(minifo("which", "--json", overlay.mnt / path).stdout)
        assert isinstance(told, dict)
        return told

    assert (found("D/2")["backing"], found("D/2")["base"]) == ("base", "/d/2")
    assert found("written")["backing"] == "row"
    created = found("nd/1")
    assert (created["backing"], created["base"]) == ("object", None)
    assert (overlay.sto / str(created["object"])).stat().st_size >= 5000
    partly = found("big")
    assert partly["backing"] == "base"
    extents = partly["extents"]
    assert isinstance(extents, list)
    assert any(start <= 400_000 < end for start, end, _ in extents)
    assert "content object" in minifo("which", overlay.mnt / "nd/1").stdout
    refused = minifo("which", overlay.mnt / "gone", check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)


def test_cat_of_the_base(overlay: OverlayMount) -> None:
    """The base's version of what was changed, deleted or moved; nothing for what was made here."""
    for path, name in (("written", "written"), ("gone", "gone"), ("MOVED", "moved"), ("D/1", "d/1"), ("x/1", "x/1")):
        assert minifo("cat", "--base", overlay.mnt / path).stdout == f"base {name}", path
    for path in ("new", "nd/1", "D"):
        assert minifo("cat", "--base", overlay.mnt / path, check=False).returncode == 2, path


def test_du(overlay: OverlayMount) -> None:
    """Bytes of contents; a file written in part counts what was written, in blocks."""
    told = [json.loads(line) for line in minifo("du", "--json", overlay.mnt).stdout.splitlines()]
    assert told == [
        {"size": 5000, "path": "/nd/1"},
        {"size": 4096, "path": "/big"},
        {"size": 4, "path": "/written"},
    ]
    assert minifo("du", "--depth", "1", overlay.mnt).stdout == "     8.9 KiB  /\n     4.9 KiB  /nd\n"
    assert minifo("du", "--top", "1", overlay.mnt).stdout == "     4.9 KiB  /nd/1\n"


def test_list(overlay: OverlayMount, sandbox: MountSandbox) -> None:
    """All mounts, and one whose daemon does not answer does not hold up the others for long."""
    second = sandbox.overlay()
    second.mount()
    os.kill(second.pid, signal.SIGSTOP)
    try:
        lines = [json.loads(line) for line in minifo("list", "--json").stdout.splitlines()]
    finally:
        os.kill(second.pid, signal.SIGCONT)
    found = {line["mountpoint"]: line for line in lines}
    assert found[str(overlay.mnt)]["lists"]["created"] == 4
    assert "has not answered" in found[str(second.mnt)]["unknown"]


def test_paths_in_no_overlay() -> None:
    """One line with the next step."""
    for verb in (["state"], ["which"], ["cat", "--base"]):
        done = minifo(*verb, "/proc/version", check=False)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "give --sto STORAGE" in done.stderr


def test_report(overlay: OverlayMount, sandbox: MountSandbox) -> None:
    """What is not committed yet is in the page; it does not go into the overlay that it is about."""
    page = sandbox.directory() / "page.html"
    minifo("report", overlay.mnt, "-o", page)
    text = page.read_text()
    for part in ("/MOVED", "/nd/1", "4.9 KiB", f"mounted at {overlay.mnt}", f"process {overlay.pid}"):
        assert part in text, part
    refused = minifo("report", "-o", "page.html", cwd=overlay.mnt, check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert not (overlay.mnt / "page.html").exists()

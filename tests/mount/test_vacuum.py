"""minifo vacuum: of a mounted overlay under the programs that use it, and at rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, daemon_of, minifo, minifo_program
from tests.mount.test_checkpoints import tree

BIG = os.urandom(3 << 20)


@pytest.fixture
def overlay(sandbox: MountSandbox, request: pytest.FixtureRequest) -> OverlayMount:
    """A mounted overlay with bytes that are as in its base; with or without the session hook."""
    found = sandbox.overlay(*(["plain"] if getattr(request, "param", "hook") == "plain" else []))
    for name in ("same", "edited", "gone"):
        (found.base / name).write_text(name)
    (found.base / "big").write_bytes(BIG)
    found.mount()
    for name in ("same", "edited", "big"):
        times = (found.mnt / name).stat()
        with open(found.mnt / name, "r+b") as file:
            data = file.read()
            file.seek(0)
            file.write(data)
        os.utime(found.mnt / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    (found.mnt / "edited").write_text("edited here")
    return found


both = pytest.mark.parametrize("overlay", ["hook", "plain"], indirect=True)


def vacuum(target: Path, *words: str) -> dict[str, Any]:
    """minifo vacuum, and what it gave back by kind."""
    told = json.loads(minifo("vacuum", "--json", target, *words).stdout)
    return {given["kind"]: given for given in told["found"] if given["count"]}


def everything(mnt: Path) -> dict[str, tuple[object, ...]]:
    """What stat and reading say of each file."""
    kept = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_size", "st_mtime_ns", "st_ctime_ns")
    files = {str(path): path for path in sorted(mnt.rglob("*"))}
    return {
        name: (*(getattr(path.stat(), key) for key in kept), path.read_bytes() if path.is_file() else b"")
        for name, path in files.items()
    }


@both
def test_nothing_shows_it(overlay: OverlayMount) -> None:
    """Files stay open, mapped pages stay, and what is written goes on; a dry run changes nothing."""
    mnt = overlay.mnt
    minifo("sync", mnt)
    before = everything(mnt)
    fd = os.open(mnt / "big", os.O_RDWR)
    tried = vacuum(mnt, "--dry-run")
    assert tried["copies"]["count"] == 2
    assert tried["copies"]["freed"] >= len(BIG)
    assert vacuum(mnt, "-y") == tried
    assert everything(mnt) == before
    assert minifo("diff", mnt).stdout == "M  /edited\n"
    assert os.pread(fd, 100, 1 << 20) == BIG[1 << 20 : (1 << 20) + 100]
    os.pwrite(fd, b"later", 5)
    os.close(fd)
    assert vacuum(mnt, "-y") == {}
    overlay.umount()
    overlay.mount()
    assert (mnt / "big").read_bytes() == BIG[:5] + b"later" + BIG[10:]
    assert tree(mnt)


def test_at_rest_the_database_is_compacted(overlay: OverlayMount) -> None:
    """Mounted, it says what is left to do."""
    mnt = overlay.mnt
    for number in range(3000):
        (mnt / f"{number:0100}").write_bytes(b"x" * 100)
    minifo("sync", mnt)
    for number in range(3000):
        (mnt / f"{number:0100}").unlink()
    assert "run minifo vacuum again" in minifo("vacuum", "-y", mnt).stdout
    overlay.umount()
    before = (overlay.sto / "minifo.db").stat().st_size
    told = vacuum(overlay.sto, "-y")
    assert told["database"]["freed"] == before - (overlay.sto / "minifo.db").stat().st_size > 100_000
    assert minifo("vacuum", "-n", overlay.sto).stdout == "There is nothing to give back.\n"
    subprocess.run(["minifo-fsck", "-n", overlay.sto], check=True, capture_output=True, env=path_of_minifo())
    overlay.mount()
    assert (mnt / "edited").read_text() == "edited here"


def path_of_minifo() -> dict[str, str]:
    """An environment in which the programs are found."""
    return {**os.environ, "PATH": f"{Path(minifo_program()).parent}:{os.environ['PATH']}"}


def test_it_asks(overlay: OverlayMount) -> None:
    """Without a terminal it does nothing, and says how it would."""
    done = minifo("vacuum", overlay.mnt, check=False)
    assert done.returncode == 1
    assert "give -y" in done.stderr
    words = ["script", "-qec", f"{minifo_program()} vacuum {overlay.mnt}", "/dev/null"]
    asked = subprocess.run(words, input=b"n\n", capture_output=True, timeout=30, check=False)
    assert b"copies" in asked.stdout
    assert vacuum(overlay.mnt, "-n")["copies"]["count"] == 2
    subprocess.run(words, input=b"y\n", capture_output=True, timeout=30, check=True)
    assert vacuum(overlay.mnt, "-n") == {}


def test_checkpoints_are_told(overlay: OverlayMount) -> None:
    """What one needs stays, and the way to let go of it is said; then it is freed."""
    minifo("checkpoint", "create", overlay.mnt, "one")
    said = minifo("vacuum", "-y", overlay.mnt).stdout
    assert "more stay in storage, because a checkpoint or a clone needs them" in said
    assert "minifo checkpoint prune" in said
    minifo("rollback", overlay.mnt, "one")
    assert (overlay.mnt / "big").read_bytes() == BIG
    names = [
        json.loads(line)["name"] for line in minifo("checkpoint", "list", "--json", overlay.mnt).stdout.splitlines()
    ]
    minifo("checkpoint", "delete", overlay.mnt, *names)
    assert vacuum(overlay.mnt, "-y")["copies"]["freed"] >= len(BIG)


def test_two_at_once_and_a_kill(overlay: OverlayMount) -> None:
    """Both succeed; and when the daemon is killed in the middle, nothing is lost."""
    mnt = overlay.mnt
    before = everything(mnt)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: vacuum(mnt, "-y"), range(2)))
    assert sorted(told["copies"]["count"] if told else 0 for told in found) == [0, 2]
    assert everything(mnt) == before
    for number in range(300):
        (mnt / f"f{number}").write_bytes(b"x")
    minifo("sync", mnt)
    with subprocess.Popen([minifo_program(), "vacuum", "-y", mnt], stderr=subprocess.DEVNULL) as running:
        time.sleep(0.3)
        os.kill(daemon_of(overlay.sto), signal.SIGKILL)
        running.wait(30)
    overlay.umount()
    overlay.mount()
    assert (mnt / "edited").read_text() == "edited here"
    assert (mnt / "big").read_bytes() == BIG


def test_what_it_refuses(overlay: OverlayMount, tmp_path: Path) -> None:
    """No overlay, a lost base, a checkpoint that shows: one line, and nothing is changed."""
    assert "holds no overlay" in minifo("vacuum", "-y", tmp_path, check=False).stderr
    overlay.umount()
    overlay.base.rename(overlay.base.with_name("elsewhere"))
    refused = minifo("vacuum", "-y", overlay.sto, check=False)
    assert "say where: --base DIR" in refused.stderr
    overlay.base.mkdir()
    assert vacuum(overlay.sto, "-y") == {}  # an empty base: something may be mounted there at other times
    overlay.base.rmdir()
    overlay.base.with_name("elsewhere").rename(overlay.base)
    assert vacuum(overlay.sto, "-y")["copies"]["count"] == 2

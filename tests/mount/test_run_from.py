"""``minifo run --from``: the command starts with a clone of an overlay, which nothing that it does changes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo, mount_lines, run
from tests.mount.unprivileged import as_user

SOMEBODY = 12345
LARGE = os.urandom(500_000)


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay on disk, with a checkpoint and changes since."""
    home = sandbox.directory_on_disk()
    places = {name: home / name for name in ("base", "sto")}
    found = sandbox.overlay(**places)
    (found.base / "f").write_text("base\n")
    (found.base / "g").write_text("base\n")
    found.mount()
    (found.mnt / "large").write_bytes(LARGE)
    (found.mnt / "f").write_text("night\n")
    minifo("checkpoint", "create", found.mnt, "night")
    (found.mnt / "f").write_text("now\n")
    return found


def shown(overlay: OverlayMount) -> dict[str, bytes]:
    """All that an overlay shows, and its checkpoints."""
    found = {path.name: path.read_bytes() for path in overlay.mnt.iterdir()}
    return found | {"checkpoints": minifo("checkpoint", "list", "--json", overlay.mnt).stdout.encode()}


def test_it_starts_as_the_overlay_is(overlay: OverlayMount) -> None:
    """With what is not committed yet, its content shared, and what the command did is told by itself."""
    before, mounts = shown(overlay), mount_lines()
    number = next(path for path in (overlay.sto / "content").glob("*/*") if path.stat().st_size == len(LARGE))
    script = f"""
        cat {overlay.base}/f; cmp {overlay.base}/large $1 && stat -c %h {number}
        echo sandbox > {overlay.base}/f; rm {overlay.base}/g
        printf x | dd of={overlay.base}/large bs=1 seek=1000 conv=notrunc 2>/dev/null
    """
    copy = overlay.sto.with_name("copy")
    copy.write_bytes(LARGE)
    done = minifo("run", "--from", overlay.mnt, "--discard", "--", "sh", "-c", script, "sh", copy)
    assert done.stdout == "now\n2\n"
    assert done.stderr.splitlines()[0] == "minifo: 3 changes: 2 M, 1 D"
    assert shown(overlay) == before
    assert mount_lines() == mounts
    assert [path.name for path in overlay.sto.parent.iterdir() if path.name.startswith("minifo-")] == []
    assert number.stat().st_nlink == 1


def test_a_checkpoint_is_kept(overlay: OverlayMount) -> None:
    """--keep takes the clone, with a checkpoint of what it began with; other bases can be protected, too."""
    kept, other = overlay.sto.with_name("kept"), overlay.sto.with_name("other")
    other.mkdir()
    script = f"cat {overlay.base}/f; echo sandbox > {overlay.base}/f; echo new > {other}/new"
    words = ("--from", f"{overlay.sto}@night", "--base", other, "--keep", kept, "--json")
    done = minifo("run", *words, "--", "sh", "-c", script)
    first, told = done.stdout.splitlines()
    assert first == "night"
    summary = json.loads(told)
    assert (summary["changes"], summary["outcome"]) == ({"A": 1, "M": 1}, "kept")
    assert {entry["base"]: entry["storage"] for entry in summary["storages"]}[str(overlay.base)] == str(kept)
    assert minifo("checkpoint", "diff", kept, "start").stdout == "M  /f\n"
    assert "+sandbox\n" in minifo("diff", "-u", kept).stdout
    assert os.listdir(other) == []
    again = minifo("run", *words, "--", "true", check=False)
    assert again.returncode == 125
    assert "holds an overlay already" in again.stderr


def test_the_temporary_place(overlay: OverlayMount, sandbox: MountSandbox) -> None:
    """It is on the storage's file system; TMPDIR counts where it is there."""
    for place, expected in ((Path("/dev/shm"), overlay.sto.parent), (overlay.sto.parent, overlay.sto.parent)):
        environment = {**os.environ, "TMPDIR": str(place)}
        words = (
            "--from",
            overlay.sto,
            "--base",
            overlay.base,
            "--discard",
            "--",
            "df",
            "--output=source",
            overlay.base,
        )
        done = minifo("run", *words, env=environment)
        assert f"sto={expected}/minifo-run-" in done.stdout


def test_what_is_refused(overlay: OverlayMount) -> None:
    """One line, the exit code of a failure of minifo's, and nothing is left."""
    for source, reason in (
        (f"{overlay.sto}@no", "has no checkpoint 'no'"),
        ("/no/such", "cannot be reached"),
        (str(overlay.base), "holds no overlay"),
    ):
        done = minifo("run", "--from", source, "--", "true", check=False)
        assert done.returncode == 125
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
    overlay.umount()
    minifo("mount", "--base", overlay.base, "--sto", overlay.sto, overlay.base)
    try:
        done = minifo("run", "--from", overlay.sto, "--", "true", check=False)
        assert "is covered by an overlay" in done.stderr
    finally:
        minifo("umount", overlay.base)
    assert [path.name for path in overlay.sto.parent.iterdir() if path.name.startswith("minifo-")] == []


def test_an_ordinary_user(sandbox: MountSandbox, fuse_for_all: None) -> None:
    """Clones and throw-away clones of an own overlay, with hard links, without any right."""
    home = sandbox.directory_on_disk()
    home.chmod(0o711)
    for name in ("base", "sto", "tmp"):
        (home / name).mkdir()
        os.chown(home / name, SOMEBODY, SOMEBODY)
    os.chown(home, SOMEBODY, SOMEBODY)

    def do(*words: str | Path) -> None:
        """Run minifo as that user."""
        assert as_user(*words, environment={"TMPDIR": str(home / "tmp")}, uid=SOMEBODY) == 0

    script = f"head -c 300000 /dev/zero > {home}/base/large"
    do("run", "--base", home / "base", "--keep", home / "sto", "--", "sh", "-c", script)
    do("clone", "--base", home / "base", home / "sto", home / "fork")
    objects = [next((home / name / "content").glob("*/*")) for name in ("sto", "fork")]
    assert objects[0].samefile(objects[1])
    script = (
        f"printf x | dd of={home}/base/large bs=1 conv=notrunc 2>/dev/null; [ $(wc -c < {home}/base/large) = 300000 ]"
    )
    do("run", "--from", home / "fork", "--base", home / "base", "--discard", "--", "sh", "-c", script)
    for name in ("sto", "fork"):
        assert run(Path(sys.executable).with_name("minifo-fsck"), "-n", "-f", home / name).returncode == 0
    assert objects[0].read_bytes() == bytes(300_000)
    assert objects[0].stat().st_nlink == 2
    assert list((home / "tmp").iterdir()) == []

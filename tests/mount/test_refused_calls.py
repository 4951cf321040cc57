"""Newer system calls that an old kernel lacks or a filter refuses: the base is walked step by step, to the same end."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from minifo.engine.store.base_view import BaseView
from minifo.engine.store.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, has_openat2, openat2
from tests.mount.mount_sandbox import (
    MountSandbox,
    attempt,
    daemon_of,
    differences,
    fingerprint,
    in_child,
    minifo_program,
    tree,
)
from tests.mount.refused_calls import NEWER, refuse

CODES = [errno.ENOSYS, errno.EPERM]
CALLS = {
    "no openat2": ("openat2",),
    "no open_tree": ("open_tree",),
    "no mount_setattr": ("mount_setattr",),
    "none of them": NEWER,
}


def _populate(base: Path) -> None:
    (base / "dir/deep").mkdir(parents=True)
    (base / "dir/deep/file").write_text("deep")
    (base / "dir/deep/link").symlink_to("file")
    (base / "file").write_text("base")
    (base / "up").symlink_to("..")
    os.mkfifo(base / "dir/pipe")


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("calls", CALLS)
def test_mounting(sandbox: MountSandbox, calls: str, code: int) -> None:
    """A mount works without them, over itself too, with a mount inside the base, which shows as an empty directory."""
    overlay = sandbox.overlay()
    overlay.mnt = overlay.base
    _populate(overlay.base)
    (overlay.base / "inner").mkdir()
    (overlay.base / "inner/below").write_text("below a mount")
    twin = sandbox.directory()
    subprocess.run(["cp", "-a", f"{overlay.base}/.", twin], check=True)
    sandbox.mount("-t", "tmpfs", "none", overlay.base / "inner")
    words = [minifo_program(), "mount", "--base", overlay.base, "--sto", overlay.sto, overlay.mnt]
    done = subprocess.run(
        words, preexec_fn=refuse(code, CALLS[calls]), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    overlay.pid = daemon_of(overlay.sto)
    cloned = not {"open_tree", "mount_setattr"} & set(CALLS[calls])
    assert os.listdir(overlay.mnt / "inner") == (["below"] if cloned else [])
    (twin / "inner/below").unlink()
    if cloned:
        (overlay.mnt / "inner/below").unlink()
    for root in (overlay.mnt, twin):
        (root / "dir/deep/file").write_text("changed")
        (root / "dir/new").write_text("new")
        (root / "dir").rename(root / "moved")
        (root / "file").unlink()
    for _ in range(2):
        lines = differences(tree(overlay.mnt, since=0), tree(twin, since=0))
        assert [line for line in lines if not line.startswith("b'inner")] == []
        overlay.umount()
        overlay.mount()


def _walks(base: str) -> list[object]:
    """What openat2, or what stands in for it, makes of every kind of path."""
    root = os.open(base, os.O_PATH | os.O_DIRECTORY)
    confined = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS

    def look(path: bytes, flags: int, resolve: int) -> tuple[int, int]:
        fd = openat2(root, path, flags, resolve)
        try:
            st = os.fstat(fd)
            assert not os.get_inheritable(fd)
            return st.st_ino, st.st_mode
        finally:
            os.close(fd)

    before = sorted(os.listdir("/proc/self/fd"))
    path_only, plain = os.O_PATH | os.O_NOFOLLOW, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    paths = [
        b".", b"file", b"dir", b"dir/deep", b"dir/deep/file", b"dir//deep/./file", b"dir/deep/link", b"up", b"up/dir",
        b"dir/deep/link/x", b"file/x", b"missing", b"dir/missing", b"missing/x", b"dir/pipe", b"inner", b"inner/in",
        b"inner/in/x", b"..", b"../base", b"dir/../file", b"n" * 256,
    ]  # fmt: skip
    found: list[object] = [
        attempt(look, path, flags, resolve)
        for resolve in (confined, confined | RESOLVE_NO_XDEV)
        for flags in (path_only, plain, path_only | os.O_DIRECTORY)
        for path in paths
        # beneath is beneath for openat2 even where the path leads up and down again; the engine has no such paths
        if path != b"dir/../file"
    ]
    assert sorted(os.listdir("/proc/self/fd")) == before
    return [has_openat2(), *found]


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_walking(sandbox: MountSandbox, code: int) -> None:
    """Each path leads to the same object or the same error, and no descriptor is left open."""
    base = sandbox.directory() / "base"
    base.mkdir()
    _populate(base)
    (base / "inner").mkdir()
    sandbox.mount("-t", "tmpfs", "none", base / "inner")
    (base / "inner/in").mkdir()
    expected = in_child(lambda: _walks(str(base)))
    found = in_child(lambda: _walks(str(base)), before=refuse(code, ("openat2",)))
    assert (expected[0], found[0]) == (True, False)
    assert found[1:] == expected[1:]


def test_base_view(sandbox: MountSandbox) -> None:
    """The base is the same to look at, access times included, and stays as it was."""
    base = sandbox.file_system("ext4", 20, "strictatime") / "base"
    base.mkdir()
    _populate(base)

    def look() -> list[object]:
        view = BaseView(str(base))
        return [
            view.cloned, sorted(view.names(b"/")), sorted(view.names(b"/dir/deep")),
            view.stat(b"/dir/deep/file").st_ino, attempt(view.stat, b"/up/file"), attempt(view.names, b"/missing"),
            attempt(view.names, b"/file"),
        ]  # fmt: skip

    before = fingerprint(base)
    expected, found = in_child(look), in_child(look, before=refuse(errno.ENOSYS, NEWER))
    assert expected[0] is True
    assert found[0] is False
    assert found[1:] == expected[1:]
    assert fingerprint(base) == before

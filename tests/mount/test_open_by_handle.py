"""Files opened by their handle (open_by_handle_at(2)), when the kernel does not know them any more."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import BIG, MountSandbox, OverlayMount

_libc = ctypes.CDLL(None, use_errno=True)
_ROOM = 128  # bytes of a handle


def handle_of(path: Path) -> bytes:
    """name_to_handle_at(2)."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", _ROOM, 0) + bytes(_ROOM))
    mount = ctypes.c_int()
    assert _libc.name_to_handle_at(-100, bytes(path), handle, ctypes.byref(mount), 0) == 0
    (size,) = struct.unpack_from("I", handle.raw)
    return handle.raw[: 8 + size]


def open_handle(overlay: OverlayMount, handle: bytes) -> tuple[str, int]:
    """How it goes to open a handle, and the inode number of what is found."""
    root = os.open(overlay.mnt, os.O_RDONLY)
    try:
        fd = _libc.open_by_handle_at(root, handle, os.O_RDONLY)
        if fd < 0:
            return errno.errorcode[ctypes.get_errno()], 0
        number = os.fstat(fd).st_ino
        os.close(fd)
        return "ok", number
    finally:
        os.close(root)


@pytest.mark.parametrize("mode", ["hook", "plain"])
def test_by_handle(sandbox: MountSandbox, mode: str) -> None:
    """Known to the kernel everything is found; forgotten, what has a row is, the rest is stale and nothing else."""
    overlay = sandbox.overlay(*(["plain"] if mode == "plain" else []))
    (overlay.base / "dir").mkdir()
    for name in ("base", "dir/base", "changed"):
        (overlay.base / name).write_bytes(BIG)
    overlay.mount()
    (overlay.mnt / "changed").chmod(0o600)
    (overlay.mnt / "new").mkdir()
    (overlay.mnt / "new/file").write_bytes(b"new")
    (overlay.mnt / "new/link").symlink_to("file")
    # to connect a directory with the root the kernel reads it, and knows what is there: directories come last
    paths = sorted((path for path in overlay.mnt.rglob("*") if not path.is_symlink()), key=Path.is_dir)
    handles = {path.relative_to(overlay.mnt): (handle_of(path), path.stat().st_ino) for path in paths}
    for handle, number in handles.values():
        assert open_handle(overlay, handle) == ("ok", number)
    for _ in range(2):
        overlay.remount()
        for path, (handle, number) in handles.items():
            has_row = str(path) in ("changed", "new", "new/file")
            if path != Path("dir"):
                assert open_handle(overlay, handle) == (("ok", number) if has_row else ("ESTALE", 0)), path
    (overlay.mnt / "new/file").unlink()
    overlay.remount()
    assert open_handle(overlay, handles[Path("new/file")][0]) == ("ESTALE", 0)
    for path, (handle, number) in handles.items():
        if (overlay.mnt / path).exists():
            assert open_handle(overlay, handle) == ("ok", number)

"""What trees show, as values that can be compared: of an overlay, of a directory, and of an overlay's base changed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minifo.engine import ROOT, Overlay
from minifo.engine.model import Ino
from minifo.engine.queries.walk import shown_below
from tests.shared.overlay_sandbox import OverlaySandbox

Seen = dict[bytes, tuple[object, ...]]


def of_overlay(overlay: Overlay) -> Seen:
    """All that an overlay shows, by path."""
    found: Seen = {}
    names: dict[int, list[bytes]] = {}
    for path, attr in [(b"/", overlay.getattr(ROOT)), *shown_below(overlay, b"/")]:
        ino = Ino(attr.ino)
        content = b""
        if stat.S_ISREG(attr.mode):
            content = overlay.read(ino, 0, attr.size)
        elif stat.S_ISLNK(attr.mode):
            content = overlay.readlink(ino)
        xattrs = {name: overlay.getxattr(ino, name) for name in overlay.listxattr(ino)}
        found[path] = _value(attr.mode, attr.uid, attr.gid, attr.rdev, attr.mtime, content, xattrs)
        if not stat.S_ISDIR(attr.mode):
            names.setdefault(attr.ino, []).append(path)
    return _with_names(found, names)


def of_directory(top: Path | str) -> Seen:
    """All that a directory holds, by path."""
    root = os.fsencode(top)
    found: Seen = {}
    names: dict[int, list[bytes]] = {}
    waiting = [root]
    while waiting:
        full = waiting.pop()
        path = full[len(root) :] or b"/"
        st = os.lstat(full)
        content = b""
        if stat.S_ISREG(st.st_mode):
            content = Path(os.fsdecode(full)).read_bytes()
        elif stat.S_ISLNK(st.st_mode):
            content = os.readlink(full)
        elif stat.S_ISDIR(st.st_mode):
            waiting += (full + b"/" + name for name in os.listdir(full))
        xattrs = {os.fsencode(name): os.getxattr(full, name, follow_symlinks=False) for name in _xattrs(full)}
        found[path] = _value(st.st_mode, st.st_uid, st.st_gid, st.st_rdev, st.st_mtime_ns, content, xattrs)
        if not stat.S_ISDIR(st.st_mode):
            names.setdefault(st.st_ino, []).append(path)
    return _with_names(found, names)


def _xattrs(full: bytes) -> list[str]:
    try:
        names = os.listxattr(full, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []  # unionfs-fuse
    return [name for name in names if not name.startswith("trusted.overlay.")]


def _value(
    mode: int, uid: int, gid: int, rdev: int, mtime: int, content: bytes, xattrs: dict[bytes, bytes]
) -> tuple[object, ...]:
    device = rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    return (oct(mode), uid, gid, device, mtime, len(content), digest, tuple(sorted(xattrs.items())))


def _with_names(found: Seen, names: dict[int, list[bytes]]) -> Seen:
    for paths in names.values():
        for path in paths:
            found[path] += (sorted(paths),)
    return found


def without(seen: Seen, *fields: str) -> Seen:
    """The same without what a system cannot show: ``times``, ``links``, ``xattrs``."""
    places = {"times": 4, "xattrs": 7, "links": 8}
    drop = {places[name] for name in fields}
    return {
        path: tuple(value for place, value in enumerate(values) if place not in drop) for path, values in seen.items()
    }


def build(sandbox: OverlaySandbox) -> None:
    """Make a base, and an overlay with a change of each kind."""
    for path in ("d/one", "d/two", "d/sub/s", "ren/inner/r", "gone/deep/x", "opaque/o", "f", "large", "meta", "kept/k"):
        sandbox.put(path, path.encode() * (5000 if path == "large" else 1))
    base = sandbox.base
    (base / "links").mkdir()
    os.link(base / "f", base / "links/f2")
    os.link(base / "kept/k", base / "links/k2")
    os.symlink("d", base / "turns")
    os.mknod(base / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mkfifo(base / "fifo")
    os.setxattr(base / "meta", "user.base", b"1")
    os.setxattr(base / "d", "user.d", b"2")
    sandbox.create("d/new", b"n" * 5000)
    sandbox.unlink("d/two")
    sandbox.rename("ren", "moved")
    sandbox.create("moved/inner/in", b"in")
    sandbox.unlink("gone/deep/x")
    sandbox.rmdir("gone/deep")
    sandbox.rmdir("gone")
    sandbox.unlink("opaque/o")
    sandbox.rmdir("opaque")
    sandbox.mkdir("opaque")
    sandbox.create("opaque/oo", b"oo")
    sandbox.write("f", b"changed")
    sandbox.link("d/one", "d/one-more")
    sandbox.link("kept/k", "k3")
    sandbox.set("meta", uid=1000, gid=2_000_000_000)
    sandbox.set("meta", mode=0o4751)
    sandbox.ov.setxattr(sandbox.ino("meta"), b"user.binary", b"\xff\0=\n")
    sandbox.ov.setxattr(sandbox.ino("meta"), b"security.capability", bytes.fromhex("0100000200040000" + "00" * 12))
    sandbox.write("large", b"patch", 12345)
    sandbox.unlink("turns")
    sandbox.mkdir("turns")
    sandbox.create("turns/t", b"t")
    sandbox.set("d/one", atime=5, mtime=-31_535_999_876_543_211)
    sandbox.create("sparse", b"")
    sandbox.set("sparse", size=3 << 20)
    sandbox.write("sparse", b"end", (3 << 20) - 3)
    sandbox.ov.mknod(ROOT, b"block", stat.S_IFBLK | 0o640, os.makedev(300, 70000), sandbox.me)
    sandbox.ov.mknod(ROOT, b"pipe", stat.S_IFIFO | 0o600, 0, sandbox.me)
    sandbox.ov.symlink(ROOT, b"link", b"\xfe/nowhere" * 20, sandbox.me)
    for name in (b"line\nfeed", b"\xff\xfe", b"n" * 255):
        sandbox.ov.mknod(ROOT, name, 0o644, 0, sandbox.me)
    sandbox.mkdir("deep")
    for depth in range(40):
        sandbox.mkdir("deep" + "/dddddddddd" * (depth + 1))
    sandbox.ov.commit()


@contextmanager
def mounted(*words: str, at: Path) -> Iterator[Path]:
    """A file system of another system at a directory that is made; a test that lacks its program is skipped."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed (Debian 13 has no unionfs-fuse)")
    at.mkdir()
    subprocess.run([*words, str(at)], check=True, capture_output=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def unpack_image(place: Path, *layers: Path) -> Path:
    """Let umoci unpack an image of these layers, each an archive that is not compressed; return its root directory."""
    image = place / "image"
    blobs = image / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    packed = [blob(layer.read_bytes(), "layer.v1.tar") for layer in layers]
    ids = [layer["digest"] for layer in packed]
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": packed,
    }
    named = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    named["annotations"] = {"org.opencontainers.image.ref.name": "it"}
    (image / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (image / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    bundle = place / "bundle"
    words = ["umoci", "unpack", "--image", f"{image}:it", str(bundle)]
    subprocess.run(words, check=True, capture_output=True)
    return bundle / "rootfs"


def same(found: Seen, expected: Seen) -> None:
    """See that two trees show the same; say the first paths of which they do not."""
    wrong = [path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path)]
    text = "\n".join(f"{path!r:.300}:\n  {found.get(path)}\n  {expected.get(path)}" for path in sorted(wrong)[:8])
    assert not wrong, f"{len(wrong)} paths differ; found and expected:\n{text}"

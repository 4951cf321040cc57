"""An overlay with a first state and a second one, the bundle between them, and devices that have the first state."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minifo.engine import Overlay
from minifo.engine.queries.at_rest import open_at_rest, open_checkpoint
from minifo.engine.queries.digest import differences, digest
from minifo.migrations.bundle.apply import Applied, apply_at_rest
from minifo.migrations.bundle.create import CreateOptions, CreateReport, State, create_bundle
from tests.migrations import overlay_contents
from tests.shared.overlay_sandbox import ME, OverlaySandbox


class BundleSandbox(OverlaySandbox):
    """An overlay in its second state, over a small base; ``first`` is a checkpoint of the first one.

    Args:
        top: an empty directory.
    """

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.top = top
        for path in ("etc/conf", "etc/gone", "dir/sub/deep", "dir/other", "moved/inside", "many"):
            self.put(path, path.encode())
        os.link(self.base / "many", self.base / "dir/many")
        self.create("mine", b"mine")
        self.create("both", b"both" * 1000)
        self.ov.checkpoints.create("first")
        self.close()
        self.storages = 0
        self.start = "first"

    def device(self) -> Path:
        """A storage in the first state."""
        self.close()
        self.storages += 1
        found = self.top / f"device-{self.storages}"
        shutil.copytree(self.sto, found, symlinks=True)
        with contextlib.closing(Overlay.open(str(self.base), str(found))) as overlay:
            overlay.checkpoints.rollback("first")
            overlay.checkpoints.delete([checkpoint.name for checkpoint in overlay.checkpoints.all()])
        return found

    def update(self) -> None:
        """Make one change of each sort."""
        self.write("etc/conf", b"changed")
        self.unlink("etc/gone")
        for path in ("dir/sub/deep", "dir/other"):
            self.unlink(path)
        self.rmdir("dir/sub")
        self.rename("moved", "dir/moved")
        self.set("mine", mode=0o4711, uid=7, gid=8)
        self.ov.setxattr(self.ino("mine"), b"user.key", b"value\0")
        self.unlink("both")
        self.mkdir("both")
        self.create("both/new", b"n" * 100_000)
        self.link("both/new", "dir/new-too")
        self.write("many", b"M")
        self.ov.symlink(*self.split("link"), b"../etc/passwd", ME)
        self.ov.mknod(*self.split("null"), stat.S_IFCHR | 0o666, os.makedev(1, 3), ME)
        self.ov.mknod(*self.split("pipe"), stat.S_IFIFO | 0o600, 0, ME)
        sparse = self.create("sparse")
        self.ov.write(sparse, 1 << 20, b"end")
        self.set("sparse", size=3 << 20)
        self.set("dir", mtime=1_234_567_890_123_456_789)

    def bundle(self, options: CreateOptions = CreateOptions(), second: str | None = None) -> Path:  # noqa: B008
        """The bundle from the first state to the second one, or to another checkpoint."""
        path = self.top / "up.bundle"
        report = self.create_at(str(path), options._replace(force=True), second)
        assert report.written
        return path

    def create_at(self, path: str, options: CreateOptions, second: str | None = None) -> CreateReport:
        """Make it, wherever it goes."""
        self.close()
        storage = str(self.sto)
        after = open_at_rest(storage) if second is None else open_checkpoint(storage, second)
        with contextlib.closing(open_checkpoint(storage, self.start)) as before, contextlib.closing(after):
            found = [
                State(overlay, overlay.checkpoints.find(name) if name is not None else None)
                for overlay, name in ((before, self.start), (after, second))
            ]
            return create_bundle(found[0], found[1], path, options)

    def shown(self, storage: Path) -> dict[bytes, tuple[object, ...]]:
        """What an overlay shows, without times of directories that no bundle says."""
        return overlay_contents.shown(self.base, storage, links=True)

    def digest_now(self) -> str:
        """What minifo digest says of the overlay itself."""
        return digest(differences(self.ov)).hex()

    def digest(self, storage: Path) -> str:
        """What minifo digest says of one."""
        with contextlib.closing(open_at_rest(str(storage))) as overlay:
            return digest(differences(overlay)).hex()

    def apply(self, bundle: Path | bytes, storage: Path, **options: Any) -> Applied:
        """Apply a bundle."""
        data = bundle if isinstance(bundle, bytes) else bundle.read_bytes()
        return apply_at_rest(io.BytesIO(data), "up.bundle", str(self.base), str(storage), **options)


# -- bundles that no minifo has made

Lines = list[dict[str, Any]]


def rebuilt(
    bundle: Path,
    lines: Callable[[Lines], object] = lambda lines: None,
    layer: Callable[[bytes], bytes] = lambda layer: layer,
    header: Callable[[dict[str, Any]], object] = lambda header: None,
) -> bytes:
    """A bundle with other paths, another layer or another header, and digests that fit."""
    with tarfile.open(bundle) as archive:
        parts = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    told = json.loads(parts["bundle.json"])
    found = [json.loads(line) for line in gzip.decompress(parts["paths.jsonl.gz"]).splitlines()]
    lines(found)
    bodies = {
        "paths": gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in found)),
        "layer": gzip.compress(layer(gzip.decompress(parts["layer.tar.gz"]))),
    }
    for key, data in bodies.items():
        told[key].update(size=len(data), digest=f"sha256:{hashlib.sha256(data).hexdigest()}")
    told["paths"]["count"] = len(found)
    header(told)
    members = {"bundle.json": json.dumps(told).encode()}
    members |= {told["paths"]["name"]: bodies["paths"], told["layer"]["name"]: bodies["layer"]}
    return archive_of(members)


def archive_of(members: dict[str, bytes], **changes: Any) -> bytes:
    """A tar archive of plain files, whose headers may be others."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def edited(layer: bytes, edit: Callable[[tarfile.TarInfo], object]) -> bytes:
    """A layer whose headers an edit has changed; one that returns False is left out."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(layer)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for info in old:
            data = old.extractfile(info) if info.isreg() else None
            if edit(info) is not False:
                new.addfile(info, data)
    return out.getvalue()


def with_more(layer: bytes, *infos: tarfile.TarInfo) -> bytes:
    """A layer with more entries, without bytes, at its end."""
    out = io.BytesIO(layer)
    with tarfile.open(fileobj=out, mode="a") as archive:
        for info in infos:
            archive.addfile(info)
    return out.getvalue()

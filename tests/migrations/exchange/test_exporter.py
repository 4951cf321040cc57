"""Exports: other systems show, over the same base, what the overlay shows; an export that fails leaves nothing."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.engine import ROOT, StateError, UsageError
from minifo.migrations.effects import Effects
from minifo.migrations.exchange.compression import Compression, by_name
from minifo.migrations.exchange.exporter import ExportOptions, ExportReport, export_layer
from minifo.migrations.exchange.formats import Format
from tests.migrations.exchange.seen_trees import build, mounted, of_directory, of_overlay, same, unpack_image, without
from tests.shared.overlay_sandbox import OverlaySandbox


@pytest.fixture
def sandbox(memory_dir: Path) -> Iterator[OverlaySandbox]:
    """An overlay with a change of each kind."""
    made = OverlaySandbox(memory_dir)
    build(made)
    yield made
    made.close()


def export(sandbox: OverlaySandbox, to: Path | str, name: Format, **options: object) -> ExportReport:
    """Export, and see that it was written."""
    report = export_layer(sandbox.ov, str(to), ExportOptions(name, **options))  # type: ignore[arg-type]
    assert report.written, report.losses
    return report


@pytest.mark.parametrize("userxattr", [False, True])
def test_overlayfs_of_the_kernel_shows_the_same(sandbox: OverlaySandbox, memory_dir: Path, userxattr: bool) -> None:
    """Attributes, bytes, extended attributes, times and hard links, and the base is as before."""
    upper = memory_dir / "upper"
    expected = of_overlay(sandbox.ov)
    report = export(sandbox, upper, Format.OVERLAYFS, userxattr=userxattr)
    assert report.whiteouts == 3
    (memory_dir / "work").mkdir()
    options = f"lowerdir={sandbox.base},upperdir={upper},workdir={memory_dir}/work"
    options += ",userxattr" if userxattr else ""
    with mounted("mount", "-t", "overlay", "-o", options, "overlay", at=memory_dir / "mnt") as mnt:
        same(of_directory(mnt), expected)


def test_fuse_overlayfs_shows_the_same(sandbox: OverlaySandbox, memory_dir: Path, fuse_required: None) -> None:
    """It does not tell which names of base files are links."""
    upper = memory_dir / "upper"
    export(sandbox, upper, Format.FUSE_OVERLAYFS)
    (memory_dir / "work").mkdir()
    options = f"lowerdir={sandbox.base},upperdir={upper},workdir={memory_dir}/work"
    with mounted("fuse-overlayfs", "-o", options, at=memory_dir / "mnt") as mnt:
        same(without(of_directory(mnt), "links"), without(of_overlay(sandbox.ov), "links"))


def test_unionfs_fuse_shows_the_same(sandbox: OverlaySandbox, memory_dir: Path, fuse_required: None) -> None:
    """But for links and extended attributes, which it does not tell, and the directory in which it keeps whiteouts."""
    branch = memory_dir / "branch"
    export(sandbox, branch, Format.UNIONFS)
    with mounted("unionfs", "-o", "cow", f"{branch}=RW:{sandbox.base}=RO", at=memory_dir / "mnt") as mnt:
        found = {path: value for path, value in of_directory(mnt).items() if not path.startswith(b"/.unionfs-fuse")}
        same(without(found, "links", "xattrs"), without(of_overlay(sandbox.ov), "links", "xattrs"))


@pytest.mark.parametrize("name", ["all.tar", "all.tar.gz", "all.tar.zst"])
def test_gnu_tar_extracts_the_merged_tree(sandbox: OverlaySandbox, memory_dir: Path, name: str) -> None:
    """Of every compression, with all attributes."""
    archive, tree = memory_dir / name, memory_dir / "tree"
    export(sandbox, archive, Format.TAR, whole=True, compression=by_name(name))
    tree.mkdir()
    words = ["tar", "-C", str(tree), "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", str(archive)]
    subprocess.run(words, check=True, capture_output=True)
    same(of_directory(tree), of_overlay(sandbox.ov))


def test_an_image_of_base_and_layer_shows_the_same(sandbox: OverlaySandbox, memory_dir: Path) -> None:
    """Unpacked by umoci; it sets the times of directories too early."""
    layer, base = memory_dir / "layer.tar", memory_dir / "base.tar"
    export(sandbox, layer, Format.OCI)
    words = ["tar", "-C", str(sandbox.base), "--xattrs", "--xattrs-include=*", "--format=pax", "-cf", str(base), "."]
    subprocess.run(words, check=True)
    root = unpack_image(memory_dir, base, layer)
    found, expected = of_directory(root), of_overlay(sandbox.ov)
    same(without(found, "times"), without(expected, "times"))


def test_the_same_state_gives_the_same_bytes(sandbox: OverlaySandbox, memory_dir: Path) -> None:
    """So that layers can be told apart by their digest."""
    for name in ("one.tar.gz", "two.tar.gz"):
        export(sandbox, memory_dir / name, Format.OCI, compression=Compression.GZIP)
    assert (memory_dir / "one.tar.gz").read_bytes() == (memory_dir / "two.tar.gz").read_bytes()


def test_what_a_format_cannot_have_is_refused(sandbox: OverlaySandbox, memory_dir: Path) -> None:
    """Nothing is written; with ``lossy`` all else is, links of what is left out among it."""
    sandbox.create(".wh.x", b"1")
    sandbox.link(".wh.x", "x")
    sandbox.link(".wh.x", "y")
    sandbox.mkdir(".wh.dir")
    sandbox.create(".wh.dir/in", b"in")
    sandbox.ov.mknod(ROOT, b"socket", stat.S_IFSOCK | 0o600, 0, sandbox.me)
    out = memory_dir / "out.tar"
    report = export_layer(sandbox.ov, str(out), ExportOptions(Format.OCI))
    assert not report.written
    assert not out.exists()
    found = [(loss.kind, loss.place) for loss in report.losses]
    assert found == [("name", b"/.wh.x"), ("socket", b"/socket"), ("name", b"/.wh.dir")]
    export(sandbox, out, Format.OCI, lossy=True)
    listed = subprocess.run(["tar", "-tvf", str(out)], check=True, capture_output=True, text=True).stdout
    assert " y link to x\n" in listed
    assert ".wh.dir" not in listed
    assert ".wh.x" not in listed


def test_a_plain_archive_does_not_hide_that_names_are_gone(sandbox: OverlaySandbox, memory_dir: Path) -> None:
    """It cannot say what was deleted."""
    report = export_layer(sandbox.ov, str(memory_dir / "out.tar"), ExportOptions(Format.TAR))
    assert {loss.kind for loss in report.losses} == {"deleted"}
    assert sorted(loss.place for loss in report.losses) == [b"/d/two", b"/gone", b"/ren"]


def test_names_and_attributes_with_a_meaning_are_refused(sandbox: OverlaySandbox, memory_dir: Path) -> None:
    """A device that would be a whiteout, attributes of overlayfs itself, names that unionfs-fuse looks for."""
    sandbox.ov.mknod(ROOT, b"zero", stat.S_IFCHR | 0o600, 0, sandbox.me)
    sandbox.ov.setxattr(sandbox.ino("f"), b"user.overlay.opaque", b"y")
    sandbox.create("d/a_HIDDEN~")
    kinds = {
        name: {(loss.kind, loss.place) for loss in export_layer(sandbox.ov, "-", ExportOptions(name)).losses}
        for name in (Format.OCI,)
    }
    assert kinds == {Format.OCI: set()}
    for name, expected in (
        (Format.OVERLAYFS, {("device", b"/zero"), ("xattr", b"/f")}),
        (Format.UNIONFS, {("name", b"/d/a_HIDDEN~")}),
    ):
        report = export_layer(sandbox.ov, str(memory_dir / name), ExportOptions(name))
        assert {(loss.kind, loss.place) for loss in report.losses} == expected
        assert not (memory_dir / name).exists()


def test_a_link_that_the_layer_cannot_keep_is_told(sandbox: OverlaySandbox, memory_dir: Path) -> None:
    """A base file in a directory that was renamed has another name elsewhere."""
    os.link(sandbox.base / "ren/inner/r", sandbox.base / "links/r2")
    sandbox.reopen()
    report = export_layer(sandbox.ov, str(memory_dir / "out.tar"), ExportOptions(Format.OCI))
    assert [(loss.kind, loss.place) for loss in report.losses] == [("hard-link", b"/moved/inner/r")]


def test_what_exists_is_not_replaced(sandbox: OverlaySandbox, memory_dir: Path) -> None:
    """A file with bytes only by ``force``, a directory with names in it never; nothing goes into storage."""
    out, directory = memory_dir / "out.tar", memory_dir / "dir"
    out.write_text("mine")
    directory.mkdir()
    (directory / "mine").touch()
    with pytest.raises(UsageError, match="exists"):
        export(sandbox, out, Format.OCI)
    with pytest.raises(UsageError, match="empty directory"):
        export(sandbox, directory, Format.OVERLAYFS, force=True)
    with pytest.raises(UsageError, match="in the overlay's storage"):
        export(sandbox, sandbox.sto / "out.tar", Format.OCI)
    with pytest.raises(UsageError, match="does not exist"):
        export(sandbox, memory_dir / "no/out.tar", Format.OCI)
    with pytest.raises(UsageError, match="is a directory"):
        export(sandbox, "-", Format.OVERLAYFS)
    assert out.read_text() == "mine"
    export(sandbox, out, Format.OCI, force=True)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    (directory / "mine").unlink()
    export(sandbox, directory, Format.OVERLAYFS)
    assert (directory / "d/new").exists()


class _Failing(Effects):
    """Fails at the n-th effect."""

    def __init__(self, left: int) -> None:
        self._left = left

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "it")

    def create(self, path: str | bytes) -> int:
        self._count()
        return super().create(path)

    def mkdir(self, path: str | bytes) -> None:
        self._count()
        super().mkdir(path)

    def sync(self, path: str | bytes) -> None:
        self._count()
        super().sync(path)

    def sync_all(self, path: str | bytes) -> None:
        self._count()
        super().sync_all(path)

    def rename(self, path: str | bytes, new: str | bytes) -> None:
        self._count()
        super().rename(path, new)


@pytest.mark.parametrize(("name", "steps"), [(Format.OCI, 3), (Format.OVERLAYFS, 12)])
def test_an_export_that_fails_leaves_nothing(
    sandbox: OverlaySandbox, memory_dir: Path, name: Format, steps: int
) -> None:
    """Whichever step fails before the rename: neither the destination nor a part of it is there."""
    before = sorted(os.listdir(memory_dir))
    for step in range(1, steps + 1):
        with pytest.raises(StateError, match="cannot be written"):
            export_layer(sandbox.ov, str(memory_dir / "out"), ExportOptions(name), effects=_Failing(step))
        assert sorted(os.listdir(memory_dir)) == before


def test_zstd_that_fails_leaves_nothing(
    sandbox: OverlaySandbox, memory_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is missing, or ends in the middle."""
    options = ExportOptions(Format.OCI, compression=Compression.ZSTD)
    fake = memory_dir / "bin/zstd"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexit 3\n")
    before = sorted(os.listdir(memory_dir))
    monkeypatch.setenv("PATH", str(fake.parent))
    with pytest.raises(StateError, match="is not installed"):
        export_layer(sandbox.ov, str(memory_dir / "out.tar.zst"), options)
    fake.chmod(0o755)
    with pytest.raises(StateError, match="zstd"):
        export_layer(sandbox.ov, str(memory_dir / "out.tar.zst"), options)
    assert sorted(os.listdir(memory_dir)) == before

"""Imports: an overlay shows what other systems show of their layers; hostile and damaged sources leave nothing."""

from __future__ import annotations

import errno
import gzip
import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from minifo.engine import Overlay, StateError, UsageError
from minifo.engine.queries import digest
from minifo.migrations.effects import DiskAccess, Effects
from minifo.migrations.exchange.compression import by_name
from minifo.migrations.exchange.exporter import ExportOptions, export_layer
from minifo.migrations.exchange.formats import Format
from minifo.migrations.exchange.importer import ImportOptions, ImportReport, import_layers
from tests.migrations.exchange.seen_trees import (
    Seen,
    build,
    mounted,
    of_directory,
    of_overlay,
    same,
    unpack_image,
    without,
)
from tests.shared.overlay_sandbox import OverlaySandbox

ROOT_OPTIONS = ImportOptions(privileged=True)


@pytest.fixture
def base(memory_dir: Path) -> Path:
    """A small base."""
    found = memory_dir / "base"
    for path in ("d/one", "d/two", "d/sub/s", "gone/deep/x", "f"):
        (found / path).parent.mkdir(parents=True, exist_ok=True)
        (found / path).write_text(path)
    os.link(found / "f", found / "d/f2")
    os.symlink("d", found / "turns")
    return found


@contextmanager
def opened(base: Path, storage: Path) -> Iterator[Overlay]:
    """An overlay whose rows keep the rules."""
    overlay = Overlay.open(str(base), str(storage))
    try:
        assert overlay.check() == []
        yield overlay
    finally:
        overlay.close()


def seen(base: Path, storage: Path) -> Seen:
    """What an overlay shows."""
    with opened(base, storage) as overlay:
        return of_overlay(overlay)


def take(base: Path, *sources: Path, to: Path | None = None, **options: Any) -> Seen:
    """Import, and return what shows."""
    target = to or base.parent / "new"
    import_layers([str(source) for source in sources], str(base), str(target), ROOT_OPTIONS._replace(**options))
    return seen(base, target)


Member = tuple[str, bytes, dict[str, Any]]


def archive(path: Path, *members: Member) -> Path:
    """A tar archive of members: name, bytes, and attributes of the header."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        for name, data, attributes in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in attributes.items():
                setattr(info, key, value)
            out.addfile(info, io.BytesIO(data))
    return path


DIR: dict[str, Any] = {"type": tarfile.DIRTYPE, "mode": 0o755}


# -- there and back


@pytest.mark.parametrize("name", ["oci", "overlayfs", "fuse-overlayfs", "unionfs", "oci.tar.gz", "oci.tar.zst"])
def test_an_export_comes_back(memory_dir: Path, name: str) -> None:
    """With all attributes, links and times, and the same digest; what it is is found by itself."""
    sandbox = OverlaySandbox(memory_dir)
    build(sandbox)
    expected = of_overlay(sandbox.ov)
    before = digest.digest(digest.differences(sandbox.ov))
    out = memory_dir / name
    export_layer(sandbox.ov, str(out), ExportOptions(Format(name.split(".")[0]), compression=by_name(name)))
    sandbox.close()
    report = import_layers([str(out)], str(sandbox.base), str(memory_dir / "new"), ROOT_OPTIONS)
    assert report.formats == [Format(name.split(".")[0])]
    with opened(sandbox.base, memory_dir / "new") as overlay:
        same(of_overlay(overlay), expected)
        assert digest.digest(digest.differences(overlay)) == before


# -- what other systems have written


def use(mnt: Path) -> None:
    """Change an overlay of another system in all ways."""
    (mnt / "d/one").write_text("changed")
    (mnt / "d/two").unlink()
    subprocess.run(["rm", "-r", str(mnt / "gone")], check=True)
    (mnt / "gone").mkdir()
    (mnt / "gone/new").write_bytes(b"n" * 100_000)
    os.link(mnt / "gone/new", mnt / "new2")
    os.chmod(mnt / "d/sub/s", 0o4711)
    (mnt / "turns").unlink()
    (mnt / "turns").mkdir()
    os.symlink("/etc", mnt / "out")
    os.mkfifo(mnt / "fifo")


@pytest.mark.parametrize("options", ["", "redirect_dir=on", "redirect_dir=on,metacopy=on", "userxattr"])
def test_upper_directories_of_the_kernel(base: Path, memory_dir: Path, options: str) -> None:
    """Renamed directories in each other, exchanged ones, and files without bytes among them."""
    upper = memory_dir / "upper"
    upper.mkdir()
    (memory_dir / "work").mkdir()
    for name in ("a", "b"):
        (base / name / "in").mkdir(parents=True)
        (base / name / f"file-{name}").write_text(name * 9000)
    words = f"lowerdir={base},upperdir={upper},workdir={memory_dir}/work" + ("," if options else "") + options
    with mounted("mount", "-t", "overlay", "-o", words, "overlay", at=memory_dir / "mnt") as mnt:
        use(mnt)
        if "redirect" in options:
            os.rename(mnt / "a", mnt / "c")
            os.rename(mnt / "b", mnt / "a")
            os.rename(mnt / "a/in", mnt / "c/in/of-b")
            (mnt / "c/in/of-b/new").write_text("new")
            os.rename(mnt / "d", mnt / "gone/d")
        os.chmod(mnt / "a" / ("file-b" if "redirect" in options else "file-a"), 0o600)
        expected = of_directory(mnt)
    metacopies = subprocess.run(["getfattr", "-dRm", "metacopy", upper], capture_output=True, check=True).stdout
    assert bool(metacopies) == ("metacopy" in options)
    # a file of the base with several names is one of them alone after a copy-up, and directories have one link
    same(take(base, upper), expected)


def test_upper_directories_of_fuse_overlayfs(base: Path, memory_dir: Path, fuse_required: None) -> None:
    """Whiteouts and opaque directories as it writes them."""
    upper = memory_dir / "upper"
    upper.mkdir()
    (memory_dir / "work").mkdir()
    words = f"lowerdir={base},upperdir={upper},workdir={memory_dir}/work"
    with mounted("fuse-overlayfs", "-o", words, at=memory_dir / "mnt") as mnt:
        use(mnt)
        expected = of_directory(mnt)
    same(without(take(base, upper, layer_format=Format.FUSE_OVERLAYFS), "links"), without(expected, "links"))


def test_branches_of_unionfs_fuse(base: Path, memory_dir: Path, fuse_required: None) -> None:
    """Its whiteouts; it shows no extended attributes, and has its own directory in the root."""
    branch = memory_dir / "branch"
    branch.mkdir()
    with mounted("unionfs", "-o", "cow", f"{branch}=RW:{base}=RO", at=memory_dir / "mnt") as mnt:
        use(mnt)
        found = {path: value for path, value in of_directory(mnt).items() if not path.startswith(b"/.unionfs-fuse")}
    fields = ("links", "xattrs", "times")
    same(without(take(base, branch), *fields), without(found, *fields))


def test_whiteouts_in_extended_attributes(base: Path, memory_dir: Path) -> None:
    """As a lower layer within an overlay has them."""
    upper = memory_dir / "upper"
    (upper / "d").mkdir(parents=True)
    (upper / "d/two").touch()
    os.setxattr(upper / "d", "user.overlay.opaque", b"x")
    os.setxattr(upper / "d/two", "user.overlay.whiteout", b"")
    found = take(base, upper)
    assert b"/d/two" not in found
    assert b"/d/one" in found


def test_layers_of_an_image(base: Path, memory_dir: Path) -> None:
    """Unpacked by umoci they show the same: later layers over earlier ones, whiteouts wherever they stand."""
    hide: dict[str, Any] = {}
    one = archive(
        memory_dir / "1.tar",
        ("d/", b"", {**DIR, "mode": 0o700}),
        (".wh.gone", b"", hide),
        ("made/", b"", DIR),
        ("made/a", b"a", {}),
        ("made/b", b"b", {"mtime": 1.5, "uid": 5}),
        ("made/again", b"", {"type": tarfile.LNKTYPE, "linkname": "made/b"}),
    )
    two = archive(
        memory_dir / "2.tar",
        ("d/new", b"new", {}),
        ("d/.wh..wh..opq", b"", hide),
        ("made/", b"", DIR),
        ("made/.wh.a", b"", hide),
        ("f", b"", {"type": tarfile.SYMTYPE, "linkname": "../../etc"}),
        ("gone", b"is a file", {"pax_headers": {"SCHILY.xattr.user.x": "y"}}),
    )
    whole = memory_dir / "base.tar"
    subprocess.run(["tar", "-C", str(base), "--format=pax", "-cf", str(whole), "."], check=True)
    expected = of_directory(unpack_image(memory_dir, whole, one, two))
    same(without(take(base, one, two), "times"), without(expected, "times"))


def test_gnu_tar_and_its_sparse_files(base: Path, memory_dir: Path) -> None:
    """Holes of all its formats stay holes."""
    tree = memory_dir / "tree"
    tree.mkdir()
    with open(tree / "sparse", "wb") as file:
        file.seek(40 << 20)
        file.write(b"end")
        file.seek(9000)
        file.write(b"middle" * 3000)
        file.truncate(60 << 20)
    for number, words in enumerate((["--format=gnu"], ["--format=pax"], ["--format=pax", "--sparse-version=0.0"])):
        out = memory_dir / f"{number}.tar"
        subprocess.run(["tar", "-C", str(tree), "-S", *words, "-cf", str(out), "."], check=True)
        assert out.stat().st_size < 100_000
        found = take(base, out, to=memory_dir / f"new{number}", max_size=1 << 20)
        assert found[b"/sparse"][5:7] == of_directory(tree)[b"/sparse"][5:7]


def test_the_last_of_one_name_counts(base: Path, memory_dir: Path) -> None:
    """As for tar; in a plain archive ``.wh.`` is a name like others."""
    members: list[Member] = [("x", b"1", {}), ("x", b"", DIR), ("x/in", b"", {}), ("x", b"2", {}), (".wh.f", b"", {})]
    found = take(base, archive(memory_dir / "a.tar", *members), layer_format=Format.TAR)
    assert found[b"/x"][5] == 1
    assert {b"/.wh.f", b"/f"} < found.keys()
    assert b"/x/in" not in found


# -- hostile


def holed(size: str, table: bytes, name: str = "x") -> Member:
    """A sparse file as GNU tar has it: its size, and the text before its bytes that says where they are."""
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name, "GNU.sparse.realsize": size}
    return "x", table.ljust(512, b"\0") + b"bytes", {"pax_headers": pax}


HOSTILE: dict[str, tuple[list[Member], str]] = {
    "absolute": ([("/etc/x", b"", {})], "absolute name"),
    "dots": ([("d/../../x", b"", {})], "leads out"),
    "hidden dots": ([(".wh...", b"", {})], "leads out"),
    "long": ([("n" * 256, b"", {})], "no file system takes"),
    "nul": ([("a", b"", {"pax_headers": {"path": "x\0y"}})], "no file system takes"),
    "empty": ([("./", b"data", {})], "without a name"),
    "through a link": (
        [("l", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc"}), ("l/x", b"", {})],
        "follows no link",
    ),
    "through the base": ([("turns/x", b"", {})], "follows no link"),
    "link out": ([("l", b"", {"type": tarfile.LNKTYPE, "linkname": "../etc/passwd"})], "leads out"),
    "link to nothing": ([("l", b"", {"type": tarfile.LNKTYPE, "linkname": "none"})], "no file"),
    "link to a directory": ([("l", b"", {"type": tarfile.LNKTYPE, "linkname": "d"})], "no file"),
    "long target": ([("l", b"", {"type": tarfile.SYMTYPE, "linkname": "t" * 5000})], "symbolic link"),
    "owner": ([("x", b"", {"uid": 1 << 32})], "impossible owner"),
    "type": ([("x", b"", {"type": b"Z"})], "unknown type"),
    "xattr": ([("x", b"", {"pax_headers": {"SCHILY.xattr.user.x": "v" * 70_000}})], "extended attribute"),
    "headers": ([("x", b"", {"pax_headers": {"comment": "v" * (17 << 20)}})], "MiB of headers"),
    "whiteout of nothing": ([(".wh.", b"", {})], "whiteout of no name"),
    "whiteout of the directory": ([("d/.wh..", b"", {})], "whiteout of no name"),
    "linked and then gone": (
        [("x", b"", DIR), ("x", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc"}), ("x/y", b"", {})],
        "follows no link",
    ),
    "below a device": ([("n", b"", {"type": tarfile.FIFOTYPE}), ("n/x", b"", {})], "follows no link"),
    "absolute link": ([("l", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})], "absolute name"),
    "link to a name that is gone": (
        [(".wh.f", b"", {}), ("l", b"", {"type": tarfile.LNKTYPE, "linkname": "f"})],
        "no file",
    ),
    "size": ([("x", b"", {"pax_headers": {"size": "-5"}})], "impossible size"),
    "size of holes": ([holed("-5", b"1\n0\n5\n")], "impossible holes"),
    "holes beyond the end": ([holed("10", b"1\n100\n5\n")], "impossible holes"),
    "holes twice": ([holed("10", b"2\n0\n5\n0\n5\n")], "impossible holes"),
    "count of holes": ([holed("10", b"99999999999\n0\n5\n")], "damaged"),
    "text for holes": ([holed("10", b"none\n0\n5\n")], "damaged"),
    "text for a size": ([holed("ten", b"1\n0\n5\n")], "damaged"),
    "holes with a name": ([holed("5", b"1\n0\n5\n", "../../x")], "leads out"),
    "deep": ([("a/" * 3000 + "x", b"", {})], "max-entries"),
    "large": ([("x", b"x" * 3_000_000, {})], "max-size"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_are_refused(base: Path, memory_dir: Path, what: str) -> None:
    """With what is wrong; no storage is left, and nothing outside is changed."""
    members, text = HOSTILE[what]
    source = archive(memory_dir / "a.tar", ("fine", b"fine", {}), *members)
    before = of_directory(base)
    with pytest.raises(StateError, match=text):
        take(base, source, max_entries=2000, max_size=2_000_000)
    assert sorted(os.listdir(memory_dir)) == ["a.tar", "base"]
    assert of_directory(base) == before


@pytest.mark.parametrize("pack_by", ["gzip", "zstd"])
def test_a_bomb_ends_at_max_size(base: Path, memory_dir: Path, pack_by: str) -> None:
    """Few bytes that become many: they are read in pieces, and no more of them than may be taken."""
    whole = archive(memory_dir / "a.tar", ("x", b"x" * 50_000_000, {})).read_bytes()
    (memory_dir / "a.tar").write_bytes(pack(pack_by, whole))
    assert (memory_dir / "a.tar").stat().st_size < 100_000
    with pytest.raises(StateError, match="max-size"):
        take(base, memory_dir / "a.tar", max_size=2_000_000)
    assert sorted(os.listdir(memory_dir)) == ["a.tar", "base"]


@pytest.mark.parametrize("time", ["nan", "1e400", "-1e30", "inf", "noon"])
def test_times_that_there_are_not(base: Path, memory_dir: Path, time: str) -> None:
    """They become others; the entry is taken."""
    source = archive(memory_dir / "a.tar", ("x", b"x", {"pax_headers": {"mtime": time, "atime": time}}))
    assert b"/x" in take(base, source)


def test_devices_and_set_id_bits_are_for_root(base: Path, memory_dir: Path) -> None:
    """Others get all else, and are told."""
    device = {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}
    source = archive(memory_dir / "a.tar", ("null", b"", device), ("su", b"", {"mode": 0o4755}), ("x", b"", {}))
    report = import_layers([str(source)], str(base), str(memory_dir / "new"), ImportOptions(privileged=False))
    assert report.counts == {"devices left out": 1, "objects": 2, "set-id bits left out": 1}
    found = seen(base, memory_dir / "new")
    assert b"/null" not in found
    assert found[b"/su"][0] == oct(0o100755)
    report = import_layers([str(source)], str(base), str(memory_dir / "other"), ROOT_OPTIONS)
    assert report.counts == {"devices": 1, "objects": 3, "set-id files": 1}
    assert seen(base, memory_dir / "other")[b"/null"][3] == os.makedev(1, 3)


def damages(data: bytes) -> Iterator[tuple[str, bytes]]:
    """An archive, cut short and otherwise damaged."""
    yield "cut in a header", data[: 512 * 2 + 100]
    yield "cut between files", data[: 512 * 2]
    yield "cut in a file", data[:700]
    yield "without an end", data[: -10240 + 512 * 4]
    yield "a header", data[: 512 * 2] + b"x" * 512 + data[512 * 3 :]
    yield "empty", b""
    yield "no archive", b"something else " * 100
    for name, suffix in (("gzip", gzip.compress(data)), ("zstd", pack("zstd", data)), ("xz", pack("xz", data))):
        yield f"{name} cut short", suffix[:-9]
        yield f"{name} changed", suffix[:40] + b"\0\1\2\3" + suffix[44:]
    yield "bzip2 cut short", pack("bzip2", data)[:-9]


def pack(program: str, data: bytes) -> bytes:
    """Compressed bytes."""
    return subprocess.run([program, "-c"], input=data, capture_output=True, check=True).stdout


def test_damaged_archives_leave_no_storage(base: Path, memory_dir: Path) -> None:
    """Whatever is missing."""
    whole = archive(memory_dir / "a.tar", ("x", b"x" * 300, {}), ("y", os.urandom(100), {})).read_bytes()
    source = memory_dir / "b.tar"
    for what, data in damages(whole):
        source.write_bytes(data)
        with pytest.raises(StateError, match=r"b\.tar|zstd") as error:
            take(base, source)
        assert "nothing was imported" in str(error.value), what
        assert not (memory_dir / "new").exists(), what
    for program in ("cat", "gzip", "bzip2", "xz", "zstd"):
        source.write_bytes(whole if program == "cat" else pack(program, whole))
        assert take(base, source, to=memory_dir / program)[b"/x"][5] == 300


def test_what_an_upper_directory_cannot_say_is_refused(base: Path, memory_dir: Path) -> None:
    """Bytes that the base lacks, redirects that lead nowhere or twice to one directory, owners in attributes."""
    cases: list[tuple[Callable[[Path], object], str]] = [
        (lambda top: os.setxattr(top / "file", "trusted.overlay.metacopy", b""), "metacopy"),
        (lambda top: os.setxattr(top / "dir", "trusted.overlay.redirect", b"/../etc"), "impossible redirect"),
        (lambda top: os.setxattr(top / "dir", "trusted.overlay.redirect", b"a/b"), "impossible redirect"),
        (
            lambda top: [os.setxattr(top / name, "trusted.overlay.redirect", b"/d") for name in ("dir", "dir2")],
            "second time",
        ),
    ]
    for number, (spoil, text) in enumerate(cases):
        top = memory_dir / f"upper{number}"
        for name in ("dir", "dir2"):
            (top / name).mkdir(parents=True)
        (top / "file").write_text("file")
        spoil(top)
        with pytest.raises(StateError, match=text):
            take(base, top)
        assert not (memory_dir / "new").exists()
    os.setxattr(top / "file", "user.containers.override_stat", b"0:0:644")
    with pytest.raises(StateError, match="xattr_permissions"):
        take(base, top, layer_format=Format.FUSE_OVERLAYFS)


# -- the new storage


def test_places_are_checked(base: Path, memory_dir: Path) -> None:
    """Before anything is made."""
    source = archive(memory_dir / "a.tar", ("x", b"", {}))
    (memory_dir / "full").mkdir()
    (memory_dir / "full/x").touch()
    take(base, source, to=memory_dir / "done")
    before = sorted(os.listdir(memory_dir))
    for target, text in (
        ("full", "is not empty"),
        ("done", "is a minifo storage already"),
        ("no/new", "does not exist"),
        ("a.tar", "is not a directory"),
        ("base", "give another directory"),
    ):
        with pytest.raises(UsageError, match=text):
            take(base, source, to=memory_dir / target)
    with pytest.raises(UsageError, match="cannot be read"):
        take(base, memory_dir / "none")
    with pytest.raises(UsageError, match="below the other"):
        take(base, memory_dir, to=memory_dir / "new")
    with pytest.raises(UsageError, match="is a directory"):
        take(base, base, layer_format=Format.OCI)
    with pytest.raises(UsageError, match="is no directory"):
        take(base, source, layer_format=Format.OVERLAYFS)
    assert sorted(os.listdir(memory_dir)) == before


class _Ending(Effects):
    """Ends at the n-th effect, as a killed process does: nothing is tidied up."""

    def __init__(self, left: int) -> None:
        self._left = left

    def _count(self) -> None:
        self._left -= 1
        if self._left <= 0:
            raise OSError(errno.EIO, "killed")

    def mkdir(self, path: str | bytes) -> None:
        self._count()
        super().mkdir(path)

    def rename(self, path: str | bytes, new: str | bytes) -> None:
        self._count()
        super().rename(path, new)

    def unlink(self, path: str | bytes) -> None:
        self._count()
        super().unlink(path)

    def rmdir(self, path: str | bytes) -> None:
        self._count()
        super().rmdir(path)

    def remove_tree(self, path: str | bytes) -> None:
        self._count()
        super().remove_tree(path)


@pytest.mark.parametrize("last", range(1, 9))
def test_an_interrupted_import_is_given_again(base: Path, memory_dir: Path, last: int) -> None:
    """Wherever it ended: a mount refuses what is left, and the same command makes a whole storage of it."""
    source = archive(memory_dir / "a.tar", ("x", b"x" * 9000, {}))
    target = memory_dir / "new"
    with pytest.raises((OSError, StateError)):
        import_layers([str(source)], str(base), str(target), ROOT_OPTIONS, disk=DiskAccess(_Ending(last)))
    if (target / ".minifo-import").exists() and not (target / "minifo.db").exists():
        with pytest.raises(StateError, match="was cut short"):
            Overlay.open(str(base), str(target))
    report = import_layers([str(source)], str(base), str(target), ROOT_OPTIONS)
    assert isinstance(report, ImportReport)
    assert seen(base, target)[b"/x"][5] == 9000
    assert sorted(set(os.listdir(target)) - {"lock", "minifo.names", "reserve"}) == ["content", "minifo.db"]


def test_another_import_does_not_finish_it(base: Path, memory_dir: Path) -> None:
    """If one was interrupted at its end, another source is refused, and says how to begin anew."""
    one, two = (archive(memory_dir / name, (name, b"", {})) for name in ("1.tar", "2.tar"))
    target = memory_dir / "new"
    with pytest.raises(OSError, match="killed"):
        import_layers([str(one)], str(base), str(target), ROOT_OPTIONS, disk=DiskAccess(_Ending(4)))
    with pytest.raises(StateError, match="another import"):
        take(base, two)
    assert b"/1.tar" in take(base, one)


def test_a_full_storage_leaves_none(base: Path, memory_dir: Path) -> None:
    """ENOSPC in the middle."""
    source = archive(memory_dir / "a.tar", ("x", b"x" * 9000, {}), ("y", b"y", {}))
    with (
        patch.object(Overlay, "write", side_effect=OSError(errno.ENOSPC, "full")),
        pytest.raises(StateError, match="cannot be imported"),
    ):
        take(base, source)
    assert not (memory_dir / "new").exists()


def test_a_source_is_only_read(base: Path, memory_dir: Path) -> None:
    """Not even its times of access change."""
    upper = memory_dir / "upper"
    (upper / "d").mkdir(parents=True)
    (upper / "d/x").write_text("x")
    os.utime(upper / "d/x", ns=(1, 2))
    os.utime(upper / "d", ns=(3, 4))
    take(base, upper)
    st, above = os.stat(upper / "d/x"), os.stat(upper / "d")
    assert (st.st_atime_ns, st.st_mtime_ns, above.st_atime_ns, above.st_mtime_ns) == (1, 2, 3, 4)

"""Random overlays: exported and imported in every format, they show the same, and have the same digest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from minifo.engine import FsError
from minifo.engine.queries import digest
from minifo.migrations.exchange.changed_tree import LayerTree
from minifo.migrations.exchange.exporter import ExportOptions, export_layer
from minifo.migrations.exchange.formats import Format
from minifo.migrations.exchange.importer import ImportOptions, import_layers
from tests.migrations.exchange.seen_trees import Seen, of_overlay, same
from tests.migrations.exchange.test_importer import opened
from tests.shared.file_trees import scratch
from tests.shared.overlay_sandbox import OverlaySandbox

NAMES = ("a", "b", "c")
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("create", "mkdir", "symlink", "remove", "write", "chmod", "xattr")), PATHS),
        st.tuples(st.sampled_from(("rename", "link", "exchange")), PATHS, PATHS),
    ),
    max_size=25,
)


def make_base(base: Path) -> None:
    """Files and directories with the same few names, two levels deep; some names are links of one file."""
    for top in NAMES[:2]:
        for name in NAMES:
            (base / top / name).mkdir(parents=True)
            (base / top / name / "a").write_text(top + name)
        os.link(base / top / "a/a", base / top / "a/b")
    os.link(base / "a/b/a", base / "b/b/c")
    (base / "c").write_text("c" * 5000)


def do(sandbox: OverlaySandbox, step: tuple[str, ...]) -> None:
    """Do one step; what the file system refuses is no change."""
    what, path, *rest = step
    try:
        if what == "create":
            sandbox.create(path, path.encode() * 1000)
        elif what == "mkdir":
            sandbox.mkdir(path)
        elif what == "symlink":
            sandbox.ov.symlink(*sandbox.split(path), b"to/" + path.encode(), sandbox.me)
        elif what == "remove":
            is_dir = sandbox.attr(path).mode & 0o170000 == 0o040000
            sandbox.rmdir(path) if is_dir else sandbox.unlink(path)
        elif what == "write":
            sandbox.write(path, b"written", 3)
        elif what == "chmod" and sandbox.attr(path).mode & 0o170000 != 0o120000:  # the kernel has no chmod of a symlink
            sandbox.set(path, mode=0o640)
        elif what == "xattr":
            sandbox.ov.setxattr(sandbox.ino(path), b"user.x", path.encode())
        elif what == "link":
            sandbox.link(path, rest[0])
        elif what in ("rename", "exchange"):
            sandbox.rename(path, rest[0], flags=2 if what == "exchange" else 0)
    except (FsError, AssertionError):  # AssertionError: nothing is at the path
        pass


def expected_of(sandbox: OverlaySandbox) -> tuple[Seen, set[bytes]]:
    """What shows, and the files of which a name is told to become another file."""
    tree = LayerTree(sandbox.ov)
    for _ in tree.items():
        pass
    return of_overlay(sandbox.ov), set(tree.separated())


def linked(found: Seen, names: set[bytes]) -> Seen:
    """Without the times of directories, and without the links of some files."""
    return {
        path: (value[:4] + value[5:] if value[0][:3] == "0o4" else value[:-1] if path in names else value)  # type: ignore[index]
        for path, value in found.items()
    }


@given(steps=STEPS)
def test_there_and_back(steps: list[tuple[str, ...]]) -> None:
    """Attributes, bytes, links; what the export says that it loses is all that is lost."""
    top = scratch()
    try:
        sandbox = OverlaySandbox(top)
        make_base(sandbox.base)
        for step in steps:
            do(sandbox, step)
        sandbox.ov.commit()
        expected, lost = expected_of(sandbox)
        names = {name for path in lost for name in expected[path][-1]}  # type: ignore[attr-defined]
        before = digest.digest(digest.differences(sandbox.ov))
        for name in (Format.OCI, Format.OVERLAYFS, Format.FUSE_OVERLAYFS, Format.UNIONFS):
            out, new = top / f"{name}.out", top / f"{name}.new"
            report = export_layer(sandbox.ov, str(out), ExportOptions(name, lossy=True))
            assert {loss.place for loss in report.losses} == lost
            options = ImportOptions(name, privileged=True)
            import_layers([str(out)], str(sandbox.base), str(new), options)
            with opened(sandbox.base, new) as overlay:
                same(linked(of_overlay(overlay), names), linked(expected, names))
                assert digest.digest(digest.differences(overlay)) == before
        sandbox.close()
    finally:
        shutil.rmtree(top)

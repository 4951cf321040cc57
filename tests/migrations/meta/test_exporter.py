"""Exporting to mini_fo: its bytes, what is lost and told, and round trips."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from minifo.engine import ROOT, Overlay, Process, RenameFlags, SetAttr, UsageError
from minifo.engine.model import Ino
from minifo.migrations.meta.codec import META_NAME, parse
from minifo.migrations.meta.exporter import ExportReport, export_storage
from minifo.migrations.meta.importer import import_storage
from minifo.tools.cli import main
from tests.migrations import legacy_trees, overlay_contents
from tests.migrations.kill_points import every_crash
from tests.shared.file_trees import fingerprint

META = META_NAME.decode()
NONE = RenameFlags.NONE


@pytest.fixture
def base(memory_dir: Path) -> Path:
    """A base with a little of everything."""
    root = memory_dir / "base"
    for directory in ("a/sub", "b", "d e", "x"):
        (root / directory).mkdir(parents=True)
    for file in ("f", "g", "a/sub/1", "b/2", "d e/3", "x/4", "new\nline"):
        (root / file).write_text(file)
    os.link(root / "f", root / "b" / "alias")
    (memory_dir / "sto").mkdir()
    return root


def ino(overlay: Overlay, path: str) -> Ino:
    """The number of what stands at a path."""
    number = ROOT
    for name in path.split("/"):
        attr = overlay.lookup(number, name.encode())
        assert attr is not None, path
        number = Ino(attr.ino)
    return number


def out(base: Path, change: Callable[[Overlay], object], **options: bool) -> tuple[ExportReport, Path]:
    """Change a new overlay and export it."""
    place = base.parent
    with overlay_contents.opened(base, place / "sto") as overlay:
        change(overlay)
    before = fingerprint(place / "sto")
    report = export_storage(str(place / "sto"), str(base), str(place / "out"), **options)
    after = fingerprint(place / "sto")
    assert before.keys() <= after.keys()
    if not report.losses:
        assert not overlay_contents.compare_with_legacy(base, place / "out", place / "sto").differences
    return report, place / "out"


def metas(top: Path) -> dict[str, bytes]:
    """The META files of a tree, by directory."""
    return {str(path.parent.relative_to(top)): path.read_bytes() for path in top.rglob(META)}


CHANGES: dict[str, tuple[Callable[[Overlay], object], dict[str, bytes]]] = {
    "rm /a/sub/1": (lambda o: o.unlink(ino(o, "a/sub"), b"1"), {"a/sub": b"D 1\n"}),
    "mv /a /n": (lambda o: o.rename(ROOT, b"a", ROOT, b"n", NONE), {".": b"D a\nR /a n\n"}),
    "mv /a/sub /b/e": (
        lambda o: o.rename(ino(o, "a"), b"sub", ino(o, "b"), b"e", NONE),
        {"a": b"D sub\n", "b": b"R /a/sub e\n"},
    ),
    "mv /a /n; mv /n/sub /c": (
        lambda o: (
            o.rename(ROOT, b"a", ROOT, b"n", NONE),
            o.rename(ino(o, "n"), b"sub", ROOT, b"c", NONE),
        ),
        {".": b"D a\nR /a/sub c\nR /a n\n", "n": b"D sub\n"},
    ),
    "mv /g /h": (lambda o: o.rename(ROOT, b"g", ROOT, b"h", NONE), {".": b"D g\n"}),
    "swap a and b": (
        lambda o: o.rename(ROOT, b"a", ROOT, b"b", RenameFlags.EXCHANGE),
        {".": b"R /b a\nR /a b\n"},
    ),
    "rm g; mkdir g": (lambda o: (o.unlink(ROOT, b"g"), o.mkdir(ROOT, b"g", 0o755, Process())), {".": b"D g\n"}),
    "mv a b; mv b a": (
        lambda o: (o.rename(ROOT, b"a", ROOT, b"n", NONE), o.rename(ROOT, b"n", ROOT, b"a", NONE)),
        {},
    ),
    "rm -r x; mv a x": (
        lambda o: (o.unlink(ino(o, "x"), b"4"), o.rename(ROOT, b"a", ROOT, b"x", NONE)),
        {".": b"D a\nR /a x\n"},
    ),
    "write g": (lambda o: o.write(ino(o, "g"), 0, b"G"), {}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_records_are_as_mini_fo_wrote_them(base: Path, name: str) -> None:
    """D before R, old paths in base terms, no D where an R hides the same name; and mini_fo shows the same."""
    change, expected = CHANGES[name]
    report, tree = out(base, change)
    assert report.losses == []
    found = metas(tree)
    assert {place: sorted(data.splitlines()) for place, data in found.items()} == {
        place: sorted(data.splitlines()) for place, data in expected.items()
    }
    for data in found.values():
        letters = [line[:1] for line in data.splitlines()]
        assert letters == sorted(letters)
        assert parse(data).skipped == []
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tree.rglob(META))


def test_files_are_whole_at_their_places(base: Path) -> None:
    """A changed and a renamed file carry all their bytes, an untouched one is not there, holes stay holes."""

    def change(overlay: Overlay) -> None:
        overlay.write(ino(overlay, "g"), 0, b"G")
        overlay.rename(ino(overlay, "x"), b"4", ROOT, b"moved", NONE)
        made = overlay.mknod(ROOT, b"hole", stat.S_IFREG | 0o600, 0, Process())
        overlay.setattr(Ino(made.ino), SetAttr(size=1 << 24))

    _, tree = out(base, change)
    assert (tree / "g").read_text() == "G"
    assert (tree / "moved").read_text() == "x/4"
    assert sorted(path.name for path in tree.iterdir()) == ["g", "hole", "moved", "x"]
    assert (tree / "hole").stat().st_blocks == 0


LOSSES: dict[str, tuple[Callable[[Overlay], object], list[tuple[str, bytes]]]] = {
    "chmod": (lambda o: o.setattr(ino(o, "g"), SetAttr(mode=0o600)), [("metadata-only", b"/g")]),
    "xattr": (lambda o: o.setxattr(ino(o, "a"), b"user.x", b"1"), [("xattr", b"/a")]),
    "link": (lambda o: o.link(ino(o, "g"), ROOT, b"h"), [("hard-link", b"/h")]),
    "write to one of two links": (
        lambda o: o.write(ino(o, "f"), 0, b"F"),
        [("hard-link", b"/f"), ("hard-link", b"/b/alias")],
    ),
    "blank in the old path": (lambda o: o.rename(ROOT, b"d e", ROOT, b"de", NONE), [("renamed", b"/de")]),
    "rm of a name with a line feed": (lambda o: o.unlink(ROOT, b"new\nline"), [("name", b"/new\nline")]),
    "the name of META": (lambda o: o.mkdir(ROOT, META_NAME, 0o755, Process()), [("meta-name", b"/" + META_NAME)]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_cannot_be_said_is_refused_and_listed(base: Path, name: str) -> None:
    """Nothing is written without --lossy; with it, mini_fo shows all that it can."""
    change, expected = LOSSES[name]
    report, tree = out(base, change)
    assert [(loss.kind, loss.place) for loss in report.losses] == expected
    assert not report.written
    assert not tree.exists()
    report = export_storage(str(base.parent / "sto"), str(base), str(tree), lossy=True)
    assert report.written
    shown = {place for kind, place in expected if kind in ("name", "meta-name")}
    found = overlay_contents.compare_with_legacy(base, tree, base.parent / "sto").differences
    assert {difference.place for difference in found} <= shown


def test_copy_in_place_of_a_misread_rename_is_whole(base: Path) -> None:
    """A directory with a blank in its old path takes its content along instead."""
    _, tree = out(base, lambda o: o.rename(ROOT, b"d e", ROOT, b"de", NONE), lossy=True)
    assert (tree / "de" / "3").read_text() == "d e/3"
    assert metas(tree) == {".": b"D d e\n"}


def test_refusals(base: Path) -> None:
    """A destination in use, and a storage in use."""
    place = base.parent
    (place / "full").mkdir()
    (place / "full" / "x").write_text("")
    with pytest.raises(UsageError, match="not empty"):
        export_storage(str(place / "sto"), str(base), str(place / "full"))


def test_command(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Losses are listed one a line, and make it fail; --json has stable keys."""
    place = base.parent
    with overlay_contents.opened(base, place / "sto") as overlay:
        overlay.setattr(ino(overlay, "g"), SetAttr(mode=0o600))
    arguments = ["meta", "export", str(place / "sto"), "--base", str(base), str(place / "out")]
    assert main(arguments) == 1
    shown, err = capsys.readouterr()
    assert shown.startswith("metadata-only: /g: ")
    assert err == (
        "minifo: the old format cannot express 1 things; nothing was written; give --lossy to export without them\n"
    )
    assert main([*arguments, "--lossy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["written"] is True
    assert [loss["path"] for loss in found["losses"]] == ["/g"]


def rounds(place: Path, *, again: bool = True) -> int:
    """Import, export, import, and once more: the same is shown each time, and nothing changes any more.

    Args:
        place: where the trees are.
        again: False to do without the second round.

    Returns:
        How many entries are shown.
    """
    base = str(place / "base")
    import_storage(str(place / "sto"), base, str(place / "first"), d_over_r="intent")
    export_storage(str(place / "first"), base, str(place / "out1"), lossy=True)
    report = import_storage(str(place / "out1"), base, str(place / "second"))
    assert [note for note in report.notes if note.kind not in ("clash", "meta-name")] == []
    assert report.compared is not None
    assert report.compared.differences == []
    first = overlay_contents.shown(base, place / "first")
    assert overlay_contents.shown(base, place / "second") == first
    if not again:
        return len(first)
    export_storage(str(place / "second"), base, str(place / "out2"), lossy=True)
    import_storage(str(place / "out2"), base, str(place / "third"))
    second = overlay_contents.shown(base, place / "second", links=True)
    assert overlay_contents.shown(base, place / "third", links=True) == second
    assert metas(place / "out1") == metas(place / "out2")
    return len(first)


@pytest.mark.parametrize("seed", range(30, 40))
def test_round_trip(memory_dir: Path, seed: int) -> None:
    """Any tree comes back the same, and the second export has the very bytes of the first."""
    legacy_trees.build(memory_dir, seed, 15, 5)
    rounds(memory_dir)


def test_round_trip_of_ten_thousand_entries(memory_dir: Path) -> None:
    """A large storage with every state, chain, swap and hostile name."""
    builder = legacy_trees.build(memory_dir, 1009, 1500, 4, 44)
    assert set(builder.counts) == {
        *("swap", "clash", "created", "created directory", "deleted directory", "deleted file", "modified directory"),
        *("modified file", "modified, same type", "opaque directory", "renamed and back", "renamed directory"),
        *("rewritten file", "shown twice", "superseded", "unlisted", "useless"),
    }
    entries = sum(len(names) + len(files) for _, names, files in os.walk(memory_dir / "sto"))
    assert entries >= 10_000
    assert rounds(memory_dir, again=False) >= 10_000


def test_crash_leaves_no_destination(memory_dir: Path) -> None:
    """Until all of it is there and compared, the destination is not; then it is whole."""
    legacy_trees.build(memory_dir, 5, 4, 3)
    base, storage, tree = str(memory_dir / "base"), str(memory_dir / "sto"), memory_dir / "out"
    import_storage(storage, base, str(memory_dir / "new"))

    def clean() -> None:
        if tree.exists():
            legacy_trees.shutil.rmtree(tree)

    for _ in every_crash(clean, lambda: export_storage(str(memory_dir / "new"), base, str(tree), lossy=True), step=3):
        if not tree.exists():
            export_storage(str(memory_dir / "new"), base, str(tree), lossy=True)
        assert overlay_contents.compare_with_legacy(base, tree, memory_dir / "new").differences == []


def test_a_file_takes_as_long_as_what_it_holds(base: Path) -> None:
    """A hole of terabytes is no work, neither to write nor to compare."""
    place = base.parent
    with overlay_contents.opened(base, place / "sto") as overlay:
        attr = overlay.mknod(ROOT, b"hole", 0o100644, 0, Process())
        overlay.write(Ino(attr.ino), 1 << 40, b"data")
        overlay.setattr(Ino(attr.ino), SetAttr(size=1 << 43))
    assert export_storage(str(place / "sto"), str(base), str(place / "out")).written
    assert (place / "out" / "hole").stat().st_size == 1 << 43
    with open(place / "out" / "hole", "rb") as file:
        assert os.pread(file.fileno(), 8, 1 << 40) == b"data\0\0\0\0"

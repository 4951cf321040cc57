"""Importing mini_fo storages: the worked examples of the format, decisions and damage, and trees made by chance."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from minifo.engine import ROOT, Overlay, Process, State, StateError, UsageError
from minifo.migrations.meta import import_rows
from minifo.migrations.meta.codec import META_NAME
from minifo.migrations.meta.importer import BACKUP, ImportReport, import_storage, plan_import, restore
from tests.migrations import legacy_trees, overlay_contents
from tests.migrations.kill_points import every_crash
from tests.shared.file_trees import fingerprint

META = META_NAME.decode()
Tree = dict[str, str | None]


@pytest.fixture
def make(memory_dir: Path) -> Callable[[Tree, Tree], Path]:
    """Make ``base`` and ``sto``; a value is a file's content, None a directory."""

    def maker(base: Tree, sto: Tree) -> Path:
        for top, tree in (("base", base), ("sto", sto)):
            (memory_dir / top).mkdir()
            for path, content in tree.items():
                target = memory_dir / top / path
                if content is None:
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(content)
        return memory_dir

    return maker


def bring(place: Path, **options: str) -> ImportReport:
    """Import ``sto`` to ``new``, and see that neither source nor base was touched."""
    before = fingerprint(place / "base"), fingerprint(place / "sto")
    report = import_storage(str(place / "sto"), str(place / "base"), str(place / "new"), **options)  # type: ignore[arg-type]
    assert (fingerprint(place / "base"), fingerprint(place / "sto")) == before
    return report


def paths(place: Path) -> set[str]:
    """Every path the new overlay shows."""
    return {os.fsdecode(path)[1:] for path in overlay_contents.shown(place / "base", place / "new")} - {""}


def text(place: Path, path: str) -> str:
    """A file's content in the new overlay."""
    with overlay_contents.opened(place / "base", place / "new") as overlay:
        ino = 1
        for name in path.split("/"):
            attr = overlay.lookup(ino, name.encode())  # type: ignore[arg-type]
            assert attr is not None
            ino = attr.ino
        return overlay.read(ino, 0, 100).decode()  # type: ignore[arg-type]


def rows(place: Path, table: str) -> set[bytes]:
    """The names in one of the lists."""
    with overlay_contents.opened(place / "base", place / "new") as overlay:
        return {name for (name,) in overlay.db.rows(f"SELECT name FROM {table}")}


EXAMPLES: dict[str, tuple[Tree, Tree, set[str]]] = {
    "rm /etc/rc.d/S96led": (
        {"etc/rc.d/S96led": "", "etc/rc.d/S10boot": ""},
        {f"etc/rc.d/{META}": "D S96led\n"},
        {"etc", "etc/rc.d", "etc/rc.d/S10boot"},
    ),
    "mv /etc/foo /etc/bar": (
        {"etc/foo/x": ""},
        {"etc/bar": None, f"etc/{META}": "D foo\nR /etc/foo bar\n"},
        {"etc", "etc/bar", "etc/bar/x"},
    ),
    "mv /a/d /b/e": (
        {"a/d/x": "", "b": None},
        {f"a/{META}": "D d\n", "b/e": None, f"b/{META}": "R /a/d e\n"},
        {"a", "b", "b/e", "b/e/x"},
    ),
    "mv /a/d /b/e; mv /b/e /c/f": (
        {"a/d/x": "", "b": None, "c": None},
        {f"a/{META}": "D d\n", f"b/{META}": "", "c/f": None, f"c/{META}": "R /a/d f\n"},
        {"a", "b", "c", "c/f", "c/f/x"},
    ),
    "mv /a /b; mv /b/sub /c": (
        {"a/sub/x": "", "a/y": ""},
        {"b": None, "c": None, META: "D a\nR /a b\nR /a/sub c\n", f"b/{META}": "D sub\n"},
        {"b", "b/y", "c", "c/x"},
    ),
    "mv /f /g": ({"f": "1"}, {"g": "1", META: "D f\n"}, {"g"}),
    "mv /f /g over /g": ({"f": "1", "g": "2"}, {"g": "1", META: "D f\nD g\n"}, {"g"}),
    "rm x; touch x": ({"x": "old"}, {"x": "new", META: "D x\n"}, {"x"}),
    "rm 'my file'": ({"my file": "", "z": ""}, {META: "D my file\n"}, {"z"}),
    "mv '/my dir' '/new dir'": (
        {"my dir/x": ""},
        {"new dir": None, META: "D my dir\nR /my dir new dir\n"},
        {"new dir", "new dir/x"},
    ),
    "rm -r d; mkdir d": ({"d/x": ""}, {"d/y": "", META: "D d\n"}, {"d", "d/y"}),
    "swap": (
        {"a/1": "", "b/2": ""},
        {"a": None, "b": None, META: "R /a b\nR /b a\n"},
        {"a", "a/2", "b", "b/1"},
    ),
    "the last R wins": (
        {"a/1": "", "b/2": ""},
        {"n": None, META: "D a\nD b\nR /a n\nR /b n\n"},
        {"n", "n/2"},
    ),
    "names no object can have": (
        {"a/x": "", "b": ""},
        {META: "D .\nD ..\nD \nD a/x\nR /a .\nR /a ..\nR /a \nR /a x/y\nD b\n"},
        {"a", "a/x"},
    ),
    "injected by a name with a line feed": ({"x": "", "passwd": ""}, {META: "D x\nD passwd\n"}, set()),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_example(make: Callable[[Tree, Tree], Path], name: str) -> None:
    """Each sequence the format's description works out shows what it should."""
    base, sto, expected = EXAMPLES[name]
    place = make(base, sto)
    bring(place)
    assert paths(place) == expected


def test_states_become_rows_of_the_four_lists(make: Callable[[Tree, Tree], Path]) -> None:
    """A whiteout, a new name, a new place and a change are each where they belong, and nowhere else."""
    place = make(
        {"gone": "", "moved/x": "", "changed": "old", "same": "", "rewritten": "old"},
        {"changed": "new", "fresh": "1", "there": None, "rewritten": "new"}
        | {META: "D gone\nD moved\nR /moved there\nD rewritten\n"},
    )
    report = bring(place)
    assert rows(place, "deleted") == {b"gone", b"moved", b"rewritten"}
    assert rows(place, "renamed") == {b"there"}
    assert rows(place, "created") == {b"fresh", b"rewritten"}
    with overlay_contents.opened(place / "base", place / "new") as overlay:
        assert overlay.db.rows("SELECT path, content FROM modified JOIN origin USING (ino)") == [(b"/changed", 1)]
        assert overlay.db.rows("SELECT key FROM overlay WHERE substr(key, 1, 6) = 'import'") == [("imported",)]
    assert text(place, "changed") == "new"
    assert report.counts == {"MODIFIED": 3, "DELETED": 2, "DEL_REWRITTEN": 1, "CREATED": 1}


@pytest.mark.parametrize(("policy", "expected"), [("kernel", {"a"}), ("intent", {"a", "a/x"})])
def test_d_against_r_is_decided_and_told(make: Callable[[Tree, Tree], Path], policy: str, expected: set[str]) -> None:
    """mv a b; mv b a: mini_fo showed an empty directory after a mount, the user meant the old one."""
    place = make({"a/x": ""}, {"a": None, META: "D a\nR /a a\n"})
    report = bring(place, d_over_r=policy)
    assert paths(place) == expected
    assert [(note.kind, note.place) for note in report.notes] == [("d-over-r", b"/a")]
    assert rows(place, "renamed") == set()


def test_intent_puts_a_directory_where_another_was_deleted(make: Callable[[Tree, Tree], Path]) -> None:
    """rm -r x; mv a x."""
    place = make({"a/1": "", "x/2": ""}, {"x": None, META: "D x\nD a\nR /a x\n"})
    bring(place, d_over_r="intent")
    assert paths(place) == {"x", "x/1"}
    assert rows(place, "renamed") == {b"x"}
    assert rows(place, "deleted") == {b"x", b"a"}


def test_damaged_lines_are_told_with_file_line_and_bytes(make: Callable[[Tree, Tree], Path]) -> None:
    """What was skipped can be found again; what is whole counts."""
    place = make({"d/a": "", "d/b": "", "d/last": ""}, {f"d/{META}": "D a\n# note\nD x\0y\nD b\nD la"})
    report = bring(place)
    assert paths(place) == {"d", "d/last"}
    assert [(note.kind, note.file, note.line, note.raw) for note in report.notes] == [
        ("skipped", f"/d/{META}".encode(), 2, b"# note"),
        ("skipped", f"/d/{META}".encode(), 3, b"D x\0y"),
        ("skipped", f"/d/{META}".encode(), 5, b"D la"),
    ]


def test_what_mini_fo_listed_but_could_not_open_is_kept(make: Callable[[Tree, Tree], Path]) -> None:
    """Left over whiteouts and renames of what the base has no more do not take content along."""
    place = make({"k": ""}, {"kept": "1", "dir/x": "", META: "D kept\nR /vanished dir\n"})
    report = bring(place)
    assert paths(place) == {"k", "kept", "dir", "dir/x"}
    assert {(note.kind, note.place) for note in report.notes} == {("broken", b"/kept"), ("broken", b"/dir")}


def test_directory_seen_twice_is_copied(make: Callable[[Tree, Tree], Path]) -> None:
    """A crash of mini_fo could leave a renamed directory at both places."""
    place = make({"a/1": "x", "a/s/2": ""}, {"b/new": "", META: "R /a b\n"})
    report = bring(place)
    assert paths(place) == {"a", "a/1", "a/s", "a/s/2", "b", "b/1", "b/new", "b/s", "b/s/2"}
    assert rows(place, "renamed") == set()
    assert [note.kind for note in report.notes] == ["twice"]


def test_renamed_directory_without_storage_comes_back(make: Callable[[Tree, Tree], Path]) -> None:
    """mini_fo could open it and did not list it; nothing is lost."""
    place = make({"a/1": ""}, {META: "D a\nR /a b\n"})
    report = bring(place)
    assert paths(place) == {"b", "b/1"}
    assert [note.kind for note in report.notes] == ["unlisted"]


def test_link_of_a_base_file_that_was_changed_stands_alone(memory_dir: Path) -> None:
    """To mini_fo links of a base file were separate files; hard links in storage are one."""
    (memory_dir / "base").mkdir()
    (memory_dir / "sto").mkdir()
    for name in ("one", "two", "three"):
        if name == "one":
            (memory_dir / "base" / name).write_text("old")
        else:
            os.link(memory_dir / "base" / "one", memory_dir / "base" / name)
    (memory_dir / "sto" / "one").write_text("new")
    (memory_dir / "sto" / "x").write_text("linked")
    os.link(memory_dir / "sto" / "x", memory_dir / "sto" / "y")
    (memory_dir / "sto" / META).write_text("D three\n")
    bring(memory_dir)
    assert (text(memory_dir, "one"), text(memory_dir, "two")) == ("new", "old")
    seen = overlay_contents.shown(memory_dir / "base", memory_dir / "new", links=True)
    assert seen[b"/one"][-2] == 1
    assert seen[b"/two"][-2] == 1
    assert seen[b"/x"][-2] == 2
    assert seen[b"/x"][-1] == seen[b"/y"][-1]


def test_attributes_and_special_files_come_over(memory_dir: Path) -> None:
    """Owner, mode, time to the nanosecond, xattrs, holes, devices, fifos and sockets."""
    base, sto = memory_dir / "base", memory_dir / "sto"
    base.mkdir()
    (base / "f").write_bytes(b"old")
    os.setxattr(base / "f", "user.lost", b"at copy-up")
    sto.mkdir(0o750)
    (sto / "f").write_bytes(b"new")
    os.chown(sto / "f", 1000, 4_000_000_000)
    os.chmod(sto / "f", 0o4711)
    os.setxattr(sto / "f", "user.kept", b"\0\xff")
    os.utime(sto / "f", ns=(5, 1_234_567_890_123_456_789))
    with open(sto / "hole", "wb") as file:
        file.truncate(1 << 24)
    os.mknod(sto / "dev", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    os.mkfifo(sto / "fifo")
    os.mknod(sto / "sock", stat.S_IFSOCK | 0o700)
    os.symlink(b"\xff", os.fsencode(sto / "link"))
    legacy_trees.age(os.fsencode(sto / "link"), 1)
    bring(memory_dir)
    with overlay_contents.opened(base, memory_dir / "new") as overlay:
        attr = overlay.lookup(1, b"f")  # type: ignore[arg-type]
        assert attr is not None
        assert (attr.mode, attr.uid, attr.gid) == (0o104711, 1000, 4_000_000_000)
        assert (attr.mtime, attr.size, attr.atime) == (1_234_567_890_123_456_789, 3, 5)
        assert overlay.listxattr(attr.ino) == [b"user.kept"]  # type: ignore[arg-type]
        hole = overlay.lookup(1, b"hole")  # type: ignore[arg-type]
        assert hole is not None
        assert (hole.size, hole.blocks) == (1 << 24, 0)
        assert overlay.getattr(1).mode == 0o40750  # type: ignore[arg-type]


def test_other_meta_name(make: Callable[[Tree, Tree], Path]) -> None:
    """mini_fo could be built with another name; then the usual one is a name like any other."""
    place = make({"a": "", "b": ""}, {"LIST": "D a\n", META: "D b\n"})
    bring(place, meta_name=b"LIST")  # type: ignore[arg-type]
    assert paths(place) == {"b", META}


def test_dry_run_changes_nothing(make: Callable[[Tree, Tree], Path]) -> None:
    """A plan is only looked at."""
    place = make({"a": ""}, {"b": "", META: "D a\n"})
    before = fingerprint(place)
    report = plan_import(str(place / "sto"), str(place / "base"))
    assert [(step.kind, step.place, step.state) for step in report.steps] == [
        ("modify", b"/", State.MODIFIED),
        ("hide", b"/a", State.DELETED),
        ("make", b"/b", State.CREATED),
    ]
    assert fingerprint(place) == before


def test_refusals_say_what_to_do(make: Callable[[Tree, Tree], Path]) -> None:
    """A target that is in use, and places within each other."""
    place = make({}, {"b": ""})
    (place / "full").mkdir()
    (place / "full" / "mine").write_text("")
    arguments = (str(place / "sto"), str(place / "base"))
    with pytest.raises(UsageError, match="is not empty"):
        import_storage(*arguments, str(place / "full"))
    with pytest.raises(UsageError, match="is below the other"):
        import_storage(*arguments, str(place / "sto" / "new"))
    bring(place)
    (place / "sto" / "c").write_text("")
    with pytest.raises(UsageError, match="already"):
        import_storage(*arguments, str(place / "new"))
    with pytest.raises(UsageError, match="already"):
        import_storage(str(place / "new"), str(place / "base"), None)


@pytest.mark.parametrize("policy", ["kernel", "intent"])
@pytest.mark.parametrize("seed", range(12))
def test_any_tree_shows_what_mini_fo_showed(memory_dir: Path, seed: int, policy: str) -> None:
    """The importer compares by itself; invariants and an independent walk agree."""
    legacy_trees.build(memory_dir, seed, 20, 6)
    report = bring(memory_dir, d_over_r=policy)
    assert report.compared is not None
    assert report.compared.differences == []
    overlay_contents.shown(memory_dir / "base", memory_dir / "new")


def test_comparison_finds_what_differs(make: Callable[[Tree, Tree], Path]) -> None:
    """The check that guards an import can fail: any change of the new overlay is seen."""
    place = make({"a": "", "d/x": ""}, {"b": "1", "d": None})
    bring(place)
    with overlay_contents.opened(place / "base", place / "new") as overlay:
        overlay.unlink(1, b"a")  # type: ignore[arg-type]
        attr = overlay.lookup(1, b"b")  # type: ignore[arg-type]
        assert attr is not None
        overlay.write(attr.ino, 0, b"2")  # type: ignore[arg-type]
    found = overlay_contents.compare_with_legacy(place / "base", place / "sto", place / "new").differences
    assert {(difference.place, difference.what) for difference in found} >= {
        (b"/a", "presence"),
        (b"/b", "content"),
        (b"/", "mtime"),
    }


# -- crashes


def test_crash_at_any_step_is_resumed(memory_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an import was cut short at: the source is as it was, and the same command brings it to its end."""
    legacy_trees.build(memory_dir, 3, 6, 3)
    monkeypatch.setattr(import_rows, "_COMMIT_STEPS", 5)
    arguments = (str(memory_dir / "sto"), str(memory_dir / "base"), str(memory_dir / "new"))
    import_storage(*arguments)
    expected = overlay_contents.shown(memory_dir / "base", memory_dir / "new", links=True)
    source = fingerprint(memory_dir / "sto")
    resumed = ended = 0

    def clean() -> None:
        if (memory_dir / "new").exists():
            shutil.rmtree(memory_dir / "new")

    count = 0
    for _ in every_crash(clean, lambda: import_storage(*arguments)):
        count += 1
        assert fingerprint(memory_dir / "sto") == source
        if (memory_dir / "new" / ".minifo-import").exists() and not (memory_dir / "new" / "minifo.db").exists():
            with pytest.raises(StateError, match="finish it: minifo meta import"):
                Overlay.open(arguments[1], arguments[2])
        again = import_storage(*arguments)
        resumed += again.resumed > 0
        ended += again.already
        assert overlay_contents.shown(memory_dir / "base", memory_dir / "new", links=True) == expected
        assert not (memory_dir / "new" / ".minifo-import").exists()
    assert count > 30
    assert resumed > 5
    assert ended > 0


def test_import_given_again_changes_nothing(memory_dir: Path) -> None:
    """Only the very same one has come to its end: of another source it is refused, and a used storage is kept."""
    legacy_trees.build(memory_dir, 3, 6, 3)
    sto, base, new = str(memory_dir / "sto"), str(memory_dir / "base"), str(memory_dir / "new")
    import_storage(sto, base, new)
    overlay = Overlay.open(base, new)
    overlay.mkdir(ROOT, b"since then", 0o755, Process())
    overlay.close()
    before = fingerprint(memory_dir / "new", atimes=False)
    report = import_storage(sto, base, new)
    assert (report.already, report.steps) == (True, [])
    assert fingerprint(memory_dir / "new", atimes=False) == before
    (memory_dir / "sto" / "later").write_text("made by mini_fo since then")
    with pytest.raises(UsageError, match="is a minifo storage already"):
        import_storage(sto, base, new)
    assert fingerprint(memory_dir / "new", atimes=False) == before


def test_import_in_place_and_back_survive_any_crash(memory_dir: Path) -> None:
    """In place, the old files are always there: at their place, in the backup, or back again."""
    legacy_trees.build(memory_dir, 4, 3, 3)
    (memory_dir / "sto" / "content").mkdir()
    (memory_dir / "sto" / "lock").write_text("named like one of ours")
    sto, base = str(memory_dir / "sto"), str(memory_dir / "base")
    before = _tree(memory_dir / "sto")
    import_storage(sto, base, None)
    expected = overlay_contents.shown(base, sto)
    restore(sto)
    assert _tree(memory_dir / "sto") == before
    del before[b""]  # a crash between the last move and setting it may cost the root's mtime
    import_storage(sto, base, None)

    def same() -> bool:
        tree = _tree(memory_dir / "sto")
        del tree[b""]
        return tree == before

    def back() -> None:
        restore(sto)
        assert same()

    def again() -> None:
        if not os.path.exists(os.path.join(sto, BACKUP)):
            import_storage(sto, base, None)

    count = 0
    for _ in every_crash(back, lambda: import_storage(sto, base, None)):
        count += 1
        import_storage(sto, base, None)
        assert overlay_contents.shown(base, sto) == expected
    for _ in every_crash(again, lambda: restore(sto, discard=True)):
        count += 1
        with contextlib.suppress(StateError):  # likewise
            restore(sto, discard=True)
        assert same()
    assert count > 40


def _tree(top: Path) -> dict[bytes, object]:
    """A tree without what moving a directory there and back must change: its ctime."""
    return {path: _stable(os.fsencode(top) + path) for path in fingerprint(top)}


def _stable(path: bytes) -> object:
    st = os.lstat(path)
    return st.st_mode, st.st_uid, st.st_gid, st.st_ino, st.st_size, st.st_mtime_ns


def test_way_back_keeps_what_was_changed_since(make: Callable[[Tree, Tree], Path]) -> None:
    """An overlay that was used after the import is not given up unless one says so."""
    place = make({"a": ""}, {"b": ""})
    sto = str(place / "sto")
    import_storage(sto, str(place / "base"), None)
    with overlay_contents.opened(place / "base", sto) as overlay:
        overlay.unlink(1, b"a")  # type: ignore[arg-type]
    with pytest.raises(StateError, match="changed since"):
        restore(sto)
    restore(sto, discard=True)
    assert os.listdir(sto) == ["b"]

"""A base of several layers: the kernel's overlayfs says what they show together."""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minifo.engine.errors import FsError
from minifo.engine.store import layered_view
from minifo.engine.store.base_view import BaseView, join
from minifo.engine.store.layered_view import LayeredView, open_view
from minifo.engine.store.layers import join_layers

pytestmark = pytest.mark.root
CLONE = pytest.mark.parametrize("clone", [True, False], ids=["clone", "confined"])


def layers_in(directory: Path, count: int) -> list[Path]:
    """Make *count* empty layers, the topmost first."""
    layers = [directory / f"layer-{number}" for number in range(count)]
    for layer in layers:
        layer.mkdir()
    return layers


@contextmanager
def opened(layers: list[Path], *, clone: bool = True) -> Iterator[BaseView]:
    """The view of layers."""
    view = open_view(join_layers([str(layer) for layer in layers]), clone=clone)
    try:
        yield view
    finally:
        view.close()


def shown(view: BaseView, directory: bytes = b"/") -> dict[str, str]:
    """What a view shows: for each path the kind, or the bytes."""
    found = {}
    for name in view.names(directory):
        path = join(directory, name)
        mode = view.stat(path).st_mode
        if stat.S_ISDIR(mode):
            found[os.fsdecode(path)] = "dir"
            found |= shown(view, path)
        else:
            fd = view.file(path)
            found[os.fsdecode(path)] = os.pread(fd, 100, 0).decode()
    return found


def in_tree(root: Path) -> dict[str, str]:
    """What a directory without symlinks shows, in the same form."""
    found = {}
    for path in root.rglob("*"):
        text = "dir" if path.is_dir() else path.read_text()
        found["/" + str(path.relative_to(root))] = text
    return found


@contextmanager
def kernel_overlay(layers: list[Path], point: Path, upper: Path | None = None) -> Iterator[Path]:
    """The kernel's overlayfs of layers, writable with *upper* as its upper directory."""
    options = "redirect_dir=on,lowerdir=" + ":".join(str(layer) for layer in layers)
    if upper is not None:
        work = upper.with_name(upper.name + "-work")
        work.mkdir()
        options += f",upperdir={upper},workdir={work}"
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs, on which overlayfs can keep an upper directory."""
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


@CLONE
def test_topmost_layer_wins_and_directories_merge(tmp_path: Path, *, clone: bool) -> None:
    """A name is that of the topmost layer; directories of one path show the names of all layers."""
    top, middle, low = layers = layers_in(tmp_path, 3)
    for layer in layers:
        (layer / "d").mkdir()
        (layer / "d" / "all").write_text(layer.name)
        (layer / "d" / layer.name).touch()
    (middle / "kind").mkdir()
    (middle / "kind" / "inside").touch()
    (low / "kind").write_text("a file")
    (top / "wall").touch()
    (middle / "wall").mkdir()
    (middle / "wall" / "hidden").touch()
    with opened(layers, clone=clone) as view:
        assert view.cloned == clone
        assert sorted(view.names(b"/d")) == [b"all", b"layer-0", b"layer-1", b"layer-2"]
        assert shown(view) == in_tree(top) | {"/d/layer-1": "", "/d/layer-2": "", "/kind": "dir", "/kind/inside": ""}
        assert view.find(b"/wall/hidden") is None
        assert view.find(b"/nothing/at/all") is None
        assert view.listing(b"/") == {b"d": True, b"kind": True, b"wall": False}
        assert view.may_have_more(b"/d", 3)
        assert not view.may_have_more(b"/d", 4)
        assert {
            name: st.st_ino for name, st in view.children(b"/", [b"d", b"no"]) if isinstance(st, os.stat_result)
        } == {b"d": (top / "d").stat().st_ino}
        assert view.root_stat.st_ino == top.stat().st_ino


def test_file_between_directories_ends_the_merge(tmp_path: Path) -> None:
    """A file in the middle hides the directory below it, also for the directory above."""
    top, middle, low = layers = layers_in(tmp_path, 3)
    for layer in (top, low):
        (layer / "d").mkdir()
        (layer / "d" / layer.name).touch()
    (middle / "d").touch()
    with opened(layers) as view:
        assert view.names(b"/d") == [b"layer-0"]


@CLONE
def test_whiteouts_of_container_tools(tmp_path: Path, *, clone: bool) -> None:
    """``.wh.NAME`` hides NAME below its layer; ``.wh..wh..opq`` hides all of its directory below; neither shows."""
    top, middle, low = layers = layers_in(tmp_path, 3)
    for path in ("gone", "back", "opaque/old", "dir/old"):
        (low / path).parent.mkdir(exist_ok=True)
        (low / path).write_text("low")
    (middle / ".wh.gone").touch()
    (middle / ".wh.back").touch()
    (middle / "opaque").mkdir()
    (middle / "opaque" / ".wh..wh..opq").touch()
    (middle / "opaque" / "new").write_text("middle")
    (middle / "dir").mkdir()  # a directory with a whiteout beside it was replaced in one step
    (middle / ".wh.dir").touch()
    (top / "back").write_text("top")
    with opened(layers, clone=clone) as view:
        assert shown(view) == {"/back": "top", "/dir": "dir", "/opaque": "dir", "/opaque/new": "middle"}
        assert view.find(b"/.wh.gone") is None
        assert view.find(b"/opaque/.wh..wh..opq") is None


def test_overlayfs_does_not_know_the_whiteouts_of_container_tools(place: Path) -> None:
    """The kernel shows what such whiteouts hide, so it cannot merge the layers of a mount program's images."""
    top, low = layers = layers_in(place, 2)
    (low / "gone").touch()
    (top / ".wh.gone").touch()
    with kernel_overlay(layers, place / "merged") as merged:
        assert sorted(path.name for path in merged.iterdir()) == [".wh.gone", "gone"]


@CLONE
@pytest.mark.parametrize("seed", range(6))
def test_layers_that_overlayfs_wrote(place: Path, seed: int, *, clone: bool) -> None:
    """Layers made one upon the other by overlayfs show what overlayfs shows: whiteouts, opaque marks, redirects."""
    chance = random.Random(seed)
    layers: list[Path] = []
    for number in range(8):
        upper = place / f"upper-{number}"
        upper.mkdir()
        if not layers:
            fill(upper, chance)
        else:
            with kernel_overlay(layers, place / "merged", upper) as merged:
                change(merged, chance)
        layers.insert(0, upper)
        if len(layers) > 1:
            with kernel_overlay(layers, place / "merged") as merged, opened(layers, clone=clone) as view:
                assert shown(view) == in_tree(merged), f"seed {seed}, {number} layers"


def fill(root: Path, chance: random.Random) -> None:
    """Make directories and files."""
    for number in range(12):
        directory = root / chance.choice(["a", "b", "a/c", "b/d", "a/c/e"])
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_text(str(number))


def change(root: Path, chance: random.Random) -> None:
    """Delete, replace, rename and create at random."""
    for _ in range(10):
        paths = sorted(root.rglob("*"))
        path = chance.choice(paths)
        match chance.randrange(5):
            case 0:
                subprocess.run(["rm", "-rf", path], check=True)
            case 1:
                subprocess.run(["rm", "-rf", path], check=True)
                path.mkdir()
                (path / "again").write_text("again")
            case 2 if path.is_file():
                path.write_text(path.name + " changed")
            case 3:
                target = chance.choice([root, *(one for one in paths if one.is_dir() and not one.is_relative_to(path))])
                new = target / f"moved{chance.randrange(100)}"
                if target.is_dir() and path.exists() and not os.path.lexists(new):
                    path.rename(new)
            case _:
                new = root / f"new{chance.randrange(100)}"
                if not os.path.lexists(new):
                    new.write_text("new")
        if not any(root.iterdir()):
            fill(root, chance)


def test_file_whose_bytes_are_below_is_refused(place: Path) -> None:
    """A file of which overlayfs copied only the attributes (metacopy) is an error, not zeros; its attributes show."""
    low, upper = place / "low", place / "upper"
    low.mkdir()
    upper.mkdir()
    (low / "f").write_text("bytes")
    (place / "work").mkdir()
    (place / "m").mkdir()
    options = f"metacopy=on,lowerdir={low},upperdir={upper},workdir={place}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, place / "m"], check=True)
    (place / "m" / "f").chmod(0o600)
    subprocess.run(["umount", place / "m"], check=True)
    with opened([upper, low]) as view:
        assert stat.S_IMODE(view.stat(b"/f").st_mode) == 0o600
        with pytest.raises(FsError, match="metacopy") as refused:
            view.file(b"/f")
        assert refused.value.errno == errno.EIO


def test_marks_of_overlays_are_not_attributes(place: Path) -> None:
    """Extended attributes of files show, those that overlays set for themselves do not."""
    top, _ = layers = layers_in(place, 2)
    (top / "d").mkdir()
    for name in ("trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque", "user.mine"):
        os.setxattr(top / "d", name, b"y")
    with opened(layers) as view:
        assert view.listxattr(b"/d") == [b"user.mine"]
        assert view.getxattr(b"/d", b"user.mine") == b"y"
        with pytest.raises(FsError):
            view.getxattr(b"/d", b"trusted.overlay.opaque")


@pytest.mark.parametrize("mark", ["trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque"])
def test_opaque_marks(place: Path, mark: str) -> None:
    """A directory with an opaque mark hides what lower layers have in it."""
    top, _ = layers = layers_in(place, 2)
    for layer in layers:
        (layer / "d").mkdir()
        (layer / "d" / layer.name).touch()
    os.setxattr(top / "d", mark, b"y")
    with opened(layers) as view:
        assert view.names(b"/d") == [b"layer-0"]


def test_whiteouts_that_are_files_with_a_mark(place: Path) -> None:
    """In a directory marked for them, empty files with the mark of a whiteout hide their name (Linux 6.7)."""
    top, low = layers = layers_in(place, 2)
    for name in ("gone", "kept", "bytes"):
        (low / name).write_text("low")
    os.setxattr(top, "user.overlay.opaque", b"x")
    (top / "gone").touch()
    (top / "kept").touch()
    (top / "bytes").write_text("top")
    for name in ("gone", "bytes"):
        os.setxattr(top / name, "user.overlay.whiteout", b"y")
    with opened(layers) as view:
        assert shown(view) == {"/kept": "", "/bytes": "top"}


@CLONE
def test_mount_point_in_a_layer_is_an_empty_directory(place: Path, *, clone: bool) -> None:
    """What is mounted in a layer does not show; nor does what lower layers have there, unless the clone sees below."""
    top, _ = layers = layers_in(place, 2)
    for layer in layers:
        (layer / "d").mkdir()
        (layer / "d" / layer.name).touch()
    subprocess.run(["mount", "-t", "tmpfs", "none", top / "d"], check=True)
    (top / "d" / "above").touch()
    with opened(layers, clone=clone) as view:
        assert sorted(view.names(b"/d")) == ([b"layer-0", b"layer-1"] if clone else [])
        assert view.find(b"/d/above") is None
        assert stat.S_ISDIR(view.stat(b"/d").st_mode)


def test_hidden_path(tmp_path: Path) -> None:
    """A hidden directory is in no listing and at no path."""
    top, low = layers = layers_in(tmp_path, 2)
    (low / "sto").mkdir()
    (low / "sto" / "inside").touch()
    (top / "other").touch()
    st = (low / "sto").stat()
    with opened(layers) as view:
        view.hide(b"/sto", (st.st_dev, st.st_ino))
        assert view.names(b"/") == [b"other"]
        assert view.listing(b"/") == {b"other": False}
        assert view.find(b"/sto") is None


def test_merged_directories_are_read_again_when_many_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for few names all is found, as deep as it may be."""
    monkeypatch.setattr(layered_view, "_NAMES_MAX", 3)
    layers = layers_in(tmp_path, 2)
    deep = "/".join(["d"] * 1500)
    for layer in layers:
        fd = os.open(layer, os.O_DIRECTORY)
        for _ in range(1500):  # os.makedirs would recurse
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(os.open(layer.name, os.O_CREAT, dir_fd=fd))
        os.close(fd)
    with opened(layers) as view:
        assert isinstance(view, LayeredView)
        assert sorted(view.names(b"/" + deep.encode())) == [b"layer-0", b"layer-1"]
        assert view.stat(b"/d/d/d").st_ino == (layers[0] / "d/d/d").stat().st_ino
        assert view._names <= 4
    subprocess.run(["rm", "-rf", *layers], check=True)  # pytest would recurse, too


def test_layers_mark_tells_other_layers(tmp_path: Path) -> None:
    """The mark is the same for the same layers, and another one for others or another order."""
    one, two, three = layers_in(tmp_path, 3)
    marks = []
    for layers in ([one, two, three], [one, two, three], [one, three, two], [one, two], [one]):
        with opened(layers) as view:
            marks.append(view.layers_mark)
    assert marks[0] == marks[1]
    assert len(set(marks)) == 4
    assert marks[-1] == ""


def test_missing_layer(tmp_path: Path) -> None:
    """A layer that is not there is an error, and no descriptor stays open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        open_view(join_layers([str(tmp_path), str(tmp_path / "no")]))
    assert len(os.listdir("/proc/self/fd")) == before

"""Mounts of several lower layers, and what commands say of them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, minifo, mount_lines, run


class Layered:
    """Layers, a storage and a mount point.

    Args:
        home: an empty directory.
        count: the number of layers.
        prefix: what the names of the layers begin with.
    """

    def __init__(self, home: Path, count: int, prefix: str = "layer-") -> None:
        self.layers = [home / f"{prefix}{number}" for number in range(count)]
        self.sto, self.mnt = home / "sto", home / "mnt"
        for path in (*self.layers, self.sto, self.mnt):
            path.mkdir()

    @property
    def lower(self) -> str:
        """The layers as overlayfs writes them, for ``-o``."""
        escaped = [str(path).replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:") for path in self.layers]
        return ":".join(escaped)

    def mount(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Mount with the option words of overlayfs."""
        options = ",".join([f"lowerdir={self.lower}", f"upperdir={self.sto}", *words])
        return minifo("mount", "-o", options, self.mnt, check=check)

    def umount(self) -> None:
        """Unmount."""
        minifo("umount", self.mnt)


@pytest.fixture
def layered(sandbox: MountSandbox) -> Layered:
    """Three layers with a file each, one that all have, and one that the topmost hides."""
    found = Layered(sandbox.directory(), 3)
    for number, layer in enumerate(found.layers):
        (layer / f"own-{number}").write_text(f"of {number}")
        (layer / "all").write_text(f"of {number}")
        (layer / "d").mkdir()
        (layer / "d" / f"own-{number}").write_text(f"of {number}")
    (found.layers[2] / "gone").write_text("gone")
    os.mknod(found.layers[0] / "gone", 0o020000, 0)
    return found


def names(path: Path) -> list[str]:
    """The names in a directory."""
    return sorted(os.listdir(path))


def test_changes_over_layers(layered: Layered) -> None:
    """Layers show as one tree; changes of objects of each layer last over a remount; no layer is changed."""
    before = [run("find", layer, "-printf", "%P %T@ %C@ %m %n\n").stdout for layer in layered.layers]
    layered.mount()
    mnt = layered.mnt
    assert names(mnt) == ["all", "d", "own-0", "own-1", "own-2"]
    numbers = {name: os.stat(mnt / name).st_ino for name in names(mnt)}
    assert names(mnt / "d") == ["own-0", "own-1", "own-2"]
    assert (mnt / "all").read_text() == "of 0"
    (mnt / "own-2").write_text("changed")
    (mnt / "own-1").chmod(0o600)
    (mnt / "d" / "own-1").unlink()
    (mnt / "d").rename(mnt / "e")
    (mnt / "all").unlink()
    (mnt / "gone").write_text("new")
    layered.umount()
    layered.mount()
    assert names(mnt) == ["e", "gone", "own-0", "own-1", "own-2"]
    assert names(mnt / "e") == ["own-0", "own-2"]
    assert (mnt / "own-2").read_text() == "changed"
    assert (mnt / "own-1").stat().st_mode & 0o777 == 0o600
    assert {name: os.stat(mnt / name).st_ino for name in ("own-0", "own-1", "own-2")} == {
        name: numbers[name] for name in ("own-0", "own-1", "own-2")
    }
    assert [run("find", layer, "-printf", "%P %T@ %C@ %m %n\n").stdout for layer in layered.layers] == before
    layered.umount()


def test_what_commands_say(layered: Layered) -> None:
    """The mount table and the commands name all layers; those that open a storage find them again."""
    layered.mount()
    (layered.mnt / "own-2").write_text("changed")
    text = ":".join(str(layer) for layer in layered.layers)
    assert [line[0] for line in mount_lines() if line[1] == str(layered.mnt)] == [f"base={text},sto={layered.sto}"]
    assert json.loads(minifo("status", "--json", layered.mnt).stdout)["base"] == text
    assert text in minifo("list").stdout
    assert "own-2" in minifo("diff", layered.mnt).stdout
    assert minifo("cat", "--base", layered.mnt / "own-2").stdout == "of 2"
    minifo("checkpoint", "create", layered.mnt, "one")
    assert layered.mount(check=False).returncode
    minifo("mount", "-o", "remount,ro", layered.mnt)
    minifo("mount", "-o", f"remount,rw,lowerdir={layered.lower}", layered.mnt)
    again = minifo("mount", "-o", f"remount,rw,lowerdir={layered.layers[0]}", layered.mnt, check=False)
    assert again.returncode
    assert "which remount cannot change" in again.stderr
    layered.umount()
    assert "own-2" in minifo("diff", layered.sto).stdout
    assert "own-2" in minifo("diff", "--base", text, layered.sto).stdout
    assert "clean" in minifo("fsck", layered.sto, "--base", text).stdout
    assert json.loads(minifo("doctor", "--json", layered.sto, check=False).stdout)
    merged = minifo("merge", layered.sto, "--base", text, check=False)
    assert merged.returncode
    assert "a base of several layers cannot be merged into" in merged.stderr
    minifo("mount", "-o", f"at=one,base={text},sto={layered.sto}", layered.mnt)
    assert (layered.mnt / "own-2").read_text() == "changed"
    assert "own-2" in minifo("diff", layered.mnt).stdout
    layered.umount()


def test_run_from_several_layers_is_refused(layered: Layered) -> None:
    """A sandbox puts an overlay at the place of its base, and several layers have none."""
    layered.mount()
    layered.umount()
    done = minifo("run", "--from", layered.sto, "true", check=False)
    assert done.returncode
    assert "has several layers" in done.stderr


@pytest.mark.parametrize("prefix", ["a:b ", "a,b", "a\\b", "a\\:,é"])
def test_odd_names_of_layers(sandbox: MountSandbox, prefix: str) -> None:
    """Colons, commas and backslashes in the paths of layers are written with a backslash."""
    layered = Layered(sandbox.directory(), 2, prefix)
    (layered.layers[1] / "f").write_text("low")
    layered.mount()
    assert (layered.mnt / "f").read_text() == "low"
    assert layered.mount(check=False).stderr.count("already mounted") == 1
    minifo("sync", layered.mnt)
    (layered.mnt / "new").touch()
    assert "new" in minifo("diff", layered.mnt).stdout
    layered.umount()
    assert "new" in minifo("diff", layered.sto).stdout


def test_more_layers_than_the_mount_table_can_show(sandbox: MountSandbox) -> None:
    """128 layers with long paths: all are merged, the mount table shows some, and commands know all of them."""
    layered = Layered(sandbox.directory(), 128, "x" * 70)
    for number, layer in enumerate(layered.layers):
        (layer / str(number)).touch()
        (layer / "top").write_text(str(number))
    layered.mount()
    (source,) = (line[0] for line in mount_lines() if line[1] == str(layered.mnt))
    assert f":...,sto={layered.sto}" in source
    assert source.startswith(f"base={layered.layers[0]}:{layered.layers[1]}:")
    assert len(names(layered.mnt)) == 129
    (layered.mnt / "127").write_text("changed")
    minifo("checkpoint", "create", layered.mnt, "one")
    assert "127" in minifo("diff", layered.mnt).stdout
    assert layered.mount(check=False).stderr.count("already mounted") == 1
    layered.umount()
    assert "127" in minifo("diff", layered.sto).stdout
    layered.mount("at=one")
    assert "127" in minifo("diff", layered.mnt).stdout
    layered.umount()


def test_layers_on_several_file_systems(sandbox: MountSandbox) -> None:
    """Files of two file systems with one inode number are two files, and hard links in each stay links."""
    layered = Layered(sandbox.directory(), 3)
    for layer in layered.layers[1:]:
        subprocess.run(["mount", "-t", "tmpfs", "none", layer], check=True)
        (layer / layer.name).write_text(layer.name)
        os.link(layer / layer.name, layer / f"{layer.name}-too")
    try:
        pairs = [(layer / layer.name).stat().st_ino for layer in layered.layers[1:]]
        assert pairs[0] == pairs[1]
        layered.mount()
        one, two = (layered.mnt / layer.name for layer in layered.layers[1:])
        one.write_text("one")
        assert (layered.mnt / f"{one.name}-too").read_text() == "one"
        assert two.read_text() == two.name
        two.write_text("two")
        layered.umount()
        layered.mount()
        assert [path.read_text() for path in (one, two)] == ["one", "two"]
        assert (layered.mnt / f"{two.name}-too").read_text() == "two"
        layered.umount()
        assert "clean" in minifo("fsck", layered.sto).stdout
    finally:
        for layer in layered.layers[1:]:
            subprocess.run(["umount", "-l", layer], check=True)


def test_unusable_layers(layered: Layered) -> None:
    """A missing layer, a file, one given twice and one inside another are refused by name; storage stays empty."""
    first, second, _ = layered.layers
    (second / "file").touch()
    for lower, why in {
        f"{first}:{first.parent}/no": f"layer {first.parent}/no does not exist",
        f"{first}:{second}/file": f"layer {second}/file is not a directory",
        f"{first}:{second}:{first}": f"layers {first} and {first} are the same directory",
        f"{first}:{first}/d": f"layer {first}/d is inside layer {first}",
        f"{first}::{second}": "has an empty path between colons",
        f"{first}:{layered.sto}": f"base {layered.sto} is inside storage",
    }.items():
        done = minifo("mount", "-o", f"lowerdir={lower},upperdir={layered.sto}", layered.mnt, check=False)
        assert done.returncode
        assert why in done.stderr
        assert names(layered.sto) == []


def test_storage_inside_a_layer_is_hidden(sandbox: MountSandbox) -> None:
    """A storage directory that lies in one of the layers does not show."""
    layered = Layered(sandbox.directory(), 2)
    layered.sto = layered.layers[1] / "sto"
    layered.sto.mkdir()
    layered.mount()
    assert names(layered.mnt) == []
    layered.umount()


def test_a_layer_is_replaced(layered: Layered) -> None:
    """Another lower layer is noticed as another base; objects are found again by their paths."""
    layered.mount()
    (layered.mnt / "own-1").chmod(0o600)
    layered.umount()
    new = layered.layers[2].with_name("new")
    run("cp", "-a", layered.layers[2], new)
    (new / "own-2").write_text("of a new one")
    layered.layers[2] = new
    refused = layered.mount("base_check=strict", check=False)
    assert "is not the one of the last mount" in refused.stderr
    layered.mount()
    assert (layered.mnt / "own-2").read_text() == "of a new one"
    assert (layered.mnt / "own-1").stat().st_mode & 0o777 == 0o600
    layered.umount()


def test_all_layers_limit_the_mount(layered: Layered) -> None:
    """noexec of one layer's file system is in force for the overlay."""
    low = layered.layers[2]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", low], check=True)
    try:
        layered.mount()
        line = next(line for line in Path("/proc/mounts").read_text().splitlines() if str(layered.mnt) in line)
        assert "noexec" in line
        layered.umount()
    finally:
        subprocess.run(["umount", "-l", low], check=True)


def test_a_crash_over_layers(layered: Layered) -> None:
    """After kill -9 nothing acknowledged is lost."""
    layered.mount()
    (layered.mnt / "d" / "own-2").write_text("changed")
    pid = int((layered.sto / "lock").read_text())
    os.kill(pid, 9)
    run("umount", "-l", layered.mnt)
    layered.mount()
    assert (layered.mnt / "d" / "own-2").read_text() == "changed"
    layered.umount()

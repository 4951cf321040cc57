"""The program that podman and buildah call to mount containers, called as they call it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, await_end, minifo, mount_lines, run
from tests.shared.waiting import wait_until

PROGRAM = Path(sys.executable).parent / "minifo-mount-program"


class Layers:
    """Directories as containers/storage has them: for each layer ``ID/diff``, ``ID/work`` and ``ID/merged``.

    Args:
        home: an empty directory.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        for name in ("image", "container"):
            for below in ("diff", "work", "merged"):
                (home / name / below).mkdir(parents=True)
        self.image, self.diff, self.work, self.merged = (
            home / path for path in ("image/diff", "container/diff", "container/work", "container/merged")
        )

    @property
    def storage(self) -> Path:
        """Where the changes of the container are."""
        return self.work / "minifo"

    def call(self, options: str, point: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Call the program."""
        return run(PROGRAM, "-o", options, point or self.merged, check=check)

    def start(self, *words: str) -> None:
        """Mount the container."""
        self.call(",".join([f"lowerdir={self.image},upperdir={self.diff},workdir={self.work}", *words]))

    def read(self, *words: str) -> None:
        """Mount what is in the container, to read it."""
        self.call(",".join([f"lowerdir={self.diff}:{self.image}", "ro", *words]))

    def stop(self, point: Path | None = None) -> None:
        """Unmount as containers/storage does, which does not wait for the daemon."""
        run("fusermount3", "-u", point or self.merged)


@pytest.fixture
def layers(sandbox: MountSandbox) -> Layers:
    """An image of one layer, and a container of it."""
    found = Layers(sandbox.directory())
    (found.image / "file").write_text("image")
    (found.image / "gone").write_text("image")
    return found


def test_changes_of_a_container(layers: Layers) -> None:
    """They are there at its next start, and for a mount that reads its layer; neither layer is changed."""
    layers.start("nodev", "volatile", "fsync=0", "metacopy=on", "xino=off", "noacl", "private")
    (layers.merged / "file").write_text("container")
    (layers.merged / "gone").unlink()
    for _ in range(3):  # at once after the end, as podman does it
        layers.stop()
        layers.read()
        assert sorted(os.listdir(layers.merged)) == ["file"]
        assert (layers.merged / "file").read_text() == "container"
        with pytest.raises(OSError, match="Read-only"):
            (layers.merged / "new").touch()
        layers.stop()
        layers.start()
        assert (layers.merged / "file").read_text() == "container"
    layers.stop()
    assert sorted(os.listdir(layers.image)) == ["file", "gone"]
    assert os.listdir(layers.diff) == []
    assert "gone" in minifo("diff", layers.storage).stdout


def test_flags_of_a_container(layers: Layers) -> None:
    """Set-id programs are honoured, and devices unless ``nodev`` says otherwise; umount(8) is told nothing."""
    for words, nodev in (((), False), (("nodev",), True)):
        layers.start(*words)
        (line,) = (line for line in Path("/proc/mounts").read_text().splitlines() if str(layers.merged) in line)
        flags = line.split()[3].split(",")
        assert ("nodev" in flags) == nodev
        assert "nosuid" not in flags
        utab = Path("/run/mount/utab")
        assert not utab.exists() or str(layers.merged) not in utab.read_text()
        layers.stop()


def test_layers_without_changes_are_only_read(layers: Layers) -> None:
    """A mount without upperdir shows its layers, and leaves nothing behind."""
    (layers.diff / ".wh.gone").touch()
    layers.read()
    assert os.listdir(layers.merged) == ["file"]
    (source,) = (line[0] for line in mount_lines() if line[1] == str(layers.merged))
    storage = Path(source.rpartition("sto=")[2])
    assert storage.name.startswith("layers-")
    layers.stop()
    wait_until(lambda: not storage.exists(), "the throw-away storage is gone")
    assert os.listdir(layers.work) == []


def test_upper_directory_of_another_program(layers: Layers) -> None:
    """What overlayfs or fuse-overlayfs has left in the upper directory shows, and stays as it is."""
    (layers.diff / "file").write_text("other program")
    os.mknod(layers.diff / "gone", 0o020000, 0)
    layers.start()
    assert os.listdir(layers.merged) == ["file"]
    (layers.merged / "file").write_text("changed")
    (layers.merged / "gone").write_text("again")
    layers.stop()
    layers.start()
    assert {path.name: path.read_text() for path in layers.merged.iterdir()} == {"file": "changed", "gone": "again"}
    layers.stop()
    assert (layers.diff / "file").read_text() == "other program"
    assert (layers.diff / "gone").is_char_device()


def test_killed_daemon_loses_nothing(layers: Layers) -> None:
    """After kill -9 the next mount has everything acknowledged, also one that only reads the layer."""
    layers.start()
    (layers.merged / "file").write_text("container")
    pid = int((layers.storage / "lock").read_text())
    os.kill(pid, signal.SIGKILL)
    await_end(pid)
    layers.stop()
    layers.read()
    assert (layers.merged / "file").read_text() == "container"
    layers.stop()


def test_layer_with_changes_below_others_is_refused(layers: Layers) -> None:
    """The changes of a lower layer would not show, so the mount is refused; one without changes is none."""
    layers.start()
    layers.stop()
    other = layers.home / "other"
    for name in ("diff", "work"):
        (other / name).mkdir(parents=True)
    options = f"lowerdir={layers.diff}:{layers.image},upperdir={other}/diff,workdir={other}/work"
    layers.call(options)
    layers.stop()
    layers.start()
    (layers.merged / "new").touch()
    minifo("sync", layers.merged)  # what is not committed yet, other processes do not see
    refused = layers.call(options, other, check=False)
    assert refused.returncode
    assert f"layer {layers.diff} has changes in {layers.storage}" in refused.stderr
    layers.stop()
    refused = layers.call(options, other, check=False)
    assert "which only a mount with it as upperdir= shows" in refused.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("upperdir=/tmp,workdir=/tmp", "lowerdir= is missing"),
        ("lowerdir=/tmp,upperdir=/tmp", "upperdir= and workdir= belong together"),
        ("lowerdir=HOME/no:HOME/image", "layer HOME/no does not exist"),
        ("lowerdir=HOME/image/diff,upperdir=HOME/no,workdir=HOME/container/work", "layer HOME/no does not exist"),
        ("lowerdir=HOME/image/diff,uidmapping=1:2", "uidmapping=1:2 is not a list of ranges"),
        ("lowerdir=HOME/image/diff,commit=never", "commit=never is not a number"),
    ],
)
def test_wrong_calls(layers: Layers, options: str, said: str) -> None:
    """A wrong call is one line that says why, and leaves no storage."""
    done = layers.call(options.replace("HOME", str(layers.home)), check=False)
    assert done.returncode
    assert said in done.stderr.replace(str(layers.home), "HOME")
    assert done.stderr.count("\n") == 1
    assert not (layers.storage / "minifo.db").exists()


def test_what_it_says_of_itself() -> None:
    """``--version`` is shown by podman info; ``--help`` has the form of a call."""
    assert run(PROGRAM, "--version").stdout.startswith("minifo-mount-program: minifo ")
    assert "lowerdir=DIR[:DIR...]" in run(PROGRAM, "--help").stdout
    assert "0 arguments instead of 1" in run(PROGRAM, check=False).stderr
    assert "option -x not recognized" in run(PROGRAM, "-x", check=False).stderr


def test_options_of_minifo(layers: Layers) -> None:
    """``mountopt`` may have options of minifo; unknown ones are skipped, as fuse-overlayfs skips them."""
    layers.start("journal=100", "max_size=64m", "an_option_of_later=1")
    (layers.merged / "new").touch()
    assert "new" in minifo("log", layers.storage).stdout
    layers.stop()

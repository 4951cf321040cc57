"""``minifo overlay``: make_directories by default, and what the old script got wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from minifo.engine import UsageError
from minifo.tools.cli import main
from minifo.tools.overlay import make_directories
from tests.migrations import overlay_contents


def test_names_are_those_of_the_old_script(tmp_path: Path) -> None:
    """sto-NAME and mini_fo-NAME below the parents, with the suffix behind."""
    (tmp_path / "usr").mkdir()
    base, top = str(tmp_path / "usr"), str(tmp_path)
    assert make_directories(base, None, top, top) == (f"{top}/sto-usr", f"{top}/mini_fo-usr")
    assert make_directories(base + "/", "x", top, top) == (f"{top}/sto-usr-x", f"{top}/mini_fo-usr-x")
    assert all(path.is_dir() for path in (tmp_path / "sto-usr-x", tmp_path / "mini_fo-usr-x"))


def test_storage_of_another_base_is_refused(tmp_path: Path) -> None:
    """Two directories of one name do not share whiteouts."""
    for path in ("one/usr", "two/usr"):
        (tmp_path / path).mkdir(parents=True)
    storage, _ = make_directories(str(tmp_path / "one/usr"), None, str(tmp_path), str(tmp_path))
    with overlay_contents.opened(tmp_path / "one/usr", storage):
        pass
    with pytest.raises(UsageError, match="was made for"):
        make_directories(str(tmp_path / "two/usr"), None, str(tmp_path), str(tmp_path))
    make_directories(str(tmp_path / "one/usr"), None, str(tmp_path), str(tmp_path))


def test_failure_is_one_line_and_not_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The old script ended with 0 whatever happened."""
    assert main(["overlay", str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("fuse_required")
def test_mounts_and_mounts_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Changes are there at the next time; what is mounted is not mounted twice."""
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / "file").write_text("old")
    arguments = ["overlay", "-d", str(tmp_path), "-m", str(tmp_path), str(tmp_path / "usr")]
    mountpoint = tmp_path / "mini_fo-usr"
    assert main(arguments) == 0
    assert str(mountpoint) in capsys.readouterr().out
    (mountpoint / "file").write_text("new")
    assert main(arguments) == 32
    assert main(["umount", str(mountpoint)]) == 0
    assert main(arguments) == 0
    assert (mountpoint / "file").read_text() == "new"
    assert main(["umount", str(mountpoint)]) == 0
    assert (tmp_path / "usr" / "file").read_text() == "old"

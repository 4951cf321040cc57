"""install-helpers: links that mount(8) finds; nothing that is not ours is ever touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from minifo.engine.errors import StateError
from minifo.tools import install_helpers
from minifo.tools.cli import main
from minifo.tools.install_helpers import HELPERS


@pytest.fixture
def sbin(tmp_path: Path) -> Path:
    """An empty directory in the place of /sbin."""
    place = tmp_path / "sbin"
    place.mkdir()
    return place


def content(directory: Path) -> dict[str, str]:
    """Every name in *directory*, with what its link says, or empty."""
    return {entry.name: os.readlink(entry) if entry.is_symlink() else "" for entry in sorted(directory.iterdir())}


def make_installation(place: Path) -> Path:
    """A directory of scripts like that of another virtual environment."""
    place.mkdir(parents=True)
    for name in HELPERS:
        (place / name).touch()
    return place


def test_install_links_every_helper_to_this_installation(sbin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each link leads to a script that exists and runs under this python's environment."""
    assert main(["install-helpers", "--dir", str(sbin)]) == 0
    assert set(content(sbin)) == set(HELPERS)
    for name, target in content(sbin).items():
        assert os.path.isabs(target)
        assert os.path.basename(target) == name
        assert os.access(target, os.X_OK)
    assert capsys.readouterr().out.count("link ") == len(HELPERS)


def test_install_again_changes_nothing(sbin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second call finds everything as it should be."""
    main(["install-helpers", "--dir", str(sbin)])
    before = {entry.name: entry.lstat().st_ino for entry in sbin.iterdir()}
    capsys.readouterr()
    assert main(["install-helpers", "--dir", str(sbin)]) == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert {entry.name: entry.lstat().st_ino for entry in sbin.iterdir()} == before


def test_dry_run_changes_nothing(sbin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what would be done, for both directions."""
    assert main(["install-helpers", "--dir", str(sbin), "--dry-run"]) == 0
    assert content(sbin) == {}
    assert f"link {sbin}/mount.mini_fo -> " in capsys.readouterr().out
    main(["install-helpers", "--dir", str(sbin)])
    capsys.readouterr()
    assert main(["install-helpers", "--dir", str(sbin), "--remove", "-n"]) == 0
    assert len(content(sbin)) == len(HELPERS)
    assert f"remove {sbin}/mount.mini_fo\n" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling"])
def test_install_never_overwrites_what_is_not_ours(kind: str, sbin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One foreign name and nothing at all is changed."""
    foreign = sbin / HELPERS[3]
    if kind == "file":
        foreign.write_text("theirs")
    elif kind == "directory":
        foreign.mkdir()
    else:
        foreign.symlink_to("/bin/sh" if kind == "link" else "/nosuch/program")
    before = content(sbin)
    assert main(["install-helpers", "--dir", str(sbin)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"minifo: {foreign} is there and is not a link of minifo; ")
    assert err.count("\n") == 1
    assert content(sbin) == before
    assert main(["install-helpers", "--dir", str(sbin), "--remove"]) == 0
    assert content(sbin) == before


def test_install_takes_over_links_of_another_installation(sbin: Path, tmp_path: Path) -> None:
    """The environment called last is the one that mount(8) finds; links to a lost one are replaced too."""
    other = make_installation(tmp_path / "other" / "bin")
    (sbin / HELPERS[0]).symlink_to(other / HELPERS[0])
    (sbin / HELPERS[1]).symlink_to(tmp_path / "lost" / HELPERS[1])
    assert main(["install-helpers", "--dir", str(sbin)]) == 0
    scripts = install_helpers.find_scripts()
    assert content(sbin) == {name: os.path.join(scripts, name) for name in sorted(HELPERS)}


def test_remove_takes_only_our_links(sbin: Path, tmp_path: Path) -> None:
    """Files of others, and links to another living installation, stay."""
    main(["install-helpers", "--dir", str(sbin)])
    other = make_installation(tmp_path / "other" / "bin")
    (sbin / HELPERS[0]).unlink()
    (sbin / HELPERS[0]).symlink_to(other / HELPERS[0])
    (sbin / HELPERS[1]).unlink()
    (sbin / HELPERS[1]).symlink_to(tmp_path / "lost" / HELPERS[1])
    (sbin / "mount.other").touch()
    assert main(["install-helpers", "--dir", str(sbin), "--remove"]) == 0
    assert content(sbin) == {HELPERS[0]: str(other / HELPERS[0]), "mount.other": ""}
    assert main(["install-helpers", "--dir", str(sbin), "--remove"]) == 0


def test_missing_directory_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong --dir is an error, not made."""
    assert main(["install-helpers", "--dir", str(tmp_path / "nosuch")]) == 2
    assert "nosuch is not a directory" in capsys.readouterr().err
    assert not (tmp_path / "nosuch").exists()


def test_unwritable_directory_asks_for_root() -> None:
    """A user is told to call it as root, and nothing is left behind."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(StateError, match="/usr may not be written; call it as root"):
            install_helpers.apply("/usr", {"mount.mini_fo": "/nosuch/mount.mini_fo"})
    finally:
        if root:
            os.seteuid(0)
    assert not [name for name in os.listdir("/usr") if name.startswith("mount.")]


def test_scripts_that_are_not_installed_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a checkout that was never installed there is nothing to link to."""
    monkeypatch.setattr(install_helpers, "HELPERS", ("mount.nosuch",))
    with pytest.raises(StateError, match="the helpers are not in"):
        install_helpers.find_scripts()

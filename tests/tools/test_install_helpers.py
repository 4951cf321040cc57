"""install-helpers: links that mount(8) finds; nothing that is not ours is ever touched."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from minifo.engine import Overlay
from minifo.engine.errors import StateError
from minifo.fusefront import launch
from minifo.migrations.schema.upgrade import upgrade
from minifo.tools import cli, install_helpers
from minifo.tools.cli import main
from minifo.tools.install_helpers import HELPERS
from minifo.tools.trust import changeable, what_runs


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
    assert main(["install-helpers", "--anyway", "--dir", str(sbin)]) == 0
    assert set(content(sbin)) == set(HELPERS)
    for name, target in content(sbin).items():
        assert os.path.isabs(target)
        assert os.path.basename(target) == name
        assert os.access(target, os.X_OK)
    assert capsys.readouterr().out.count("link ") == len(HELPERS)


def test_install_again_changes_nothing(sbin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second call finds everything as it should be."""
    main(["install-helpers", "--anyway", "--dir", str(sbin)])
    before = {entry.name: entry.lstat().st_ino for entry in sbin.iterdir()}
    capsys.readouterr()
    assert main(["install-helpers", "--anyway", "--dir", str(sbin)]) == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert {entry.name: entry.lstat().st_ino for entry in sbin.iterdir()} == before


def test_dry_run_changes_nothing(sbin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what would be done, for both directions."""
    assert main(["install-helpers", "--anyway", "--dir", str(sbin), "--dry-run"]) == 0
    assert content(sbin) == {}
    assert f"link {sbin}/mount.mini_fo -> " in capsys.readouterr().out
    main(["install-helpers", "--anyway", "--dir", str(sbin)])
    capsys.readouterr()
    assert main(["install-helpers", "--anyway", "--dir", str(sbin), "--remove", "-n"]) == 0
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
    assert main(["install-helpers", "--anyway", "--dir", str(sbin)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"minifo: {foreign} exists and is not a link of minifo; ")
    assert err.count("\n") == 1
    assert content(sbin) == before
    assert main(["install-helpers", "--anyway", "--dir", str(sbin), "--remove"]) == 0
    assert content(sbin) == before


def test_install_takes_over_links_of_another_installation(sbin: Path, tmp_path: Path) -> None:
    """The environment called last is the one that mount(8) finds; links to a lost one are replaced too."""
    other = make_installation(tmp_path / "other" / "bin")
    (sbin / HELPERS[0]).symlink_to(other / HELPERS[0])
    (sbin / HELPERS[1]).symlink_to(tmp_path / "lost" / HELPERS[1])
    assert main(["install-helpers", "--anyway", "--dir", str(sbin)]) == 0
    scripts = install_helpers.find_scripts()
    assert content(sbin) == {name: os.path.join(scripts, name) for name in sorted(HELPERS)}


def test_links_of_a_package_are_left_alone(
    sbin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are the package manager's, relative as it makes them; once its helpers are gone they may be replaced."""
    packaged = make_installation(tmp_path / "lib" / "minifo")
    monkeypatch.setattr(install_helpers, "PACKAGED", str(packaged))
    (tmp_path / "sbin-link").symlink_to(sbin)  # as /sbin leads to /usr/sbin
    for name in HELPERS:
        (sbin / name).symlink_to(f"../lib/minifo/{name}")
    before = content(sbin)
    words = ["install-helpers", "--anyway", "--dir", str(tmp_path / "sbin-link")]
    assert main(words) == 2
    assert "belongs to the minifo that a package of this system installed; remove" in capsys.readouterr().err
    with monkeypatch.context() as in_package:
        in_package.setattr(install_helpers, "is_packaged", lambda: True)
        assert main(words) == 0
        assert capsys.readouterr().out == "nothing to do\n"
        assert main([*words, "--remove"]) == 2
        assert content(sbin) == before
    shutil.rmtree(packaged)
    assert main(words) == 0
    assert content(sbin) == {name: os.path.join(install_helpers.find_scripts(), name) for name in sorted(HELPERS)}


def test_remove_takes_only_our_links(sbin: Path, tmp_path: Path) -> None:
    """Files of others, and links to another living installation, stay."""
    main(["install-helpers", "--anyway", "--dir", str(sbin)])
    other = make_installation(tmp_path / "other" / "bin")
    (sbin / HELPERS[0]).unlink()
    (sbin / HELPERS[0]).symlink_to(other / HELPERS[0])
    (sbin / HELPERS[1]).unlink()
    (sbin / HELPERS[1]).symlink_to(tmp_path / "lost" / HELPERS[1])
    (sbin / "mount.other").touch()
    assert main(["install-helpers", "--anyway", "--dir", str(sbin), "--remove"]) == 0
    assert content(sbin) == {HELPERS[0]: str(other / HELPERS[0]), "mount.other": ""}
    assert main(["install-helpers", "--anyway", "--dir", str(sbin), "--remove"]) == 0


def test_missing_directory_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong --dir is an error, not made."""
    assert main(["install-helpers", "--anyway", "--dir", str(tmp_path / "nosuch")]) == 2
    assert "nosuch is not a directory" in capsys.readouterr().err
    assert not (tmp_path / "nosuch").exists()


def test_unwritable_directory_asks_for_root() -> None:
    """A user is told to call it as root, and nothing is left behind."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(StateError, match="you may not write /usr; run it as root"):
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


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """What root would run: a program in a directory, reached by a link."""
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/python").write_text("")
    (tmp_path / "link").symlink_to("env/bin")
    for path in (tmp_path, tmp_path / "env", tmp_path / "env/bin", tmp_path / "env/bin/python"):
        path.chmod(0o755)
    return tmp_path


@pytest.mark.root
@pytest.mark.parametrize("place", ["env", "env/bin", "env/bin/python"])
@pytest.mark.parametrize(("mode", "uid", "gid"), [(0o757, 0, 0), (0o775, 0, 100), (0o755, 1000, 0)])
@pytest.mark.parametrize("way", ["env", "link", "link/python"])
def test_what_others_can_change(installation: Path, place: str, mode: int, uid: int, gid: int, way: str) -> None:
    """A file, a directory on the way to it or one that a link leads through: whoever may write it becomes root."""
    assert changeable([str(installation / way)]) is None
    os.chown(installation / place, uid, gid)
    (installation / place).chmod(mode)
    found = changeable([str(installation / way)])
    assert found is not None
    assert os.path.samefile(found, installation / place)


@pytest.mark.root
def test_installation_that_others_can_change_is_refused(
    sbin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], installation: Path
) -> None:
    """One line that names it, and nothing is linked; unless it is asked for all the same."""
    scripts = make_installation(installation / "env/scripts")
    monkeypatch.setattr(install_helpers, "find_scripts", lambda: str(scripts))
    monkeypatch.setattr(install_helpers, "what_runs", lambda found: found)
    assert main(["install-helpers", "--dir", str(sbin)]) == 0
    assert main(["install-helpers", "--dir", str(sbin), "--remove"]) == 0
    os.chown(scripts / "mount.minifo", 1000, 1000)
    capsys.readouterr()
    assert main(["install-helpers", "--dir", str(sbin)]) == 2
    said = capsys.readouterr().err
    expected = f"minifo: users other than root may change {scripts / 'mount.minifo'}, and mount(8) would run it"
    assert said.startswith(expected)
    assert said.count("\n") == 1
    assert content(sbin) == {}
    assert main(["install-helpers", "--dir", str(sbin), "--anyway"]) == 0
    assert set(content(sbin)) == set(HELPERS)


def test_everything_that_is_run_is_looked_at() -> None:
    """The scripts, this python, its installed modules and our own packages, wherever they lie."""
    found = what_runs(["/somewhere/mount.minifo"])
    assert found[:2] == ["/somewhere/mount.minifo", sys.executable]
    assert sysconfig.get_path("purelib") in found
    for module in (cli, Overlay, upgrade, launch):
        assert any(inspect.getfile(module).startswith(f"{place}/") for place in found)  # folders are walked


def test_units(sbin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--systemd`` writes the units, a second call nothing; an old one is replaced; ``--remove`` removes all."""
    units = tmp_path / "systemd"
    words = ["install-helpers", "--anyway", "--dir", str(sbin), "--unit-dir", str(units)]
    assert main([*words, "--systemd", "--dry-run"]) == 0
    assert not units.exists()
    assert main([*words, "--systemd"]) == 0
    names = {str(path.relative_to(units)) for path in units.rglob("*") if path.is_file()}
    assert names == {"system/minifo@.service", "system/minifo-confirm@.service", "user/minifo@.service"}
    assert "systemctl daemon-reload" in capsys.readouterr().out
    unit = units / "system/minifo@.service"
    was = unit.read_text()
    unit.write_text("# minifo: an older one\n")
    assert main([*words, "--systemd"]) == 0
    assert unit.read_text() == was
    capsys.readouterr()
    assert main([*words, "--systemd"]) == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert main([*words, "--remove"]) == 0
    assert [path for path in units.rglob("*") if path.is_file()] == []
    assert content(sbin) == {}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_units_of_others(kind: str, sbin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A unit that is not ours stays, and then nothing is changed at all."""
    foreign = tmp_path / "systemd/user/minifo@.service"
    foreign.parent.mkdir(parents=True)
    if kind == "file":
        foreign.write_text("[Service]\nExecStart=true\n")
    else:
        foreign.symlink_to("/dev/null")  # masked
    words = ["install-helpers", "--anyway", "--dir", str(sbin), "--unit-dir", str(tmp_path / "systemd"), "--systemd"]
    assert main(words) == 2
    assert f"{foreign} exists and is not a unit of minifo" in capsys.readouterr().err
    assert content(sbin) == {}
    assert main([*words, "--remove"]) == 0
    assert os.path.lexists(foreign)

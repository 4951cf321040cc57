"""The scripts for the initramfs: put where they are looked for, taken away again, and nothing of others is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from minifo.tools import _boot_files, _unit_files, install_helpers
from minifo.tools.cli import main


def install(root: Path, *words: str) -> int:
    (root / "sbin").mkdir(parents=True, exist_ok=True)
    return main(["install-helpers", "--anyway", "--dir", str(root / "sbin"), "--root", str(root), *words])


@pytest.mark.parametrize("kind", list(_boot_files.FILES))
def test_install_and_remove(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every script is there and can be run, a second run changes nothing, and --remove takes all away."""
    assert install(tmp_path, f"--{kind}", "--dry-run") == 0
    assert not (tmp_path / "usr").exists()
    assert install(tmp_path, f"--{kind}") == 0
    said = capsys.readouterr().out
    command = {"initramfs": "update-initramfs -u", "dracut": "dracut --force --add minifo"}[kind]
    assert f"this takes effect after: {command}\n" in said
    paths = [tmp_path / target for target in _boot_files.FILES[kind].values()]
    assert all(path.stat().st_mode & 0o777 == 0o755 for path in paths)
    assert all(f"write {path}\n" in said for path in paths)
    assert install(tmp_path, f"--{kind}") == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert install(tmp_path, "--remove") == 0
    assert not any(path.exists() for path in paths)


def test_scripts_of_others_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file with the name of a script, but not ours, is neither replaced nor removed; an older one of ours is."""
    targets = _boot_files.FILES["initramfs"].values()
    paths = [tmp_path / target for target in targets]
    paths[0].parent.mkdir(parents=True)
    paths[0].write_text("#!/bin/sh\necho theirs\n")
    assert install(tmp_path, "--initramfs") == 2
    assert f"{paths[0]} exists and is not a script of minifo; move it away" in capsys.readouterr().err
    assert not any(path.exists() for path in paths[1:])
    assert install(tmp_path, "--remove") == 0
    assert paths[0].exists()
    paths[0].write_text("#!/bin/sh\n# minifo: an older one\n")
    assert install(tmp_path, "--initramfs") == 0
    assert "older" not in paths[0].read_text()


def test_scripts_of_a_package_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They have a mark of their own; one that is ours beside them is not put there."""
    path = tmp_path / _boot_files.FILES["dracut"]["minifo-root.sh"]
    path.parent.mkdir(parents=True)
    path.write_text("# shellcheck shell=sh\n# minifo, of a package: overlays the root\n")
    assert install(tmp_path, "--dracut") == 2
    assert f"{path} belongs to the minifo that a package of this system installed; use" in capsys.readouterr().err
    assert not (tmp_path / "usr/local").exists()
    assert install(tmp_path, "--remove") == 0
    assert path.exists()


def test_a_packaged_minifo_places_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its scripts and units come with packages, of which it names the one that is missing; other roots it serves."""
    monkeypatch.setattr(install_helpers, "is_packaged", lambda: True)
    words = ["install-helpers", "--anyway", "--dir", str(tmp_path)]
    assert main([*words, "--dracut"]) == 2
    assert "a package of their own; install it (Debian: apt install minifo-root)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    there = tmp_path / "minifo-root.sh"
    there.touch()
    monkeypatch.setitem(_boot_files._PACKAGED, "dracut", str(there))
    monkeypatch.setattr(_unit_files, "are_packaged", lambda: True)
    for wanted in ("--dracut", "--systemd"):
        assert main([*words, wanted, "--dry-run"]) == 0
        assert " write " not in capsys.readouterr().out
    assert install(tmp_path / "other", "--dracut") == 0
    assert (tmp_path / "other/usr/local/sbin/minifo-chroot").exists()
